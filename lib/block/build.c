// SPDX-License-Identifier: MIT
/* A block's plan: its own steps, and between them its layer's. */
#include "base/base.h"
#include "block/block.h"
#include "plan/gemm_step.h"
#include <stdio.h>

/* ---- tensors ---- */

static void add_weights(const moecl_block *block, plan *p, block_tensors *at) {
  static const char *const names[MOECL_BLOCK_TENSOR_COUNT] = {
      [MOECL_ATTENTION_NORM] = "attention_norm_weight",
      [MOECL_ATTENTION_NORM_BIAS] = "attention_norm_bias",
      [MOECL_Q_NORM] = "q_norm_weight",
      [MOECL_K_NORM] = "k_norm_weight",
      [MOECL_SINKS] = "sinks",
      [MOECL_FEED_FORWARD_NORM] = "feed_forward_norm_weight",
      [MOECL_FEED_FORWARD_NORM_BIAS] = "feed_forward_norm_bias",
      [MOECL_RELATIVE_BIAS] = "relative_attention_bias"};
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const int64_t size = moecl_block_tensor_size(&block->params, (moecl_block_tensor)i);
    at->weight[i] = PLAN_NONE;
    if (names[i] && size > 0)
      at->weight[i] = plan_add(p, MOECL_LIFE_WEIGHT, names[i], block->stored, 1, (uint64_t)size);
  }
}

/* Keys and values of the tokens alone, or a cache's, which is no part of the plan. */
static void add_keys(const moecl_block *block, plan *p, block_tensors *at) {
  const bool cached = p->key == BLOCK_CACHED;
  const desc_attention *what = &block->attention;
  const op_cache_layout *layout = &block->attend.layout;
  const uint64_t capacity = cached ? 0 : op_cache_capacity(layout, (uint64_t)p->num_tokens);
  const uint64_t rows = capacity * (uint64_t)what->num_kv_heads;
  const moecl_life life = cached ? MOECL_LIFE_INPUT : MOECL_LIFE_TEMPORARY;
  at->keys = plan_add_bytes(p, life, "keys", block->stored, rows, (uint64_t)what->head_dim,
                            op_cache_key_bytes(what, block->stored, capacity));
  at->values = plan_add_bytes(p, life, "values", block->stored, rows, (uint64_t)what->head_dim,
                              op_cache_value_bytes(what, layout, block->stored, capacity));
}

/* What attention splits the keys of few tokens into. */
static void add_parts(const moecl_block *block, plan *p, block_tensors *at) {
  const desc_format *f32 = desc_format_of(MOECL_F32);
  const uint64_t bytes = op_attention_parts_bytes(&block->attend, p->num_tokens);
  at->parts = bytes == 0 ? PLAN_NONE
                         : plan_add_bytes(p, MOECL_LIFE_TEMPORARY, "attention_parts", f32, 1,
                                          bytes / sizeof(float), bytes);
}

static void add_tensors(const moecl_block *block, plan *p, block_tensors *at) {
  const uint64_t tokens = (uint64_t)p->num_tokens;
  const uint64_t hidden = (uint64_t)block->params.layer.hidden_size;
  const uint64_t queries = (uint64_t)desc_query_size(&block->attention);
  const uint64_t qkv = (uint64_t)desc_qkv_size(&block->attention);
  const desc_format *stored = block->stored, *rows = block->rows;
  const moecl_life temporary = MOECL_LIFE_TEMPORARY;
  at->hidden_states = plan_add(p, MOECL_LIFE_INPUT, "hidden_states", stored, tokens, hidden);
  at->output = plan_add(p, MOECL_LIFE_OUTPUT, "output", stored, tokens, hidden);
  at->normalized = plan_add(p, temporary, "normalized", rows, tokens, hidden);
  at->qkv = plan_add(p, temporary, "qkv", rows, tokens, qkv);
  add_keys(block, p, at);
  add_parts(block, p, at);
  at->attended = plan_add(p, temporary, "attended", rows, tokens, queries);
  at->projected = plan_add(p, temporary, "projected", block->outputs, tokens, hidden);
  at->sum = plan_add(p, temporary, "sum", stored, tokens, hidden);
  at->feed_forward_input = plan_add(p, temporary, "feed_forward_input", stored, tokens, hidden);
  at->feed_forward_output = plan_add(p, temporary, "feed_forward_output", stored, tokens, hidden);
  add_weights(block, p, at);
}

/* ---- steps ---- */

enum { NORM_INPUT, NORM_RESIDUAL, NORM_SUM, NORM_WEIGHT, NORM_BIAS, NORM_OUTPUT, NORM_COUNT };

static moecl_status run_norm(void *user, ocl_chain *chain, const plan_call *call) {
  const op_norm_io io = {.rows = call->num_tokens,
                         .input = call->buffer[NORM_INPUT],
                         .residual = call->buffer[NORM_RESIDUAL],
                         .sum = call->buffer[NORM_SUM],
                         .weight = call->buffer[NORM_WEIGHT],
                         .bias = call->buffer[NORM_BIAS],
                         .output = call->buffer[NORM_OUTPUT]};
  return op_norm_enqueue(user, chain, &io);
}

static void build_norm(plan *p, const char *name, moecl_stage label, const op_norm *norm,
                       const int tensors[NORM_COUNT]) {
  const plan_step step = {.name = name,
                          .operation = "norm",
                          .variant = norm->variant->name,
                          .label = label,
                          .launches = 1,
                          .enqueue = run_norm,
                          .user = (void *)norm};
  plan_add_step(p, &step, tensors, NORM_COUNT);
}

static moecl_status run_rotary(void *user, ocl_chain *chain, const plan_call *call) {
  const op_rotary_io io = {.num_tokens = call->num_tokens,
                           .context = call->with.context,
                           .capacity = call->with.capacity,
                           .qkv = call->buffer[0],
                           .q_norm = call->buffer[1],
                           .k_norm = call->buffer[2],
                           .keys = call->buffer[3],
                           .values = call->buffer[4]};
  return op_rotary_enqueue(user, chain, &io);
}

static void explain_rotary(const void *user, int64_t number, char *text, size_t size) {
  const desc_rotary *turned = &((const op_rotary *)user)->desc.attention.rotary;
  (void)number;
  if (turned->dim == 0) snprintf(text, size, "keys and values into the cache; nothing is turned");
  else
    snprintf(text, size, "%lld of %lld elements turned, scaling %s", (long long)turned->dim,
             (long long)((const op_rotary *)user)->desc.attention.head_dim,
             moecl_rope_scaling_name(turned->scaling));
}

static void build_rotary(const moecl_block *block, plan *p, const block_tensors *at) {
  const plan_step step = {.name = "rotary",
                          .operation = "rotary",
                          .variant = block->rotary.variant->name,
                          .label = MOECL_STAGE_ROTARY,
                          .launches = 1,
                          .enqueue = run_rotary,
                          .explain = explain_rotary,
                          .user = (void *)&block->rotary};
  const int tensors[] = {at->qkv, at->weight[MOECL_Q_NORM], at->weight[MOECL_K_NORM], at->keys,
                         at->values};
  plan_add_step(p, &step, tensors, BASE_COUNT(tensors));
}

static moecl_status run_attention(void *user, ocl_chain *chain, const plan_call *call) {
  const op_attention_io io = {.num_tokens = call->num_tokens,
                              .context = call->with.context,
                              .capacity = call->with.capacity,
                              .qkv = call->buffer[0],
                              .keys = call->buffer[1],
                              .values = call->buffer[2],
                              .sinks = call->buffer[3],
                              .output = call->buffer[4],
                              .parts = call->buffer[5],
                              .relative_bias = call->buffer[6]};
  return op_attention_enqueue(user, chain, &io);
}

static void explain_attention(const void *user, int64_t number, char *text, size_t size) {
  op_attention_explain(user, number, text, size);
}

static void build_attention(const moecl_block *block, plan *p, const block_tensors *at) {
  const plan_step step = {.name = "attention",
                          .operation = "attention",
                          .variant = block->attend.variant->name,
                          .label = MOECL_STAGE_ATTENTION,
                          .launches = op_attention_launches(&block->attend, p->num_tokens),
                          .enqueue = run_attention,
                          .explain = explain_attention,
                          .number = p->num_tokens,
                          .user = (void *)&block->attend};
  const int tensors[] = {at->qkv,
                         at->keys,
                         at->values,
                         at->weight[MOECL_SINKS],
                         at->attended,
                         at->parts,
                         at->weight[MOECL_RELATIVE_BIAS]};
  plan_add_step(p, &step, tensors, BASE_COUNT(tensors));
}

static void build_first_half(const moecl_block *block, plan *p, const block_tensors *at) {
  const int first[NORM_COUNT] = {[NORM_INPUT] = at->hidden_states,
                                 [NORM_RESIDUAL] = PLAN_NONE,
                                 [NORM_SUM] = PLAN_NONE,
                                 [NORM_WEIGHT] = at->weight[MOECL_ATTENTION_NORM],
                                 [NORM_BIAS] = at->weight[MOECL_ATTENTION_NORM_BIAS],
                                 [NORM_OUTPUT] = at->normalized};
  const plan_gemm_tensors qkv = {.input = at->normalized, .output = at->qkv};
  const plan_gemm_tensors o = {.input = at->attended, .output = at->projected};
  build_norm(p, "attention_norm", MOECL_STAGE_ATTENTION_NORM, &block->attention_norm, first);
  plan_add_gemm(p, "qkv_proj", MOECL_STAGE_QKV_PROJ, block->qkv, p->num_tokens, &qkv);
  build_rotary(block, p, at);
  build_attention(block, p, at);
  plan_add_gemm(p, "o_proj", MOECL_STAGE_O_PROJ, block->o, p->num_tokens, &o);
}

static void build_second_half(const moecl_block *block, plan *p, const block_tensors *at,
                              layer_tensors *layer) {
  const int second[NORM_COUNT] = {[NORM_INPUT] = at->hidden_states,
                                  [NORM_RESIDUAL] = at->projected,
                                  [NORM_SUM] = at->sum,
                                  [NORM_WEIGHT] = at->weight[MOECL_FEED_FORWARD_NORM],
                                  [NORM_BIAS] = at->weight[MOECL_FEED_FORWARD_NORM_BIAS],
                                  [NORM_OUTPUT] = at->feed_forward_input};
  const int last[NORM_COUNT] = {[NORM_INPUT] = at->sum,  [NORM_RESIDUAL] = at->feed_forward_output,
                                [NORM_SUM] = at->output, [NORM_WEIGHT] = PLAN_NONE,
                                [NORM_BIAS] = PLAN_NONE, [NORM_OUTPUT] = PLAN_NONE};
  build_norm(p, "feed_forward_norm", MOECL_STAGE_FEED_FORWARD_NORM, &block->feed_forward_norm,
             second);
  layer_append(block->layer, p, at->feed_forward_input, at->feed_forward_output, layer);
  build_norm(p, "residual", MOECL_STAGE_RESIDUAL, &block->residual, last);
}

/* ---- the plan ---- */

void block_plan_build(const moecl_block *block, int64_t num_tokens, int key, block_plan *built) {
  plan *p = &built->plan;
  plan_begin(p, num_tokens, key, block->context->address_align);
  add_tensors(block, p, &built->at);
  build_first_half(block, p, &built->at);
  build_second_half(block, p, &built->at, &built->layer);
  plan_arrange(p);
}

static void build(const void *owner, int64_t num_tokens, int key, plan *plan) {
  block_plan_build(owner, num_tokens, key, (block_plan *)plan);
}

static plan_builder plans_of(const moecl_block *block) {
  return (plan_builder){sizeof(block_plan), build, block};
}

moecl_status block_plan_for(moecl_block *block, int64_t num_tokens, int key, block_plan **found) {
  const plan_builder plans = plans_of(block);
  return plan_space_plan(&block->space, block->context, &plans, num_tokens, key, (plan **)found);
}

moecl_status moecl_block_reserve(moecl_block *block, int64_t num_tokens, bool cached) {
  if (!block) return MOECL_ERROR_INVALID_ARGUMENT;
  const plan_builder plans = plans_of(block);
  MOECL_TRY(block_check_tokens(block, num_tokens));
  MOECL_TRY(layer_check_reserve(block->context, &block->params.layer, num_tokens));
  return plan_space_reserve(&block->space, block->context, &plans, num_tokens,
                            cached ? BLOCK_CACHED : BLOCK_UNCACHED);
}
