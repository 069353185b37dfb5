/* The matrix products of a step: three lanes times 32 sums at a time, held in 12 of the 16 vector registers. */

#ifndef CHARLM_TILES_AVX2_H
#define CHARLM_TILES_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

enum {
    TILE_LANES = 3,
    WIDTH = 32,  /* sums of a panel, in four vectors */
    DEPTH = 256, /* rows of a panel that are multiplied before the next lanes: 24 KB, which stay in the first-level cache */
};

/* sums[lane][vector] += rows[lane][from … to] × panel[from … to][vector]. Inlined for each number of lanes. */
static inline __attribute__((always_inline)) void multiply(int lanes, const float *const *rows, const float *panel,
                                                           int64_t from, int64_t to, __m256 sums[TILE_LANES][4])
{
    __m256 s[TILE_LANES][4];
    for (int lane = 0; lane < lanes; lane++)
        for (int vector = 0; vector < 4; vector++)
            s[lane][vector] = sums[lane][vector];
    for (int64_t k = from; k < to; k++) {
        const float *weights = panel + k * WIDTH;
        __m256 x[TILE_LANES];
#pragma GCC unroll 3
        for (int lane = 0; lane < lanes; lane++)
            x[lane] = _mm256_broadcast_ss(rows[lane] + k);
#pragma GCC unroll 4
        for (int vector = 0; vector < 4; vector++) {
            __m256 w = _mm256_load_ps(weights + 8 * vector);
#pragma GCC unroll 3
            for (int lane = 0; lane < lanes; lane++)
                s[lane][vector] = _mm256_fmadd_ps(x[lane], w, s[lane][vector]);
        }
    }
    for (int lane = 0; lane < lanes; lane++)
        for (int vector = 0; vector < 4; vector++)
            sums[lane][vector] = s[lane][vector];
}

/* The work of a step is a grid, panels by tiles of lanes, in that order; each thread takes an equal part of the row of
   all of them. So work is even for any numbers of units, lanes and threads, and a thread mostly reads the same panels at
   each step, which stay in its cache. */
typedef struct {
    int64_t tiles;       /* of lanes: as many as it takes, and as even as possible: 4 lanes are 2 + 2 */
    int64_t small, more; /* so many lanes each, and one more in so many of them */
    int64_t start, end;  /* of this thread, in the grid */
} Share;

static inline Share share_of(int64_t panels, int64_t lanes, int thread, int num_threads)
{
    Share share;
    share.tiles = (lanes + TILE_LANES - 1) / TILE_LANES;
    share.small = lanes / share.tiles;
    share.more = lanes % share.tiles;
    share.start = panels * share.tiles * thread / num_threads;
    share.end = panels * share.tiles * (thread + 1) / num_threads;
    return share;
}

static inline int64_t first_lane(const Share *share, int64_t tile)
{
    return tile * share->small + (tile < share->more ? tile : share->more);
}

static inline int count_lanes(const Share *share, int64_t tile)
{
    return (int)(share->small + (tile < share->more));
}

#endif
