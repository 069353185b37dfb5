/* Weights into panels, once for each window, and numbers into bf16, in the order in which the products read them. */

#include "vector_avx512.h"

/* Row of the weights as in Python, (gate, unit), of a number of a block. */
static inline int64_t row_of_sum(const Layout *l, int64_t block, int number)
{
    return number / UNITS * l->units + block * UNITS + number % UNITS;
}

static inline int64_t count_units(const Layout *l, int64_t block)
{
    int64_t rest = l->units - block * UNITS;
    return rest < UNITS ? rest : UNITS;
}

/* The next 32 numbers of a row, as 16 pairs. */
static inline __m512i load_pairs(const float *row, int64_t count)
{
    __m512bh rounded = _mm512_cvtne2ps_pbh(load_first(row + (count > 16 ? 16 : 0), count - 16), load_first(row, count));
    __m512i pairs;
    memcpy(&pairs, &rounded, sizeof pairs);
    return pairs;
}

/* Panels of two gates of a block: a sum's weights lie in a row in Python and in a column here. */
void pack_for_forward(const Work *work, const float *weight, int64_t width, bf16 *panels, Part blocks)
{
    const Layout *l = &work->layout;
    const int64_t depth = round_up(width, 32);
    for (int64_t block = blocks.start; block < blocks.end; block++)
        for (int gate = 0; gate < 4; gate++) {
            bf16 *panel = panels + (2 * block + gate / 2) * depth * PANEL + gate % 2 * 32;
            for (int64_t k = 0; k < depth; k += 32) {
                __m512i pairs[16];
                for (int i = 0; i < UNITS; i++)
                    pairs[i] = i < count_units(l, block)
                                   ? load_pairs(weight + row_of_sum(l, block, gate * UNITS + i) * width + k, width - k)
                                   : _mm512_setzero_si512();
                transpose16(pairs);
                for (int i = 0; i < 16; i++)
                    _mm512_storeu_si512(panel + (k + 2 * i) * PANEL, pairs[i]);
            }
        }
}

/* Panels of 32 units, or inputs: their sums go over all gates, so a row in Python is a row here. */
void pack_for_backward(const Work *work, const float *weight, int64_t width, bf16 *panels, Part panels_of_32)
{
    const Layout *l = &work->layout;
    for (int64_t column = panels_of_32.start * PANEL; column < panels_of_32.end * PANEL; column += 16) {
        bf16 *panel = panels + column / PANEL * l->blocks * GATES * PANEL + column % PANEL * 2;
        for (int64_t block = 0; block < l->blocks; block++)
            for (int number = 0; number < GATES; number += 2) {
                __m256i rows[2];
                for (int i = 0; i < 2; i++)
                    rows[i] = (number + i) % UNITS < count_units(l, block) && column < width
                                  ? to_bf16(load_first(weight + row_of_sum(l, block, number + i) * width + column,
                                                       width - column))
                                  : _mm256_setzero_si256();
                _mm512_storeu_si512(panel + (block * GATES + number) * PANEL, pair(rows[0], rows[1]));
            }
    }
}

static void round_row(const float *from, int64_t width, bf16 *to, int64_t padded)
{
    for (int64_t k = 0; k < padded; k += 16)
        store_bf16(to + k, k < width ? to_bf16(load_first(from + k, width - k)) : _mm256_setzero_si256());
}

/* The input of these steps; zero in lanes that are padding. */
void round_inputs(const Work *work, Part steps)
{
    const Layout *l = &work->layout;
    for (int64_t step = steps.start; step < steps.end; step++)
        for (int64_t lane = 0; lane < l->padded_lanes; lane++)
            round_row(work->window->inputs + (step * l->lanes + lane) * l->inputs, lane < l->lanes ? l->inputs : 0,
                      work->buffers.inputs + (step * l->padded_lanes + lane) * l->input_row, l->padded_inputs);
}

/* h before the window; and zeros in lanes that are padding, for all steps. */
void round_first_state(const Work *work, Part lanes)
{
    const Layout *l = &work->layout;
    const Bf16Window *w = work->window;
    for (int64_t lane = lanes.start; lane < lanes.end; lane++) {
        bf16 *row = work->buffers.hidden + lane * l->hidden_row;
        int is_zero = lane >= l->lanes || (w->resets && w->resets[lane]);
        round_row(is_zero ? NULL : w->hidden + lane * l->units, is_zero ? 0 : l->units, row, l->padded_units);
        for (int64_t step = 1; lane >= l->lanes && step <= l->steps; step++)
            round_row(NULL, 0, row + step * l->padded_lanes * l->hidden_row, l->padded_units);
    }
}

/* Rows (step, lane) of units or inputs become rows of one unit each, as the left side of a gradient of weights. */
void turn(const Work *work, const bf16 *rows, int64_t row, int64_t padded, bf16 *left, Part chunks)
{
    const Layout *l = &work->layout;
    const int64_t count = l->steps * l->padded_lanes; /* even */
    for (int64_t chunk = chunks.start; chunk < chunks.end; chunk++)
        for (int64_t k = chunk * CHUNK; k < l->depth && k < (chunk + 1) * CHUNK; k += 32)
            for (int64_t unit = 0; unit < padded; unit += 16) {
                __m512i pairs[16];
                for (int i = 0; i < 16; i++) {
                    const bf16 *from = rows + (k + 2 * i) * row + unit;
                    pairs[i] = _mm512_setzero_si512();
                    if (k + 2 * i < count)
                        pairs[i] = pair(load_bf16(from), load_bf16(from + row));
                }
                transpose16(pairs);
                for (int i = 0; i < 16; i++)
                    _mm512_storeu_si512(left + (chunk * padded + unit + i) * LEFT_ROW + k % CHUNK, pairs[i]);
            }
}
