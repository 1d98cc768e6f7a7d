// SPDX-License-Identifier: MIT
/* The reference of single operations, for their self-checks: where there are calls of the
 * same names in include/moecl/reference.h, what it says of them, without a layer. */
#ifndef MOECL_LIB_REF_REF_H
#define MOECL_LIB_REF_REF_H

#include "desc/attention.h"
#include "desc/format.h"
#include "desc/norm.h"
#include "desc/rule.h"

double ref_topk(const desc_rule *rule, const double *logits, const double *correction_bias,
                uint64_t seed, int64_t token, int32_t *ids, double *weights, double *scores);
double ref_weight_floor(const desc_rule *rule);
moecl_status ref_capacity(const desc_dispatch *dispatch, int64_t num_tokens,
                          const int32_t *topk_ids, const float *topk_weights,
                          const float *token_priority, uint8_t *kept);
void ref_kept_weights(const desc_dispatch *dispatch, const float *topk_weights, const uint8_t *kept,
                      double *weights);

/* `count` doubles, `times` over, malloc'ed; NULL: no memory. */
double *ref_doubles(int64_t count, int64_t times);

/* One row's numbers as the format, of moecl_format_is_for_activations, has them: cl/quantize. */
void ref_quantize(const desc_format *format, uint64_t columns, double *row);

/* One row, y may be x. `weight` NULL: all are 1; `bias` is read where the norm has one. */
void ref_norm(const desc_norm *norm, const double *x, const double *weight, const double *bias,
              double *y);
/* One head [head_dim] of the token at `position`, in place. */
void ref_rotate(const desc_rotary *rotary, int64_t position, double *head);
/* Numbers cut to the attention's clip, in place, where it has one. */
void ref_clip(const desc_attention *attention, int64_t count, double *values);
/* A token's queries or keys [num_heads, head_dim], in place: normalized, with weights
 * [head_dim], or [num_heads * head_dim] for MOECL_QK_NORM_FULL, cut and rotated. */
void ref_prepare_heads(const desc_attention *attention, int64_t num_heads, int64_t position,
                       const double *norm_weight, double *heads);
/* All heads of the query at `position`; `share` has room for num_keys numbers. */
void ref_attention_token(const desc_attention *attention, int64_t position, int64_t num_keys,
                         const double *query, const double *keys, const double *values,
                         const double *sinks, const double *relative_bias, double *share,
                         double *output);
/* The last num_queries tokens of num_keys: queries and output [num_queries, num_heads,
 * head_dim], keys and values [num_keys, num_kv_heads, head_dim], sinks [num_heads],
 * relative_bias [num_buckets, num_heads]; the last two NULL where there are none.
 * MOECL_ERROR_OUT_OF_HOST_MEMORY where the logits of one query cannot be had. */
moecl_status ref_attention(const desc_attention *attention, int64_t num_queries, int64_t num_keys,
                           const double *queries, const double *keys, const double *values,
                           const double *sinks, const double *relative_bias, double *output);

#endif
