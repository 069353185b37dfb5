/* What this processor can do. Compiled without any -m option, so that it runs on all of them. */

#include "kernels.h"

EXPORT int charlm_processor_features(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? HAS_AVX2_AND_FMA : 0;
}
