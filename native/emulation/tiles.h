/* The tiles of AMX: eight of 16 rows of 64 bytes for each thread. An error of the configuration ends the program, as the
   processor would. */

#ifndef CHARLM_EMULATED_TILES_H
#define CHARLM_EMULATED_TILES_H

#include <stdlib.h>

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileConfiguration;

static _Thread_local TileConfiguration tile_configuration; /* palette 0: none */
static _Thread_local uint8_t tiles[8][16][64];

static inline void require(int condition)
{
    if (!condition)
        abort();
}

/* Whether a tile is configured, in whole numbers of 32 bits. */
static inline void require_tile(int tile)
{
    require(tile_configuration.palette == 1 && tile >= 0 && tile < 8);
    require(tile_configuration.rows[tile] >= 1 && tile_configuration.rows[tile] <= 16);
    require(tile_configuration.bytes[tile] >= 4 && tile_configuration.bytes[tile] <= 64);
    require(tile_configuration.bytes[tile] % 4 == 0);
}

static inline void emulated_tile_loadconfig(const void *configuration)
{
    memcpy(&tile_configuration, configuration, sizeof tile_configuration);
    memset(tiles, 0, sizeof tiles);
}

static inline void emulated_tile_release(void)
{
    memset(&tile_configuration, 0, sizeof tile_configuration);
    memset(tiles, 0, sizeof tiles);
}

static inline void emulated_tile_zero(int tile)
{
    require_tile(tile);
    memset(tiles[tile], 0, sizeof tiles[tile]);
}

static inline void emulated_tile_load(int tile, const void *from, intptr_t stride)
{
    require_tile(tile);
    memset(tiles[tile], 0, sizeof tiles[tile]);
    for (int row = 0; row < tile_configuration.rows[tile]; row++)
        memcpy(tiles[tile][row], (const char *)from + row * stride, tile_configuration.bytes[tile]);
}

static inline void emulated_tile_store(int tile, void *to, intptr_t stride)
{
    require_tile(tile);
    for (int row = 0; row < tile_configuration.rows[tile]; row++)
        memcpy((char *)to + row * stride, tiles[tile][row], tile_configuration.bytes[tile]);
}

static inline void emulated_tile_multiply(int sums, int left, int right)
{
    require_tile(sums);
    require_tile(left);
    require_tile(right);
    const int rows = tile_configuration.rows[sums], pairs = tile_configuration.bytes[left] / 4;
    require(sums != left && sums != right && left != right);
    require(tile_configuration.rows[left] == rows && tile_configuration.rows[right] == pairs);
    require(tile_configuration.bytes[sums] == tile_configuration.bytes[right]);
    for (int row = 0; row < rows; row++) {
        Numbers sum, x, y;
        memcpy(&sum, tiles[sums][row], sizeof sum);
        memcpy(&x, tiles[left][row], sizeof x);
        for (int k = 0; k < pairs; k++) {
            memcpy(&y, tiles[right][k], sizeof y);
            for (int i = 0; i < tile_configuration.bytes[sums] / 4; i++) {
                sum.f[i] += bf16_to_float((uint16_t)x.u[k]) * bf16_to_float((uint16_t)y.u[i]);
                sum.f[i] += bf16_to_float(x.u[k] >> 16) * bf16_to_float(y.u[i] >> 16);
            }
        }
        memcpy(tiles[sums][row], &sum, sizeof sum);
    }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_tile_loadconfig
#define _tile_release emulated_tile_release
#define _tile_zero emulated_tile_zero
#define _tile_loadd emulated_tile_load
#define _tile_stored emulated_tile_store
#define _tile_dpbf16ps emulated_tile_multiply

#endif
