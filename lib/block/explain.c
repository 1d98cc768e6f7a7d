// SPDX-License-Identifier: MIT
/* A block's plan for people and programs. */
#include "base/base.h"
#include "block/block.h"
#include "plan/explained.h"

static moecl_plan_tensor packed(const moecl_block *block, const char *name, const op_gemm *gemm,
                                int64_t rows, int64_t columns) {
  return (moecl_plan_tensor){
      .name = name,
      .format = block->stored->name,
      .rows = (uint64_t)rows,
      .columns = (uint64_t)columns,
      .bytes = gemm ? op_gemm_packed_bytes(gemm)
                    : desc_format_bytes(block->stored, (uint64_t)rows, (uint64_t)columns),
      .life = MOECL_LIFE_WEIGHT,
      .first_step = -1,
      .last_step = -1,
      .block = -1};
}

static void list_weights(const moecl_block *block, moecl_plan *made) {
  const int64_t hidden = block->params.layer.hidden_size;
  const int64_t qkv = desc_qkv_size(&block->attention), o = desc_query_size(&block->attention);
  plan_explain_weight(made, packed(block, "qkv_proj", block->qkv, qkv, hidden));
  if (block->params.attention.qkv_bias)
    plan_explain_weight(made, packed(block, "qkv_bias", NULL, 1, qkv));
  plan_explain_weight(made, packed(block, "o_proj", block->o, hidden, o));
  if (block->params.attention.output_bias)
    plan_explain_weight(made, packed(block, "o_bias", NULL, 1, hidden));
  layer_list_weights(block->layer, made);
}

/* The plan knows no cache: its bytes are put in. */
static void set_cache_bytes(const moecl_block *block, int64_t capacity, block_plan *built) {
  plan_tensor *keys = &built->plan.tensor[built->at.keys];
  plan_tensor *values = &built->plan.tensor[built->at.values];
  const uint64_t rows = (uint64_t)(capacity * block->attention.num_kv_heads);
  if (capacity == 0) return;
  block_cache_bytes(block, capacity, &keys->bytes, &values->bytes);
  keys->rows = values->rows = rows;
}

static void destroy(void *owner) {
  moecl_block *block = owner;
  moecl_block_destroy(&block);
}

moecl_status moecl_block_plan_create(moecl_context *context, const moecl_block_params *params,
                                     int64_t num_tokens, int64_t capacity, moecl_plan **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_block *block;
  moecl_memory memory = {0};
  block_plan built;
  MOECL_TRY(block_make(context, params, true, &block));
  moecl_status status = block_memory(block, num_tokens, capacity, &memory);
  if (status == MOECL_OK) {
    block_plan_build(block, num_tokens, capacity > 0 ? BLOCK_CACHED : BLOCK_UNCACHED, &built);
    set_cache_bytes(block, capacity, &built);
    status = plan_explain(context, &built.plan, &memory, block, destroy, out);
  }
  if (status == MOECL_OK) list_weights(block, *out);
  else moecl_block_destroy(&block);
  return status;
}
