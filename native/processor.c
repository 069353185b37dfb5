/* What this processor can do, and the system lets it do. Compiled without any -m option, so that it runs on all. */

#define _DEFAULT_SOURCE /* syscall */
#include <cpuid.h>
#include <stdbool.h>
#include <string.h>
#ifdef __linux__
#include <unistd.h>
#endif

#include "kernels.h"

typedef struct {
    unsigned a, b, c, d;
} Registers;

static Registers ask(unsigned leaf, unsigned subleaf)
{
    Registers r = {0, 0, 0, 0};
    __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d); /* leaves zeros where there is no such leaf */
    return r;
}

static bool has(unsigned word, int bit)
{
    return word >> bit & 1;
}

/* Which registers the system keeps when it gives the processor to another program: a bit for each kind. */
static unsigned kept_registers(void)
{
    unsigned low, high;
    if (!has(ask(1, 0).c, 27))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Linux gives a process the matrix unit's registers, 8 KB a thread, only if it asks. */
static bool may_use_tiles(void)
{
#ifdef __linux__
    enum { ARCH_PRCTL = 158, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

static bool is_amd(void)
{
    Registers r = ask(0, 0);
    return memcmp(&r.b, "Auth", 4) == 0 && memcmp(&r.d, "enti", 4) == 0 && memcmp(&r.c, "cAMD", 4) == 0;
}

EXPORT int charlm_processor_features(void)
{
    enum { AVX512 = 0xe6, TILES = 0x60000 }; /* registers */
    const unsigned kept = kept_registers();
    const Registers r = ask(7, 0);
    int features = is_amd() ? IS_AMD : 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        features |= HAS_AVX2_AND_FMA;
    bool has_avx512 = has(r.b, 16) && has(r.b, 17) && has(r.b, 30) && has(r.b, 31); /* F, DQ, BW, VL */
    if ((kept & AVX512) != AVX512 || !has_avx512 || !has(ask(7, 1).a, 5))
        return features;
    features |= HAS_AVX512_BF16;
    if ((kept & TILES) == TILES && has(r.d, 22) && has(r.d, 24) && may_use_tiles())
        features |= HAS_AMX_BF16;
    return features;
}

EXPORT int charlm_kernels_version(void)
{
    return VERSION;
}
