// SPDX-License-Identifier: MIT
/* Creating, destroying and asking a block. */
#include "block/block.h"
#include "base/base.h"
#include <stdlib.h>
#include <string.h>

/* Those of the GEMMs are theirs. */
static bool is_of_gemm(moecl_block_tensor tensor) {
  return tensor == MOECL_QKV_PROJ || tensor == MOECL_QKV_BIAS || tensor == MOECL_O_PROJ ||
         tensor == MOECL_O_BIAS;
}

static uint64_t tensor_bytes(const moecl_block *block, moecl_block_tensor tensor) {
  return desc_format_bytes(block->stored, 1,
                           (uint64_t)moecl_block_tensor_size(&block->params, tensor));
}

static moecl_status allocate_weights(moecl_block *block) {
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)i;
    if (moecl_block_tensor_size(&block->params, tensor) == 0) continue;
    block->missing++;
    if (!is_of_gemm(tensor))
      MOECL_TRY(
          moecl_buffer_create(block->context, tensor_bytes(block, tensor), &block->weight[i]));
  }
  return MOECL_OK;
}

moecl_status moecl_block_create(moecl_context *context, const moecl_block_params *params,
                                moecl_block **out) {
  char message[256];
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_status status = moecl_block_params_check(params, message, sizeof message);
  if (status != MOECL_OK) return log_error(&context->log, status, "block: %s", message);
  moecl_block *block = calloc(1, sizeof *block);
  if (!block) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  block->context = ocl_context_retain(context);
  block->params = *params;
  block->params.attention_variant = NULL;
  block->params.layer.grouped_gemm_variant = block->params.layer.router_variant = NULL;
  block->attention = desc_attention_of(params);
  block->stored = desc_format_of(params->layer.dtype);
  status = layer_make(context, &params->layer, false, &block->layer);
  if (status == MOECL_OK) status = block_make_operations(block, params);
  if (status == MOECL_OK) status = allocate_weights(block);
  if (status != MOECL_OK) moecl_block_destroy(&block);
  *out = block;
  return status;
}

void moecl_block_destroy(moecl_block **handle) {
  if (!handle || !*handle) return;
  moecl_block *block = *handle;
  *handle = NULL;
  plan_space_release(&block->space);
  moecl_layer_destroy(&block->layer);
  for (int i = 0; i < BLOCK_PARTS; i++)
    block_parts[i].kind->release((char *)block + block_parts[i].at);
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) moecl_buffer_destroy(&block->weight[i]);
  moecl_context_destroy(&block->context);
  free(block);
}

moecl_layer *moecl_block_layer(moecl_block *block) { return block ? block->layer : NULL; }

const char *moecl_block_variant(const moecl_block *block, const char *operation,
                                const char **reason) {
  for (int i = 0; block && operation && i < BLOCK_OPERATION_COUNT; i++)
    if (strcmp(operation, block_operation_names[i]) == 0) {
      if (reason) *reason = block->reason[i];
      return block->variant[i]->name;
    }
  return moecl_layer_variant(block ? block->layer : NULL, operation, reason);
}

/* ---- memory ---- */

static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

uint64_t moecl_block_weight_bytes(const moecl_block *block) {
  if (!block) return 0;
  uint64_t bytes = moecl_layer_weight_bytes(block->layer);
  for (int i = 0; i < BLOCK_PARTS; i++)
    if (block_parts[i].kind->bytes)
      bytes = add(bytes, block_parts[i].kind->bytes((const char *)block + block_parts[i].at));
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++)
    if (block->weight[i]) bytes = add(bytes, moecl_buffer_size(block->weight[i]));
  return bytes;
}

uint64_t moecl_block_workspace_size(const moecl_block *block, int64_t num_tokens, bool cached) {
  block_plan built;
  if (!block || num_tokens < 0 || num_tokens > MOECL_MAX_POSITIONS ||
      num_tokens > MOECL_MAX_ASSIGNMENTS / block->params.layer.top_k)
    return 0;
  if (layer_is_beyond_64_bits(&block->params.layer, num_tokens)) return UINT64_MAX;
  block_plan_build(block, num_tokens, cached ? BLOCK_CACHED : BLOCK_UNCACHED, &built);
  return plan_workspace_bytes(&built.plan);
}
