/* Weights as the kernels multiply with them, and gradients of weights back. In Python a matrix of weights is (gate, unit,
   column), where the columns are inputs or units. */

#include <string.h>

#include "kernels.h"

enum { GATES = 4, UNITS = 8, WIDTH = GATES * UNITS, TILE = 16 }; /* a tile of columns is read and written in the cache */

typedef struct {
    float *weights; /* only read, but by unpack */
    int64_t num_units, num_columns;
    float *panels;
    int64_t first_row, num_rows; /* forward: where the first column stands in each block, and how many rows that has */
    int is_unpacking;
} Work;

/* Forward: (block, column, 32). Units that the last block lacks have weights of zero. */
static void move_blocks(int thread, int num_threads, void *argument)
{
    const Work *w = argument;
    const int64_t blocks = (w->num_units + UNITS - 1) / UNITS;
    for (int64_t block = blocks * thread / num_threads; block < blocks * (thread + 1) / num_threads; block++)
        for (int64_t from = 0; from < w->num_columns; from += TILE) {
            const int64_t to = from + TILE < w->num_columns ? from + TILE : w->num_columns;
            for (int sum = 0; sum < WIDTH; sum++) {
                const int64_t unit = UNITS * block + sum % UNITS;
                float *weights = w->weights + (sum / UNITS * w->num_units + unit) * w->num_columns;
                float *panel = w->panels + (block * w->num_rows + w->first_row) * WIDTH + sum;
                for (int64_t column = from; column < to; column++) {
                    if (!w->is_unpacking)
                        panel[column * WIDTH] = unit < w->num_units ? weights[column] : 0;
                    else if (unit < w->num_units)
                        weights[column] = panel[column * WIDTH];
                }
            }
        }
}

/* Backward: (panel of 32 columns, block × 32, 32). Columns that the last panel lacks are zero, too. */
static void move_columns(int thread, int num_threads, void *argument)
{
    const Work *w = argument;
    const int64_t rows = (w->num_units + UNITS - 1) / UNITS * WIDTH, panels = (w->num_columns + WIDTH - 1) / WIDTH;
    for (int64_t row = rows * thread / num_threads; row < rows * (thread + 1) / num_threads; row++) {
        const int64_t unit = row / WIDTH * UNITS + row % UNITS;
        const float *weights = w->weights + (row % WIDTH / UNITS * w->num_units + unit) * w->num_columns;
        for (int64_t panel = 0; panel < panels; panel++) {
            const int64_t left = unit < w->num_units ? w->num_columns - panel * WIDTH : 0;
            const size_t count = (size_t)(left < WIDTH ? left : WIDTH);
            float *to = w->panels + (panel * rows + row) * WIDTH;
            if (count)
                memcpy(to, weights + panel * WIDTH, count * sizeof(float));
            memset(to + count, 0, (WIDTH - count) * sizeof(float));
        }
    }
}

EXPORT void charlm_pack_forward(float *weights, int64_t num_units, int64_t num_columns, float *panels, int64_t first_row,
                                int64_t num_rows, int64_t num_threads)
{
    Work work = {weights, num_units, num_columns, panels, first_row, num_rows, 0};
    run_on_threads((int)num_threads, move_blocks, &work);
}

EXPORT void charlm_unpack_forward(float *weights, int64_t num_units, int64_t num_columns, float *panels,
                                  int64_t first_row, int64_t num_rows, int64_t num_threads)
{
    Work work = {weights, num_units, num_columns, panels, first_row, num_rows, 1};
    run_on_threads((int)num_threads, move_blocks, &work);
}

EXPORT void charlm_pack_backward(float *weights, int64_t num_units, int64_t num_columns, float *panels,
                                 int64_t num_threads)
{
    Work work = {weights, num_units, num_columns, panels, 0, 0, 0};
    run_on_threads((int)num_threads, move_columns, &work);
}
