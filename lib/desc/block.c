// SPDX-License-Identifier: MIT
#include "desc/block.h"
#include <math.h>

static const double EPSILON = 1e-5;
enum { MAX_DISTANCE = 128 };

desc_norm desc_norm_of(const moecl_block_params *params, const moecl_norm_params *norm) {
  return (desc_norm){.kind = norm->kind,
                     .size = params->layer.hidden_size,
                     .epsilon = norm->epsilon > 0 ? (double)norm->epsilon : EPSILON,
                     .plus_one = norm->plus_one,
                     .bias = norm->bias};
}

static double yarn_factor(const moecl_rope_params *rope) {
  if (rope->attention_factor > 0) return rope->attention_factor;
  return rope->factor > 1 ? 0.1 * log(rope->factor) + 1 : 1;
}

static desc_rotary rotary_of(const moecl_rope_params *rope, int64_t head_dim) {
  if (!(rope->theta > 0)) return (desc_rotary){0};
  return (desc_rotary){.dim = rope->dim > 0 ? rope->dim : head_dim,
                       .theta = rope->theta,
                       .interleaved = rope->interleaved,
                       .scaling = rope->scaling,
                       .factor = rope->factor,
                       .original_positions = rope->original_positions,
                       .low_freq_factor = rope->low_freq_factor,
                       .high_freq_factor = rope->high_freq_factor,
                       .beta_fast = rope->beta_fast > 0 ? rope->beta_fast : 32,
                       .beta_slow = rope->beta_slow > 0 ? rope->beta_slow : 1,
                       .not_truncated = rope->not_truncated,
                       .attention_factor = yarn_factor(rope)};
}

static desc_relative relative_of(const moecl_attention_params *p) {
  const int64_t most = p->relative_attention_max_distance;
  if (p->relative_attention_num_buckets == 0) return (desc_relative){0};
  return (desc_relative){p->relative_attention_num_buckets, most > 0 ? most : MAX_DISTANCE};
}

desc_attention desc_attention_of(const moecl_block_params *params) {
  const moecl_attention_params *p = &params->attention;
  const int64_t dim = p->head_dim > 0 ? p->head_dim : params->layer.hidden_size / p->num_heads;
  return (desc_attention){.num_heads = p->num_heads,
                          .num_kv_heads = p->num_kv_heads > 0 ? p->num_kv_heads : p->num_heads,
                          .head_dim = dim,
                          .causal = !p->not_causal,
                          .window = p->sliding_window,
                          .scale = p->scale > 0 ? (double)p->scale : 1 / sqrt((double)dim),
                          .sinks = p->sinks,
                          .qk_norm = p->qk_norm,
                          .qk_norm_epsilon =
                              p->qk_norm_epsilon > 0 ? (double)p->qk_norm_epsilon : EPSILON,
                          .qk_norm_plus_one = p->qk_norm_plus_one,
                          .rotary = rotary_of(&p->rope, dim),
                          .relative = relative_of(p),
                          .clip = (double)p->clip_qkv};
}

int64_t moecl_block_tensor_size(const moecl_block_params *params, moecl_block_tensor tensor) {
  if (!params) return 0;
  const desc_attention attention = desc_attention_of(params);
  const int64_t hidden = params->layer.hidden_size;
  const bool full = attention.qk_norm == MOECL_QK_NORM_FULL;
  switch (tensor) {
  case MOECL_ATTENTION_NORM:
  case MOECL_FEED_FORWARD_NORM: return hidden;
  case MOECL_ATTENTION_NORM_BIAS: return params->attention_norm.bias ? hidden : 0;
  case MOECL_FEED_FORWARD_NORM_BIAS: return params->feed_forward_norm.bias ? hidden : 0;
  case MOECL_QKV_PROJ: return desc_qkv_size(&attention) * hidden;
  case MOECL_QKV_BIAS: return params->attention.qkv_bias ? desc_qkv_size(&attention) : 0;
  case MOECL_O_PROJ: return desc_query_size(&attention) * hidden;
  case MOECL_O_BIAS: return params->attention.output_bias ? hidden : 0;
  case MOECL_SINKS: return attention.sinks ? attention.num_heads : 0;
  case MOECL_RELATIVE_BIAS: return attention.relative.num_buckets * attention.num_heads;
  case MOECL_Q_NORM:
    if (attention.qk_norm == MOECL_QK_NORM_NONE) return 0;
    return full ? desc_query_size(&attention) : attention.head_dim;
  case MOECL_K_NORM:
    if (attention.qk_norm == MOECL_QK_NORM_NONE) return 0;
    return full ? desc_key_size(&attention) : attention.head_dim;
  case MOECL_BLOCK_TENSOR_COUNT: break;
  }
  return 0;
}
