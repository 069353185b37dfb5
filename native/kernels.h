/* What Python calls, and what the files of this folder share. docs/kernels.md explains the whole with drawings.

   Words: a lane is one text of a batch. A unit is one hidden unit of a layer, with four gates: i, f, g, o. Eight units
   fit in one vector. A block is eight units with all four gates: 32 numbers, i of eight units, then f, g and o. A panel
   holds the weights that 32 sums need, so that they are read from its start to its end. */

#ifndef CHARLM_KERNELS_H
#define CHARLM_KERNELS_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* processor.c. The version changes with anything below, so that Python calls no library of other sources. */
enum { VERSION = 1 };
EXPORT int charlm_kernels_version(void);
enum { HAS_AVX2_AND_FMA = 1, HAS_AVX512_BF16 = 2, HAS_AMX_BF16 = 4, IS_AMD = 8 };
EXPORT int charlm_processor_features(void);

/* threads.c */
typedef void (*Task)(int thread, int num_threads, void *argument);
void run_on_threads(int num_threads, Task task, void *argument); /* the caller is thread 0 */
void wait_for_all(void);                                         /* inside a task: until all its threads are here */

/* One layer of LSTM over one window. Mirrored by charlm/model/kernels/library.py, field by field. The input is either
   vectors, or ids of a table of sums: what the vectors of the first layer, of which there are few, give with the weights. */
typedef struct {
    int64_t num_steps, num_lanes, num_units, num_threads;
    int64_t num_inputs;             /* 0 with a table */
    const float *inputs;            /* (step, lane, input) */
    const float *bias;              /* (block, 32); NULL with a table, which has it in it */
    const float *table;             /* (id, block, 32) */
    const int64_t *ids;             /* (step, lane) */
    const uint8_t *resets;          /* (step, lane): nonzero where the state is zero before the step; or NULL */
    const float *panels;            /* weights: forward (block, input and unit, 32), backward: see lstm_backward_avx2.c */
    float *gates;                   /* (step, block, lane, 32): gates, then the gradients of their sums */
    float *hidden;                  /* (step + 1, lane, unit): h before the window, then after each step */
    float *cell;                    /* (step + 1, block, lane, 8): the same of c */
    /* backward only */
    const float *before;            /* (step, lane, unit): h before each step, zero where the state is reset */
    const float *output_gradients;  /* (step, lane, unit), of h as the layer above reads it */
    float *hidden_gradients;        /* (lane, unit), of the last h; then of the first */
    float *cell_gradients;          /* (block, lane, 8): the same of c */
    float *input_gradients;         /* (step, lane, input), or NULL */
    float *weight_gradients;        /* (block, input and unit, 32) */
    float *bias_gradients;          /* (block, 32), or NULL */
    float *table_gradients;         /* (id, block, 32), or NULL; zero before */
} LayerWindow;

EXPORT int charlm_lstm_forward_avx2(const LayerWindow *window);  /* 0, or -1 without memory */
EXPORT int charlm_lstm_backward_avx2(const LayerWindow *window);

/* panels.c: weights, (gate, unit, column), to panels. Forward they become rows of panels that have num_rows rows for each
   block; unpack_forward does the reverse. */
EXPORT void charlm_pack_forward(float *weights, int64_t num_units, int64_t num_columns, float *panels, int64_t first_row,
                                int64_t num_rows, int64_t num_threads);
EXPORT void charlm_unpack_forward(float *weights, int64_t num_units, int64_t num_columns, float *panels,
                                  int64_t first_row, int64_t num_rows, int64_t num_threads);
EXPORT void charlm_pack_backward(float *weights, int64_t num_units, int64_t num_columns, float *panels,
                                 int64_t num_threads);

/* One layer over one window in bf16. Mirrored by charlm/model/kernels/library.py. Weights and what belongs to them are as in
   Python: (gate, unit, …). A layer reads either ids or inputs. */
typedef struct {
    int64_t num_steps, num_lanes, num_units, num_inputs, num_threads;
    int64_t uses_amx;    /* else AVX-512 */
    int64_t is_backward; /* decides what is in scratch */
    const int64_t *ids;  /* (step, lane), into the table; or NULL */
    const float *table;  /* (id, gate, unit): sums from the input, and the bias */
    const float *inputs; /* (step, lane, input); or NULL */
    const float *weight_ih, *weight_hh, *bias;
    const uint8_t *resets; /* (step, lane): nonzero where the state is zero before the step; or NULL */
    float *hidden, *cell;  /* (step + 1, lane, unit): h and c before the window, then after each step */
    float *kept, *scratch; /* buffers, aligned to 64 bytes; kept is as the forward pass left it */
    /* backward only */
    const float *output_gradients; /* (step, lane, unit), of h as the layer above reads it */
    float *hidden_gradients;       /* (lane, unit), of the last h; then of the first */
    float *cell_gradients;         /* the same of c */
    float *input_gradients;        /* (step, lane, input); or NULL */
    float *weight_ih_gradients;    /* not with ids */
    float *weight_hh_gradients;
    float *sum_gradients; /* zero before: with ids (id, gate, unit), of the table; else (gate, unit), of the bias */
} Bf16Window;

EXPORT void charlm_bf16_buffer_sizes_avx512(const Bf16Window *window, int64_t *kept, int64_t *scratch); /* sizes in floats */
EXPORT void charlm_bf16_forward_avx512(const Bf16Window *window);
EXPORT void charlm_bf16_backward_avx512(const Bf16Window *window);
EXPORT double charlm_bf16_gain_avx512(void); /* how many times as fast as fp32's multiply-adds bf16's are */

/* A layer of a network that is sampled from. Rows are in panels of 32, so their number is a multiple of that. */
typedef struct {
    int64_t num_rows;
    const int8_t *weights; /* (panel, unit / 4, row, 4), from a multiple of 32 bytes on; units up to a multiple of 32 */
    const float *scales, *offsets; /* (row): from whole numbers to sums */
    float *hidden, *cell;          /* (lane, unit), units up to a multiple of 8 */
    uint8_t *rounded;              /* (lane, unit), units up to a multiple of 32 */
    float *sums;                   /* (lane, row): of its own next gates, then of the layer above, or logits */
} SamplerLayer;

typedef struct {
    int64_t num_layers, num_lanes, num_units, vocabulary_size, num_threads;
    int64_t has_pending;  /* whether the ids drawn last were not read yet */
    int64_t top_k;        /* 0: off */
    double temperature;   /* 0: the most probable id */
    double top_p, min_p;  /* 1 and 0: off */
    const SamplerLayer *layers;
    const float *table;    /* (id, gate): sums from the input of the first layer */
    const float *mask;     /* (id): 0, or minus infinity for what is never drawn */
    const uint8_t *pauses; /* (id): nonzero where the caller wants to look before the next step */
    int64_t *pending;      /* (lane) */
    float *weights;        /* (lane, id), ids up to a multiple of 8: room for draws */
    void *candidates;      /* 8 bytes for each lane and id: room for draws */
} Sampler;

/* Draws up to count ids for each lane and returns how many: fewer where one pauses. uniform, ids, nats: (step, lane). */
EXPORT int64_t charlm_sample_avx2(Sampler *sampler, int64_t count, const double *uniform, int64_t *ids, double *nats);
EXPORT void charlm_sampler_advance_avx2(Sampler *sampler);     /* reads the pending ids */
EXPORT void charlm_sampler_read_hidden_avx2(Sampler *sampler); /* after hidden was written to */

#endif
