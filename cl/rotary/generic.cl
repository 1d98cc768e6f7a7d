// SPDX-License-Identifier: MIT
/* rotary.clh, a work-group of LOCAL for `spans_each` of a token's spans, one after the other. */
#include "rotary/rotary.clh"

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
rotary(__global rows_t *qkv, const __global storage_t *q_norm, const __global storage_t *k_norm,
       const __global ulong *frequency, __global storage_t *keys, __global storage_t *values,
       long context, long capacity, int num_heads, int num_kv_heads, int head_dim, int num_pairs,
       int spans, int spans_each, float epsilon, float magnitude, float clip) {
  __local float part[LOCAL];
  float cosine[(MOST_PAIRS + LOCAL - 1) / LOCAL], sine[(MOST_PAIRS + LOCAL - 1) / LOCAL];
  const int lid = (int)get_local_id(0);
  const ulong groups = (ulong)((spans + spans_each - 1) / spans_each);
  const ulong token = get_group_id(0) / groups;
  const int first = (int)(get_group_id(0) - token * groups) * spans_each;
  const int last = min(first + spans_each, spans);
  const ulong position = (ulong)context + token;
  __global rows_t *row = qkv + token * (ulong)(num_heads + 2 * num_kv_heads) * (ulong)head_dim;
  for (int i = lid; i < num_pairs; i += LOCAL) {
    const float half_turns = half_turns_at(frequency[i], position);
    cosine[i / LOCAL] = magnitude * cospi(half_turns);
    sine[i / LOCAL] = magnitude * sinpi(half_turns);
  }
  for (int span = first; span < last; span++) {
    const int q_spans = QK_NORM == 2 ? 1 : num_heads;
    const bool is_key = span >= q_spans;
    const int heads = QK_NORM != 2 ? 1 : is_key ? num_kv_heads : num_heads;
    const int head = is_key ? span - q_spans : span; /* of the span's first, with QK_NORM 2: 0 */
    __global rows_t *x = row + (size_t)(is_key ? num_heads + head : head) * (size_t)head_dim;
    const __global storage_t *weight = is_key ? k_norm : q_norm;
    float scale = 1.0f;
#if QK_NORM
    float squares = 0.0f;
    for (int i = lid; i < heads * head_dim; i += LOCAL)
      squares = fma(rows_load(x, i), rows_load(x, i), squares);
    scale = 1.0f / sqrt(group_sum(part, lid, squares) / (float)(heads * head_dim) + epsilon);
#endif
    for (int h = 0; h < heads; h++) {
      const int at = h * head_dim;
      const place to = {is_key,          x + at,   keys,    (ulong)(head + h),
                        (ulong)capacity, position, head_dim};
      for (int i = lid; i < num_pairs; i += LOCAL) {
        const int a = INTERLEAVED ? 2 * i : i, b = INTERLEAVED ? 2 * i + 1 : i + num_pairs;
        const float c = cosine[i / LOCAL], s = sine[i / LOCAL];
        const float u = prepared(x, at + a, scale, weight, clip);
        const float v = prepared(x, at + b, scale, weight, clip);
        put(u * c - v * s, &to, a);
        put(u * s + v * c, &to, b);
      }
      for (int d = 2 * num_pairs + lid; d < head_dim; d += LOCAL)
        put(prepared(x, at + d, scale, weight, clip), &to, d);
      const __global rows_t *value = x + (size_t)(num_kv_heads + h) * (size_t)head_dim;
      for (int d = lid; is_key && d < head_dim; d += LOCAL)
        storage_store(cut(rows_load(value, d), clip), values,
                      value_at((ulong)(head + h), (ulong)capacity, position) + d);
    }
  }
}
