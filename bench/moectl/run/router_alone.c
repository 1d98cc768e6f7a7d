// SPDX-License-Identifier: MIT
#include "run/router_alone.h"
#include <stdlib.h>

experiment_point router_alone(const experiment_point *point) {
  experiment_point alone = *point;
  moecl_layer_params *layer = &alone.layer;
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
  return alone;
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

static moecl_status route(moecl_context *context, const experiment_point *alone,
                          const moecl_buffer *hidden_states, moecl_layer *layer,
                          moecl_routing *routing) {
  const uint64_t bytes = (uint64_t)(alone->num_tokens * alone->layer.hidden_size) *
                         moecl_dtype_size(alone->layer.dtype);
  moecl_buffer *output = NULL;
  moecl_status status = MOECL_OK;
  for (int tensor = 0; status == MOECL_OK && tensor < MOECL_TENSOR_COUNT; tensor++)
    status = set_tensor(context, alone, (moecl_tensor)tensor, layer);
  if (status == MOECL_OK) status = moecl_buffer_create(context, bytes, &output);
  const moecl_forward_params forward = {.num_tokens = alone->num_tokens,
                                        .hidden_states = hidden_states,
                                        .output = output,
                                        .seed = alone->seed};
  if (status == MOECL_OK) status = moecl_layer_forward(layer, &forward, NULL);
  if (status == MOECL_OK) status = moecl_layer_read_routing_wait(layer, routing);
  moecl_buffer_destroy(&output);
  return status;
}

moecl_status router_choices(moecl_context *context, const experiment_point *alone,
                            const moecl_buffer *hidden_states, moecl_routing *routing) {
  moecl_layer *layer = NULL;
  *routing = (moecl_routing){0};
  moecl_status status = moecl_layer_create(context, &alone->layer, &layer);
  if (status == MOECL_OK) status = route(context, alone, hidden_states, layer, routing);
  moecl_layer_destroy(&layer);
  return status;
}
