// SPDX-License-Identifier: MIT
/* Weights into a layer. */
#include "base/base.h"
#include "desc/tensors.h"
#include "layer/layer.h"

int64_t layer_items(const moecl_layer *layer, moecl_tensor tensor) {
  const bool experts = tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
  const int64_t items = moecl_layer_tensor_items(&layer->params, tensor);
  return experts && items > 0 ? layer->own_experts : items;
}

static moecl_status check_items(moecl_layer *layer, moecl_tensor tensor, int64_t first,
                                int64_t count, uint64_t *bytes) {
  const moecl_log *log = &layer->context->log;
  if ((int)tensor < 0 || tensor >= MOECL_TENSOR_COUNT || !layer->is_set[tensor])
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: this layer has no tensor %d",
                     (int)tensor);
  const int64_t items = layer_items(layer, tensor);
  if (first < 0 || count < 0 || count > items || first > items - count)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %lld items from item %lld on of tensor %d, which has %lld",
                     (long long)count, (long long)first, (int)tensor, (long long)items);
  *bytes = (uint64_t)count * moecl_layer_tensor_bytes(&layer->params, tensor);
  return MOECL_OK;
}

static moecl_status pack(moecl_layer *layer, moecl_tensor tensor, int64_t first, int64_t count,
                         const moecl_buffer *src, uint64_t offset) {
  const uint64_t bytes = (uint64_t)count * moecl_layer_tensor_bytes(&layer->params, tensor);
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT: return op_gemm_set_weights(layer->logits, 0, count, src, offset);
  case MOECL_ROUTER_BIAS: return op_gemm_set_bias(layer->logits, 0, count, src, offset);
  case MOECL_ROUTER_NOISE_WEIGHT: return op_gemm_set_weights(layer->noise, 0, count, src, offset);
  case MOECL_SCORE_CORRECTION_BIAS:
    return ocl_buffer_copy(src, offset, layer->correction_bias, 0, bytes);
  case MOECL_SHARED_GATE_UP_PROJ:
    return op_gemm_set_weights(layer->shared_gate_up, 0, count, src, offset);
  case MOECL_SHARED_DOWN_PROJ:
    return op_gemm_set_weights(layer->shared_down, 0, count, src, offset);
  case MOECL_SHARED_GATE: return ocl_buffer_copy(src, offset, layer->gate.weight, 0, bytes);
  case MOECL_GATE_UP_PROJ: return op_gemm_set_weights(layer->gate_up, first, count, src, offset);
  case MOECL_GATE_UP_BIAS: return op_gemm_set_bias(layer->gate_up, first, count, src, offset);
  case MOECL_DOWN_PROJ: return op_gemm_set_weights(layer->down, first, count, src, offset);
  case MOECL_DOWN_BIAS: return op_gemm_set_bias(layer->down, first, count, src, offset);
  default: return MOECL_ERROR_INVALID_ARGUMENT;
  }
}

static moecl_status no_source(const moecl_layer *layer) {
  return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: src is NULL");
}

moecl_status moecl_layer_set_weights_buffer(moecl_layer *layer, moecl_tensor tensor,
                                            int64_t first_expert, int64_t count,
                                            const moecl_buffer *src, uint64_t offset_bytes) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  uint64_t bytes = 0;
  MOECL_TRY(check_items(layer, tensor, first_expert, count, &bytes));
  if (!src) return no_source(layer);
  MOECL_TRY(ocl_check_owner(layer->context, src->context, "set_weights: src"));
  const desc_format *format = desc_tensor_format(&layer->params, tensor);
  if (offset_bytes % desc_format_align(format) != 0 || offset_bytes > moecl_buffer_size(src) ||
      bytes > moecl_buffer_size(src) - offset_bytes)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %llu bytes from offset %llu of a buffer of %llu",
                     (unsigned long long)bytes, (unsigned long long)offset_bytes,
                     (unsigned long long)moecl_buffer_size(src));
  MOECL_TRY(pack(layer, tensor, first_expert, count, src, offset_bytes));
  MOECL_TRY(ocl_keep_order(layer->context));
  for (int64_t i = first_expert; i < first_expert + count; i++) {
    layer->missing -= !layer->is_set[tensor][i];
    layer->is_set[tensor][i] = 1;
  }
  return MOECL_OK;
}

/* One item at a time through a staging buffer: the device never holds more than
 * one expert twice. */
moecl_status moecl_layer_set_weights(moecl_layer *layer, moecl_tensor tensor, int64_t first_expert,
                                     int64_t count, const void *src) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  uint64_t bytes = 0;
  MOECL_TRY(check_items(layer, tensor, first_expert, count, &bytes));
  if (!src) return no_source(layer);
  if (count == 0) return MOECL_OK;
  const uint64_t one = bytes / (uint64_t)count;
  moecl_buffer *staging;
  MOECL_TRY(moecl_buffer_create(layer->context, one, &staging));
  moecl_status status = MOECL_OK;
  for (int64_t i = 0; i < count && status == MOECL_OK; i++) {
    status = moecl_buffer_write_wait(staging, 0, one, (const char *)src + (uint64_t)i * one);
    if (status == MOECL_OK)
      status = moecl_layer_set_weights_buffer(layer, tensor, first_expert + i, 1, staging, 0);
    if (status == MOECL_OK) status = moecl_context_finish_wait(layer->context);
  }
  moecl_buffer_destroy(&staging);
  return status;
}
