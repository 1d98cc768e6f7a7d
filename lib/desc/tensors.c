// SPDX-License-Identifier: MIT
/* The table of a layer's tensors: shapes, items, formats. */
#include "desc/tensors.h"
#include "base/base.h"

desc_shape desc_tensor_shape(const moecl_layer_params *p, moecl_tensor tensor) {
  const int64_t halves = moecl_activation_is_gated(p->activation) ? 2 : 1;
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return (desc_shape){p->num_experts, p->hidden_size};
  case MOECL_ROUTER_BIAS: return (desc_shape){p->router_bias, p->num_experts};
  case MOECL_GATE_UP_PROJ: return (desc_shape){halves * p->intermediate_size, p->hidden_size};
  case MOECL_GATE_UP_BIAS: return (desc_shape){p->gate_up_bias, halves * p->intermediate_size};
  case MOECL_DOWN_PROJ: return (desc_shape){p->hidden_size, p->intermediate_size};
  case MOECL_DOWN_BIAS: return (desc_shape){p->down_bias, p->hidden_size};
  case MOECL_SCORE_CORRECTION_BIAS: return (desc_shape){p->score_correction_bias, p->num_experts};
  case MOECL_ROUTER_NOISE_WEIGHT:
    return (desc_shape){p->router_noise ? p->num_experts : 0, p->hidden_size};
  case MOECL_SHARED_GATE_UP_PROJ:
    return (desc_shape){halves * p->shared_intermediate_size, p->hidden_size};
  case MOECL_SHARED_DOWN_PROJ: return (desc_shape){p->hidden_size, p->shared_intermediate_size};
  case MOECL_SHARED_GATE: return (desc_shape){p->shared_gate, p->hidden_size};
  case MOECL_TENSOR_COUNT: break;
  }
  return (desc_shape){0, 0};
}

int64_t desc_tensor_matrices(const moecl_layer_params *params, moecl_tensor tensor) {
  const bool gate_up = tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_SHARED_GATE_UP_PROJ;
  return gate_up && moecl_activation_is_gated(params->activation) ? 2 : 1;
}

int64_t moecl_layer_tensor_size(const moecl_layer_params *params, moecl_tensor tensor) {
  if (!params) return 0;
  const desc_shape shape = desc_tensor_shape(params, tensor);
  return shape.rows * shape.columns;
}

void moecl_layer_tensor_shape(const moecl_layer_params *params, moecl_tensor tensor, int64_t *rows,
                              int64_t *columns) {
  const bool there = moecl_layer_tensor_size(params, tensor) > 0;
  const desc_shape shape = there ? desc_tensor_shape(params, tensor) : (desc_shape){0, 0};
  if (rows) *rows = shape.rows;
  if (columns) *columns = shape.columns;
}

int64_t moecl_layer_tensor_items(const moecl_layer_params *params, moecl_tensor tensor) {
  if (moecl_layer_tensor_size(params, tensor) == 0) return 0;
  const bool of_experts = tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
  return of_experts ? params->num_experts - params->num_identity_experts : 1;
}

/* Biases of experts are stored as their weights are, if those are plain. */
const desc_format *desc_tensor_format(const moecl_layer_params *params, moecl_tensor tensor) {
  const desc_format *weights = desc_format_or(params->weight_format, params->dtype);
  switch (tensor) {
  case MOECL_SCORE_CORRECTION_BIAS: return desc_format_of(MOECL_F32);
  case MOECL_GATE_UP_PROJ:
  case MOECL_DOWN_PROJ:
  case MOECL_SHARED_GATE_UP_PROJ:
  case MOECL_SHARED_DOWN_PROJ: return weights;
  case MOECL_GATE_UP_BIAS:
  case MOECL_DOWN_BIAS:
    if (desc_format_dtype(weights) != MOECL_DTYPE_COUNT) return weights;
    return desc_format_of(params->dtype);
  default: return desc_format_of(params->dtype);
  }
}

moecl_format moecl_layer_tensor_format(const moecl_layer_params *params, moecl_tensor tensor) {
  return params ? (moecl_format)(desc_tensor_format(params, tensor) - desc_formats)
                : MOECL_FORMAT_F32;
}

moecl_dtype moecl_layer_tensor_dtype(const moecl_layer_params *params, moecl_tensor tensor) {
  return params ? desc_format_dtype(desc_tensor_format(params, tensor)) : MOECL_F32;
}

uint64_t moecl_layer_tensor_bytes(const moecl_layer_params *params, moecl_tensor tensor) {
  if (!params) return 0;
  const desc_shape shape = desc_tensor_shape(params, tensor);
  const uint64_t matrices = (uint64_t)desc_tensor_matrices(params, tensor);
  uint64_t bytes;
  const uint64_t one = desc_format_bytes(desc_tensor_format(params, tensor),
                                         (uint64_t)shape.rows / matrices, (uint64_t)shape.columns);
  return base_mul(one, matrices, &bytes) ? bytes : UINT64_MAX;
}

void moecl_layer_tensor_to_double(const moecl_layer_params *params, moecl_tensor tensor,
                                  const void *item, double *dst) {
  if (!params || !item || !dst) return;
  const desc_format *format = desc_tensor_format(params, tensor);
  const desc_shape shape = desc_tensor_shape(params, tensor);
  const uint64_t matrices = (uint64_t)desc_tensor_matrices(params, tensor);
  const uint64_t rows = (uint64_t)shape.rows / matrices, columns = (uint64_t)shape.columns;
  const uint64_t bytes = desc_format_bytes(format, rows, columns);
  for (uint64_t i = 0; i < matrices; i++)
    desc_decode(format, (const char *)item + i * bytes, rows, columns, dst + i * rows * columns);
}

void moecl_layer_tensor_from_double(const moecl_layer_params *params, moecl_tensor tensor,
                                    const double *src, void *item) {
  if (!params || !src || !item) return;
  const desc_format *format = desc_tensor_format(params, tensor);
  const desc_shape shape = desc_tensor_shape(params, tensor);
  const uint64_t matrices = (uint64_t)desc_tensor_matrices(params, tensor);
  const uint64_t rows = (uint64_t)shape.rows / matrices, columns = (uint64_t)shape.columns;
  const uint64_t bytes = desc_format_bytes(format, rows, columns);
  for (uint64_t i = 0; i < matrices; i++)
    desc_encode(format, src + i * rows * columns, rows, columns, (char *)item + i * bytes);
}
