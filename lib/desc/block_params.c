// SPDX-License-Identifier: MIT
/* What can be said of block parameters without a device. */
#include "base/base.h"
#include "base/log.h"
#include "desc/block.h"
#include "moecl/moecl.h"
#include <math.h>

/* The first thing that is wrong, as a sentence. */
typedef struct complaint {
  char *message;
  size_t size;
  bool made;
} complaint;

__attribute__((format(printf, 2, 3))) static void complain(complaint *c, const char *format, ...) {
  va_list list;
  if (!c->made && c->message && c->size > 0) {
    va_start(list, format);
    base_vformat(c->message, c->size, format, list);
    va_end(list);
  }
  c->made = true;
}

static void check_range(complaint *c, const char *field, int64_t value, int64_t least,
                        int64_t most) {
  if (value < least || value > most)
    complain(c, "%s is %lld, expected %lld to %lld", field, (long long)value, (long long)least,
             (long long)most);
}

/* A number for which 0 stands for the default or for none. */
static void check_number(complaint *c, const char *field, double value) {
  if (!(value >= 0 && isfinite(value)))
    complain(c, "%s is %g, expected a finite number that is not below 0", field, value);
}

static void check_positive(complaint *c, const char *field, double value) {
  if (!(value > 0 && isfinite(value)))
    complain(c, "%s is %g, expected a finite number greater than 0", field, value);
}

static void check_reserved(complaint *c, const char *type, const uint64_t *reserved, size_t count) {
  const size_t unknown = base_first_set(reserved, count);
  if (unknown < count) complain(c, LOG_RESERVED, type, unknown, moecl_version());
}

static void check_norm(complaint *c, const char *field, const moecl_norm_params *norm) {
  check_reserved(c, "moecl_norm_params", norm->reserved, BASE_COUNT(norm->reserved));
  if ((int)norm->kind < 0 || norm->kind >= MOECL_NORM_COUNT)
    complain(c, "%s.kind is %d, expected a moecl_norm", field, (int)norm->kind);
  if (!(norm->epsilon >= 0 && isfinite(norm->epsilon)))
    complain(c, "%s.epsilon is %g, expected a finite number that is not below 0", field,
             (double)norm->epsilon);
}

static void check_scaling(complaint *c, const moecl_rope_params *rope) {
  if (rope->scaling == MOECL_ROPE_UNSCALED) return;
  check_positive(c, "rope.factor", rope->factor);
  if (rope->scaling == MOECL_ROPE_LINEAR) return;
  check_positive(c, "rope.original_positions", rope->original_positions);
  if (rope->scaling == MOECL_ROPE_YARN) {
    check_number(c, "rope.beta_fast", rope->beta_fast);
    check_number(c, "rope.beta_slow", rope->beta_slow);
    check_number(c, "rope.attention_factor", rope->attention_factor);
    return;
  }
  check_positive(c, "rope.low_freq_factor", rope->low_freq_factor);
  check_positive(c, "rope.high_freq_factor", rope->high_freq_factor);
  if (!(rope->high_freq_factor > rope->low_freq_factor))
    complain(c, "rope.high_freq_factor is %g, expected more than rope.low_freq_factor (%g)",
             rope->high_freq_factor, rope->low_freq_factor);
}

static void check_rope(complaint *c, const moecl_rope_params *rope, int64_t head_dim) {
  check_reserved(c, "moecl_rope_params", rope->reserved, BASE_COUNT(rope->reserved));
  if ((int)rope->scaling < 0 || rope->scaling >= MOECL_ROPE_SCALING_COUNT)
    complain(c, "rope.scaling is %d, expected a moecl_rope_scaling", (int)rope->scaling);
  if (rope->theta == 0) return;
  if (!(rope->theta > 1 && isfinite(rope->theta)))
    complain(c, "rope.theta is %g, expected a finite number greater than 1, or 0 for none",
             rope->theta);
  check_range(c, "rope.dim", rope->dim, 0, head_dim);
  if (rope->dim % 2 != 0)
    complain(c, "rope.dim is %lld, expected an even number", (long long)rope->dim);
  if (rope->dim == 0 && head_dim % 2 != 0)
    complain(c,
             "head_dim is %lld, of which rope turns pairs: expected an even number, an even "
             "rope.dim, or no rope.theta",
             (long long)head_dim);
  check_scaling(c, rope);
}

static void check_relative(complaint *c, const moecl_block_params *params) {
  const moecl_attention_params *p = &params->attention;
  const bool causal = !p->not_causal;
  if (p->relative_attention_num_buckets == 0) return;
  check_range(c, "relative_attention_num_buckets", p->relative_attention_num_buckets,
              causal ? 2 : 4, MOECL_MAX_RELATIVE_BUCKETS);
  check_range(c, "relative_attention_max_distance", p->relative_attention_max_distance, 0,
              MOECL_MAX_RELATIVE_DISTANCE);
  if (c->made) return;
  const desc_relative relative = desc_attention_of(params).relative;
  const int64_t exact = desc_relative_exact(&relative, causal);
  if (relative.max_distance <= exact)
    complain(c,
             "relative_attention_max_distance is %lld, expected more than %lld, half of a side's "
             "relative_attention_num_buckets (%lld)",
             (long long)relative.max_distance, (long long)exact, (long long)relative.num_buckets);
}

static void check_attention(complaint *c, const moecl_block_params *params) {
  const moecl_attention_params *p = &params->attention;
  check_reserved(c, "moecl_attention_params", p->reserved, BASE_COUNT(p->reserved));
  check_range(c, "num_heads", p->num_heads, 1, MOECL_MAX_HEADS);
  if (c->made) return;
  check_range(c, "num_kv_heads", p->num_kv_heads, 0, p->num_heads);
  if (p->num_kv_heads > 0 && p->num_heads % p->num_kv_heads != 0)
    complain(c, "num_kv_heads is %lld, expected a divisor of num_heads (%lld)",
             (long long)p->num_kv_heads, (long long)p->num_heads);
  if (p->head_dim == 0 && params->layer.hidden_size % p->num_heads != 0)
    complain(c, "num_heads is %lld, and hidden_size %lld no multiple of it: expected a head_dim",
             (long long)p->num_heads, (long long)params->layer.hidden_size);
  const int64_t dim = p->head_dim ? p->head_dim : params->layer.hidden_size / p->num_heads;
  check_range(c, "head_dim", dim, 1, MOECL_MAX_HEAD_DIM);
  check_range(c, "sliding_window", p->sliding_window, 0, MOECL_MAX_POSITIONS);
  check_number(c, "scale", (double)p->scale);
  check_number(c, "qk_norm_epsilon", (double)p->qk_norm_epsilon);
  check_number(c, "clip_qkv", (double)p->clip_qkv);
  if ((int)p->qk_norm < 0 || p->qk_norm >= MOECL_QK_NORM_COUNT)
    complain(c, "qk_norm is %d, expected a moecl_qk_norm", (int)p->qk_norm);
  check_rope(c, &p->rope, dim);
  check_relative(c, params);
}

moecl_status moecl_block_params_check(const moecl_block_params *params, char *message,
                                      size_t size) {
  complaint c = {message, size, false};
  if (!params) {
    complain(&c, "params is NULL");
    return MOECL_ERROR_INVALID_ARGUMENT;
  }
  MOECL_TRY(moecl_layer_params_check(&params->layer, message, size));
  check_reserved(&c, "moecl_block_params", params->reserved, BASE_COUNT(params->reserved));
  check_norm(&c, "attention_norm", &params->attention_norm);
  check_norm(&c, "feed_forward_norm", &params->feed_forward_norm);
  check_attention(&c, params);
  if (params->layer.expert_cache != 0)
    complain(&c, "layer.expert_cache is %lld, expected 0: a block's experts are on the device",
             (long long)params->layer.expert_cache);
  return c.made ? MOECL_ERROR_INVALID_ARGUMENT : MOECL_OK;
}
