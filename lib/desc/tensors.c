// SPDX-License-Identifier: MIT
/* The table of a layer's tensors: sizes, items, types. */
#include "desc/format.h"
#include "moecl/layer.h"

int64_t moecl_layer_tensor_size(const moecl_layer_params *params, moecl_tensor tensor) {
  if (!params) return 0;
  int64_t up_rows =
      params->intermediate_size * (moecl_activation_is_gated(params->activation) ? 2 : 1);
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return params->num_experts * params->hidden_size;
  case MOECL_ROUTER_BIAS: return params->router_bias ? params->num_experts : 0;
  case MOECL_GATE_UP_PROJ: return up_rows * params->hidden_size;
  case MOECL_GATE_UP_BIAS: return params->gate_up_bias ? up_rows : 0;
  case MOECL_DOWN_PROJ: return params->hidden_size * params->intermediate_size;
  case MOECL_DOWN_BIAS: return params->down_bias ? params->hidden_size : 0;
  case MOECL_SCORE_CORRECTION_BIAS: return params->score_correction_bias ? params->num_experts : 0;
  case MOECL_ROUTER_NOISE_WEIGHT:
    return params->router_noise ? params->num_experts * params->hidden_size : 0;
  case MOECL_SHARED_GATE_UP_PROJ:
    return params->shared_intermediate_size * params->hidden_size *
           (moecl_activation_is_gated(params->activation) ? 2 : 1);
  case MOECL_SHARED_DOWN_PROJ: return params->shared_intermediate_size * params->hidden_size;
  case MOECL_SHARED_GATE: return params->shared_gate ? params->hidden_size : 0;
  case MOECL_TENSOR_COUNT: break;
  }
  return 0;
}

int64_t moecl_layer_tensor_items(const moecl_layer_params *params, moecl_tensor tensor) {
  if (moecl_layer_tensor_size(params, tensor) == 0) return 0;
  const bool of_experts = tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
  return of_experts ? params->num_experts - params->num_identity_experts : 1;
}

moecl_dtype moecl_layer_tensor_dtype(const moecl_layer_params *params, moecl_tensor tensor) {
  if (!params) return MOECL_F32;
  switch (tensor) {
  case MOECL_SCORE_CORRECTION_BIAS: return MOECL_F32;
  case MOECL_GATE_UP_PROJ:
  case MOECL_GATE_UP_BIAS:
  case MOECL_DOWN_PROJ:
  case MOECL_DOWN_BIAS:
  case MOECL_SHARED_GATE_UP_PROJ:
  case MOECL_SHARED_DOWN_PROJ: return desc_format_or(params->weight_format, params->dtype)->element;
  default: return params->dtype;
  }
}
