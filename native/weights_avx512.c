/* The gradients of weights, biases and of a table: sums over all steps and lanes. */

#include "vector_avx512.h"

/* sums[unit][gate] += over a chunk of rows: left[unit][row] × pairs[row][gate]. Chunk by chunk, so that what is on the
   left stays in the second-level cache for all panels; and a chunk of a panel in the first for all units. */
static void add_up_chunks(const Work *work, const bf16 *left, int64_t padded, float *sums, Part panels)
{
    const Layout *l = &work->layout;
    for (int64_t chunk = 0; chunk < l->chunks; chunk++)
        for (int64_t panel = panels.start; panel < panels.end; panel++)
            for (int64_t unit = 0; unit < padded; unit += MOST_ROWS) {
                const int64_t start = chunk * CHUNK, rest = l->depth - start;
                float *out = sums + (panel * padded + unit) * PANEL;
                const Product product = {
                    .rows = MOST_ROWS,
                    .depth = rest < CHUNK ? rest : CHUNK,
                    .left = left + (chunk * padded + unit) * LEFT_ROW,
                    .left_stride = LEFT_ROW,
                    .panel = work->buffers.gradient_pairs + (panel * l->depth + start) * PANEL,
                    .initial = chunk ? out : NULL,
                    .initial_stride = PANEL,
                    .out = out,
                    .out_stride = PANEL,
                };
                work->products->multiply(&product, NULL);
            }
}

/* width: of the weights as in Python, (gate, unit, width); padded: of left and sums. After begin(16). */
void differentiate_weights(const Work *work, const bf16 *left, int64_t width, int64_t padded, float *sums,
                           float *gradients, Part panels)
{
    const Layout *l = &work->layout;
    add_up_chunks(work, left, padded, sums, panels);
    for (int64_t half = 2 * panels.start; half < 2 * panels.end; half++) { /* one gate of a block */
        const int64_t gate = half % 4, first_unit = half / 4 * UNITS;
        const float *from = sums + half / 2 * padded * PANEL + half % 2 * 16;
        for (int64_t column = 0; column < width; column += 16) {
            __m512i square[16];
            for (int i = 0; i < 16; i++)
                square[i] = _mm512_loadu_si512(from + (column + i) * PANEL);
            transpose16(square);
            for (int i = 0; i < 16 && first_unit + i < l->units; i++)
                store_first(gradients + (gate * l->units + first_unit + i) * width + column, width - column,
                            _mm512_castsi512_ps(square[i]));
        }
    }
}

/* Of the table: the gradients of all steps that read the same row. Of the bias: of all steps. */
void add_up_gradients(const Work *work, Part blocks)
{
    const Layout *l = &work->layout;
    const Bf16Window *w = work->window;
    for (int64_t step = 0; step < l->steps; step++)
        for (int64_t lane = 0; lane < l->lanes; lane++) {
            const bf16 *row = work->buffers.gradients + (step * l->padded_lanes + lane) * l->gates_row;
            float *sums = w->sum_gradients + (w->ids ? w->ids[step * l->lanes + lane] * 4 * l->units : 0);
            for (int64_t block = blocks.start; block < blocks.end; block++)
                for (int gate = 0; gate < 4; gate++) {
                    float *to = sums + gate * l->units + block * UNITS;
                    const int64_t count = l->units - block * UNITS;
                    if (count > 0)
                        store_first(to, count,
                                    _mm512_add_ps(load_first(to, count),
                                                  to_floats(load_bf16(row + block * GATES + gate * UNITS))));
                }
        }
}
