/* Sixteen numbers at a time: the functions of the gates, bf16, and vectors of which only a part exists. */

#ifndef CHARLM_VECTOR_AVX512_H
#define CHARLM_VECTOR_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "bf16.h"

/* tanh, by the polynomials of tanh8 in vector_avx2.h. The quotient is the product with a reciprocal that one step of
   Newton's method makes exact to 1e-7: a division would take longer than all the rest. */
static inline __m512 tanh16(__m512 x)
{
    const __m512 limit = _mm512_set1_ps(7.90531110763549805f);
    x = _mm512_min_ps(limit, x);
    x = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), x);
    __m512 square = _mm512_mul_ps(x, x);
    __m512 odd = _mm512_set1_ps(-2.76076847742355e-16f);
    odd = _mm512_fmadd_ps(odd, square, _mm512_set1_ps(2.00018790482477e-13f));
    odd = _mm512_fmadd_ps(odd, square, _mm512_set1_ps(-8.60467152213735e-11f));
    odd = _mm512_fmadd_ps(odd, square, _mm512_set1_ps(5.12229709037114e-08f));
    odd = _mm512_fmadd_ps(odd, square, _mm512_set1_ps(1.48572235717979e-05f));
    odd = _mm512_fmadd_ps(odd, square, _mm512_set1_ps(6.37261928875436e-04f));
    odd = _mm512_fmadd_ps(odd, square, _mm512_set1_ps(4.89352455891786e-03f));
    odd = _mm512_mul_ps(odd, x);
    __m512 even = _mm512_set1_ps(1.19825839466702e-06f);
    even = _mm512_fmadd_ps(even, square, _mm512_set1_ps(1.18534705686654e-04f));
    even = _mm512_fmadd_ps(even, square, _mm512_set1_ps(2.26843463243900e-03f));
    even = _mm512_fmadd_ps(even, square, _mm512_set1_ps(4.89352518554385e-03f));
    __m512 reciprocal = _mm512_rcp14_ps(even);
    reciprocal = _mm512_fmadd_ps(reciprocal, _mm512_fnmadd_ps(even, reciprocal, _mm512_set1_ps(1)), reciprocal);
    return _mm512_mul_ps(odd, reciprocal);
}

/* 1 / (1 + exp(-x)) = 1/2 + 1/2 tanh(x / 2) */
static inline __m512 sigmoid16(__m512 x)
{
    const __m512 half = _mm512_set1_ps(0.5f);
    return _mm512_fmadd_ps(half, tanh16(_mm512_mul_ps(half, x)), half);
}

/* The first count numbers of a vector: none, some or all of them. */
static inline __mmask16 first(int64_t count)
{
    return (__mmask16)(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

static inline __m512 load_first(const float *from, int64_t count)
{
    return _mm512_maskz_loadu_ps(first(count), from);
}

static inline void store_first(float *to, int64_t count, __m512 numbers)
{
    _mm512_mask_storeu_ps(to, first(count), numbers);
}

/* Compilers have types of their own for vectors of bf16, and no conversion from or to others. */
static inline __m256i to_bf16(__m512 numbers)
{
    __m256bh rounded = _mm512_cvtneps_pbh(numbers);
    __m256i bits;
    memcpy(&bits, &rounded, sizeof bits);
    return bits;
}

static inline void store_bf16(bf16 *to, __m256i numbers)
{
    _mm256_storeu_si256((__m256i *)to, numbers);
}

static inline __m256i load_bf16(const bf16 *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

static inline __m512 to_floats(__m256i numbers)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

/* Pairs, as the products take them: (0 of one, 0 of the other) (1 of one, 1 of the other) … */
static inline __m512i pair(__m256i one, __m256i other)
{
    return _mm512_or_si512(_mm512_cvtepu16_epi32(one), _mm512_slli_epi32(_mm512_cvtepu16_epi32(other), 16));
}

/* sums += the products of pairs, both of each pair */
static inline __m512 multiply_pairs(__m512 sums, __m512i left, __m512i right)
{
    __m512bh l, r;
    memcpy(&l, &left, sizeof l);
    memcpy(&r, &right, sizeof r);
    return _mm512_dpbf16_ps(sums, l, r);
}

/* Turns 16 × 16 numbers of 32 bits, or pairs: within quarters of the vectors first, then the quarters. */
static inline void transpose16(__m512i rows[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* rows[4 r + i] has column i of each quarter, of rows 4 r to 4 r + 3 */
        __m512i even0 = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
        __m512i odd0 = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
        __m512i even1 = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
        __m512i odd1 = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(even0, even1, 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
        t[12 + i] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
    }
    memcpy(rows, t, sizeof t);
}

#endif
