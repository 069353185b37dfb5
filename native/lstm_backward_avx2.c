/* A layer of LSTM over a window, backward: from the gradients of its outputs to those of its sums, step by step.

   The gradient of h at a step comes from above, and from the step after it, through the recurrent weights. With d for
   "the gradient of the loss by", and all products by element:

       dc += dh · o · (1 - tanh(c)²)
       do = dh · tanh(c) · o (1 - o)         of the sums, before σ
       di = dc · g · i (1 - i)
       df = dc · c_before · f (1 - f)
       dg = dc · i · (1 - g²)
       dc_before = dc · f

   The gradients of a step's sums are written over its gates. Multiplied with the weights, they give the gradients of h
   at the step before, and of the step's input. The panels are, for each 32 units and then for each 32 inputs, the
   weights from them to all sums: (block × 32, 32). */

#include <stdlib.h>

#include "gradients_avx2.h"
#include "kernels.h"
#include "tiles_avx2.h"
#include "vector_avx2.h"

typedef struct {
    const LayerWindow *window;
    int64_t blocks, unit_panels, panels, chunks;
    float *partial; /* for each thread (lane, 32): sums of which more products are to come */
    int64_t partial_size;
} Work;

/* Gradients of one lane's sums for the units of a block, from dh. */
static inline void differentiate(const Work *work, int64_t step, int64_t lane, int64_t block, __m256 dh)
{
    const LayerWindow *w = work->window;
    const __m256 one = _mm256_set1_ps(1);
    const int64_t units = w->num_units, unit = 8 * block, row = step * w->num_lanes + lane;
    const int64_t place = (step * work->blocks + block) * w->num_lanes + lane, all = work->blocks * w->num_lanes;
    const int count = units - unit < 8 ? (int)(units - unit) : 8;
    const int is_reset = w->resets && w->resets[row];
    float *gates = w->gates + place * WIDTH, *carried = w->cell_gradients + (block * w->num_lanes + lane) * 8;
    __m256 input = _mm256_loadu_ps(gates), forget = _mm256_loadu_ps(gates + 8);
    __m256 candidate = _mm256_loadu_ps(gates + 16), output = _mm256_loadu_ps(gates + 24);
    __m256 before = is_reset ? _mm256_setzero_ps() : _mm256_loadu_ps(w->cell + place * 8);
    __m256 tanh_c = tanh8(_mm256_loadu_ps(w->cell + (place + all) * 8));
    dh = _mm256_add_ps(dh, load_first(w->output_gradients + row * units + unit, count));

    __m256 through_tanh = _mm256_mul_ps(_mm256_mul_ps(dh, output), _mm256_fnmadd_ps(tanh_c, tanh_c, one));
    __m256 dc = _mm256_add_ps(_mm256_loadu_ps(carried), through_tanh);
    __m256 d_output = _mm256_mul_ps(_mm256_mul_ps(dh, tanh_c), _mm256_fnmadd_ps(output, output, output));
    __m256 d_input = _mm256_mul_ps(_mm256_mul_ps(dc, candidate), _mm256_fnmadd_ps(input, input, input));
    __m256 d_forget = _mm256_mul_ps(_mm256_mul_ps(dc, before), _mm256_fnmadd_ps(forget, forget, forget));
    __m256 d_candidate = _mm256_mul_ps(_mm256_mul_ps(dc, input), _mm256_fnmadd_ps(candidate, candidate, one));
    _mm256_storeu_ps(gates, d_input);
    _mm256_storeu_ps(gates + 8, d_forget);
    _mm256_storeu_ps(gates + 16, d_candidate);
    _mm256_storeu_ps(gates + 24, d_output);
    _mm256_storeu_ps(carried, is_reset ? _mm256_setzero_ps() : _mm256_mul_ps(dc, forget));
}

/* What differentiate will read for the four blocks of a panel. It comes from memory while the first products are
   computed, and to the first-level cache during the last ones. */
static inline void prefetch(const Work *work, int64_t step, int64_t lane, int lanes, int64_t panel)
{
    const LayerWindow *w = work->window;
    for (int64_t block = 4 * panel; block < 4 * panel + 4 && block < work->blocks; block++) {
        int64_t place = (step * work->blocks + block) * w->num_lanes + lane;
        for (int line = 0; line < lanes * WIDTH; line += 16)
            _mm_prefetch(w->gates + place * WIDTH + line, _MM_HINT_T0);
        _mm_prefetch(w->cell + place * 8, _MM_HINT_T0);
        _mm_prefetch(w->cell + (place + lanes - 1) * 8, _MM_HINT_T0);
    }
    for (int i = 0; i < lanes; i++)
        for (int line = 0; line < WIDTH; line += 16)
            _mm_prefetch(w->output_gradients + (step * w->num_lanes + lane + i) * w->num_units + panel * WIDTH + line,
                         _MM_HINT_T0);
}

/* What a tile's sums are for: 32 units of the step before, whose gates are then differentiated, or at the first step
   those of the state before the window; or 32 inputs. */
static inline void finish(const Work *work, int64_t step, int64_t lane, int64_t panel, const __m256 *sums)
{
    const LayerWindow *w = work->window;
    int64_t size = panel < work->unit_panels ? w->num_units : w->num_inputs;
    int64_t first = (panel < work->unit_panels ? panel : panel - work->unit_panels) * WIDTH;
    float *to = panel < work->unit_panels ? w->hidden_gradients + lane * size
                                          : w->input_gradients + ((step + 1) * w->num_lanes + lane) * size;
    for (int vector = 0; vector < 4 && first + 8 * vector < size; vector++) {
        int64_t index = first + 8 * vector;
        if (panel < work->unit_panels && step >= 0)
            differentiate(work, step, lane, index / 8, sums[vector]);
        else
            store_first(to + index, size - index < 8 ? (int)(size - index) : 8, sums[vector]);
    }
}

/* The sums of some lanes for one panel: the sums so far, and the products of the gradients of the step after with one
   chunk of the panel, blocks from … to. */
static inline __attribute__((always_inline)) void compute_tile(const Work *work, int lanes, int64_t step, int64_t lane,
                                                               int64_t panel, int64_t from, int64_t to, float *partial)
{
    const LayerWindow *w = work->window;
    const int is_last = to == work->blocks, is_of_units = panel < work->unit_panels;
    const float *rows[TILE];
    __m256 sums[TILE][4];
    for (int i = 0; i < lanes; i++) {
        rows[i] = w->gates + (((step + 1) * work->blocks + from) * w->num_lanes + lane + i) * WIDTH;
        for (int vector = 0; vector < 4; vector++)
            sums[i][vector] = from ? _mm256_loadu_ps(partial + i * WIDTH + 8 * vector) : _mm256_setzero_ps();
    }
    if ((!from || is_last) && is_of_units && step >= 0)
        prefetch(work, step, lane, lanes, panel);
    Walk walk = {1, WIDTH, w->num_lanes * WIDTH, to - from, WIDTH * WIDTH};
    multiply(lanes, rows, walk, w->panels + (panel * work->blocks + from) * WIDTH * WIDTH, sums);
    for (int i = 0; i < lanes; i++) {
        if (is_of_units && w->resets && w->resets[(step + 1) * w->num_lanes + lane + i]) /* nothing crosses a reset */
            for (int vector = 0; vector < 4; vector++)
                sums[i][vector] = _mm256_setzero_ps();
        if (is_last)
            finish(work, step, lane + i, panel, sums[i]);
        else
            for (int vector = 0; vector < 4; vector++)
                _mm256_storeu_ps(partial + i * WIDTH + 8 * vector, sums[i][vector]);
    }
}

/* The last step has none after it: dh is the gradient of the last state. */
static void differentiate_last(const Work *work, const Share *share)
{
    const LayerWindow *w = work->window;
    for (int64_t index = share->start; index < share->end; index++) {
        int64_t block = index / share->tiles, lane = first_row(share, index % share->tiles);
        int count = w->num_units - 8 * block < 8 ? (int)(w->num_units - 8 * block) : 8;
        for (int64_t end = lane + count_rows(share, index % share->tiles); lane < end; lane++) {
            __m256 dh = load_first(w->hidden_gradients + lane * w->num_units + 8 * block, count);
            differentiate(work, w->num_steps - 1, lane, block, dh);
        }
    }
}

static void run_backward(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    const LayerWindow *w = work->window;
    Share share = compute_share(work->blocks, w->num_lanes, thread, num_threads);
    differentiate_last(work, &share);
    wait_for_all();
    share = compute_share(work->panels, w->num_lanes, thread, num_threads);
    for (int64_t step = w->num_steps - 2; step >= -1; step--) {
        for (int64_t start = share.start; start < share.end;) {
            int64_t panel = start / share.tiles, end = (panel + 1) * share.tiles;
            end = end < share.end ? end : share.end;
            for (int64_t chunk = 0; chunk < work->chunks; chunk++) {
                int64_t from = first_of_chunk(work->blocks, work->chunks, chunk);
                int64_t to = first_of_chunk(work->blocks, work->chunks, chunk + 1);
                float *partial = work->partial + thread * work->partial_size;
                for (int64_t index = start; index < end; index++, partial += TILE * WIDTH) {
                    int64_t tile = index - panel * share.tiles, lane = first_row(&share, tile);
                    switch (count_rows(&share, tile)) {
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
    compute_weight_gradients(w, thread, num_threads);
}

EXPORT int charlm_lstm_backward_avx2(const LayerWindow *window)
{
    int64_t blocks = (window->num_units + 7) / 8, unit_panels = (window->num_units + WIDTH - 1) / WIDTH;
    int64_t input_panels = window->input_gradients ? (window->num_inputs + WIDTH - 1) / WIDTH : 0;
    int64_t partial = (window->num_lanes + TILE - 1) / TILE * TILE * WIDTH;
    float *memory = malloc((size_t)(partial * window->num_threads) * sizeof(float));
    if (!memory)
        return -1;
    Work work = {window, blocks, unit_panels, unit_panels + input_panels,
                 count_chunks(blocks, DEPTH / WIDTH), memory, partial};
    run_on_threads((int)window->num_threads, run_backward, &work);
    free(memory);
    return 0;
}
