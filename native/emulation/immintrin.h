/* AVX-512, its bf16 instructions and AMX for processors without them: only what the kernels use, and only to test these.

   `python native/build.py --emulate` puts this folder before the compiler's own, so that this file is found in place of
   the real one, which it includes. Written from Intel's description of the instructions, number by number. */

#ifndef CHARLM_EMULATED_IMMINTRIN_H
#define CHARLM_EMULATED_IMMINTRIN_H

#include_next <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union {
    __m512 vector;
    __m512i integers;
    float f[16];
    uint32_t u[16];
    uint64_t u64[8];
} Numbers;

static inline float bf16_to_float(uint16_t number)
{
    uint32_t bits = (uint32_t)number << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* To the nearest, and the even one of two; what is not a number stays so, and the smallest numbers become zero. */
static inline uint16_t float_to_bf16(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if (isnan(number))
        return (uint16_t)(bits >> 16 | 0x40);
    if ((bits & 0x7f800000) == 0)
        return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define EMULATED static inline __attribute__((always_inline))

EMULATED __m512 emulated_set1(float x)
{
    Numbers r;
    for (int i = 0; i < 16; i++)
        r.f[i] = x;
    return r.vector;
}

EMULATED __m512i emulated_set1_int(int32_t x)
{
    Numbers r;
    for (int i = 0; i < 16; i++)
        r.u[i] = (uint32_t)x;
    return r.integers;
}

EMULATED __m512 emulated_load(const void *from)
{
    __m512 r;
    memcpy(&r, from, sizeof r);
    return r;
}

EMULATED __m512i emulated_load_int(const void *from)
{
    __m512i r;
    memcpy(&r, from, sizeof r);
    return r;
}

EMULATED void emulated_store(void *to, __m512 x)
{
    memcpy(to, &x, sizeof x);
}

EMULATED void emulated_store_int(void *to, __m512i x)
{
    memcpy(to, &x, sizeof x);
}

EMULATED __m512 emulated_load_masked(__mmask16 mask, const float *from)
{
    Numbers r;
    for (int i = 0; i < 16; i++)
        r.f[i] = mask >> i & 1 ? from[i] : 0;
    return r.vector;
}

EMULATED void emulated_store_masked(float *to, __mmask16 mask, __m512 x)
{
    Numbers r = {x};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            to[i] = r.f[i];
}

EMULATED __m512 emulated_fmadd(__m512 a, __m512 b, __m512 c)
{
    Numbers x = {a}, y = {b}, z = {c};
    for (int i = 0; i < 16; i++)
        z.f[i] = fmaf(x.f[i], y.f[i], z.f[i]);
    return z.vector;
}

/* The second argument where one of the two is not a number. */
EMULATED __m512 emulated_min(__m512 a, __m512 b)
{
    Numbers x = {a}, y = {b};
    for (int i = 0; i < 16; i++)
        y.f[i] = x.f[i] < y.f[i] ? x.f[i] : y.f[i];
    return y.vector;
}

EMULATED __m512 emulated_max(__m512 a, __m512 b)
{
    Numbers x = {a}, y = {b};
    for (int i = 0; i < 16; i++)
        y.f[i] = x.f[i] > y.f[i] ? x.f[i] : y.f[i];
    return y.vector;
}

/* As wrong as the instruction may be: by a share of 2^-14. */
EMULATED __m512 emulated_reciprocal(__m512 a)
{
    Numbers x = {a};
    for (int i = 0; i < 16; i++)
        x.f[i] = (i % 2 ? 1 + 0x1p-14f : 1 - 0x1p-14f) / x.f[i];
    return x.vector;
}

EMULATED __m512i emulated_widen(__m256i a)
{
    uint16_t x[16];
    Numbers r;
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 16; i++)
        r.u[i] = x[i];
    return r.integers;
}

EMULATED __m512i emulated_shift_left(__m512i a, unsigned count)
{
    Numbers x = {.integers = a};
    for (int i = 0; i < 16; i++)
        x.u[i] <<= count;
    return x.integers;
}

/* In each quarter: the lower or upper two numbers of both, by turns. */
EMULATED __m512i emulated_unpack32(__m512i a, __m512i b, int upper)
{
    Numbers x = {.integers = a}, y = {.integers = b}, r;
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r.u[i + 2 * j] = x.u[i + 2 * upper + j];
            r.u[i + 2 * j + 1] = y.u[i + 2 * upper + j];
        }
    return r.integers;
}

EMULATED __m512i emulated_unpack64(__m512i a, __m512i b, int upper)
{
    Numbers x = {.integers = a}, y = {.integers = b}, r;
    for (int i = 0; i < 8; i += 2) {
        r.u64[i] = x.u64[i + upper];
        r.u64[i + 1] = y.u64[i + upper];
    }
    return r.integers;
}

/* Two quarters of the first, then two of the second, each named by two bits. */
EMULATED __m512i emulated_shuffle_quarters(__m512i a, __m512i b, int names)
{
    Numbers x = {.integers = a}, y = {.integers = b}, r;
    for (int i = 0; i < 4; i++)
        memcpy(&r.u[4 * i], &(i < 2 ? &x : &y)->u[4 * (names >> 2 * i & 3)], 16);
    return r.integers;
}

EMULATED __m256bh emulated_round(__m512 a)
{
    Numbers x = {a};
    uint16_t numbers[16];
    __m256bh r;
    for (int i = 0; i < 16; i++)
        numbers[i] = float_to_bf16(x.f[i]);
    memcpy(&r, numbers, sizeof r);
    return r;
}

/* The second argument is the lower half. */
EMULATED __m512bh emulated_round_two(__m512 upper, __m512 lower)
{
    __m256bh halves[2] = {emulated_round(lower), emulated_round(upper)};
    __m512bh r;
    memcpy(&r, halves, sizeof r);
    return r;
}

EMULATED __m512 emulated_multiply_pairs(__m512 sums, __m512bh a, __m512bh b)
{
    Numbers x, y, r = {sums};
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    for (int i = 0; i < 16; i++) { /* the odd number first, as the instruction does */
        r.f[i] += bf16_to_float(x.u[i] >> 16) * bf16_to_float(y.u[i] >> 16);
        r.f[i] += bf16_to_float((uint16_t)x.u[i]) * bf16_to_float((uint16_t)y.u[i]);
    }
    return r.vector;
}

#define _mm512_set1_ps emulated_set1
#define _mm512_setzero_ps() emulated_set1(0)
#define _mm512_set1_epi32 emulated_set1_int
#define _mm512_setzero_si512() emulated_set1_int(0)
#define _mm512_loadu_ps emulated_load
#define _mm512_loadu_si512 emulated_load_int
#define _mm512_storeu_ps emulated_store
#define _mm512_storeu_si512 emulated_store_int
#define _mm512_maskz_loadu_ps emulated_load_masked
#define _mm512_mask_storeu_ps emulated_store_masked
#define _mm512_add_ps(a, b) ((__m512)((a) + (b)))
#define _mm512_sub_ps(a, b) ((__m512)((a) - (b)))
#define _mm512_mul_ps(a, b) ((__m512)((a) * (b)))
#define _mm512_or_si512(a, b) ((__m512i)((a) | (b)))
#define _mm512_fmadd_ps emulated_fmadd
#define _mm512_fnmadd_ps(a, b, c) emulated_fmadd(-(a), b, c)
#define _mm512_min_ps emulated_min
#define _mm512_max_ps emulated_max
#define _mm512_rcp14_ps emulated_reciprocal
#define _mm512_castsi512_ps(a) ((__m512)(a))
#define _mm512_cvtepu16_epi32 emulated_widen
#define _mm512_slli_epi32 emulated_shift_left
#define _mm512_unpacklo_epi32(a, b) emulated_unpack32(a, b, 0)
#define _mm512_unpackhi_epi32(a, b) emulated_unpack32(a, b, 1)
#define _mm512_unpacklo_epi64(a, b) emulated_unpack64(a, b, 0)
#define _mm512_unpackhi_epi64(a, b) emulated_unpack64(a, b, 1)
#define _mm512_shuffle_i32x4 emulated_shuffle_quarters
#define _mm512_cvtneps_pbh emulated_round
#define _mm512_cvtne2ps_pbh emulated_round_two
#define _mm512_dpbf16_ps emulated_multiply_pairs

#include "tiles.h"

#endif
