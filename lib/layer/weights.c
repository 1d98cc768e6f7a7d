// SPDX-License-Identifier: MIT
/* Weights into a layer. */
#include "base/base.h"
#include "desc/tensors.h"
#include "layer/layer.h"

static bool is_expert(moecl_tensor tensor) {
  return tensor >= MOECL_GATE_UP_PROJ && tensor <= MOECL_DOWN_BIAS;
}

int64_t layer_items(const moecl_layer *layer, moecl_tensor tensor) {
  const int64_t items = moecl_layer_tensor_items(&layer->params, tensor);
  return is_expert(tensor) && items > 0 ? layer->own_experts : items;
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

static moecl_status pack_here(moecl_layer *layer, moecl_tensor tensor, int64_t first, int64_t count,
                              const moecl_buffer *src, uint64_t offset) {
  const uint64_t bytes = (uint64_t)count * moecl_layer_tensor_bytes(&layer->params, tensor);
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT:
    if (layer->route.weights)
      MOECL_TRY(ocl_buffer_copy(src, offset, layer->route.weights, 0, bytes));
    return op_gemm_set_weights(layer->logits, 0, count, src, offset);
  case MOECL_ROUTER_BIAS:
    if (layer->route.bias) MOECL_TRY(ocl_buffer_copy(src, offset, layer->route.bias, 0, bytes));
    return op_gemm_set_bias(layer->logits, 0, count, src, offset);
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

/* Experts of the host's memory are packed on the device, one after the other. */
static moecl_status pack(moecl_layer *layer, moecl_tensor tensor, int64_t first, int64_t count,
                         const moecl_buffer *src, uint64_t offset) {
  if (!layer->offload || !is_expert(tensor))
    return pack_here(layer, tensor, first, count, src, offset);
  const uint64_t one = moecl_layer_tensor_bytes(&layer->params, tensor);
  for (int64_t i = 0; i < count; i++) {
    layer_offload_vacate(layer);
    MOECL_TRY(pack_here(layer, tensor, 0, 1, src, offset + (uint64_t)i * one));
    MOECL_TRY(layer_offload_keep(layer, tensor, first + i));
  }
  return MOECL_OK;
}

/* No more weights are known to come. */
static bool is_over(const moecl_layer *layer) { return layer->missing == 0 && !layer->loading; }

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
  /* The last ones may come from a buffer, when others came through the staging buffer. */
  if (is_over(layer) && src != layer->staging) layer_release_staging(layer);
  return MOECL_OK;
}

/* ---- from host memory, through a staging buffer ---- */

/* Items are packed so many bytes at a time: small ones together, and while some are packed the next
 * ones come; a large one by itself, so that the device never holds more than one expert twice. */
enum { STAGING_BYTES = 64 << 20, MOST_SLOTS = 2, SLOT_BYTES = STAGING_BYTES / MOST_SLOTS };

static moecl_status provide_staging(moecl_layer *layer, uint64_t bytes) {
  if (layer->staging && moecl_buffer_size(layer->staging) >= bytes) return MOECL_OK;
  moecl_buffer_destroy(&layer->staging);
  return moecl_buffer_create(layer->context, bytes, &layer->staging);
}

void layer_release_staging(moecl_layer *layer) { moecl_buffer_destroy(&layer->staging); }

/* Some of a tensor's items, which are together in memory. */
typedef struct host_items {
  moecl_tensor tensor;
  int64_t first, count;
  uint64_t one; /* bytes of an item */
  const char *src;
} host_items;

static moecl_status set_by_writes(moecl_layer *layer, const host_items *items) {
  MOECL_TRY(provide_staging(layer, items->one));
  for (int64_t i = 0; i < items->count; i++) {
    MOECL_TRY(moecl_buffer_write_wait(layer->staging, 0, items->one,
                                      items->src + (uint64_t)i * items->one));
    MOECL_TRY(moecl_layer_set_weights_buffer(layer, items->tensor, items->first + i, 1,
                                             layer->staging, 0));
    MOECL_TRY(moecl_context_finish_wait(layer->context));
  }
  return MOECL_OK;
}

/* `some` items by way of the staging buffer from `offset` on: copied when those before them were
 * packed from there (*packed), and packed then. */
static moecl_status upload_some(moecl_layer *layer, const host_items *some, uint64_t offset,
                                cl_event *packed) {
  cl_event there = NULL;
  moecl_status status = ocl_upload_write(layer->context, some->src, layer->staging, offset,
                                         (uint64_t)some->count * some->one, *packed, &there);
  ocl_event_let_go(packed);
  if (status == MOECL_OK) status = ocl_queue_after(layer->context, &there, 1);
  ocl_event_let_go(&there);
  if (status == MOECL_OK)
    status = moecl_layer_set_weights_buffer(layer, some->tensor, some->first, some->count,
                                            layer->staging, offset);
  return status == MOECL_OK ? ocl_queue_mark(layer->context, packed) : status;
}

static moecl_status set_by_uploads(moecl_layer *layer, const host_items *items) {
  const int64_t fit = (int64_t)(SLOT_BYTES / items->one), most = fit > 1 ? fit : 1;
  const int slots = fit > 0 && items->count > most ? MOST_SLOTS : 1;
  const int64_t together = items->count < most ? items->count : most;
  const uint64_t slot = base_round_up((uint64_t)together * items->one, 256);
  cl_event packed[MOST_SLOTS] = {NULL, NULL};
  MOECL_TRY(provide_staging(layer, slot * (uint64_t)slots));
  /* Who had the buffer before is done. */
  moecl_status status = MOECL_OK;
  for (int s = 0; s < slots && status == MOECL_OK; s++)
    status = ocl_queue_mark(layer->context, &packed[s]);
  int turn = 0;
  for (int64_t i = 0; i < items->count && status == MOECL_OK; i += most) {
    host_items some = *items;
    some.first += i;
    some.count = items->count - i < most ? items->count - i : most;
    some.src += (uint64_t)i * items->one;
    status = upload_some(layer, &some, (uint64_t)turn * slot, &packed[turn]);
    turn = (turn + 1) % slots;
  }
  for (int s = 0; s < MOST_SLOTS; s++) ocl_event_let_go(&packed[s]);
  return status == MOECL_OK ? moecl_context_finish_wait(layer->context) : status;
}

moecl_status moecl_layer_set_weights(moecl_layer *layer, moecl_tensor tensor, int64_t first_expert,
                                     int64_t count, const void *src) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  uint64_t bytes = 0;
  MOECL_TRY(check_items(layer, tensor, first_expert, count, &bytes));
  if (!src) return no_source(layer);
  if (count == 0) return MOECL_OK;
  const host_items items = {tensor, first_expert, count, bytes / (uint64_t)count, src};
  const moecl_status status = ocl_upload_pays(layer->context, bytes) ? set_by_uploads(layer, &items)
                                                                     : set_by_writes(layer, &items);
  if (status != MOECL_OK || is_over(layer)) layer_release_staging(layer);
  return status;
}
