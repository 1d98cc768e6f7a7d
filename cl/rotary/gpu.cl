// SPDX-License-Identifier: MIT
/* rotary.clh for GPUs: a work-group of LOCAL has `spans_each` spans of a token at once, LANES
 * work-items a head. Angles are found once for all of them: they are most of the arithmetic. */
#include "rotary/rotary.clh"
#define LANES 32
#define TEAMS (LOCAL / LANES)

/* A work-item's share of a head, or a head and its value: `at` is the head's first element in
 * its span x, `value` the value's. */
static inline void turn_head(const __global rows_t *x, int at, const place *to,
                             const __global storage_t *weight, const __global rows_t *value,
                             __global storage_t *values, const __local float *cosine,
                             const __local float *sine, int num_pairs, float scale, float clip,
                             int lane) {
  for (int i = lane; i < num_pairs; i += LANES) {
    const int a = INTERLEAVED ? 2 * i : i, b = INTERLEAVED ? 2 * i + 1 : i + num_pairs;
    const float u = prepared(x, at + a, scale, weight, clip);
    const float v = prepared(x, at + b, scale, weight, clip);
    put(u * cosine[i] - v * sine[i], to, a);
    put(u * sine[i] + v * cosine[i], to, b);
  }
  for (int d = 2 * num_pairs + lane; d < to->head_dim; d += LANES)
    put(prepared(x, at + d, scale, weight, clip), to, d);
  for (int d = lane; to->is_key && d < to->head_dim; d += LANES)
    storage_store(cut(rows_load(value, d), clip), values,
                  value_at(to->kv_head, to->capacity, to->position) + d);
}

/* The sum over a team; every work-item of the group must call it. */
static inline float team_sum(__local float *part, int lid, float value) {
  barrier(CLK_LOCAL_MEM_FENCE);
  part[lid] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LANES / 2; step > 0; step /= 2) {
    if (lid % LANES < step) part[lid] += part[lid + step];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  return part[lid / LANES * LANES];
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
rotary(__global rows_t *qkv, const __global storage_t *q_norm, const __global storage_t *k_norm,
       const __global ulong *frequency, __global storage_t *keys, __global storage_t *values,
       long context, long capacity, int num_heads, int num_kv_heads, int head_dim, int num_pairs,
       int spans, int spans_each, float epsilon, float magnitude, float clip) {
  __local float part[LOCAL], cosine[MOST_PAIRS], sine[MOST_PAIRS];
  const int lid = (int)get_local_id(0), lane = lid % LANES, team = lid / LANES;
  const ulong groups = (ulong)((spans + spans_each - 1) / spans_each);
  const ulong token = get_group_id(0) / groups;
  const int first = (int)(get_group_id(0) - token * groups) * spans_each;
  const int last = min(first + spans_each, spans);
  const ulong position = (ulong)context + token;
  __global rows_t *row = qkv + token * (ulong)(num_heads + 2 * num_kv_heads) * (ulong)head_dim;
  for (int i = lid; i < num_pairs; i += LOCAL) {
    const float half_turns = half_turns_at(frequency[i], position);
    cosine[i] = magnitude * cospi(half_turns);
    sine[i] = magnitude * sinpi(half_turns);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
#if QK_NORM == 2
  /* All of the group make a span, a team every TEAMSth head. */
  for (int span = first; span < last; span++) {
    const bool is_key = span > 0;
    const int heads = is_key ? num_kv_heads : num_heads;
    __global rows_t *x = row + (size_t)(is_key ? num_heads : 0) * (size_t)head_dim;
    float squares = 0.0f;
    for (int i = lid; i < heads * head_dim; i += LOCAL)
      squares = fma(rows_load(x, i), rows_load(x, i), squares);
    squares = group_sum(part, lid, squares);
    const float scale = 1.0f / sqrt(squares / (float)(heads * head_dim) + epsilon);
    for (int head = team; head < heads; head += TEAMS) {
      const int at = head * head_dim;
      const place to = {is_key, x + at, keys, (ulong)head, (ulong)capacity, position, head_dim};
      turn_head(x, at, &to, is_key ? k_norm : q_norm,
                x + (size_t)(num_kv_heads + head) * (size_t)head_dim, values, cosine, sine,
                num_pairs, scale, clip, lane);
    }
  }
#else
  for (int begin = first; begin < last; begin += TEAMS) {
    const int span = min(begin + team, last - 1);
    const bool is_key = span >= num_heads;
    const int head = is_key ? span - num_heads : span;
    __global rows_t *x = row + (size_t)span * (size_t)head_dim;
    float scale = 1.0f;
#if QK_NORM
    float squares = 0.0f;
    for (int i = lane; i < head_dim; i += LANES)
      squares = fma(rows_load(x, i), rows_load(x, i), squares);
    squares = team_sum(part, lid, squares);
    scale = 1.0f / sqrt(squares / (float)head_dim + epsilon);
#endif
    if (begin + team < last) {
      const place to = {is_key, x, keys, (ulong)head, (ulong)capacity, position, head_dim};
      turn_head(x, 0, &to, is_key ? k_norm : q_norm, x + (size_t)num_kv_heads * (size_t)head_dim,
                values, cosine, sine, num_pairs, scale, clip, lane);
    }
  }
#endif
}
