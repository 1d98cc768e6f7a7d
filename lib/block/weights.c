// SPDX-License-Identifier: MIT
/* Weights into a block. */
#include "base/base.h"
#include "block/block.h"

static moecl_status check_tensor(const moecl_block *block, moecl_block_tensor tensor,
                                 const void *src, uint64_t *bytes) {
  const moecl_log *log = &block->context->log;
  const int64_t size = moecl_block_tensor_size(&block->params, tensor);
  if (size == 0)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: this block has no tensor %d",
                     (int)tensor);
  if (!src) return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "set_weights: src is NULL");
  *bytes = desc_format_bytes(block->stored, 1, (uint64_t)size);
  return MOECL_OK;
}

static moecl_status pack(moecl_block *block, moecl_block_tensor tensor, const moecl_buffer *src,
                         uint64_t offset, uint64_t bytes) {
  switch (tensor) {
  case MOECL_QKV_PROJ: return op_gemm_set_weights(block->qkv, 0, 1, src, offset);
  case MOECL_QKV_BIAS: return op_gemm_set_bias(block->qkv, 0, 1, src, offset);
  case MOECL_O_PROJ: return op_gemm_set_weights(block->o, 0, 1, src, offset);
  case MOECL_O_BIAS: return op_gemm_set_bias(block->o, 0, 1, src, offset);
  default: return ocl_buffer_copy(src, offset, block->weight[tensor], 0, bytes);
  }
}

moecl_status moecl_block_set_weights_buffer(moecl_block *block, moecl_block_tensor tensor,
                                            const moecl_buffer *src, uint64_t offset_bytes) {
  uint64_t bytes = 0;
  if (!block) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(check_tensor(block, tensor, src, &bytes));
  MOECL_TRY(ocl_check_owner(block->context, src->context, "set_weights: src"));
  if (offset_bytes % (block->stored->bits / 8) != 0 || offset_bytes > moecl_buffer_size(src) ||
      bytes > moecl_buffer_size(src) - offset_bytes)
    return log_error(&block->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "set_weights: %llu bytes from offset %llu of a buffer of %llu",
                     (unsigned long long)bytes, (unsigned long long)offset_bytes,
                     (unsigned long long)moecl_buffer_size(src));
  MOECL_TRY(pack(block, tensor, src, offset_bytes, bytes));
  MOECL_TRY(ocl_keep_order(block->context));
  block->missing -= !block->is_set[tensor];
  block->is_set[tensor] = true;
  return MOECL_OK;
}

moecl_status moecl_block_set_weights(moecl_block *block, moecl_block_tensor tensor,
                                     const void *src) {
  uint64_t bytes = 0;
  moecl_buffer *staging;
  if (!block) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(check_tensor(block, tensor, src, &bytes));
  MOECL_TRY(moecl_buffer_create(block->context, bytes, &staging));
  moecl_status status = moecl_buffer_write_wait(staging, 0, bytes, src);
  if (status == MOECL_OK) status = moecl_block_set_weights_buffer(block, tensor, staging, 0);
  if (status == MOECL_OK) status = moecl_context_finish_wait(block->context);
  moecl_buffer_destroy(&staging);
  return status;
}
