// SPDX-License-Identifier: MIT
/* A checkpoint's weights into a layer, one item at a time. */
#include "layer/layer.h"

#include "base/base.h"
#include "moecl/checkpoint.h"
#include <stdlib.h>

/* Every tensor of the one must be one of the other, of the same size. */
static moecl_status check_same(const moecl_layer *layer, const moecl_layer_params *stored,
                               int64_t index) {
  const moecl_layer_params *own = &layer->params;
  bool same = own->num_experts == stored->num_experts && own->top_k == stored->top_k &&
              own->num_identity_experts == stored->num_identity_experts;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    same = same && moecl_layer_tensor_size(own, (moecl_tensor)t) ==
                       moecl_layer_tensor_size(stored, (moecl_tensor)t);
  if (same && own->hidden_size == stored->hidden_size) return MOECL_OK;
  return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "layer_load: the layer's tensors are not those of the checkpoint's layer %lld",
                   (long long)index);
}

static uint64_t largest_item(const moecl_layer_params *params) {
  uint64_t largest = 0;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const uint64_t size = (uint64_t)moecl_layer_tensor_size(params, (moecl_tensor)t);
    if (size > largest) largest = size;
  }
  return largest * 4; /* the widest type: a correction bias is always fp32 */
}

moecl_status moecl_layer_load(moecl_layer *layer, moecl_checkpoint *checkpoint, int64_t index) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!checkpoint)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "layer_load: checkpoint is NULL");
  moecl_checkpoint_layer stored;
  MOECL_TRY(moecl_checkpoint_get_layer(checkpoint, index, &stored));
  MOECL_TRY(check_same(layer, &stored.params, index));
  MOECL_TRY(moecl_checkpoint_check(checkpoint, index));
  const moecl_layer_params *params = &layer->params;
  void *staging = malloc((size_t)largest_item(params));
  if (!staging)
    return log_error(&layer->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = MOECL_OK;
  for (int t = 0; status == MOECL_OK && t < MOECL_TENSOR_COUNT; t++) {
    const moecl_tensor tensor = (moecl_tensor)t;
    const int64_t items = moecl_layer_tensor_items(params, tensor);
    for (int64_t i = 0; status == MOECL_OK && i < items; i++) {
      status = moecl_checkpoint_read(checkpoint, index, tensor, i,
                                     moecl_layer_tensor_dtype(params, tensor), staging);
      if (status == MOECL_OK) status = moecl_layer_set_weights(layer, tensor, i, 1, staging);
    }
  }
  free(staging);
  return status;
}
