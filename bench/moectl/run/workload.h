// SPDX-License-Identifier: MIT
/* Where a point's weights and hidden states come from: streams of Philox, so
 * that any part can be drawn again, on any device, without keeping it. */
#ifndef MOECTL_WORKLOAD_H
#define MOECTL_WORKLOAD_H

#include "experiment/experiment.h"
#include "moecl/safetensors.h"

/* Recorded hidden states of a `file` workload. */
typedef struct recording {
  int64_t num_tokens, hidden_size;
  double *values; /* [num_tokens, hidden_size] */
} recording;

/* Reads the experiment's input file (safetensors or .npy, fp32, fp16 or bf16);
 * false with one malloc'ed message. */
bool recording_load(const char *path, const char *tensor, recording *recording, char **error);
/* Does the recording have the width and at least the tokens that every file
 * point of the experiment asks for? */
bool recording_serves(const experiment *experiment, const recording *recording, char **error);
void recording_destroy(recording *recording);
/* A tensor's shape for messages, "[2, 8, 32]"; returns `text`. */
enum { RECORDING_SHAPE_TEXT = 192 };
const char *recording_shape(const moecl_safetensors_tensor *tensor,
                            char text[RECORDING_SHAPE_TEXT]);

/* What rows are sent to experts on several devices as. */
moecl_format workload_dispatch_format(const experiment_point *point);

/* Have a layer's experts weights, or rows that they read, in another format than dtype's? False of
 * a block: its output has its input in it, which would hide what the experts' format changes. */
bool workload_has_other_formats(const experiment_point *point);

/* Enqueues drawing item `item` of a tensor, in its format and canonical
 * layout, from the start of a staging buffer (below) on; formats with scales by way of fp32, which
 * is there behind them. Weights are normal with the variance that
 * keeps activations of unit variance (1/H, 1/I); biases have 0.1. */
moecl_status workload_draw_weights(const experiment_point *point, moecl_tensor tensor, int64_t item,
                                   moecl_buffer *buffer);

/* The same of a block's tensor. Norms' weights are normal too, and queries' and keys' such that
 * logits have a standard deviation of about 2: a head then looks at some tokens more than at
 * others, as those of trained models do, and what it makes of them is no mean of all, which
 * would vanish beside the hidden states and its mistakes with it. */
moecl_status workload_draw_block_weights(const experiment_point *point, moecl_block_tensor tensor,
                                         moecl_buffer *buffer);

/* Bytes that the largest item of any tensor takes while it is drawn: of the staging buffer below.
 */
uint64_t workload_staging_bytes(const experiment_point *point);
/* Bytes of a block's tensor; 0: it has none. */
uint64_t workload_block_bytes(const experiment_point *point, moecl_block_tensor tensor);

/* Draws every tensor into the layer, an expert at a time through one staging
 * buffer, and those of `block` (NULL: a layer alone). Waits. */
moecl_status workload_set_weights(moecl_context *context, const experiment_point *point,
                                  moecl_layer *layer, moecl_block *block);

/* What that takes once more, as told by the last item of each tensor, which is set again:
 * kernels that were built on the way are not in it. Waits. */
moecl_status workload_weights_seconds(moecl_context *context, const experiment_point *point,
                                      moecl_layer *layer, double *seconds);

/* Draws (or copies) input set `set` (0, 1, ...; a recording has only one) of
 * the point's hidden states into `buffer`. Of a recording, the `context` first tokens are before
 * them. */
moecl_status workload_draw_hidden(const experiment_point *point, const recording *recording,
                                  int set, moecl_buffer *buffer);
/* The hidden states of the tokens before, [context,H]. */
moecl_status workload_draw_context(const experiment_point *point, const recording *recording,
                                   moecl_buffer *buffer);

#endif
