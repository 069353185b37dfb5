/* A layer of LSTM over a window, forward. The equations are those of charlm/model/cells.py. */

#include <stdlib.h>

#include "kernels.h"
#include "tiles_avx2.h"
#include "vector_avx2.h"

typedef struct {
    const LayerWindow *window;
    const float *zeros; /* the state of a lane after a reset */
    int64_t blocks, input_chunks, chunks;
} Work;

/* Which rows of a panel are multiplied now: first those of the input, chunk by chunk, then those of the state. */
typedef struct {
    int is_first, is_last, is_of_state;
    int64_t from, to; /* among the inputs, or among the units */
} Chunk;

static inline Chunk find_chunk(const Work *work, int64_t index)
{
    int64_t inputs = work->window->num_inputs, units = work->window->num_units;
    int64_t in_part = index - work->input_chunks, count = work->chunks - work->input_chunks;
    if (in_part >= 0)
        return (Chunk){!index, index == work->chunks - 1, 1, first_of_chunk(units, count, in_part),
                       first_of_chunk(units, count, in_part + 1)};
    count = work->input_chunks;
    return (Chunk){!index, 0, 0, first_of_chunk(inputs, count, index), first_of_chunk(inputs, count, index + 1)};
}

/* The gates of some lanes for the units of one block, from their sums so far and the products with one chunk of the
   block's weights. After the last chunk come the gate functions, while all is still in registers. */
static inline __attribute__((always_inline)) void compute_tile(const Work *work, int lanes, int64_t step, int64_t lane,
                                                               int64_t block, Chunk chunk)
{
    const LayerWindow *w = work->window;
    const int64_t units = w->num_units, inputs = w->num_inputs;
    const int64_t place = (step * work->blocks + block) * w->num_lanes + lane; /* of the first lane, in all blocks */
    const float *rows[TILE];
    float *gates = w->gates + place * WIDTH;
    __m256 sums[TILE][4];
    for (int i = 0; i < lanes; i++) {
        int64_t row = step * w->num_lanes + lane + i;
        const float *before = gates + i * WIDTH;
        if (chunk.is_first)
            before = (w->ids ? w->table + w->ids[row] * work->blocks * WIDTH : w->bias) + block * WIDTH;
        for (int vector = 0; vector < 4; vector++)
            sums[i][vector] = _mm256_loadu_ps(before + 8 * vector);
        if (!chunk.is_of_state)
            rows[i] = w->inputs + row * inputs + chunk.from;
        else
            rows[i] = (w->resets && w->resets[row] ? work->zeros : w->hidden + row * units) + chunk.from;
    }
    if (chunk.is_first) /* the memory that will be written to comes while the products are computed */
        for (int line = 0; line < lanes * WIDTH; line += 16)
            _mm_prefetch(gates + line, _MM_HINT_T0);
    const float *panel = w->panels + (block * (inputs + units) + chunk.from + (chunk.is_of_state ? inputs : 0)) * WIDTH;
    multiply(lanes, rows, (Walk){1, chunk.to - chunk.from, 0, 1, 0}, panel, sums);
    int count = units - 8 * block < 8 ? (int)(units - 8 * block) : 8;
    for (int i = 0; i < lanes; i++) {
        if (chunk.is_last) {
            int64_t row = step * w->num_lanes + lane + i;
            int is_reset = w->resets && w->resets[row];
            __m256 c = is_reset ? _mm256_setzero_ps() : _mm256_loadu_ps(w->cell + (place + i) * 8);
            activate_gates(sums[i]);
            c = _mm256_fmadd_ps(sums[i][0], sums[i][2], _mm256_mul_ps(sums[i][1], c));
            _mm256_storeu_ps(w->cell + (place + work->blocks * w->num_lanes + i) * 8, c);
            store_first(w->hidden + (row + w->num_lanes) * units + 8 * block, count, _mm256_mul_ps(sums[i][3], tanh8(c)));
        }
        for (int vector = 0; vector < 4; vector++)
            _mm256_storeu_ps(gates + i * WIDTH + 8 * vector, sums[i][vector]);
    }
}

static void run_forward(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    const LayerWindow *w = work->window;
    Share share = compute_share(work->blocks, w->num_lanes, thread, num_threads);
    for (int64_t step = 0; step < w->num_steps; step++) {
        for (int64_t start = share.start; start < share.end;) {
            int64_t block = start / share.tiles, end = (block + 1) * share.tiles;
            end = end < share.end ? end : share.end;
            for (int64_t index = 0; index < work->chunks; index++) {
                Chunk chunk = find_chunk(work, index);
                for (int64_t tile = start % share.tiles; tile < share.tiles - (block + 1) * share.tiles + end; tile++) {
                    int64_t lane = first_row(&share, tile);
                    switch (count_rows(&share, tile)) {
                    case 3: compute_tile(work, 3, step, lane, block, chunk); break;
                    case 2: compute_tile(work, 2, step, lane, block, chunk); break;
                    default: compute_tile(work, 1, step, lane, block, chunk);
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
    float *zeros = calloc((size_t)window->num_units, sizeof(float));
    if (!zeros)
        return -1;
    int64_t input_chunks = count_chunks(window->num_inputs, DEPTH), chunks = count_chunks(window->num_units, DEPTH);
    Work work = {window, zeros, (window->num_units + 7) / 8, input_chunks, input_chunks + chunks};
    run_on_threads((int)window->num_threads, run_forward, &work);
    free(zeros);
    return 0;
}
