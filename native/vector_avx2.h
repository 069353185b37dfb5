/* Eight numbers at a time: the functions of the gates, and vectors of which only a part exists. */

#ifndef CHARLM_VECTOR_AVX2_H
#define CHARLM_VECTOR_AVX2_H

#include <immintrin.h>
#include <stdint.h>

/* tanh(x) = odd / even to within 1e-6, as Eigen computes it: odd has only odd powers, so it is exact at 0.
   NaN stays NaN: min and max return their second argument where one of the two is. */
static inline __m256 tanh_parts(__m256 x, __m256 *even)
{
    const __m256 limit = _mm256_set1_ps(7.90531110763549805f); /* beyond, the result would round to 1 */
    x = _mm256_min_ps(limit, x);
    x = _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), limit), x);
    __m256 square = _mm256_mul_ps(x, x);
    __m256 odd = _mm256_set1_ps(-2.76076847742355e-16f);
    odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(2.00018790482477e-13f));
    odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(-8.60467152213735e-11f));
    odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(5.12229709037114e-08f));
    odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(1.48572235717979e-05f));
    odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(6.37261928875436e-04f));
    odd = _mm256_fmadd_ps(odd, square, _mm256_set1_ps(4.89352455891786e-03f));
    *even = _mm256_set1_ps(1.19825839466702e-06f);
    *even = _mm256_fmadd_ps(*even, square, _mm256_set1_ps(1.18534705686654e-04f));
    *even = _mm256_fmadd_ps(*even, square, _mm256_set1_ps(2.26843463243900e-03f));
    *even = _mm256_fmadd_ps(*even, square, _mm256_set1_ps(4.89352518554385e-03f));
    return _mm256_mul_ps(odd, x);
}

static inline __m256 tanh8(__m256 x)
{
    __m256 even, odd = tanh_parts(x, &even);
    return _mm256_div_ps(odd, even);
}

/* From the sums of i, f, g and o to the gates: σ, σ, tanh, σ, with σ(x) = 1/2 + 1/2 tanh(x / 2). One division does for
   all four, since the divisors are between 0.004 and 1: 1/a = bcd / abcd, and so on. */
static inline void activate_gates(__m256 gates[4])
{
    const __m256 half = _mm256_set1_ps(0.5f);
    __m256 odd[4], even[4];
    for (int gate = 0; gate < 4; gate++)
        odd[gate] = tanh_parts(gate == 2 ? gates[2] : _mm256_mul_ps(half, gates[gate]), &even[gate]);
    __m256 first = _mm256_mul_ps(even[0], even[1]), last = _mm256_mul_ps(even[2], even[3]);
    __m256 inverse = _mm256_div_ps(_mm256_set1_ps(1), _mm256_mul_ps(first, last));
    last = _mm256_mul_ps(last, inverse); /* 1 / first */
    first = _mm256_mul_ps(first, inverse);
    gates[0] = _mm256_mul_ps(odd[0], _mm256_mul_ps(even[1], last));
    gates[1] = _mm256_mul_ps(odd[1], _mm256_mul_ps(even[0], last));
    gates[2] = _mm256_mul_ps(odd[2], _mm256_mul_ps(even[3], first));
    gates[3] = _mm256_mul_ps(odd[3], _mm256_mul_ps(even[2], first));
    for (int gate = 0; gate < 4; gate++)
        if (gate != 2)
            gates[gate] = _mm256_fmadd_ps(half, gates[gate], half);
}

/* exp(x) for x of at most 0, to within 2e-7 of itself; 0 below the smallest normal number. Cephes' polynomial. */
static inline __m256 exp8(__m256 x)
{
    __m256 is_normal = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_NLT_US); /* true of NaN, which so stays NaN */
    x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x);
    __m256 whole = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
    x = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), x);
    x = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4f), x);
    __m256 sum = _mm256_set1_ps(1.9875691500e-4f);
    sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(1.3981999507e-3f));
    sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(8.3334519073e-3f));
    sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(4.1665795894e-2f));
    sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(1.6666665459e-1f));
    sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(5.0000001201e-1f));
    sum = _mm256_fmadd_ps(sum, _mm256_mul_ps(x, x), _mm256_add_ps(x, _mm256_set1_ps(1)));
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    sum = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), exponent));
    return _mm256_and_ps(sum, is_normal);
}

/* The first count numbers of a vector, 1 to 8: the last units of a layer may be fewer than eight. */
static inline __m256i first(int count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline __m256 load_first(const float *from, int count)
{
    return count == 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, first(count));
}

static inline void store_first(float *to, int count, __m256 numbers)
{
    if (count == 8)
        _mm256_storeu_ps(to, numbers);
    else
        _mm256_maskstore_ps(to, first(count), numbers);
}

#endif
