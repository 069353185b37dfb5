/* The gradients of a layer's weights, of which each is a sum over all steps and lanes: d_sum · number read.

   In tiles again, three inputs or units by the 32 sums of a block. A chunk of steps and lanes is added to all tiles of a
   block, while its gates are in the first-level cache, and a group of chunks to all blocks, while the numbers read are
   in the second-level cache. */

#include <string.h>

#include "gradients_avx2.h"
#include "tiles_avx2.h"

enum {
    ROWS = 128,    /* steps × lanes of a chunk, about: 16 KB of gates, which stay in the first-level cache */
    GROUP = 65536, /* numbers of all chunks that are added for one block before the next: 256 KB of the second level */
};

/* Which steps and lanes. */
typedef struct {
    int64_t step, steps, lane, lanes;
} Chunk;

typedef struct {
    const LayerWindow *window;
    int64_t blocks, lane_chunks, step_chunks;
} Work;

static Chunk find_chunk(const Work *work, int64_t index)
{
    const LayerWindow *w = work->window;
    int64_t of_steps = index / work->lane_chunks, of_lanes = index % work->lane_chunks;
    Chunk chunk = {first_of_chunk(w->num_steps, work->step_chunks, of_steps), 0,
                   first_of_chunk(w->num_lanes, work->lane_chunks, of_lanes), 0};
    chunk.steps = first_of_chunk(w->num_steps, work->step_chunks, of_steps + 1) - chunk.step;
    chunk.lanes = first_of_chunk(w->num_lanes, work->lane_chunks, of_lanes + 1) - chunk.lane;
    return chunk;
}

static inline const float *find_gates(const Work *work, int64_t step, int64_t block, int64_t lane)
{
    return work->window->gates + ((step * work->blocks + block) * work->window->num_lanes + lane) * WIDTH;
}

/* Adds what a chunk gives for some numbers of (step, lane, size), from first on, to rows of weight_gradients. */
static inline __attribute__((always_inline)) void add_tile(const Work *work, int rows, const float *numbers,
                                                           int64_t size, int64_t block, Chunk chunk, float *to)
{
    const int64_t num_lanes = work->window->num_lanes;
    const float *first[TILE];
    __m256 sums[TILE][4];
    for (int i = 0; i < rows; i++) {
        first[i] = numbers + (chunk.step * num_lanes + chunk.lane) * size + i;
        for (int vector = 0; vector < 4; vector++)
            sums[i][vector] = _mm256_loadu_ps(to + i * WIDTH + 8 * vector);
    }
    Walk walk = {size, chunk.lanes, num_lanes * size, chunk.steps, work->blocks * num_lanes * WIDTH};
    multiply(rows, first, walk, find_gates(work, chunk.step, block, chunk.lane), sums);
    for (int i = 0; i < rows; i++)
        for (int vector = 0; vector < 4; vector++)
            _mm256_storeu_ps(to + i * WIDTH + 8 * vector, sums[i][vector]);
}

static void add_tiles(const Work *work, const float *numbers, int64_t size, const Share *share, int64_t from, int64_t to,
                      int64_t block, Chunk chunk, float *gradients)
{
    for (int64_t tile = from; tile < to; tile++) {
        int64_t row = first_row(share, tile);
        switch (count_rows(share, tile)) {
        case 3: add_tile(work, 3, numbers + row, size, block, chunk, gradients + row * WIDTH); break;
        case 2: add_tile(work, 2, numbers + row, size, block, chunk, gradients + row * WIDTH); break;
        default: add_tile(work, 1, numbers + row, size, block, chunk, gradients + row * WIDTH);
        }
    }
}

/* Of the bias: the sum of all rows. Of the table: of those that read the same row of it. */
static void add_rows(const Work *work, int64_t block, Chunk chunk)
{
    const LayerWindow *w = work->window;
    for (int64_t step = chunk.step; step < chunk.step + chunk.steps; step++)
        for (int64_t lane = chunk.lane; lane < chunk.lane + chunk.lanes; lane++) {
            const float *from = find_gates(work, step, block, lane);
            float *to = w->bias_gradients + block * WIDTH;
            if (w->table_gradients)
                to = w->table_gradients + (w->ids[step * w->num_lanes + lane] * work->blocks + block) * WIDTH;
            for (int column = 0; column < WIDTH; column += 8)
                _mm256_storeu_ps(to + column,
                                 _mm256_add_ps(_mm256_loadu_ps(to + column), _mm256_loadu_ps(from + column)));
        }
}

static inline int64_t clamp(int64_t number, int64_t most)
{
    return number < 0 ? 0 : number > most ? most : number;
}

void compute_weight_gradients(const LayerWindow *w, int thread, int num_threads)
{
    int64_t lane_chunks = count_chunks(w->num_lanes, ROWS), step_rows = count_chunks(w->num_lanes, lane_chunks);
    Work work = {w, (w->num_units + 7) / 8, lane_chunks, count_chunks(w->num_steps, step_rows < ROWS ? ROWS / step_rows : 1)};
    Share of_inputs = {0}, of_units = compute_share(1, w->num_units, 0, 1);
    if (w->num_inputs)
        of_inputs = compute_share(1, w->num_inputs, 0, 1);
    const int64_t tiles = of_inputs.tiles + of_units.tiles, size = w->num_inputs + w->num_units;
    const int64_t start = work.blocks * tiles * thread / num_threads, end = work.blocks * tiles * (thread + 1) / num_threads;
    const int64_t chunks = work.step_chunks * work.lane_chunks;
    const int64_t group = ROWS * size < GROUP ? GROUP / (ROWS * size) : 1;
    for (int64_t first = 0; first < chunks; first += group)
        for (int64_t block = start / tiles; block * tiles < end; block++) {
            int64_t from = clamp(start - block * tiles, tiles), to = clamp(end - block * tiles, tiles);
            float *gradients = w->weight_gradients + block * size * WIDTH;
            for (int64_t index = first; index < chunks && index < first + group; index++) {
                Chunk chunk = find_chunk(&work, index);
                if (!from)
                    add_rows(&work, block, chunk);
                add_tiles(&work, w->inputs, w->num_inputs, &of_inputs, clamp(from, of_inputs.tiles),
                          clamp(to, of_inputs.tiles), block, chunk, gradients);
                add_tiles(&work, w->before, w->num_units, &of_units, clamp(from - of_inputs.tiles, of_units.tiles),
                          clamp(to - of_inputs.tiles, of_units.tiles), block, chunk, gradients + w->num_inputs * WIDTH);
            }
        }
}
