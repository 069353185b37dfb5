/* The products with the input of a layer, which need no order of steps: all rows at once. */

#include "vector_avx512.h"

enum { GROUPS_AT_ONCE = 4 }; /* that read a panel one after the other */

/* For each group of lanes of each step, up to four in a row, and each panel: calls multiply_group. */
static inline __attribute__((always_inline)) void for_each_group(
    const Work *work, Part row_groups, int64_t num_panels,
    void (*multiply_group)(const Work *work, int64_t step, int64_t group, int64_t panel))
{
    const int64_t groups = work->layout.groups;
    for (int64_t start = row_groups.start; start < row_groups.end; start += GROUPS_AT_ONCE)
        for (int64_t panel = 0; panel < num_panels; panel++)
            for (int64_t index = start; index < start + GROUPS_AT_ONCE && index < row_groups.end; index++)
                multiply_group(work, index / groups, index % groups, panel);
}

/* The sums of gates begin as the bias and the product with the input. */
static void multiply_group(const Work *work, int64_t step, int64_t group, int64_t panel)
{
    const Layout *l = &work->layout;
    const Buffers *r = &work->buffers;
    const int64_t lane = first_lane(l, group);
    const Product product = {
        .rows = count_lanes(l, group),
        .depth = l->padded_inputs,
        .left = r->inputs + (step * l->padded_lanes + lane) * l->input_row,
        .left_stride = l->input_row,
        .panel = r->input_weights + panel * l->padded_inputs * PANEL,
        .initial = r->bias + panel * PANEL,
        .initial_stride = 0,
        .out = r->gates + ((step * l->blocks + panel / 2) * l->padded_lanes + lane) * GATES + panel % 2 * PANEL,
        .out_stride = GATES,
    };
    work->products->multiply(&product, NULL);
}

void multiply_inputs(const Work *work, Part row_groups)
{
    for_each_group(work, row_groups, 2 * work->layout.blocks, multiply_group);
}

/* The gradients of 32 inputs: products of all gates' gradients. */
static void differentiate_group(const Work *work, int64_t step, int64_t group, int64_t panel)
{
    const Layout *l = &work->layout;
    const Buffers *r = &work->buffers;
    const int64_t lane = first_lane(l, group), depth = l->blocks * GATES, input = panel * PANEL;
    float sums[MOST_ROWS * PANEL] __attribute__((aligned(64)));
    const Product product = {
        .rows = count_lanes(l, group),
        .depth = depth,
        .left = r->gradients + (step * l->padded_lanes + lane) * l->gates_row,
        .left_stride = l->gates_row,
        .panel = r->input_weights + panel * depth * PANEL,
        .out = sums,
        .out_stride = PANEL,
    };
    work->products->multiply(&product, NULL);
    for (int row = 0; row < product.rows; row++) {
        float *to = work->window->input_gradients + (step * l->lanes + lane + row) * l->inputs + input;
        for (int vector = 0; vector < 2 && input + 16 * vector < l->inputs; vector++)
            store_first(to + 16 * vector, l->inputs - input - 16 * vector,
                        _mm512_loadu_ps(sums + row * PANEL + 16 * vector));
    }
}

void differentiate_inputs(const Work *work, Part row_groups)
{
    for_each_group(work, row_groups, work->layout.padded_inputs / PANEL, differentiate_group);
}
