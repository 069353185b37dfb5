/* The product of the matrix unit: two tiles of rows times two of 16 sums each, in four of its eight registers. For each
   32 numbers of depth four tiles are loaded and four products made, which take twice as long as the loads.

   The intrinsics of some compilers do not say that they read memory. What is read here was written by other functions,
   behind pointers; but the configuration below needs a barrier. */

#include <immintrin.h>
#include <stddef.h>

#include "bf16.h"

/* Tiles 0 to 3 are sums: of the first rows and both halves of the panel, then of the second rows. 4 and 5 are what is on
   the left, 6 and 7 the halves of the panel. The intrinsics want these numbers as they are. */
enum { PANEL_TILES = 6 };

static _Thread_local int tile_rows;

static void begin(int rows)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) configuration = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        configuration.bytes[tile] = 64;
        configuration.rows[tile] = (uint8_t)(tile < PANEL_TILES ? rows : 16);
    }
    __asm__ volatile("" : : "r"(&configuration) : "memory");
    _tile_loadconfig(&configuration);
    tile_rows = rows;
}

static void end(void)
{
    _tile_release();
}

static void multiply(const Product *p, Chore *chore)
{
    static Chore nothing;
    const int has_second = p->rows > tile_rows;
    const ptrdiff_t left_bytes = p->left_stride * (ptrdiff_t)sizeof(bf16), out_bytes = p->out_stride * 4;
    const bf16 *left = p->left, *second = left + tile_rows * p->left_stride, *panel = p->panel;
    chore = chore ? chore : &nothing;
    if (p->initial) {
        const ptrdiff_t bytes = p->initial_stride * 4;
        _tile_loadd(0, p->initial, bytes);
        _tile_loadd(1, p->initial + 16, bytes);
        if (has_second) {
            _tile_loadd(2, p->initial + tile_rows * p->initial_stride, bytes);
            _tile_loadd(3, p->initial + tile_rows * p->initial_stride + 16, bytes);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < p->depth; k += 32) {
        _tile_loadd(4, left + k, left_bytes);
        _tile_loadd(6, panel + k * PANEL, 128);
        _tile_loadd(7, panel + k * PANEL + 32, 128);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (has_second) {
            _tile_loadd(5, second + k, left_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        do_rows(chore, chore->rows_at_once);
    }
    _tile_stored(0, p->out, out_bytes);
    _tile_stored(1, p->out + 16, out_bytes);
    if (has_second) {
        _tile_stored(2, p->out + tile_rows * p->out_stride, out_bytes);
        _tile_stored(3, p->out + tile_rows * p->out_stride + 16, out_bytes);
    }
}

const Products amx_products = {begin, multiply, end, true};
