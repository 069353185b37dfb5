/* Whole steps of sampling: from the ids that were drawn to the ids that are drawn next, many characters in one call.

   A step reads every weight once, so weights are small: 8 bits, with a scale for each row. The hidden state is within
   -1 to 1 and gets 7 bits, 0 to 126: this processor adds two products of 8 bits in 16 bits with a sign, and
   2 × 126 × 127 just fits. A layer's matrix holds all that its hidden state is multiplied with: the recurrent weights
   of its own next step, and below them the input weights of the layer above, or the output weights. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "vector_avx2.h"

enum { WIDTH = 32, LANES = 2, STEPS = 63 }; /* rows of a panel; lanes of a tile; steps from 0 to the largest state */

static int64_t padded(int64_t number, int64_t to)
{
    return (number + to - 1) / to * to;
}

/* Gates and state of some units of all lanes, and the hidden state in 7 bits. */
static void compute_gates(const Sampler *s, const SamplerLayer *layer, const float *from_input, int64_t input_stride,
                          const int64_t *ids, int64_t start, int64_t end)
{
    const __m256 scale = _mm256_set1_ps(STEPS);
    const int64_t units = padded(s->num_units, 8), bytes = padded(s->num_units, 32);
    for (int64_t lane = 0; lane < s->num_lanes; lane++) {
        const float *input = from_input + (ids ? ids[lane] : lane) * input_stride;
        const float *own = layer->sums + lane * layer->num_rows;
        for (int64_t block = start; block < end; block++) {
            __m256 sums[4];
            for (int gate = 0; gate < 4; gate++)
                sums[gate] = _mm256_add_ps(_mm256_loadu_ps(input + WIDTH * block + 8 * gate),
                                           _mm256_loadu_ps(own + WIDTH * block + 8 * gate));
            float *cell = layer->cell + lane * units + 8 * block;
            activate_gates(sums);
            __m256 c = _mm256_mul_ps(sums[1], _mm256_loadu_ps(cell));
            c = _mm256_fmadd_ps(sums[0], sums[2], c);
            __m256 h = _mm256_mul_ps(sums[3], tanh8(c));
            _mm256_storeu_ps(cell, c);
            _mm256_storeu_ps(layer->hidden + lane * units + 8 * block, h);
            __m256i rounded = _mm256_cvtps_epi32(_mm256_fmadd_ps(h, scale, scale));
            rounded = _mm256_packus_epi32(rounded, rounded);
            rounded = _mm256_packus_epi16(rounded, rounded); /* four bytes in either half */
            uint8_t *to = layer->rounded + lane * bytes + 8 * block;
            int32_t low = _mm256_extract_epi32(rounded, 0), high = _mm256_extract_epi32(rounded, 4);
            memcpy(to, &low, 4);
            memcpy(to + 4, &high, 4);
        }
    }
}

/* The sums of a panel's 32 rows, for some lanes. */
static inline __attribute__((always_inline)) void multiply(int lanes, const SamplerLayer *layer, int64_t bytes,
                                                           int64_t panel, int64_t lane)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t *weights = layer->weights + panel * bytes * WIDTH;
    __m256i sums[LANES][4];
    for (int i = 0; i < lanes; i++)
        for (int vector = 0; vector < 4; vector++)
            sums[i][vector] = _mm256_setzero_si256();
    for (int64_t k = 0; k < bytes; k += 4, weights += 4 * WIDTH) {
        __m256i x[LANES];
        for (int i = 0; i < lanes; i++) {
            int32_t four;
            memcpy(&four, layer->rounded + (lane + i) * bytes + k, 4);
            x[i] = _mm256_set1_epi32(four);
        }
#pragma GCC unroll 4
        for (int vector = 0; vector < 4; vector++) {
            __m256i w = _mm256_load_si256((const __m256i *)(weights + 32 * vector));
#pragma GCC unroll 2
            for (int i = 0; i < lanes; i++) {
                __m256i pairs = _mm256_maddubs_epi16(x[i], w);
                sums[i][vector] = _mm256_add_epi32(sums[i][vector], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    for (int i = 0; i < lanes; i++)
        for (int vector = 0; vector < 4; vector++) {
            int64_t row = panel * WIDTH + 8 * vector;
            __m256 numbers = _mm256_cvtepi32_ps(sums[i][vector]);
            numbers = _mm256_fmadd_ps(numbers, _mm256_loadu_ps(layer->scales + row),
                                      _mm256_loadu_ps(layer->offsets + row));
            _mm256_storeu_ps(layer->sums + (lane + i) * layer->num_rows + row, numbers);
        }
}

static void multiply_layer(const Sampler *s, const SamplerLayer *layer, int thread, int num_threads)
{
    const int64_t panels = layer->num_rows / WIDTH, bytes = padded(s->num_units, 32);
    for (int64_t panel = panels * thread / num_threads; panel < panels * (thread + 1) / num_threads; panel++) {
        int64_t lane = 0;
        for (; lane + 2 <= s->num_lanes; lane += 2)
            multiply(2, layer, bytes, panel, lane);
        if (lane < s->num_lanes)
            multiply(1, layer, bytes, panel, lane);
    }
}

static void take_step(const Sampler *s, const int64_t *ids, int thread, int num_threads)
{
    const int64_t blocks = padded(s->num_units, 8) / 8;
    const float *from_input = s->table;
    int64_t input_stride = WIDTH * blocks;
    for (int64_t index = 0; index < s->num_layers; index++) {
        const SamplerLayer *layer = &s->layers[index];
        compute_gates(s, layer, from_input, input_stride, index ? NULL : ids, blocks * thread / num_threads,
                      blocks * (thread + 1) / num_threads);
        wait_for_all();
        multiply_layer(s, layer, thread, num_threads);
        wait_for_all();
        from_input = layer->sums + WIDTH * blocks;
        input_stride = layer->num_rows;
    }
}

/* The order of draws' candidates: more probable first, of equals the lower id. */
typedef struct {
    float weight;
    int32_t id;
} Candidate;

static int compare(const void *one, const void *other)
{
    const Candidate *a = one, *b = other;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    return a->id - b->id;
}

/* top_k and top_p, as charlm/generation/filters.py has them. */
static void keep_the_first(const Sampler *s, float *weights, Candidate *candidates)
{
    int64_t kept = s->vocabulary_size;
    double whole = 0, together = 0;
    for (int64_t id = 0; id < s->vocabulary_size; id++)
        candidates[id] = (Candidate){weights[id], (int32_t)id};
    qsort(candidates, (size_t)kept, sizeof(Candidate), compare);
    if (s->top_k && s->top_k < kept)
        kept = s->top_k;
    for (int64_t rank = 0; rank < kept; rank++)
        whole += candidates[rank].weight;
    for (int64_t rank = 0; rank < s->vocabulary_size; rank++) {
        if (rank >= kept || (s->top_p < 1 && together >= s->top_p * whole))
            weights[candidates[rank].id] = 0;
        together += candidates[rank].weight;
    }
}

static int64_t draw(const Sampler *s, int64_t lane, double uniform, double *nats)
{
    const SamplerLayer *last = &s->layers[s->num_layers - 1];
    const float *logits = last->sums + lane * last->num_rows + 4 * padded(s->num_units, 8);
    const int64_t size = s->vocabulary_size;
    float *weights = s->weights + lane * padded(size, 8);
    float largest = -INFINITY;
    int64_t most_probable = 0;
    for (int64_t id = 0; id < size; id++) {
        weights[id] = logits[id] + s->mask[id];
        if (weights[id] > largest) {
            largest = weights[id];
            most_probable = id;
        }
    }
    *nats = 0;
    if (s->temperature <= 0)
        return most_probable;
    for (int64_t id = 0; id < size; id += 8) {
        __m256 below = _mm256_sub_ps(_mm256_loadu_ps(weights + id), _mm256_set1_ps(largest));
        below = _mm256_mul_ps(below, _mm256_set1_ps((float)(1 / s->temperature)));
        _mm256_storeu_ps(weights + id, exp8(below));
    }
    if ((s->top_k && s->top_k < size) || s->top_p < 1)
        keep_the_first(s, weights, (Candidate *)s->candidates + lane * size);
    double whole = 0, cumulative = 0;
    for (int64_t id = 0; id < size; id++) {
        if (weights[id] < s->min_p)
            weights[id] = 0;
        whole += weights[id];
    }
    for (int64_t id = 0; id < size; id++) {
        cumulative += weights[id];
        if (cumulative > uniform * whole) {
            *nats = log(weights[id] / whole);
            return id;
        }
    }
    return most_probable; /* only where logits are not numbers */
}

typedef struct {
    Sampler *sampler;
    int64_t count;
    const double *uniform;
    int64_t *ids;
    double *nats;
    int64_t done;
} Work;

static void sample(int thread, int num_threads, void *argument)
{
    Work *work = argument;
    const Sampler *s = work->sampler;
    const int64_t lanes = s->num_lanes;
    int64_t start = lanes * thread / num_threads, end = lanes * (thread + 1) / num_threads;
    for (int64_t step = 0, pauses = 0; step < work->count && !pauses; step++) {
        int64_t *ids = work->ids + step * lanes;
        if (step || s->has_pending)
            take_step(s, step ? ids - lanes : s->pending, thread, num_threads);
        for (int64_t lane = start; lane < end; lane++)
            ids[lane] = draw(s, lane, work->uniform[step * lanes + lane], &work->nats[step * lanes + lane]);
        wait_for_all();
        for (int64_t lane = 0; lane < lanes; lane++)
            pauses |= s->pauses[ids[lane]];
        if (thread == 0)
            work->done = step + 1;
    }
}

EXPORT int64_t charlm_sample_avx2(Sampler *sampler, int64_t count, const double *uniform, int64_t *ids, double *nats)
{
    Work work = {sampler, count, uniform, ids, nats, 0};
    run_on_threads((int)sampler->num_threads, sample, &work);
    memcpy(sampler->pending, ids + (work.done - 1) * sampler->num_lanes, (size_t)sampler->num_lanes * sizeof(int64_t));
    sampler->has_pending = 1;
    return work.done;
}

static void advance(int thread, int num_threads, void *argument)
{
    const Sampler *s = argument;
    take_step(s, s->pending, thread, num_threads);
}

EXPORT void charlm_sampler_advance_avx2(Sampler *sampler)
{
    run_on_threads((int)sampler->num_threads, advance, sampler);
    sampler->has_pending = 0;
}

static void read_hidden(int thread, int num_threads, void *argument)
{
    const Sampler *s = argument;
    const int64_t units = padded(s->num_units, 8), bytes = padded(s->num_units, 32);
    for (int64_t index = 0; index < s->num_layers; index++) {
        const SamplerLayer *layer = &s->layers[index];
        for (int64_t lane = s->num_lanes * thread / num_threads; lane < s->num_lanes * (thread + 1) / num_threads; lane++)
            for (int64_t unit = 0; unit < s->num_units; unit++)
                layer->rounded[lane * bytes + unit] =
                    (uint8_t)lrintf(fmaf(layer->hidden[lane * units + unit], STEPS, STEPS));
        wait_for_all();
        multiply_layer(s, layer, thread, num_threads);
    }
    wait_for_all();
}

EXPORT void charlm_sampler_read_hidden_avx2(Sampler *sampler)
{
    run_on_threads((int)sampler->num_threads, read_hidden, sampler);
}
