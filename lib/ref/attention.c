// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "ref/ref.h"
#include <math.h>
#include <stdlib.h>

/* What is added to the logit of a key so far behind the query; bias: the head's, in the first
 * bucket. */
static double bias_of(const desc_attention *attention, const double *bias, int64_t distance) {
  if (attention->relative.num_buckets == 0) return 0;
  const int64_t bucket = desc_relative_bucket(&attention->relative, attention->causal, distance);
  return bias[bucket * attention->num_heads];
}

/* One query of one head. `share` has room for all keys' logits. */
static void attend(const desc_attention *attention, int64_t position, int64_t num_keys,
                   const double *query, const double *keys, const double *values,
                   const double *sink, const double *bias, double *share, double *output) {
  const int64_t dim = attention->head_dim, row = desc_key_size(attention);
  int64_t first, end;
  desc_attended(attention, position, num_keys, &first, &end);
  double largest = sink ? *sink : -INFINITY, sum = 0;
  for (int64_t s = first; s < end; s++) {
    double product = 0;
    for (int64_t d = 0; d < dim; d++) product += query[d] * keys[s * row + d];
    share[s] = product * attention->scale + bias_of(attention, bias, s - position);
    largest = fmax(largest, share[s]);
  }
  if (sink) sum = exp(*sink - largest);
  for (int64_t s = first; s < end; s++) sum += share[s] = exp(share[s] - largest);
  for (int64_t d = 0; d < dim; d++) {
    output[d] = 0;
    for (int64_t s = first; s < end; s++) output[d] += share[s] / sum * values[s * row + d];
  }
}

void ref_attention_token(const desc_attention *attention, int64_t position, int64_t num_keys,
                         const double *query, const double *keys, const double *values,
                         const double *sinks, const double *relative_bias, double *share,
                         double *output) {
  const int64_t dim = attention->head_dim, group = attention->num_heads / attention->num_kv_heads;
  for (int64_t head = 0; head < attention->num_heads; head++) {
    const int64_t at = head * dim, shared = head / group * dim;
    attend(attention, position, num_keys, query + at, keys + shared, values + shared,
           attention->sinks ? &sinks[head] : NULL,
           attention->relative.num_buckets ? &relative_bias[head] : NULL, share, output + at);
  }
}

moecl_status ref_attention(const desc_attention *attention, int64_t num_queries, int64_t num_keys,
                           const double *queries, const double *keys, const double *values,
                           const double *sinks, const double *relative_bias, double *output) {
  const int64_t size = desc_query_size(attention);
  double *share = malloc(((size_t)num_keys + 1) * sizeof *share);
  if (!share) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t t = 0; t < num_queries; t++)
    ref_attention_token(attention, num_keys - num_queries + t, num_keys, queries + t * size, keys,
                        values, sinks, relative_bias, share, output + t * size);
  free(share);
  return MOECL_OK;
}
