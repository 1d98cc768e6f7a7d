// SPDX-License-Identifier: MIT
/* A checkpoint's weights into a block. */
#include "base/base.h"
#include "block/block.h"
#include "moecl/checkpoint.h"
#include <stdlib.h>

/* The same tensors; options that change none may be others. */
static moecl_status check_same(const moecl_block *block, const moecl_block_params *stored,
                               int64_t index) {
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)t;
    const long long ours = moecl_block_tensor_size(&block->params, tensor);
    const long long theirs = moecl_block_tensor_size(stored, tensor);
    if (ours != theirs)
      return log_error(&block->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                       "block_load: tensor %d has %lld elements in the block and %lld in the "
                       "checkpoint's layer %lld, expected the same",
                       t, ours, theirs, (long long)index);
  }
  return MOECL_OK;
}

static moecl_status load_tensor(moecl_block *block, moecl_checkpoint *checkpoint, int64_t index,
                                moecl_block_tensor tensor) {
  const moecl_dtype dtype = block->params.layer.dtype;
  const int64_t size = moecl_block_tensor_size(&block->params, tensor);
  if (size == 0) return MOECL_OK;
  void *values = malloc((size_t)size * moecl_dtype_size(dtype));
  if (!values)
    return log_error(&block->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = moecl_checkpoint_read_block(checkpoint, index, tensor, dtype, values);
  if (status == MOECL_OK) status = moecl_block_set_weights(block, tensor, values);
  free(values);
  return status;
}

moecl_status moecl_block_load(moecl_block *block, moecl_checkpoint *checkpoint, int64_t index) {
  moecl_block_params stored;
  if (!block) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!checkpoint)
    return log_error(&block->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "block_load: checkpoint is NULL");
  MOECL_TRY(moecl_checkpoint_get_block(checkpoint, index, &stored));
  MOECL_TRY(check_same(block, &stored, index));
  MOECL_TRY(moecl_checkpoint_check_block(checkpoint, index));
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++)
    MOECL_TRY(load_tensor(block, checkpoint, index, (moecl_block_tensor)t));
  return moecl_layer_load(block->layer, checkpoint, index);
}
