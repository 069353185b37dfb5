/* A layer of LSTM over a window, backward: from the gradients of its outputs to those of its sums, step by step.

   The gradient of h at a step comes from above, and from the step behind it, through the recurrent weights. With d for
   "the gradient of the loss by", and all products by element:

       dc += dh · o · (1 - tanh(c)²)
       do = dh · tanh(c) · o (1 - o)         of the sums, before σ
       di = dc · g · i (1 - i)
       df = dc · c_before · f (1 - f)
       dg = dc · i · (1 - g²)
       dc_before = dc · f

   The gradients of a step's sums are written over its gates. Those of the weights are one large product over all steps,
   which the caller makes. */

#include <stdlib.h>

#include "kernels.h"
#include "tiles_avx2.h"
#include "vector_avx2.h"

typedef struct {
    const LayerWindow *window;
    const float *zeros; /* a row of gates, and of the state, at a reset */
    float *partial;     /* for each thread (tile, lane, 32): sums of which more products are to come */
    int64_t partial_size;
} Work;

/* Gradients of one lane's gates for up to eight units, from dh. */
static inline void differentiate(const LayerWindow *w, const float *zeros, int64_t row, int64_t lane, int64_t unit,
                                 __m256 dh)
{
    const __m256 one = _mm256_set1_ps(1);
    const int64_t units = w->num_units;
    const int count = units - unit < 8 ? (int)(units - unit) : 8;
    const int is_reset = w->resets && w->resets[row];
    float *gates = w->gates + row * w->gates_stride + 4 * unit;
    float *carried = w->cell_gradients + lane * units + unit;
    __m256 input = _mm256_loadu_ps(gates), forget = _mm256_loadu_ps(gates + 8);
    __m256 candidate = _mm256_loadu_ps(gates + 16), output = _mm256_loadu_ps(gates + 24);
    __m256 before = load_first(is_reset ? zeros : w->cell + row * units + unit, count);
    __m256 tanh_c = tanh8(load_first(w->cell + (row + w->num_lanes) * units + unit, count));
    dh = _mm256_add_ps(dh, load_first(w->output_gradients + row * units + unit, count));

    __m256 through_tanh = _mm256_mul_ps(_mm256_mul_ps(dh, output), _mm256_fnmadd_ps(tanh_c, tanh_c, one));
    __m256 dc = _mm256_add_ps(load_first(carried, count), through_tanh);
    __m256 d_output = _mm256_mul_ps(_mm256_mul_ps(dh, tanh_c), _mm256_fnmadd_ps(output, output, output));
    __m256 d_input = _mm256_mul_ps(_mm256_mul_ps(dc, candidate), _mm256_fnmadd_ps(input, input, input));
    __m256 d_forget = _mm256_mul_ps(_mm256_mul_ps(dc, before), _mm256_fnmadd_ps(forget, forget, forget));
    __m256 d_candidate = _mm256_mul_ps(_mm256_mul_ps(dc, input), _mm256_fnmadd_ps(candidate, candidate, one));
    _mm256_storeu_ps(gates, d_input);
    _mm256_storeu_ps(gates + 8, d_forget);
    _mm256_storeu_ps(gates + 16, d_candidate);
    _mm256_storeu_ps(gates + 24, d_output);
    store_first(carried, count, is_reset ? _mm256_setzero_ps() : _mm256_mul_ps(dc, forget));
}

/* What differentiate will read for the units of a panel: it comes from memory while the products are computed. */
static inline void prefetch(const LayerWindow *w, int64_t row, int64_t unit)
{
    const float *gates = w->gates + row * w->gates_stride + 4 * unit;
    for (int line = 0; line < 4 * WIDTH; line += 16)
        _mm_prefetch(gates + line, _MM_HINT_T0);
    for (int line = 0; line <= WIDTH; line += 16) {
        _mm_prefetch(w->cell + row * w->num_units + unit + line, _MM_HINT_T0);
        _mm_prefetch(w->cell + (row + w->num_lanes) * w->num_units + unit + line, _MM_HINT_T0);
        _mm_prefetch(w->output_gradients + row * w->num_units + unit + line, _MM_HINT_T0);
    }
}

/* dh of some lanes for the 32 units of a panel, from sums so far and the products with numbers from … to of the rows
   of gates behind. Behind the last of those come the gates' own gradients; or at the first step dh of the state before
   the window. */
static inline __attribute__((always_inline)) void compute_tile(const Work *work, int lanes, int64_t step, int64_t lane,
                                                               int64_t panel, int64_t from, int64_t to, float *partial)
{
    const LayerWindow *w = work->window;
    const int64_t units = w->num_units, depth = (units + 7) / 8 * WIDTH;
    const float *behind[TILE_LANES];
    __m256 sums[TILE_LANES][4];
    for (int i = 0; i < lanes; i++) {
        int64_t row = (step + 1) * w->num_lanes + lane + i;
        int is_reset = w->resets && w->resets[row];
        behind[i] = is_reset ? work->zeros : w->gates + row * w->gates_stride;
        for (int vector = 0; vector < 4; vector++)
            sums[i][vector] = from ? _mm256_loadu_ps(partial + i * WIDTH + 8 * vector) : _mm256_setzero_ps();
    }
    if (step >= 0 && to == depth)
        for (int i = 0; i < lanes; i++)
            prefetch(w, step * w->num_lanes + lane + i, panel * WIDTH);
    multiply(lanes, behind, w->panels + panel * depth * WIDTH, from, to, sums);
    for (int i = 0; i < lanes; i++) {
        for (int vector = 0; vector < 4; vector++) {
            int64_t unit = panel * WIDTH + 8 * vector;
            if (to < depth)
                _mm256_storeu_ps(partial + i * WIDTH + 8 * vector, sums[i][vector]);
            else if (unit < units && step >= 0)
                differentiate(w, work->zeros, step * w->num_lanes + lane + i, lane + i, unit, sums[i][vector]);
            else if (unit < units)
                store_first(w->hidden_gradients + (lane + i) * units + unit, units - unit < 8 ? (int)(units - unit) : 8,
                            sums[i][vector]);
        }
    }
}

/* The last step has none behind it: dh is the gradient of the last state. */
static void compute_last(const Work *work, const Share *share, int64_t step)
{
    const LayerWindow *w = work->window;
    const int64_t units = w->num_units;
    for (int64_t index = share->start; index < share->end; index++) {
        int64_t panel = index / share->tiles, tile = index % share->tiles, lane = first_lane(share, tile);
        for (int i = 0; i < count_lanes(share, tile); i++)
            for (int64_t unit = panel * WIDTH; unit < units && unit < (panel + 1) * WIDTH; unit += 8) {
                int count = units - unit < 8 ? (int)(units - unit) : 8;
                __m256 dh = load_first(w->hidden_gradients + (lane + i) * units + unit, count);
                differentiate(w, work->zeros, step * w->num_lanes + lane + i, lane + i, unit, dh);
            }
    }
}

static void run_backward(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    const LayerWindow *w = work->window;
    const int64_t depth = (w->num_units + 7) / 8 * WIDTH;
    Share share = share_of((w->num_units + WIDTH - 1) / WIDTH, w->num_lanes, thread, num_threads);
    compute_last(work, &share, w->num_steps - 1);
    wait_for_all();
    for (int64_t step = w->num_steps - 2; step >= -1; step--) {
        for (int64_t start = share.start; start < share.end;) {
            int64_t panel = start / share.tiles, end = (panel + 1) * share.tiles;
            end = end < share.end ? end : share.end;
            for (int64_t from = 0; from < depth; from += DEPTH) {
                int64_t to = from + DEPTH < depth ? from + DEPTH : depth;
                float *partial = work->partial + thread * work->partial_size;
                for (int64_t index = start; index < end; index++, partial += TILE_LANES * WIDTH) {
                    int64_t tile = index % share.tiles, lane = first_lane(&share, tile);
                    switch (count_lanes(&share, tile)) {
                    case 3: compute_tile(work, 3, step, lane, panel, from, to, partial); break;
                    case 2: compute_tile(work, 2, step, lane, panel, from, to, partial); break;
                    default: compute_tile(work, 1, step, lane, panel, from, to, partial);
                    }
                }
            }
            start = end;
        }
        wait_for_all();
    }
}

EXPORT int charlm_lstm_backward_avx2(const LayerWindow *window)
{
    size_t zeros = (size_t)(window->num_units + 7) / 8 * WIDTH;
    size_t partial = (size_t)(window->num_lanes + 2) / TILE_LANES * TILE_LANES * WIDTH;
    float *memory = calloc(zeros + partial * (size_t)window->num_threads, sizeof(float));
    if (!memory)
        return -1;
    Work work = {window, memory, memory + zeros, (int64_t)partial};
    run_on_threads((int)window->num_threads, run_backward, &work);
    free(memory);
    return 0;
}
