/* The gradients of a layer's weights, bias and table: products and sums over all steps and lanes. */

#ifndef CHARLM_GRADIENTS_AVX2_H
#define CHARLM_GRADIENTS_AVX2_H

#include "kernels.h"

/* This thread's part, after the gradients of all sums have been computed. */
void compute_weight_gradients(const LayerWindow *window, int thread, int num_threads);

#endif
