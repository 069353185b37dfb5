/* Whether bf16 is worth while with AVX-512: on some processors its instruction takes as long as two of fp32, so that it
   gains nothing. That the processor has it says nothing, but a millisecond of both does. */

#define _DEFAULT_SOURCE /* clock_gettime */
#include <time.h>

#include "vector_avx512.h"

enum { SUMS = 16, TIMES = 20000, TRIES = 5 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void use(__m512 sums[SUMS])
{
    __asm__ volatile("" : : "r"(sums) : "memory");
}

static double time_floats(void)
{
    __m512 sums[SUMS], x = _mm512_set1_ps(0.5f);
    for (int i = 0; i < SUMS; i++)
        sums[i] = x;
    double began = seconds();
    for (int time = 0; time < TIMES; time++)
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_fmadd_ps(x, x, sums[i]);
    use(sums);
    return seconds() - began;
}

static double time_pairs(void)
{
    __m512 sums[SUMS];
    __m512i x = _mm512_set1_epi32(0x3f003f00); /* 0.5, twice */
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_ps(0.5f);
    double began = seconds();
    for (int time = 0; time < TIMES; time++)
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++)
            sums[i] = multiply_pairs(sums[i], x, x);
    use(sums);
    return seconds() - began;
}

/* Multiply-adds in a second, of bf16 by those of fp32: the best of some tries, as another program may take time. */
EXPORT double charlm_bf16_gain_avx512(void)
{
    double floats = 1, pairs = 1;
    for (int try = 0; try < TRIES; try++) {
        double f = time_floats(), p = time_pairs();
        floats = f < floats ? f : floats;
        pairs = p < pairs ? p : pairs;
    }
    return 2 * floats / pairs;
}
