/* In place of ../processor.c where instructions are emulated: what the processor at hand can do, and all that is here. */

#include "../kernels.h"

EXPORT int charlm_processor_features(void)
{
    __builtin_cpu_init();
    return (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? HAS_AVX2_AND_FMA : 0) | HAS_AVX512_BF16 |
           HAS_AMX_BF16;
}
