// SPDX-License-Identifier: MIT
/* How a variant of attention has keys and values, which rotary writes for it: as
 * cl/attention/cache.clh says, each in a buffer [num_kv_heads][capacity] of tokens. */
#ifndef MOECL_LIB_OP_ATTENTION_CACHE_H
#define MOECL_LIB_OP_ATTENTION_CACHE_H

#include "base/base.h"
#include "desc/attention.h"
#include "desc/format.h"

enum { OP_ATTENTION_MOST_HEAD_DIM = 256 };

typedef struct op_cache_layout {
  uint32_t key_block;    /* neighbouring tokens' keys that lie element by element; 1: none do */
  uint32_t value_stride; /* elements of a head's value, with its padding */
} op_cache_layout;

/* Tokens that there is room for where there has to be for so many. */
static inline uint64_t op_cache_capacity(const op_cache_layout *layout, uint64_t tokens) {
  return base_round_up(tokens, layout->key_block);
}

/* Bytes of all keys, and of all values; UINT64_MAX where they do not fit 64 bits. */
static inline uint64_t op_cache_key_bytes(const desc_attention *attention,
                                          const desc_format *format, uint64_t capacity) {
  return desc_format_bytes(format, capacity, (uint64_t)desc_key_size(attention));
}
static inline uint64_t op_cache_value_bytes(const desc_attention *attention,
                                            const op_cache_layout *layout,
                                            const desc_format *format, uint64_t capacity) {
  return desc_format_bytes(format, capacity,
                           (uint64_t)attention->num_kv_heads * layout->value_stride);
}

/* Where an element of a head's key, and of its value, lies. */
static inline uint64_t op_cache_key_at(const op_cache_layout *layout, int64_t head_dim,
                                       uint64_t capacity, int64_t kv_head, int64_t token,
                                       int64_t element) {
  const uint64_t block = (uint64_t)token / layout->key_block * layout->key_block;
  return ((uint64_t)kv_head * capacity + block) * (uint64_t)head_dim +
         (uint64_t)element * layout->key_block + (uint64_t)token % layout->key_block;
}
static inline uint64_t op_cache_value_at(const op_cache_layout *layout, uint64_t capacity,
                                         int64_t kv_head, int64_t token, int64_t element) {
  return ((uint64_t)kv_head * capacity + (uint64_t)token) * layout->value_stride +
         (uint64_t)element;
}

#endif
