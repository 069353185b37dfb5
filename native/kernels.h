/* What Python calls, and what the files of this folder share. docs/kernels.md explains the whole with drawings.

   Words: a lane is one text of a batch. A unit is one hidden unit of a layer, with four gates: i, f, g, o. Eight units
   fit in one vector. A block is eight units with all four gates: 32 numbers, i of eight units, then f, g and o. A row of
   gates is the blocks of one lane at one step, one after the other. A panel holds the weights that 32 sums need, so that
   they are read from its start to its end. */

#ifndef CHARLM_KERNELS_H
#define CHARLM_KERNELS_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

/* processor.c */
enum { HAS_AVX2_AND_FMA = 1 };
EXPORT int charlm_processor_features(void);

/* threads.c */
typedef void (*Task)(int thread, int num_threads, void *argument);
void run_on_threads(int num_threads, Task task, void *argument); /* the caller is thread 0 */
void wait_for_all(void);                                         /* inside a task: until all its threads are here */

/* One layer of LSTM over one window. Mirrored by charlm/model/kernels/library.py, field by field. */
typedef struct {
    int64_t num_steps, num_lanes, num_units;
    int64_t num_threads;
    int64_t gates_stride, table_stride; /* numbers from one row to the next */
    const float *table;                 /* rows of sums from the input, one for each id; or NULL */
    const int64_t *ids;                 /* (step, lane), into the table; or NULL: the sums are in gates already */
    float *gates;                       /* (step, lane) rows: sums from the input, then gates, then their gradients */
    float *hidden;                      /* (step + 1, lane, unit): h before the window, then after each step */
    float *cell;                        /* the same of c */
    const uint8_t *resets;              /* (step, lane): nonzero where the state is zero before the step; or NULL */
    const float *panels;                /* recurrent weights: forward (block, unit, 32), backward (panel, gate, 32) */
    const float *output_gradients;      /* backward only: (step, lane, unit), of h as the layer above reads it */
    float *hidden_gradients;            /* backward only: (lane, unit), of the last h; then of the first */
    float *cell_gradients;              /* the same of c */
} LayerWindow;

EXPORT int charlm_lstm_forward_avx2(const LayerWindow *window);  /* 0, or -1 without memory */
EXPORT int charlm_lstm_backward_avx2(const LayerWindow *window);

/* rows_avx2.c: adds each of count rows to that row of sums, (id, width), which its id names. width: whole vectors. */
EXPORT void charlm_add_rows_avx2(const float *rows, int64_t count, int64_t stride, int64_t width, const int64_t *ids,
                                 float *sums, int64_t num_threads);

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
