/* A layer of LSTM over a window in bf16, backward. The equations are in lstm_backward_avx2.c.

   The gradients of a step's sums are written in bf16, and twice: as rows, which the products of the step before and of
   the input read on their left, and in pairs of lanes, as panels for the gradients of the weights. */

#include "vector_avx512.h"

/* 32 units of a group of lanes at a step: two blocks. */
typedef struct {
    const Work *work;
    int64_t step, panel, lane;
    const float *dh; /* (lane, 32), from the step after */
} Item;

/* Gradients of a block's gates of one lane, from dh; and dc for the step before. */
static void differentiate(const Work *work, int64_t step, int64_t lane, int64_t block, __m512 dh, bf16 *to)
{
    const __m512 one = _mm512_set1_ps(1);
    const Layout *l = &work->layout;
    const Bf16Window *w = work->window;
    const int64_t unit = block * UNITS, count = l->units - unit, row = step * l->lanes + lane;
    const int64_t before = row * l->units + unit, after = before + l->lanes * l->units;
    const bool is_reset = w->resets && w->resets[row];
    const float *gates = work->buffers.gates + ((step * l->blocks + block) * l->padded_lanes + lane) * GATES;
    float *carried = w->cell_gradients + lane * l->units + unit;
    __m512 input = _mm512_loadu_ps(gates), forget = _mm512_loadu_ps(gates + UNITS);
    __m512 candidate = _mm512_loadu_ps(gates + 2 * UNITS), output = _mm512_loadu_ps(gates + 3 * UNITS);
    __m512 c_before = is_reset ? _mm512_setzero_ps() : load_first(w->cell + before, count);
    __m512 tanh_c = tanh16(load_first(w->cell + after, count));
    dh = _mm512_add_ps(dh, load_first(w->output_gradients + before, count));

    __m512 through_tanh = _mm512_mul_ps(_mm512_mul_ps(dh, output), _mm512_fnmadd_ps(tanh_c, tanh_c, one));
    __m512 dc = _mm512_add_ps(load_first(carried, count), through_tanh);
    __m512 d_output = _mm512_mul_ps(_mm512_mul_ps(dh, tanh_c), _mm512_fnmadd_ps(output, output, output));
    __m512 d_input = _mm512_mul_ps(_mm512_mul_ps(dc, candidate), _mm512_fnmadd_ps(input, input, input));
    __m512 d_forget = _mm512_mul_ps(_mm512_mul_ps(dc, c_before), _mm512_fnmadd_ps(forget, forget, forget));
    __m512 d_candidate = _mm512_mul_ps(_mm512_mul_ps(dc, input), _mm512_fnmadd_ps(candidate, candidate, one));
    store_bf16(to, to_bf16(d_input));
    store_bf16(to + UNITS, to_bf16(d_forget));
    store_bf16(to + 2 * UNITS, to_bf16(d_candidate));
    store_bf16(to + 3 * UNITS, to_bf16(d_output));
    store_first(carried, count, is_reset ? _mm512_setzero_ps() : _mm512_mul_ps(dc, forget));
}

static void finish_row(const void *argument, int row)
{
    const Item *item = argument;
    const Work *work = item->work;
    const Layout *l = &work->layout;
    const Buffers *r = &work->buffers;
    const Bf16Window *w = work->window;
    const int64_t step = item->step, lane = item->lane + row;
    const bool is_last = step + 1 == l->steps;
    const bool is_cut = lane < l->lanes && !is_last && w->resets && w->resets[(step + 1) * l->lanes + lane];
    bf16 *gradients = r->gradients + (step * l->padded_lanes + lane) * l->gates_row;
    for (int64_t block = 2 * item->panel; block < 2 * item->panel + 2; block++) {
        const int64_t unit = block * UNITS, count = l->units - unit;
        bf16 *to = gradients + block * GATES;
        if (lane >= l->lanes || count <= 0) { /* padding */
            for (int gate = 0; gate < 4; gate++)
                store_bf16(to + gate * UNITS, _mm256_setzero_si256());
        } else {
            __m512 dh = _mm512_setzero_ps();
            if (is_last)
                dh = load_first(w->hidden_gradients + lane * l->units + unit, count);
            else if (!is_cut)
                dh = _mm512_loadu_ps(item->dh + row * PANEL + block % 2 * UNITS);
            differentiate(work, step, lane, block, dh, to);
        }
        if (lane % 2 == 0)
            continue;
        const int64_t depth = step * l->padded_lanes + lane - 1;
        for (int gate = 0; gate < 4; gate++)
            _mm512_storeu_si512(
                r->gradient_pairs + ((2 * block + gate / 2) * l->depth + depth) * PANEL + gate % 2 * 32,
                pair(load_bf16(to - l->gates_row + gate * UNITS), load_bf16(to + gate * UNITS)));
    }
}

/* dh of 32 units for a group of lanes, from all gates' gradients of the step after. */
static void multiply_item(const Item *item, int rows, float *dh, Chore *chore)
{
    const Work *work = item->work;
    const Layout *l = &work->layout;
    const int64_t depth = l->blocks * GATES;
    const Product product = {
        .rows = rows,
        .depth = depth,
        .left = work->buffers.gradients + ((item->step + 1) * l->padded_lanes + item->lane) * l->gates_row,
        .left_stride = l->gates_row,
        .panel = work->buffers.recurrent + item->panel * depth * PANEL,
        .out = dh,
        .out_stride = PANEL,
    };
    work->products->multiply(&product, chore);
}

/* dh of the state before the window. */
static void store_first_gradients(const Item *item, int rows)
{
    const Layout *l = &item->work->layout;
    const Bf16Window *w = item->work->window;
    for (int row = 0; row < rows; row++)
        for (int64_t unit = item->panel * PANEL; unit < l->units && unit < (item->panel + 1) * PANEL; unit += UNITS) {
            const int64_t lane = item->lane + row;
            __m512 dh = _mm512_loadu_ps(item->dh + row * PANEL + unit % PANEL);
            if (w->resets && w->resets[lane])
                dh = _mm512_setzero_ps();
            store_first(w->hidden_gradients + lane * l->units + unit, l->units - unit, dh);
        }
}

/* A thread's part of the grid of panels and groups of lanes, as forward. Step -1 is before the window. */
static void compute_step(const Work *work, int64_t step, Part part)
{
    const Layout *l = &work->layout;
    const int times = (int)(l->blocks * GATES / 32);
    float dh[2][MOST_ROWS * PANEL] __attribute__((aligned(64)));
    Item items[2];
    Chore chore = {.finish_row = finish_row};
    for (int64_t index = part.start; index < part.end; index++) {
        Item *item = &items[index % 2];
        const int64_t group = index % l->groups;
        const int rows = count_rows(l, group);
        *item = (Item){work, step, index / l->groups, first_lane(l, group), dh[index % 2]};
        if (step + 1 < l->steps)
            multiply_item(item, count_lanes(l, group), dh[index % 2], &chore);
        do_rows(&chore, MOST_ROWS);
        if (step < 0) {
            store_first_gradients(item, count_lanes(l, group));
            continue;
        }
        chore = (Chore){finish_row, item, 0, rows, (rows + times - 1) / times};
        if (!work->products->overlaps)
            do_rows(&chore, MOST_ROWS);
    }
    do_rows(&chore, MOST_ROWS);
}

/* The rows that fill up the last 32 of all steps. */
static void clear_last_pairs(const Work *work, Part panels)
{
    const Layout *l = &work->layout;
    for (int64_t panel = panels.start; panel < panels.end; panel++)
        for (int64_t row = l->steps * l->padded_lanes; row < l->depth; row += 2)
            for (int half = 0; half < 2; half++)
                _mm512_storeu_si512(work->buffers.gradient_pairs + (panel * l->depth + row) * PANEL + half * 32,
                                    _mm512_setzero_si512());
}

static void run_backward(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    const Bf16Window *w = work->window;
    const Layout *l = &work->layout;
    const Buffers *r = &work->buffers;
    const Part panels = part_of(2 * l->blocks, thread, num_threads), chunks = part_of(l->chunks, thread, num_threads);
    const int64_t panels_of_units = l->padded_units / PANEL, panels_of_inputs = l->padded_inputs / PANEL;
    work->products->begin((int)l->tile_rows);
    pack_for_backward(work, w->weight_hh, l->units, r->recurrent, part_of(panels_of_units, thread, num_threads));
    turn(work, r->hidden, l->hidden_row, l->padded_units, r->left_hidden, chunks);
    if (w->input_gradients)
        pack_for_backward(work, w->weight_ih, l->inputs, r->input_weights,
                          part_of(panels_of_inputs, thread, num_threads));
    if (!w->ids)
        turn(work, r->inputs, l->input_row, l->padded_inputs, r->left_inputs, chunks);
    clear_last_pairs(work, panels);
    wait_for_all();
    for (int64_t step = l->steps - 1; step >= -1; step--) {
        compute_step(work, step, part_of(panels_of_units * l->groups, thread, num_threads));
        wait_for_all();
    }
    if (w->input_gradients)
        differentiate_inputs(work, part_of(l->steps * l->groups, thread, num_threads));
    work->products->begin(16);
    if (!w->ids)
        differentiate_weights(work, r->left_inputs, l->inputs, l->padded_inputs, r->input_weight_sums,
                              w->weight_ih_gradients, panels);
    differentiate_weights(work, r->left_hidden, l->units, l->padded_units, r->weight_sums, w->weight_hh_gradients,
                          panels);
    add_up_gradients(work, part_of(l->blocks, thread, num_threads));
    work->products->end();
}

EXPORT void charlm_bf16_backward_avx512(const Bf16Window *window)
{
    int64_t kept, scratch;
    Work work = {window, window->uses_amx ? &amx_products : &avx512_products, layout_of(window), {0}};
    work.buffers = divide_buffers(window, &work.layout, &kept, &scratch);
    run_on_threads((int)window->num_threads, run_backward, &work);
}
