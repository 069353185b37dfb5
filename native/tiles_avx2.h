/* The matrix products of a layer: three rows times 32 sums at a time, held in 12 of the 16 vector registers. */

#ifndef CHARLM_TILES_AVX2_H
#define CHARLM_TILES_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

enum {
    TILE = 3,    /* rows */
    WIDTH = 32,  /* sums of a panel, in four vectors */
    DEPTH = 128, /* rows of a panel, about, that are multiplied before the next tile: 16 KB of the first-level cache */
};

/* One factor of a product as a tile reads it: numbers at a distance of step, count of them; jump on; and so on. */
typedef struct {
    int64_t step, count, jump, times;
    int64_t panel_jump; /* from the first row of the panel that goes with one stretch to that of the next */
} Walk;

/* sums[row][vector] += the numbers of each row × the rows of the panel. Inlined for each number of rows. */
static inline __attribute__((always_inline)) void multiply(int rows, const float *const *first, Walk walk,
                                                           const float *panel, __m256 sums[TILE][4])
{
    __m256 s[TILE][4];
    const float *numbers[TILE];
    for (int row = 0; row < rows; row++) {
        numbers[row] = first[row];
        for (int vector = 0; vector < 4; vector++)
            s[row][vector] = sums[row][vector];
    }
    for (int64_t time = 0; time < walk.times; time++) {
        for (int64_t k = 0; k < walk.count; k++) {
            const float *weights = panel + k * WIDTH;
            __m256 x[TILE];
#pragma GCC unroll 3
            for (int row = 0; row < rows; row++)
                x[row] = _mm256_broadcast_ss(numbers[row] + k * walk.step);
#pragma GCC unroll 4
            for (int vector = 0; vector < 4; vector++) {
                __m256 w = _mm256_loadu_ps(weights + 8 * vector);
#pragma GCC unroll 3
                for (int row = 0; row < rows; row++)
                    s[row][vector] = _mm256_fmadd_ps(x[row], w, s[row][vector]);
            }
        }
        panel += walk.panel_jump;
        for (int row = 0; row < rows; row++)
            numbers[row] += walk.jump;
    }
    for (int row = 0; row < rows; row++)
        for (int vector = 0; vector < 4; vector++)
            sums[row][vector] = s[row][vector];
}

/* The work of a step is a grid, panels by tiles of rows, in that order; each thread takes an equal part of the row of
   all of them. So work is even for any numbers of units, lanes and threads, and a thread mostly reads the same panels at
   each step, which stay in its cache. */
typedef struct {
    int64_t tiles;       /* of rows: as many as it takes, and as even as possible: 4 rows are 2 + 2 */
    int64_t small, more; /* so many rows each, and one more in so many of them */
    int64_t start, end;  /* of this thread, in the grid */
} Share;

static inline Share compute_share(int64_t panels, int64_t rows, int thread, int num_threads)
{
    Share share;
    share.tiles = (rows + TILE - 1) / TILE;
    share.small = rows / share.tiles;
    share.more = rows % share.tiles;
    share.start = panels * share.tiles * thread / num_threads;
    share.end = panels * share.tiles * (thread + 1) / num_threads;
    return share;
}

static inline int64_t first_row(const Share *share, int64_t tile)
{
    return tile * share->small + (tile < share->more ? tile : share->more);
}

static inline int count_rows(const Share *share, int64_t tile)
{
    return (int)(share->small + (tile < share->more));
}

/* A dimension that is too long for the cache is cut into equal chunks. */
static inline int64_t count_chunks(int64_t length, int64_t most)
{
    return (length + most - 1) / most;
}

static inline int64_t first_of_chunk(int64_t length, int64_t chunks, int64_t chunk)
{
    return length * chunk / chunks;
}

#endif
