/* Loads the kernels' library, prints what it may use here, and uses AVX2 if it may: test_old_processors.py runs this under
   an emulator of processors that have it and of others that do not. */

#include <dlfcn.h>
#include <stdio.h>

#include "../../native/kernels.h"

enum { STEPS = 3, LANES = 4, ROWS = STEPS * LANES, UNITS = 8, WIDTH = 32 };

static float panels[UNITS * WIDTH] __attribute__((aligned(64))), gates[ROWS * WIDTH], bias[WIDTH];
static float hidden[(STEPS + 1) * LANES * UNITS], cell[(STEPS + 1) * LANES * UNITS];

int main(int count, char **arguments)
{
    void *library = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!library)
        return 1;
    int (*features)(void) = (int (*)(void))dlsym(library, "charlm_processor_features");
    int (*forward)(const LayerWindow *) = (int (*)(const LayerWindow *))dlsym(library, "charlm_lstm_forward_avx2");
    int has_avx2 = features() & HAS_AVX2_AND_FMA;
    printf("%s AVX-512, %s AVX2\n", features() & HAS_AVX512_BF16 ? "with" : "no", has_avx2 ? "with" : "no");
    if (!has_avx2)
        return 0;
    for (int i = 0; i < UNITS * WIDTH; i++)
        panels[i] = (float)(i % 7 - 3) / 8;
    for (int i = 0; i < WIDTH; i++)
        bias[i] = (float)(i % 11 - 5) / 4;
    LayerWindow window = {.num_steps = STEPS, .num_lanes = LANES, .num_units = UNITS, .num_threads = 2};
    window.bias = bias, window.panels = panels;
    window.gates = gates, window.hidden = hidden, window.cell = cell;
    if (forward(&window))
        return 1;
    for (int i = STEPS * LANES * UNITS; i < (STEPS + 1) * LANES * UNITS; i++)
        printf("%a\n", hidden[i]);
    return 0;
}
