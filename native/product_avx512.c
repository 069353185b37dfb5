/* The product of AVX-512: up to 12 rows times the 32 sums of a panel, held in 24 of the 32 vector registers. */

#include "vector_avx512.h"

static void begin(int tile_rows)
{
    (void)tile_rows;
}

static void end(void)
{
}

/* Inlined for each number of rows, so that the sums are in registers. */
static inline __attribute__((always_inline)) void multiply_rows(int count, const Product *p, int64_t row)
{
    const bf16 *left = p->left + row * p->left_stride;
    const float *initial = p->initial ? p->initial + row * p->initial_stride : NULL;
    __m512 sums[12][2];
#pragma GCC unroll 12
    for (int i = 0; i < count; i++)
#pragma GCC unroll 2
        for (int vector = 0; vector < 2; vector++)
            sums[i][vector] = initial ? _mm512_loadu_ps(initial + i * p->initial_stride + 16 * vector)
                                      : _mm512_setzero_ps();
    for (int64_t k = 0; k < p->depth; k += 2) {
        __m512i first = _mm512_loadu_si512(p->panel + k * PANEL);
        __m512i second = _mm512_loadu_si512(p->panel + k * PANEL + 32);
#pragma GCC unroll 12
        for (int i = 0; i < count; i++) {
            int32_t numbers;
            memcpy(&numbers, left + i * p->left_stride + k, sizeof numbers);
            __m512i x = _mm512_set1_epi32(numbers);
            sums[i][0] = multiply_pairs(sums[i][0], x, first);
            sums[i][1] = multiply_pairs(sums[i][1], x, second);
        }
    }
    float *out = p->out + row * p->out_stride;
#pragma GCC unroll 12
    for (int i = 0; i < count; i++)
#pragma GCC unroll 2
        for (int vector = 0; vector < 2; vector++)
            _mm512_storeu_ps(out + i * p->out_stride + 16 * vector, sums[i][vector]);
}

static void multiply(const Product *p, Chore *chore)
{
    (void)chore;
    int parts = (p->rows + 11) / 12;
    for (int part = 0; part < parts; part++) {
        int row = p->rows * part / parts, next = p->rows * (part + 1) / parts;
        switch (next - row) {
        case 12: multiply_rows(12, p, row); break;
        case 11: multiply_rows(11, p, row); break;
        case 10: multiply_rows(10, p, row); break;
        case 9: multiply_rows(9, p, row); break;
        case 8: multiply_rows(8, p, row); break;
        case 7: multiply_rows(7, p, row); break;
        case 6: multiply_rows(6, p, row); break;
        case 5: multiply_rows(5, p, row); break;
        case 4: multiply_rows(4, p, row); break;
        case 3: multiply_rows(3, p, row); break;
        case 2: multiply_rows(2, p, row); break;
        default: multiply_rows(1, p, row);
        }
    }
}

const Products avx512_products = {begin, multiply, end, false};
