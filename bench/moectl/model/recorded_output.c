// SPDX-License-Identifier: MIT
/* What the reference makes of recorded choices: the outputs of tokens whose experts or
 * weights are rightly others than ours. */
#include "model/recorded.h"
#include "run/verify_parts.h"
#include <stdlib.h>
#include <string.h>

/* What the layer reads, and what its output is added to. */
typedef struct layer_input {
  double *hidden; /* [T,H] */
  double *sum;    /* [T,H]; of a layer alone NULL */
} layer_input;

/* Everything is kept: there is no capacity. */
static moecl_status make_routing(const output_case *of, moecl_routing *routing) {
  const size_t slots = (size_t)(of->num_tokens * of->params->top_k);
  *routing = (moecl_routing){.num_tokens = of->num_tokens,
                             .num_experts = of->params->num_experts,
                             .top_k = of->params->top_k,
                             .topk_ids = malloc(slots * sizeof(int32_t)),
                             .topk_weights = malloc(slots * sizeof(float)),
                             .kept = malloc(slots)};
  if (!routing->topk_ids || !routing->topk_weights || !routing->kept)
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; i < slots; i++) {
    routing->topk_ids[i] = (int32_t)of->ids[i];
    routing->topk_weights[i] = (float)of->weights[i];
    routing->kept[i] = of->ids[i] >= 0;
  }
  return MOECL_OK;
}

/* A token's hidden states as the layer gets them, in its dtype. */
static moecl_status copy_hidden(const output_case *of, int64_t token, double *row) {
  const size_t width = (size_t)of->params->hidden_size;
  void *stored = malloc(width * moecl_dtype_size(of->params->dtype));
  if (!stored) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_from_double(of->params->dtype, of->hidden + (size_t)token * width, width, stored);
  moecl_to_double(of->params->dtype, stored, width, row);
  free(stored);
  return MOECL_OK;
}

/* A block's tensors as numbers, in its dtype first. */
static moecl_status read_tensors(const output_case *of, double *tensors[MOECL_BLOCK_TENSOR_COUNT]) {
  const moecl_dtype dtype = of->params->dtype;
  moecl_status status = MOECL_OK;
  for (int i = 0; status == MOECL_OK && i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)i;
    const size_t size = (size_t)moecl_block_tensor_size(of->block, tensor);
    if (size == 0) continue;
    void *stored = malloc(size * moecl_dtype_size(dtype));
    tensors[i] = malloc(size * sizeof(double));
    status = stored && tensors[i]
                 ? moecl_checkpoint_read_block(of->checkpoint, of->index, tensor, dtype, stored)
                 : MOECL_ERROR_OUT_OF_HOST_MEMORY;
    if (status == MOECL_OK) moecl_to_double(dtype, stored, size, tensors[i]);
    free(stored);
  }
  return status;
}

/* The recorded states, or what attention makes of them. */
static moecl_status make_input(const output_case *of, layer_input *made) {
  const int64_t width = of->params->hidden_size, count = of->num_tokens * width;
  double *tensors[MOECL_BLOCK_TENSOR_COUNT] = {NULL};
  double *states = malloc((size_t)count * sizeof *states);
  moecl_status status = states ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t t = 0; status == MOECL_OK && t < of->num_tokens; t++)
    status = copy_hidden(of, t, states + t * width);
  *made = (layer_input){.hidden = states};
  if (status != MOECL_OK || !of->block) return status;
  made->hidden = malloc((size_t)count * sizeof *made->hidden);
  made->sum = malloc((size_t)count * sizeof *made->sum);
  status = made->hidden && made->sum ? read_tensors(of, tensors) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK)
    status = moecl_reference_attention(of->block, of->num_tokens, states,
                                       (const double *const *)tensors, made->sum, made->hidden);
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) free(tensors[i]);
  free(states);
  return status;
}

/* `count` tokens at once. */
static moecl_status compute(const output_case *of, const verify_input *input,
                            const layer_input *made, const int64_t *tokens, int64_t count,
                            double *outputs) {
  const int64_t width = of->params->hidden_size;
  sample sample = {0};
  weights weights = {0};
  int64_t reached = 0;
  moecl_status status = verify_sample_make(input->point, count, &sample);
  if (status == MOECL_OK) status = verify_weights_make(input, &sample, &weights);
  for (int64_t i = 0; status == MOECL_OK && i < count; i++) {
    const size_t row = (size_t)width * sizeof(double);
    sample.tokens[i] = tokens[i];
    memcpy(sample.hidden + i * width, made->hidden + tokens[i] * width, row);
    if (made->sum) memcpy(sample.expected + i * width, made->sum + tokens[i] * width, row);
  }
  if (status == MOECL_OK) status = verify_experts(input, &sample, &weights, NULL, &reached);
  for (int64_t i = 0; status == MOECL_OK && i < count; i++)
    memcpy(outputs + tokens[i] * width, sample.expected + i * width,
           (size_t)width * sizeof *outputs);
  verify_weights_release(&weights);
  verify_sample_release(&sample);
  return status;
}

moecl_status recorded_outputs(const output_case *of, double *outputs) {
  const checkpoint_source source = {.checkpoint = of->checkpoint, .layer = of->index};
  const experiment_point point = {
      .layer = *of->params, .num_tokens = of->num_tokens, .source = &source};
  moecl_routing routing = {0};
  const verify_input input = {.context = of->context, .point = &point, .routing = &routing};
  int64_t tokens[VERIFY_MOST_TOKENS], count = 0;
  layer_input made;
  moecl_status status = make_input(of, &made);
  if (status == MOECL_OK) status = make_routing(of, &routing);
  for (int64_t t = 0; status == MOECL_OK && t < of->num_tokens; t++) {
    if (of->wanted[t]) tokens[count++] = t;
    if (count == 0 || (count < VERIFY_MOST_TOKENS && t + 1 < of->num_tokens)) continue;
    status = compute(of, &input, &made, tokens, count, outputs);
    count = 0;
  }
  moecl_routing_destroy(&routing);
  free(made.hidden);
  free(made.sum);
  return status;
}
