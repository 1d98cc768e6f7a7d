// SPDX-License-Identifier: MIT
/* Keys and values of a sequence. */
#include "base/base.h"
#include "block/block.h"
#include <stdlib.h>

void block_cache_bytes(const moecl_block *block, int64_t capacity, uint64_t *keys,
                       uint64_t *values) {
  const op_cache_layout *layout = &block->attend.layout;
  const uint64_t room = op_cache_capacity(layout, (uint64_t)capacity);
  *keys = op_cache_key_bytes(&block->attention, block->stored, room);
  *values = op_cache_value_bytes(&block->attention, layout, block->stored, room);
}

static moecl_status allocate(const moecl_block *block, moecl_cache *cache) {
  uint64_t keys, values;
  block_cache_bytes(block, cache->capacity, &keys, &values);
  MOECL_TRY(moecl_buffer_create(cache->context, keys, &cache->keys));
  return moecl_buffer_create(cache->context, values, &cache->values);
}

moecl_status moecl_cache_create(moecl_block *block, int64_t capacity, moecl_cache **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!block) return MOECL_ERROR_INVALID_ARGUMENT;
  if (capacity < 1 || capacity > MOECL_MAX_POSITIONS)
    return log_error(&block->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "cache: capacity is %lld, expected 1 to %d", (long long)capacity,
                     MOECL_MAX_POSITIONS);
  moecl_cache *cache = calloc(1, sizeof *cache);
  if (!cache)
    return log_error(&block->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const op_cache_layout layout = block->attend.layout;
  *cache = (moecl_cache){.context = ocl_context_retain(block->context),
                         .format = block->stored,
                         .num_kv_heads = block->attention.num_kv_heads,
                         .head_dim = block->attention.head_dim,
                         .layout = layout,
                         .capacity = (int64_t)op_cache_capacity(&layout, (uint64_t)capacity)};
  const moecl_status status = allocate(block, cache);
  if (status != MOECL_OK) moecl_cache_destroy(&cache);
  *out = cache;
  return status;
}

void moecl_cache_destroy(moecl_cache **handle) {
  if (!handle || !*handle) return;
  moecl_cache *cache = *handle;
  *handle = NULL;
  moecl_buffer_destroy(&cache->keys);
  moecl_buffer_destroy(&cache->values);
  moecl_context_destroy(&cache->context);
  free(cache);
}

int64_t moecl_cache_tokens(const moecl_cache *cache) { return cache ? cache->tokens : 0; }

uint64_t moecl_cache_bytes(const moecl_cache *cache) {
  return cache ? moecl_buffer_size(cache->keys) + moecl_buffer_size(cache->values) : 0;
}

moecl_status moecl_cache_set_tokens(moecl_cache *cache, int64_t tokens) {
  if (!cache) return MOECL_ERROR_INVALID_ARGUMENT;
  if (tokens < 0 || tokens > cache->written)
    return log_error(&cache->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "cache: tokens is %lld, expected 0 to %lld, the most that it ever held",
                     (long long)tokens, (long long)cache->written);
  cache->tokens = tokens;
  return MOECL_OK;
}

moecl_status block_check_cache(const moecl_block *block, const moecl_cache *cache,
                               int64_t num_tokens) {
  const moecl_log *log = &block->context->log;
  MOECL_TRY(ocl_check_owner(block->context, cache->context, "forward: the cache"));
  const op_cache_layout *layout = &block->attend.layout;
  if (cache->format != block->stored || cache->num_kv_heads != block->attention.num_kv_heads ||
      cache->head_dim != block->attention.head_dim ||
      cache->layout.key_block != layout->key_block ||
      cache->layout.value_stride != layout->value_stride)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "forward: the cache was made for a block of other heads, data type or "
                     "attention variant, expected one of moecl_cache_create for this block");
  if (num_tokens <= cache->capacity - cache->tokens) return MOECL_OK;
  return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                   "forward: %lld tokens after %lld in a cache for %lld, expected a larger cache "
                   "or fewer tokens",
                   (long long)num_tokens, (long long)cache->tokens, (long long)cache->capacity);
}
