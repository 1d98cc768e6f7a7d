// SPDX-License-Identifier: MIT
/* The block's insides: make.c chooses and makes its operations, build.c puts them and its
 * layer's steps into one plan, forward.c runs it, weights.c fills it, cache.c keeps a
 * sequence's keys and values. */
#ifndef MOECL_LIB_BLOCK_BLOCK_H
#define MOECL_LIB_BLOCK_BLOCK_H

#include "desc/block.h"
#include "layer/layer.h"
#include "op/attention/attention.h"
#include "op/norm/norm.h"
#include "op/rotary/rotary.h"

typedef enum block_operation {
  BLOCK_NORM,
  BLOCK_PROJECTIONS,
  BLOCK_ROTARY,
  BLOCK_ATTENTION,
  BLOCK_OPERATION_COUNT
} block_operation;

/* The tensors of a block's plans, by their place in them. */
typedef struct block_tensors {
  int hidden_states, output, normalized, qkv, keys, values, parts, attended, projected;
  int sum, feed_forward_input, feed_forward_output;
  int weight[MOECL_BLOCK_TENSOR_COUNT]; /* PLAN_NONE: a GEMM's, or there is none */
} block_tensors;

typedef struct block_plan {
  plan plan; /* key 1: keys and values are a cache's */
  block_tensors at;
  layer_tensors layer;
} block_plan;

struct moecl_block {
  moecl_context *context;
  bool described;            /* its operations and its layer have no kernels and hold no memory */
  moecl_block_params params; /* the variant names are not kept */
  desc_attention attention;
  const desc_format *stored;  /* of hidden states, the cache and all weights here */
  const desc_format *rows;    /* of what the projections read, and of queries */
  const desc_format *outputs; /* of attention's output as it is added to the residual */
  op_norm attention_norm, feed_forward_norm, residual;
  op_gemm *qkv, *o;
  op_rotary rotary;
  op_attention attend;
  moecl_layer *layer;
  const kernel_variant *variant[BLOCK_OPERATION_COUNT];
  char reason[BLOCK_OPERATION_COUNT][OP_REASON_SIZE];
  moecl_buffer *weight[MOECL_BLOCK_TENSOR_COUNT]; /* NULL: a GEMM's, or there is none */
  bool is_set[MOECL_BLOCK_TENSOR_COUNT];
  int missing; /* tensors not set yet */
  plan_space space;
};

struct moecl_cache {
  moecl_context *context;
  /* What it was made for: blocks of the same may use it. */
  const desc_format *format;
  int64_t num_kv_heads, head_dim;
  op_cache_layout layout;
  int64_t capacity, tokens;
  int64_t written; /* the most tokens that it ever held */
  moecl_buffer *keys, *values;
};

/* ---- make.c ---- */

/* The block's operations, where they lie in it. */
typedef struct block_part {
  const op_kind *kind;
  size_t at;
} block_part;
enum { BLOCK_PARTS = 7 };
extern const block_part block_parts[BLOCK_PARTS];
extern const char *const block_operation_names[BLOCK_OPERATION_COUNT];

moecl_status block_make_operations(moecl_block *block, const moecl_block_params *params);

/* ---- block.c ---- */

/* Makes a block, or describes one, as layer_make does a layer. Destroyed by
 * moecl_block_destroy. */
moecl_status block_make(moecl_context *context, const moecl_block_params *params, bool described,
                        moecl_block **block);
/* moecl_block_memory of a block that was made, or described. */
moecl_status block_memory(const moecl_block *block, int64_t num_tokens, int64_t capacity,
                          moecl_memory *memory);

/* ---- forward.c ---- */

/* Can there be a forward of so many tokens? Logged. */
moecl_status block_check_tokens(const moecl_block *block, int64_t num_tokens);

/* ---- build.c ---- */

/* What a plan's key says. */
enum { BLOCK_UNCACHED, BLOCK_CACHED };
void block_plan_build(const moecl_block *block, int64_t num_tokens, int key, block_plan *built);
moecl_status block_plan_for(moecl_block *block, int64_t num_tokens, int key, block_plan **found);

/* ---- cache.c ---- */

/* Bytes of the keys and of the values of a cache with room for so many tokens. */
void block_cache_bytes(const moecl_block *block, int64_t capacity, uint64_t *keys,
                       uint64_t *values);

/* Can the cache take so many more tokens of the block? Logged. */
moecl_status block_check_cache(const moecl_block *block, const moecl_cache *cache,
                               int64_t num_tokens);

#endif
