/* The gradient of a table of which each step of each lane has read one row: all rows of gradients, added up by id. */

#include <immintrin.h>

#include "kernels.h"

typedef struct {
    const float *rows;
    int64_t count, stride, width;
    const int64_t *ids;
    float *sums;
} Work;

/* Each thread has columns of its own, whole vectors of them, so that none waits for another and none rounds otherwise. */
static void add_columns(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    int64_t vectors = work->width / 8;
    int64_t start = 8 * (vectors * thread / num_threads), end = 8 * (vectors * (thread + 1) / num_threads);
    for (int64_t row = 0; row < work->count; row++) {
        const float *from = work->rows + row * work->stride;
        float *to = work->sums + work->ids[row] * work->width;
        for (int64_t column = start; column < end; column += 8)
            _mm256_storeu_ps(to + column, _mm256_add_ps(_mm256_loadu_ps(to + column), _mm256_loadu_ps(from + column)));
    }
}

EXPORT void charlm_add_rows_avx2(const float *rows, int64_t count, int64_t stride, int64_t width, const int64_t *ids,
                                 float *sums, int64_t num_threads)
{
    Work work = {rows, count, stride, width, ids, sums};
    run_on_threads((int)num_threads, add_columns, &work);
}
