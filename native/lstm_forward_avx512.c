/* A layer of LSTM over a window in bf16, forward. The equations are those of charlm/model/cells.py. */

#include "vector_avx512.h"

/* The gates of a block for a group of lanes at a step. */
typedef struct {
    const Work *work;
    int64_t step, block, lane;
} Item;

/* The gate functions of one lane, on the sums that a product has left where the gates go. */
static void finish_row(const void *argument, int row)
{
    const Item *item = argument;
    const Layout *l = &item->work->layout;
    const Buffers *r = &item->work->buffers;
    const Bf16Window *w = item->work->window;
    const int64_t step = item->step, lane = item->lane + row, unit = item->block * UNITS, count = l->units - unit;
    const int64_t before = (step * l->lanes + lane) * l->units + unit, after = before + l->lanes * l->units;
    float *gates = r->gates + ((step * l->blocks + item->block) * l->padded_lanes + lane) * GATES;
    __m512 sums[4];
    for (int gate = 0; gate < 4; gate++)
        sums[gate] = _mm512_loadu_ps(gates + gate * UNITS);
    if (w->ids && count > 0) {
        const float *table = w->table + w->ids[step * l->lanes + lane] * 4 * l->units + unit;
        for (int gate = 0; gate < 4; gate++)
            sums[gate] = _mm512_add_ps(sums[gate], load_first(table + gate * l->units, count));
    }
    __m512 input = sigmoid16(sums[0]), forget = sigmoid16(sums[1]), candidate = tanh16(sums[2]);
    __m512 output = sigmoid16(sums[3]), c = _mm512_mul_ps(input, candidate);
    if (count > 0 && !(w->resets && w->resets[step * l->lanes + lane]))
        c = _mm512_fmadd_ps(forget, load_first(w->cell + before, count), c);
    __m512 h = _mm512_mul_ps(output, tanh16(c));
    _mm512_storeu_ps(gates, input);
    _mm512_storeu_ps(gates + UNITS, forget);
    _mm512_storeu_ps(gates + 2 * UNITS, candidate);
    _mm512_storeu_ps(gates + 3 * UNITS, output);
    if (count > 0) {
        store_first(w->cell + after, count, c);
        store_first(w->hidden + after, count, h);
    }
    int is_reset = step + 1 < l->steps && w->resets && w->resets[(step + 1) * l->lanes + lane]; /* of the step after */
    store_bf16(r->hidden + ((step + 1) * l->padded_lanes + lane) * l->hidden_row + unit,
               is_reset ? _mm256_setzero_si256() : to_bf16(h));
}

static void multiply_item(const Item *item, int rows, Chore *chore)
{
    const Work *work = item->work;
    const Layout *l = &work->layout;
    float *gates = work->buffers.gates + ((item->step * l->blocks + item->block) * l->padded_lanes + item->lane) * GATES;
    for (int half = 0; half < 2; half++) {
        const Product product = {
            .rows = rows,
            .depth = l->padded_units,
            .left = work->buffers.hidden + (item->step * l->padded_lanes + item->lane) * l->hidden_row,
            .left_stride = l->hidden_row,
            .panel = work->buffers.recurrent + (2 * item->block + half) * l->padded_units * PANEL,
            .initial = work->window->ids ? NULL : gates + half * PANEL,
            .initial_stride = GATES,
            .out = gates + half * PANEL,
            .out_stride = GATES,
        };
        work->products->multiply(&product, chore);
    }
}

/* A thread's part of the grid of blocks and groups of lanes, block by block, so that it reads the same panels at every
   step. While an item is multiplied, the rows of the one before are finished. */
static void compute_step(const Work *work, int64_t step, Part part)
{
    const Layout *l = &work->layout;
    Item items[2];
    Chore chore = {.finish_row = finish_row};
    for (int64_t index = part.start; index < part.end; index++) {
        Item *item = &items[index % 2];
        const int64_t group = index % l->groups;
        const int rows = count_lanes(l, group), times = (int)(2 * l->padded_units / 32);
        *item = (Item){work, step, index / l->groups, first_lane(l, group)};
        multiply_item(item, rows, &chore);
        do_rows(&chore, MOST_ROWS);
        chore = (Chore){finish_row, item, 0, rows, (rows + times - 1) / times};
        if (!work->products->overlaps)
            do_rows(&chore, MOST_ROWS);
    }
    do_rows(&chore, MOST_ROWS);
}

/* The bias in the order of the blocks. */
static void arrange_bias(const Work *work, Part blocks)
{
    const Layout *l = &work->layout;
    for (int64_t block = blocks.start; block < blocks.end; block++)
        for (int gate = 0; gate < 4; gate++) {
            const int64_t unit = block * UNITS;
            __m512 bias = _mm512_setzero_ps();
            if (unit < l->units)
                bias = load_first(work->window->bias + gate * l->units + unit, l->units - unit);
            _mm512_storeu_ps(work->buffers.bias + block * GATES + gate * UNITS, bias);
        }
}

static void run_forward(int thread, int num_threads, void *argument)
{
    const Work *work = argument;
    const Bf16Window *w = work->window;
    const Layout *l = &work->layout;
    const Part blocks = part_of(l->blocks, thread, num_threads);
    work->products->begin((int)l->tile_rows);
    pack_for_forward(work, w->weight_hh, l->units, work->buffers.recurrent, blocks);
    round_first_state(work, part_of(l->padded_lanes, thread, num_threads));
    if (!w->ids) {
        pack_for_forward(work, w->weight_ih, l->inputs, work->buffers.input_weights, blocks);
        arrange_bias(work, blocks);
        round_inputs(work, part_of(l->steps, thread, num_threads));
        wait_for_all();
        multiply_inputs(work, part_of(l->steps * l->groups, thread, num_threads));
    }
    wait_for_all();
    const Part part = part_of(l->blocks * l->groups, thread, num_threads);
    for (int64_t step = 0; step < l->steps; step++) {
        compute_step(work, step, part);
        wait_for_all();
    }
    work->products->end();
}

EXPORT void charlm_bf16_buffer_sizes_avx512(const Bf16Window *window, int64_t *kept, int64_t *scratch)
{
    const Layout layout = layout_of(window);
    divide_buffers(window, &layout, kept, scratch);
}

EXPORT void charlm_bf16_forward_avx512(const Bf16Window *window)
{
    int64_t kept, scratch;
    Work work = {window, window->uses_amx ? &amx_products : &avx512_products, layout_of(window), {0}};
    work.buffers = divide_buffers(window, &work.layout, &kept, &scratch);
    run_on_threads((int)window->num_threads, run_forward, &work);
}
