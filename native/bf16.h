/* What the files of the bf16 kernels share: layouts in memory, and the one product that all others are made of.
   docs/kernels-bf16.md explains the whole with drawings.

   Words, beyond those of kernels.h: here a block is 16 units with all four gates, 64 numbers: i of 16 units, then f, g
   and o. A panel holds the weights of 32 sums, of two gates of a block or of 32 units, in pairs of rows: the numbers
   (row 0, sum 0) (row 1, sum 0) (row 0, sum 1) … in a line of 128 bytes. One instruction multiplies such pairs and adds
   both products to the sum. Everything is padded with zeros up to whole vectors, pairs and tiles, so that no product
   has an edge. */

#ifndef CHARLM_BF16_H
#define CHARLM_BF16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

typedef uint16_t bf16; /* the upper half of a float */

enum {
    UNITS = 16,     /* of a block: a vector */
    GATES = 64,     /* numbers of a block */
    PANEL = 32,     /* sums */
    MOST_ROWS = 32, /* of a product: two tiles */
    CHUNK = 512,    /* rows that a gradient of weights adds up at a time: 32 KB of a panel, for the first-level cache */
    LEFT_ROW = CHUNK + 32, /* from one row to the next of what these are multiplied with: not a power of two */
};

/* Something to do row by row while a product runs: the matrix unit leaves the vector units free. */
typedef struct {
    void (*finish_row)(const void *item, int row);
    const void *item;
    int next, end;    /* rows */
    int rows_at_once; /* between two steps of a product */
} Chore;

static inline void do_rows(Chore *chore, int count)
{
    while (count-- > 0 && chore->next < chore->end)
        chore->finish_row(chore->item, chore->next++);
}

/* out = initial + left × panel, for up to 32 rows and the 32 sums of a panel. */
typedef struct {
    int rows;
    int64_t depth; /* a multiple of 32 */
    const bf16 *left;
    int64_t left_stride; /* numbers from one row to the next, here and below */
    const bf16 *panel;
    const float *initial; /* may be out; NULL for zero */
    int64_t initial_stride; /* 0: the same row for all */
    float *out; /* may be written up to the last row of the last tile */
    int64_t out_stride;
} Product;

/* What the instruction sets differ in. */
typedef struct {
    void (*begin)(int tile_rows); /* in each thread, before its first product; again for tiles of another size */
    void (*multiply)(const Product *product, Chore *chore); /* the chore may be NULL */
    void (*end)(void);
    bool overlaps; /* whether multiply works on the chore */
} Products;

extern const Products avx512_products, amx_products;

/* Lanes are divided evenly over tiles of at most 16 rows: 50 are 4 × 13, of which two rows are padding. A group is two
   tiles, which one product takes. The padded lanes are even in number, since gradients are kept in pairs of them. */
typedef struct {
    int64_t steps, lanes, units, inputs;
    int64_t tile_rows, groups, padded_lanes;
    int64_t padded_units, padded_inputs; /* multiples of 32 */
    int64_t blocks;
    int64_t hidden_row, input_row, gates_row; /* numbers of bf16 from one lane to the next */
    int64_t depth, chunks;                    /* rows of all steps, a multiple of 32; chunks of them */
} Layout;

static inline int64_t round_up(int64_t number, int64_t multiple)
{
    return (number + multiple - 1) / multiple * multiple;
}

/* Rows whose distance is a multiple of 1 KB would push each other out of the first-level cache. */
static inline int64_t row_of(int64_t width)
{
    return width % 512 ? width : width + 32;
}

static inline Layout layout_of(const Bf16Window *w)
{
    Layout l = {.steps = w->num_steps, .lanes = w->num_lanes, .units = w->num_units, .inputs = w->num_inputs};
    int64_t tiles = (l.lanes + 15) / 16;
    l.tile_rows = (l.lanes + tiles - 1) / tiles;
    l.groups = (tiles + 1) / 2;
    l.padded_lanes = round_up(tiles * l.tile_rows, 2);
    l.padded_units = round_up(l.units, 32);
    l.padded_inputs = w->ids ? 0 : round_up(l.inputs, 32);
    l.blocks = l.padded_units / UNITS;
    l.hidden_row = row_of(l.padded_units);
    l.input_row = l.padded_inputs ? row_of(l.padded_inputs) : 0;
    l.gates_row = row_of(l.blocks * GATES);
    l.depth = round_up(l.steps * l.padded_lanes, 32);
    l.chunks = (l.depth + CHUNK - 1) / CHUNK;
    return l;
}

static inline int64_t first_lane(const Layout *l, int64_t group)
{
    return 2 * group * l->tile_rows;
}

/* Without padding; at least one. */
static inline int count_lanes(const Layout *l, int64_t group)
{
    int64_t rest = l->lanes - first_lane(l, group), most = 2 * l->tile_rows;
    return (int)(rest < most ? rest : most);
}

/* With padding. */
static inline int count_rows(const Layout *l, int64_t group)
{
    int64_t rest = l->padded_lanes - first_lane(l, group), most = 2 * l->tile_rows;
    return group + 1 == l->groups || rest < most ? (int)rest : (int)most;
}

/* What lies in the room that Python keeps from forward to backward, and in the one for the time of a call. */
typedef struct {
    float *gates;         /* (step, block, padded lane, 64): sums from the input, then gates */
    bf16 *hidden;         /* (step + 1, padded lane, hidden_row): what a step reads of h, zero at a reset */
    bf16 *inputs;         /* (step, padded lane, input_row) */
    bf16 *recurrent;      /* panels of the recurrent weights: forward (block, two panels), backward (32 units) */
    bf16 *input_weights;  /* the same of the weights of the input */
    float *bias;          /* forward only: (block, 64) */
    bf16 *gradients;      /* backward only, of sums: (step, padded lane, gates_row) */
    bf16 *gradient_pairs; /* the same as panels: (block, two panels), depth rows each */
    bf16 *left_hidden;    /* hidden, turned: (chunk, unit, LEFT_ROW) */
    bf16 *left_inputs;
    float *weight_sums;       /* (panel, unit, 32): gradients of the recurrent weights */
    float *input_weight_sums; /* the same of the weights of the input */
} Buffers;

/* The next part of a room; NULL while only the size is asked for. */
static inline void *take(float *room, int64_t *used, int64_t floats)
{
    float *part = room ? room + *used : NULL;
    *used += floats;
    return part;
}

/* Sizes in floats. All parts begin at multiples of 64 bytes if the buffers do. */
static inline Buffers divide_buffers(const Bf16Window *w, const Layout *l, int64_t *kept, int64_t *scratch)
{
    Buffers r = {0};
    int64_t sums = l->blocks * GATES, rows = l->steps * l->padded_lanes;
    *kept = *scratch = 0;
    r.gates = take(w->kept, kept, rows * sums);
    r.hidden = take(w->kept, kept, (rows + l->padded_lanes) * l->hidden_row / 2);
    r.inputs = take(w->kept, kept, rows * l->input_row / 2);
    r.recurrent = take(w->scratch, scratch, sums * l->padded_units / 2);
    r.input_weights = take(w->scratch, scratch, sums * l->padded_inputs / 2);
    if (!w->is_backward) {
        r.bias = take(w->scratch, scratch, sums);
        return r;
    }
    r.gradients = take(w->scratch, scratch, rows * l->gates_row / 2);
    r.gradient_pairs = take(w->scratch, scratch, sums * l->depth / 2);
    r.left_hidden = take(w->scratch, scratch, l->chunks * l->padded_units * LEFT_ROW / 2);
    r.left_inputs = take(w->scratch, scratch, l->chunks * l->padded_inputs * LEFT_ROW / 2);
    r.weight_sums = take(w->scratch, scratch, sums * l->padded_units);
    r.input_weight_sums = take(w->scratch, scratch, sums * l->padded_inputs);
    return r;
}

/* One call, as all its threads see it. */
typedef struct {
    const Bf16Window *window;
    const Products *products;
    Layout layout;
    Buffers buffers;
} Work;

/* An equal part of something for each thread. */
typedef struct {
    int64_t start, end;
} Part;

static inline Part part_of(int64_t count, int thread, int num_threads)
{
    return (Part){count * thread / num_threads, count * (thread + 1) / num_threads};
}

/* In each of these, a thread does its part. None waits for the others. */

/* prepare_avx512.c */
void pack_for_forward(const Work *work, const float *weight, int64_t width, bf16 *panels, Part blocks);
void pack_for_backward(const Work *work, const float *weight, int64_t width, bf16 *panels, Part panels_of_32);
void round_inputs(const Work *work, Part steps);
void round_first_state(const Work *work, Part lanes);
void turn(const Work *work, const bf16 *rows, int64_t row, int64_t padded, bf16 *left, Part chunks);

/* inputs_avx512.c */
void multiply_inputs(const Work *work, Part row_groups);
void differentiate_inputs(const Work *work, Part row_groups);

/* weights_avx512.c */
void differentiate_weights(const Work *work, const bf16 *left, int64_t width, int64_t padded, float *sums,
                           float *gradients, Part panels);
void add_up_gradients(const Work *work, Part blocks);

#endif
