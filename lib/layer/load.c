// SPDX-License-Identifier: MIT
/* A checkpoint's weights into a layer, one item at a time. */
#include "layer/layer.h"

#include "base/base.h"
#include "moecl/checkpoint.h"
#include <stdlib.h>

/* Every tensor of the one must be one of the other, of the same size. */
static moecl_status check_same(const layer_loading *into, const moecl_layer_params *stored,
                               int64_t index) {
  const moecl_layer_params *own = into->params;
  bool same = own->num_experts == stored->num_experts && own->top_k == stored->top_k &&
              own->num_identity_experts == stored->num_identity_experts;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++)
    same = same && moecl_layer_tensor_size(own, (moecl_tensor)t) ==
                       moecl_layer_tensor_size(stored, (moecl_tensor)t);
  if (same && own->hidden_size == stored->hidden_size) return MOECL_OK;
  return log_error(into->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "layer_load: the layer's tensors are not those of the checkpoint's layer %lld",
                   (long long)index);
}

/* The most bytes of an item of any tensor, as it is given. */
static uint64_t largest_item(const moecl_layer_params *params) {
  uint64_t most = 0;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const uint64_t bytes = moecl_layer_tensor_bytes(params, (moecl_tensor)t);
    if (bytes > most) most = bytes;
  }
  return most;
}

static moecl_status load_item(const layer_loading *into, moecl_checkpoint *checkpoint,
                              int64_t index, moecl_tensor tensor, int64_t item, void *values) {
  if (into->wants && !into->wants(into->user, tensor, item)) return MOECL_OK;
  MOECL_TRY(moecl_checkpoint_read_as(checkpoint, index, tensor, item, into->params, values));
  return into->give(into->user, tensor, item, values);
}

moecl_status layer_load_items(const layer_loading *into, moecl_checkpoint *checkpoint,
                              int64_t index) {
  if (!checkpoint)
    return log_error(into->log, MOECL_ERROR_INVALID_ARGUMENT, "layer_load: checkpoint is NULL");
  moecl_checkpoint_layer stored;
  MOECL_TRY(moecl_checkpoint_get_layer(checkpoint, index, &stored));
  MOECL_TRY(check_same(into, &stored.params, index));
  MOECL_TRY(moecl_checkpoint_check(checkpoint, index));
  const uint64_t most = largest_item(into->params);
  void *values = most <= SIZE_MAX ? malloc((size_t)most) : NULL;
  moecl_status status =
      values ? MOECL_OK : log_error(into->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  for (int t = 0; status == MOECL_OK && t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(into->params, (moecl_tensor)t);
    for (int64_t i = 0; status == MOECL_OK && i < items; i++)
      status = load_item(into, checkpoint, index, (moecl_tensor)t, i, values);
  }
  free(values);
  return status;
}

static moecl_status give_item(void *user, moecl_tensor tensor, int64_t item, const void *values) {
  return moecl_layer_set_weights(user, tensor, item, 1, values);
}

moecl_status moecl_layer_load(moecl_layer *layer, moecl_checkpoint *checkpoint, int64_t index) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const layer_loading into = {&layer->params, &layer->context->log, give_item, NULL, layer};
  layer->loading = true; /* one staging buffer for all items: drivers free each some time later */
  const moecl_status status = layer_load_items(&into, checkpoint, index);
  layer->loading = false;
  layer_release_staging(layer);
  return status;
}
