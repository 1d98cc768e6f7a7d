// SPDX-License-Identifier: MIT
#include "run/changed_choices.h"
#include "run/workload.h"
#include <math.h>
#include <stdlib.h>

/* A block's router reads what stands between its halves, which nobody has outside. */
static bool has_jitter(const experiment_point *point) {
  return point->what == WHAT_LAYER && point->layer.jitter > 0;
}

/* The same router without jitter; what comes after it does not matter. */
static experiment_point without_jitter(const experiment_point *point) {
  experiment_point plain = *point;
  moecl_layer_params *layer = &plain.layer;
  layer->jitter = 0;
  layer->intermediate_size = 8; /* the least that every variant takes: the logits' is the point's */
  layer->num_identity_experts = 0;
  layer->gate_up_bias = layer->down_bias = false;
  layer->shared_intermediate_size = 0;
  layer->shared_gate = false;
  layer->weight_on_input = false;
  layer->weight_format = layer->activation_format = MOECL_FORMAT_DTYPE;
  layer->capacity_factor = 0;
  layer->capacity_of_tokens = layer->renormalize_after_capacity = false;
  layer->min_capacity = 0;
  layer->drop_policy = MOECL_DROP_POSITION;
  return plain;
}

static bool is_of_router(moecl_tensor tensor) {
  return tensor == MOECL_ROUTER_WEIGHT || tensor == MOECL_ROUTER_BIAS ||
         tensor == MOECL_SCORE_CORRECTION_BIAS || tensor == MOECL_ROUTER_NOISE_WEIGHT;
}

/* The router's tensors are the point's; the experts' are zeros. */
static moecl_status set_tensor(moecl_context *context, const experiment_point *point,
                               moecl_tensor tensor, moecl_layer *layer) {
  const int64_t items = moecl_layer_tensor_items(&point->layer, tensor);
  const uint64_t bytes = moecl_layer_tensor_bytes(&point->layer, tensor);
  moecl_buffer *drawn = NULL;
  moecl_status status = MOECL_OK;
  if (items > 0 && is_of_router(tensor)) {
    status = moecl_buffer_create(context, bytes, &drawn);
    if (status == MOECL_OK) status = workload_draw_weights(point, tensor, 0, drawn);
    if (status == MOECL_OK) status = moecl_layer_set_weights_buffer(layer, tensor, 0, 1, drawn, 0);
    moecl_buffer_destroy(&drawn);
  } else if (items > 0) {
    void *zeros = calloc((size_t)items, (size_t)bytes);
    status = zeros ? moecl_layer_set_weights(layer, tensor, 0, items, zeros)
                   : MOECL_ERROR_OUT_OF_HOST_MEMORY;
    free(zeros);
  }
  return status;
}

/* Is the expert among a token's choices? */
static bool has_expert(const int32_t *ids, int64_t top_k, int32_t expert) {
  for (int64_t k = 0; k < top_k; k++)
    if (ids[k] == expert) return true;
  return false;
}

static double share_of_others(const moecl_routing *with, const moecl_routing *without) {
  const int64_t choices = with->num_tokens * with->top_k;
  int64_t others = 0;
  for (int64_t i = 0; i < choices; i++)
    others += !has_expert(without->topk_ids + i / with->top_k * with->top_k, with->top_k,
                          with->topk_ids[i]);
  return choices > 0 ? (double)others / (double)choices : 0;
}

static moecl_status route(moecl_context *context, const experiment_point *point,
                          const moecl_buffer *hidden_states, moecl_layer *layer,
                          moecl_routing *routing) {
  const uint64_t bytes = (uint64_t)(point->num_tokens * point->layer.hidden_size) *
                         moecl_dtype_size(point->layer.dtype);
  moecl_buffer *output = NULL;
  moecl_status status = MOECL_OK;
  for (int tensor = 0; status == MOECL_OK && tensor < MOECL_TENSOR_COUNT; tensor++)
    status = set_tensor(context, point, (moecl_tensor)tensor, layer);
  if (status == MOECL_OK) status = moecl_buffer_create(context, bytes, &output);
  const moecl_forward_params forward = {.num_tokens = point->num_tokens,
                                        .hidden_states = hidden_states,
                                        .output = output,
                                        .seed = point->seed};
  if (status == MOECL_OK) status = moecl_layer_forward(layer, &forward, NULL);
  if (status == MOECL_OK) status = moecl_layer_read_routing_wait(layer, routing);
  moecl_buffer_destroy(&output);
  return status;
}

moecl_status changed_choices(moecl_context *context, const experiment_point *point,
                             const moecl_buffer *hidden_states, const moecl_routing *routing,
                             double *share) {
  *share = NAN;
  if (!has_jitter(point)) return MOECL_OK;
  const experiment_point plain = without_jitter(point);
  moecl_layer *layer = NULL;
  moecl_routing without = {0};
  moecl_status status = moecl_layer_create(context, &plain.layer, &layer);
  if (status == MOECL_OK) status = route(context, &plain, hidden_states, layer, &without);
  if (status == MOECL_OK) *share = share_of_others(routing, &without);
  moecl_routing_destroy(&without);
  moecl_layer_destroy(&layer);
  return status;
}

moecl_status changed_choices_memory(moecl_context *context, const experiment_point *point,
                                    uint64_t *bytes) {
  *bytes = 0;
  if (!has_jitter(point)) return MOECL_OK;
  const experiment_point plain = without_jitter(point);
  moecl_memory memory;
  const moecl_status status = moecl_layer_memory(context, &plain.layer, point->num_tokens, &memory);
  if (status == MOECL_OK)
    *bytes = memory.weight_bytes + memory.workspace_bytes + memory.hidden_bytes;
  return status;
}
