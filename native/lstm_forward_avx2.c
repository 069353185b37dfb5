/* A layer of LSTM over a window, forward. The equations are those of charlm/model/cells.py. */

#include <stdlib.h>

#include "kernels.h"
#include "tiles_avx2.h"
#include "vector_avx2.h"

typedef struct {
    const LayerWindow *window;
    const float *zeros; /* a row of the state after a reset */
} Work;

/* The gates of some lanes for the units of one block, from their sums so far and the products with units from … to of
   the state. Behind the last of those come the gate functions, while all is still in registers. */
static inline __attribute__((always_inline)) void compute_tile(const Work *work, int lanes, int64_t step, int64_t lane,
                                                               int64_t block, int64_t from, int64_t to)
{
    const LayerWindow *w = work->window;
    const int64_t units = w->num_units;
    const float *hidden[TILE_LANES], *cell[TILE_LANES];
    float *gates[TILE_LANES];
    __m256 sums[TILE_LANES][4];
    for (int i = 0; i < lanes; i++) {
        int64_t row = step * w->num_lanes + lane + i;
        int is_reset = w->resets && w->resets[row];
        hidden[i] = is_reset ? work->zeros : w->hidden + row * units;
        cell[i] = (is_reset ? work->zeros : w->cell + row * units) + 8 * block;
        gates[i] = w->gates + row * w->gates_stride + WIDTH * block;
        const float *before = from || !w->ids ? gates[i] : w->table + w->ids[row] * w->table_stride + WIDTH * block;
        for (int vector = 0; vector < 4; vector++)
            sums[i][vector] = _mm256_loadu_ps(before + 8 * vector);
    }
    for (int i = 0; i < lanes; i++) /* the sums of the next tile come from memory while this one is computed */
        for (int line = 0; line < WIDTH; line += 16)
            _mm_prefetch(gates[i] + TILE_LANES * w->gates_stride + line, _MM_HINT_T0);
    multiply(lanes, hidden, w->panels + block * units * WIDTH, from, to, sums);
    if (to < units) {
        for (int i = 0; i < lanes; i++)
            for (int vector = 0; vector < 4; vector++)
                _mm256_storeu_ps(gates[i] + 8 * vector, sums[i][vector]);
        return;
    }
    int count = units - 8 * block < 8 ? (int)(units - 8 * block) : 8;
    for (int i = 0; i < lanes; i++) {
        int64_t after = ((step + 1) * w->num_lanes + lane + i) * units + 8 * block;
        __m256 input = sigmoid8(sums[i][0]), forget = sigmoid8(sums[i][1]);
        __m256 candidate = tanh8(sums[i][2]), output = sigmoid8(sums[i][3]);
        __m256 c = _mm256_fmadd_ps(input, candidate, _mm256_mul_ps(forget, load_first(cell[i], count)));
        store_first(w->cell + after, count, c);
        store_first(w->hidden + after, count, _mm256_mul_ps(output, tanh8(c)));
        _mm256_storeu_ps(gates[i], input);
        _mm256_storeu_ps(gates[i] + 8, forget);
        _mm256_storeu_ps(gates[i] + 16, candidate);
        _mm256_storeu_ps(gates[i] + 24, output);
    }
}

static void run_forward(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    const LayerWindow *w = work->window;
    Share share = share_of((w->num_units + 7) / 8, w->num_lanes, thread, num_threads);
    for (int64_t step = 0; step < w->num_steps; step++) {
        for (int64_t start = share.start; start < share.end;) {
            int64_t block = start / share.tiles, end = (block + 1) * share.tiles;
            end = end < share.end ? end : share.end;
            for (int64_t from = 0; from < w->num_units; from += DEPTH) {
                int64_t to = from + DEPTH < w->num_units ? from + DEPTH : w->num_units;
                for (int64_t index = start; index < end; index++) {
                    int64_t tile = index % share.tiles, lane = first_lane(&share, tile);
                    switch (count_lanes(&share, tile)) {
                    case 3: compute_tile(work, 3, step, lane, block, from, to); break;
                    case 2: compute_tile(work, 2, step, lane, block, from, to); break;
                    default: compute_tile(work, 1, step, lane, block, from, to);
                    }
                }
            }
            start = end;
        }
        wait_for_all();
    }
}

EXPORT int charlm_lstm_forward_avx2(const LayerWindow *window)
{
    float *zeros = calloc((size_t)window->num_units + 8, sizeof(float));
    if (!zeros)
        return -1;
    Work work = {window, zeros};
    run_on_threads((int)window->num_threads, run_forward, &work);
    free(zeros);
    return 0;
}
