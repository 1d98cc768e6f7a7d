// SPDX-License-Identifier: MIT
/* A layer's plan for people and programs. */
#include "base/base.h"
#include "desc/tensors.h"
#include "layer/layer.h"
#include "plan/explained.h"

/* Names of what is no tensor of a step; NULL: it is one. */
static const char *const weight_names[MOECL_TENSOR_COUNT] = {
    [MOECL_ROUTER_WEIGHT] = "router_weight",
    [MOECL_ROUTER_BIAS] = "router_bias",
    [MOECL_GATE_UP_PROJ] = "gate_up_proj",
    [MOECL_GATE_UP_BIAS] = "gate_up_bias",
    [MOECL_DOWN_PROJ] = "down_proj",
    [MOECL_DOWN_BIAS] = "down_bias",
    [MOECL_ROUTER_NOISE_WEIGHT] = "router_noise_weight",
    [MOECL_SHARED_GATE_UP_PROJ] = "shared_gate_up_proj",
    [MOECL_SHARED_DOWN_PROJ] = "shared_down_proj",
    [MOECL_SHARED_GATE] = "shared_gate_weight"};

/* What packs the tensor; NULL: it is kept as it is given. */
static const op_gemm *gemm_of(const moecl_layer *layer, moecl_tensor tensor) {
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return layer->logits;
  case MOECL_GATE_UP_PROJ: return layer->gate_up;
  case MOECL_DOWN_PROJ: return layer->down;
  case MOECL_ROUTER_NOISE_WEIGHT: return layer->noise;
  case MOECL_SHARED_GATE_UP_PROJ: return layer->shared_gate_up;
  case MOECL_SHARED_DOWN_PROJ: return layer->shared_down;
  default: return NULL;
  }
}

static moecl_plan_tensor weight_of(const moecl_layer *layer, moecl_tensor tensor) {
  const moecl_layer_params *params = &layer->params;
  const desc_shape shape = desc_tensor_shape(params, tensor);
  const bool experts = tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
  /* Experts that are on the device. */
  const uint64_t items =
      (uint64_t)(experts ? layer->places : moecl_layer_tensor_items(params, tensor));
  const op_gemm *gemm = gemm_of(layer, tensor);
  return (moecl_plan_tensor){.name = weight_names[tensor],
                             .format = desc_tensor_format(params, tensor)->name,
                             .rows = items * (uint64_t)shape.rows,
                             .columns = (uint64_t)shape.columns,
                             .bytes = gemm ? op_gemm_packed_bytes(gemm)
                                           : items * moecl_layer_tensor_bytes(params, tensor),
                             .life = MOECL_LIFE_WEIGHT,
                             .first_step = -1,
                             .last_step = -1,
                             .block = -1};
}

void layer_list_weights(const moecl_layer *layer, moecl_plan *made) {
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++)
    if (weight_names[i] && moecl_layer_tensor_items(&layer->params, (moecl_tensor)i) > 0)
      plan_explain_weight(made, weight_of(layer, (moecl_tensor)i));
}

static void destroy(void *owner) {
  moecl_layer *layer = owner;
  moecl_layer_destroy(&layer);
}

moecl_status moecl_plan_create(moecl_context *context, const moecl_layer_params *params,
                               int64_t num_tokens, moecl_plan **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_layer *layer;
  moecl_memory memory = {0};
  layer_plan built;
  MOECL_TRY(layer_make(context, params, true, &layer));
  moecl_status status = layer_memory(layer, num_tokens, &memory);
  if (status == MOECL_OK) layer_plan_build(layer, num_tokens, &built);
  if (status == MOECL_OK) status = plan_explain(context, &built.plan, &memory, layer, destroy, out);
  if (status == MOECL_OK) layer_list_weights(layer, *out);
  else moecl_layer_destroy(&layer);
  return status;
}
