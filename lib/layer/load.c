// SPDX-License-Identifier: MIT
/* A checkpoint's weights into a layer, one item at a time. */
#include "layer/layer.h"

#include "base/base.h"
#include "desc/tensors.h"
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

/* Where an item is read to, and for formats that are no data type's stored from. */
typedef struct staging {
  void *read, *stored;
  double *numbers;
} staging;

/* Of all tensors the most elements, and the most bytes as they are given. */
static void largest_item(const moecl_layer_params *params, uint64_t *elements, uint64_t *bytes) {
  *elements = *bytes = 0;
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const uint64_t size = (uint64_t)moecl_layer_tensor_size(params, (moecl_tensor)t);
    const uint64_t given = moecl_layer_tensor_bytes(params, (moecl_tensor)t);
    if (size > *elements) *elements = size;
    if (given > *bytes) *bytes = given;
  }
}

/* NULL: no memory, or more than there can be. */
static void *elements_of(uint64_t count, size_t size) {
  uint64_t bytes;
  return base_mul(count, size, &bytes) && bytes <= SIZE_MAX ? malloc((size_t)bytes) : NULL;
}

static bool is_data_type(const moecl_layer_params *params) {
  return moecl_layer_tensor_dtype(params, MOECL_DOWN_PROJ) != MOECL_DTYPE_COUNT;
}

static moecl_status make_staging(const moecl_layer *layer, staging *staging) {
  uint64_t most, bytes;
  largest_item(&layer->params, &most, &bytes);
  staging->read = elements_of(most, 4); /* the widest type: a correction bias is always fp32 */
  bool ok = staging->read != NULL;
  if (!is_data_type(&layer->params)) {
    staging->numbers = elements_of(most, sizeof(double));
    staging->stored = elements_of(bytes, 1);
    ok = ok && staging->numbers && staging->stored;
  }
  if (ok) return MOECL_OK;
  return log_error(&layer->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
}

static void release_staging(staging *staging) {
  free(staging->read);
  free(staging->stored);
  free(staging->numbers);
}

static moecl_status load_item(moecl_layer *layer, moecl_checkpoint *checkpoint, int64_t index,
                              moecl_tensor tensor, int64_t item, const staging *staging) {
  const moecl_layer_params *params = &layer->params;
  const moecl_dtype dtype = moecl_layer_tensor_dtype(params, tensor);
  if (dtype != MOECL_DTYPE_COUNT) {
    MOECL_TRY(moecl_checkpoint_read(checkpoint, index, tensor, item, dtype, staging->read));
    return moecl_layer_set_weights(layer, tensor, item, 1, staging->read);
  }
  const desc_shape shape = desc_tensor_shape(params, tensor);
  MOECL_TRY(moecl_checkpoint_read(checkpoint, index, tensor, item, MOECL_F32, staging->read));
  moecl_to_double(MOECL_F32, staging->read, (size_t)(shape.rows * shape.columns), staging->numbers);
  moecl_layer_tensor_from_double(params, tensor, staging->numbers, staging->stored);
  return moecl_layer_set_weights(layer, tensor, item, 1, staging->stored);
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
  staging staging = {0};
  moecl_status status = make_staging(layer, &staging);
  for (int t = 0; status == MOECL_OK && t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(&layer->params, (moecl_tensor)t);
    for (int64_t i = 0; status == MOECL_OK && i < items; i++)
      status = load_item(layer, checkpoint, index, (moecl_tensor)t, i, &staging);
  }
  release_staging(&staging);
  return status;
}
