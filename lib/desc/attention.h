// SPDX-License-Identifier: MIT
/* Attention as operations and the reference take it, defaults already put in. */
#ifndef MOECL_LIB_DESC_ATTENTION_H
#define MOECL_LIB_DESC_ATTENTION_H

#include "moecl/types.h"

/* Rotary embedding (Su et al. 2021): pairs of a head's first `dim` elements are turned by
 * the token's position times the pair's frequency; the others stay. */
typedef struct desc_rotary {
  int64_t dim; /* even, at most head_dim; 0: nothing is turned */
  double theta;
  bool interleaved; /* pairs are neighbours (GPT-J), else i and i + dim/2 (GPT-NeoX) */
  moecl_rope_scaling scaling;
  double factor;                            /* of all but MOECL_ROPE_UNSCALED */
  double original_positions;                /* of MOECL_ROPE_LLAMA3 and MOECL_ROPE_YARN */
  double low_freq_factor, high_freq_factor; /* of MOECL_ROPE_LLAMA3 */
  double beta_fast, beta_slow;              /* of MOECL_ROPE_YARN */
  bool not_truncated;                       /* likewise: the mixed range ends between pairs */
  double attention_factor;                  /* likewise: what turned elements are multiplied by */
} desc_rotary;

/* Radians that pair `pair`, 0 to dim/2 - 1, turns from a position to the next. */
double desc_rotary_frequency(const desc_rotary *rotary, int64_t pair);
/* What turned elements are multiplied by. */
double desc_rotary_magnitude(const desc_rotary *rotary);

/* T5's buckets of distances (Raffel et al. 2020). */
typedef struct desc_relative {
  int64_t num_buckets; /* of both sides; 0: there is no bias */
  int64_t max_distance;
} desc_relative;

/* How many distances of a side have a bucket of their own, 0 among them. */
int64_t desc_relative_exact(const desc_relative *relative, bool causal);
/* The bucket of a key that stands `distance` behind the query, or before it (less than 0); causal
 * ones have none for keys behind, which are not looked at. */
int64_t desc_relative_bucket(const desc_relative *relative, bool causal, int64_t distance);

/* A query at position p looks at the keys at 0 to p (causal) or at all; of these at those
 * less than `window` away from it. Its logits are its products with them times `scale`,
 * plus the head's bias of the key's bucket where there is one, and its output the sum of their
 * values, weighted by the softmax of the logits. */
typedef struct desc_attention {
  int64_t num_heads, num_kv_heads; /* the second divides the first: heads of a group share
                                      keys and values */
  int64_t head_dim;
  bool causal;
  int64_t window; /* 0: any distance */
  double scale;
  bool sinks; /* each head has one more logit in the softmax, of no key and no value */
  moecl_qk_norm qk_norm;
  double qk_norm_epsilon;
  bool qk_norm_plus_one;
  desc_rotary rotary;
  desc_relative relative;
  double clip; /* queries and keys, before they are rotated, and values are cut to -clip to clip; 0:
                  they are not */
} desc_attention;

/* Elements of a token's queries, of its keys (and of its values), and of all three. */
static inline int64_t desc_query_size(const desc_attention *attention) {
  return attention->num_heads * attention->head_dim;
}
static inline int64_t desc_key_size(const desc_attention *attention) {
  return attention->num_kv_heads * attention->head_dim;
}
static inline int64_t desc_qkv_size(const desc_attention *attention) {
  return desc_query_size(attention) + 2 * desc_key_size(attention);
}

/* The keys that a query looks at among `num_keys`: *first to *end - 1. */
static inline void desc_attended(const desc_attention *attention, int64_t position,
                                 int64_t num_keys, int64_t *first, int64_t *end) {
  const int64_t window = attention->window;
  *first = window > 0 && position >= window ? position - window + 1 : 0;
  *end = attention->causal                            ? position + 1
         : window > 0 && num_keys - position > window ? position + window
                                                      : num_keys;
}

#endif
