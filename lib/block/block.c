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

/* Tensors that are to be set, and where they lie. */
static moecl_status allocate_weights(moecl_block *block) {
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)i;
    if (moecl_block_tensor_size(&block->params, tensor) == 0) continue;
    block->missing++;
    if (!is_of_gemm(tensor) && !block->described)
      MOECL_TRY(
          moecl_buffer_create(block->context, tensor_bytes(block, tensor), &block->weight[i]));
  }
  return MOECL_OK;
}

moecl_status block_make(moecl_context *context, const moecl_block_params *params, bool described,
                        moecl_block **out) {
  char message[256];
  *out = NULL;
  moecl_status status = moecl_block_params_check(params, message, sizeof message);
  if (status != MOECL_OK) return log_error(&context->log, status, "block: %s", message);
  moecl_block *block = calloc(1, sizeof *block);
  if (!block) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  block->context = ocl_context_retain(context);
  block->params = *params;
  block->params.attention_variant = NULL;
  block->params.layer.grouped_gemm_variant = block->params.layer.router_variant = NULL;
  block->described = described;
  block->attention = desc_attention_of(params);
  block->stored = desc_format_of(params->layer.dtype);
  status = layer_make(context, &params->layer, described, &block->layer);
  if (status == MOECL_OK) status = block_make_operations(block, params);
  if (status == MOECL_OK) status = allocate_weights(block);
  if (status != MOECL_OK) moecl_block_destroy(&block);
  *out = block;
  return status;
}

/* As layer_build_ahead. */
static void build_ahead(moecl_context *context, const moecl_block_params *params) {
  moecl_block *described;
  if (!ocl_ahead_begin(context)) return;
  if (block_make(context, params, true, &described) == MOECL_OK) moecl_block_destroy(&described);
  ocl_ahead_end(context);
}

moecl_status moecl_block_create(moecl_context *context, const moecl_block_params *params,
                                moecl_block **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  build_ahead(context, params);
  return block_make(context, params, false, out);
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
    if (!is_of_gemm((moecl_block_tensor)i))
      bytes = add(bytes, tensor_bytes(block, (moecl_block_tensor)i));
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

static void enlarge(uint64_t *largest, uint64_t bytes) {
  if (bytes > *largest) *largest = bytes;
}

moecl_status block_memory(const moecl_block *block, int64_t num_tokens, int64_t capacity,
                          moecl_memory *memory) {
  const moecl_log *log = &block->context->log;
  uint64_t keys = 0, values = 0;
  MOECL_TRY(layer_memory(block->layer, num_tokens, memory));
  if (num_tokens > MOECL_MAX_POSITIONS || capacity < 0 || capacity > MOECL_MAX_POSITIONS)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "block: %lld tokens and a cache for %lld, expected at most %d of either",
                     (long long)num_tokens, (long long)capacity, MOECL_MAX_POSITIONS);
  if (capacity > 0) block_cache_bytes(block, capacity, &keys, &values);
  memory->weight_bytes = moecl_block_weight_bytes(block);
  memory->workspace_bytes = moecl_block_workspace_size(block, num_tokens, capacity > 0);
  memory->cache_bytes = keys + values;
  enlarge(&memory->largest_buffer_bytes, memory->workspace_bytes);
  enlarge(&memory->largest_buffer_bytes, op_gemm_packed_bytes(block->qkv));
  enlarge(&memory->largest_buffer_bytes, op_gemm_packed_bytes(block->o));
  enlarge(&memory->largest_buffer_bytes, keys);
  enlarge(&memory->largest_buffer_bytes, values);
  return MOECL_OK;
}

moecl_status moecl_block_memory(moecl_context *context, const moecl_block_params *params,
                                int64_t num_tokens, int64_t capacity, moecl_memory *memory) {
  if (!memory) return MOECL_ERROR_INVALID_ARGUMENT;
  *memory = (moecl_memory){0};
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_block *block;
  MOECL_TRY(block_make(context, params, true, &block));
  const moecl_status status = block_memory(block, num_tokens, capacity, memory);
  moecl_block_destroy(&block);
  if (status != MOECL_OK) *memory = (moecl_memory){0};
  return status;
}
