// SPDX-License-Identifier: MIT
/* The router's choice, one work-item a token: no barriers, and a sorted insertion
 * list that a typical row touches a few times only. Defines: those of rule.clh.
 * Same rules as generic.cl. */
#include "router/rule.clh"
#define MAX_TOP_K 64
#define MAX_EXPERTS 1024
#define HAS_VALUES (!BY_LOGIT || NUM_GROUPS || SECOND_CHOICE == SECOND_CHOICE_SAMPLED)

/* The K largest of `row`, sorted, ties by rising id, into best and best_id.
 * Returns whether all of it is finite. A macro for its two address spaces. */
#define DEFINE_LARGEST(NAME, ROW)                                                                  \
  static inline int NAME(ROW row, int num_experts, int top_k, float *best, int *best_id) {         \
    int finite = 1;                                                                                \
    int filled = 0;                                                                                \
    for (int e = 0; e < num_experts; e++) {                                                        \
      const float x = row[e];                                                                      \
      finite &= isfinite(x) != 0;                                                                  \
      if (filled == top_k && !(x > best[top_k - 1])) continue;                                     \
      int at = filled < top_k ? filled++ : top_k - 1;                                              \
      for (; at > 0 && best[at - 1] < x; at--) {                                                   \
        best[at] = best[at - 1];                                                                   \
        best_id[at] = best_id[at - 1];                                                             \
      }                                                                                            \
      best[at] = x;                                                                                \
      best_id[at] = e;                                                                             \
    }                                                                                              \
    return finite;                                                                                 \
  }
DEFINE_LARGEST(largest_logits, const __global float *)

#if HAS_VALUES
DEFINE_LARGEST(largest_values, const float *)
DEFINE_SCORE(wide_score, float16)

/* Sixteen elements from `at` on; those past the end are the first one again. */
static inline float16 load_wide(const __global float *x, int at, int count) {
  if (at + 16 <= count) return vload16(0, x + at);
  float part[16];
  for (int i = 0; i < 16; i++) part[i] = x[at + i < count ? at + i : 0];
  return vload16(0, part);
}

/* Whether all of a row is finite, and its maximum. */
static inline int measure(const __global float *x, int count, float *maximum) {
  float16 most = (float16)(-INFINITY);
  int finite = 1;
  for (int e = 0; e < count; e += 16) {
    const float16 part = load_wide(x, e, count);
    finite &= all(isfinite(part));
    most = fmax(most, part);
  }
  const float8 a = fmax(most.lo, most.hi);
  const float4 b = fmax(a.lo, a.hi);
  const float2 c = fmax(b.lo, b.hi);
  *maximum = fmax(c.x, c.y);
  return finite;
}

/* Choice values; `row` has room for a multiple of sixteen. False where one is not
 * finite. */
static inline int make_values(const __global float *logits, const __global float *correction_bias,
                              int num_experts, float maximum, float *row, float *total) {
  int finite = 1;
  for (int e = 0; e < num_experts; e += 16) {
    float16 x = load_wide(logits, e, num_experts);
    if (!BY_LOGIT) x = wide_score(x, maximum);
    vstore16(x, 0, row + e);
  }
#if SUMS_ALL && !BY_LOGIT
  *total = 0.0f;
  for (int e = 0; e < num_experts; e++) *total += row[e];
#endif
  for (int e = 0; !BY_LOGIT && e < num_experts; e += 16) {
    float16 x = vload16(0, row + e);
    if (SUMS_ALL) x /= *total;
#if CORRECTION
    x += load_wide(correction_bias, e, num_experts);
#endif
    finite &= all(isfinite(x));
    vstore16(x, 0, row + e);
  }
  return finite;
}
#endif

#if NUM_GROUPS
DEFINE_GROUPS(__private)

/* Takes the value from the experts of groups that are not among the best. */
static inline void limit_to_groups(float *row, int members) {
  float group[NUM_GROUPS];
  for (int g = 0; g < NUM_GROUPS; g++) group[g] = group_score(row + g * members, members);
  for (int g = 0; g < NUM_GROUPS; g++) {
    const bool is_taken = group_is_taken(group, g);
    for (int i = 0; !is_taken && i < members; i++) row[g * members + i] = CUT_VALUE;
  }
}
#endif

/* Sparsemixer's score of choice k: the experts that are not chosen before it are
 * those that are not better. */
static inline float mixer_score(const __global float *logits, int num_experts, float best, int id) {
  float sum = 0.0f;
  for (int e = 0; e < num_experts; e++)
    if (logits[e] < best || (logits[e] == best && e >= id)) sum += mixer_share(logits[e], best);
  return 1.0f / sum;
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
topk(const __global float *logits, const __global float *correction_bias, __global int *topk_ids,
     __global float *topk_weights, int num_experts, int top_k, ulong seed) {
  float best[MAX_TOP_K];
  int best_id[MAX_TOP_K];
  float total = 1.0f;
  const size_t token = get_group_id(0);
  logits += token * (size_t)num_experts;
  topk_ids += token * (size_t)top_k;
  topk_weights += token * (size_t)top_k;

#if HAS_VALUES
  float row[MAX_EXPERTS], maximum;
  if (!measure(logits, num_experts, &maximum) ||
      !make_values(logits, correction_bias, num_experts, maximum, row, &total)) {
    route_nowhere(topk_ids, topk_weights, 0, top_k, 1);
    return;
  }
#if NUM_GROUPS
  limit_to_groups(row, num_experts / NUM_GROUPS);
  for (int e = 0; e < num_experts; e++) row[e] = value_in_groups(row[e], logits[e]);
#endif
#if SECOND_CHOICE == SECOND_CHOICE_SAMPLED
  largest_values(row, num_experts, 1, best, best_id);
  for (int e = 0; e < num_experts; e++) row[e] += draw_gumbel(seed, token, (uint)e);
  row[best_id[0]] = -INFINITY;
  if (top_k > 1) largest_values(row, num_experts, top_k - 1, best + 1, best_id + 1);
#else
  largest_values(row, num_experts, top_k, best, best_id);
#endif
#else
  if (!largest_logits(logits, num_experts, top_k, best, best_id)) {
    route_nowhere(topk_ids, topk_weights, 0, top_k, 1);
    return;
  }
  const float maximum = best[0];
#endif

#if SUMS_ALL && BY_LOGIT
  total = 0.0f;
  for (int e = 0; e < num_experts; e++) total += exp(logits[e] - maximum);
#endif
  for (int k = 0; k < top_k; k++) {
    topk_ids[k] = best_id[k];
#if SCORING == SCORING_SPARSEMIXER
    topk_weights[k] = mixer_score(logits, num_experts, best[k], best_id[k]);
#else
    topk_weights[k] = chosen_score(HAS_VALUES ? logits[best_id[k]] : best[k], maximum);
#endif
  }
  rule_finish(topk_ids, topk_weights, top_k, maximum, total, token, seed);
}
