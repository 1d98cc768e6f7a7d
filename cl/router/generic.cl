// SPDX-License-Identifier: MIT
/* The router's choice, one work-group a token. Defines: those of rule.clh.
 * Any E up to 1024, any K up to E: K rounds of a tree reduction. Ties go to
 * the lower expert id because the comparison orders (value, -id).
 *
 * A token with a logit or choice value that is not finite is routed nowhere: ids
 * -1, weights 0. */
#include "router/rule.clh"
#define LOCAL 64
#define MAX_EXPERTS 1024

/* The sum, or the extreme, of value[0] to value[LOCAL-1] into value[0], in a fixed
 * order; all must call them, after all have read the values from before. */
static inline void sum_values(__local float *value, int lid) {
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) value[lid] += value[lid + step];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
}
static inline void least_value(__local float *value, int lid) {
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) value[lid] = fmin(value[lid], value[lid + step]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
}
static inline void largest_value(__local float *value, int lid) {
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) value[lid] = fmax(value[lid], value[lid + step]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
}

#if NUM_GROUPS
DEFINE_GROUPS(__local, __local)

/* Takes the value from the experts of groups that are not among the best. */
static inline void limit_to_groups(__local float *row, __local float *group, __local int *is_taken,
                                   int members, int lid) {
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid < NUM_GROUPS) group[lid] = group_score(row + lid * members, members);
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid < NUM_GROUPS) is_taken[lid] = group_is_taken(group, lid);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int e = lid; e < members * NUM_GROUPS; e += LOCAL)
    if (!is_taken[e / members]) row[e] = CUT_VALUE;
  barrier(CLK_LOCAL_MEM_FENCE);
}
#endif

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
topk(const __global float *logits, const __global float *correction_bias, __global int *topk_ids,
     __global float *topk_weights, int num_experts, int top_k, ulong seed, ulong first_token) {
  __local float row[MAX_EXPERTS]; /* choice values */
  __local float value[LOCAL];
  __local int index[LOCAL];
  /* What is carried over barriers is not in registers: see at the end. */
  __local float maximum, total;
  __local int rounds; /* of the choice: top_k, or 0 where the token is routed nowhere */
#if NUM_GROUPS
  __local float group[MAX_GROUPS];
  __local int is_taken[MAX_GROUPS];
#endif
  const size_t token = get_group_id(0);
  const int lid = (int)get_local_id(0);
  logits += token * (size_t)num_experts;
  topk_ids += token * (size_t)top_k;
  topk_weights += token * (size_t)top_k;

  /* Load, with the row's maximum and whether all of it is finite. */
  float most = -INFINITY, sound = 1.0f;
  for (int e = lid; e < num_experts; e += LOCAL) {
    const float x = logits[e];
    row[e] = x;
    sound = isfinite(x) ? sound : 0.0f;
    most = fmax(most, x);
  }
  value[lid] = most;
  largest_value(value, lid);
  if (lid == 0) {
    maximum = value[0];
    total = 1.0f;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

#if SUMS_ALL
  float sum = 0.0f;
  for (int e = lid; e < num_experts; e += LOCAL) sum += exp(row[e] - maximum);
  value[lid] = sum;
  sum_values(value, lid);
  if (lid == 0) total = value[0];
#endif
  barrier(CLK_LOCAL_MEM_FENCE);
#if !BY_LOGIT
  for (int e = lid; e < num_experts; e += LOCAL) {
    float x = rule_score(row[e], maximum) / total;
#if CORRECTION
    x += correction_bias[e];
#endif
    row[e] = x;
    sound = isfinite(x) ? sound : 0.0f;
  }
#endif
  value[lid] = sound;
  least_value(value, lid);
  if (lid == 0) rounds = value[0] == 0.0f ? 0 : top_k;
  barrier(CLK_LOCAL_MEM_FENCE);
  route_nowhere(topk_ids, topk_weights, rounds + lid, top_k, LOCAL);
#if NUM_GROUPS
  limit_to_groups(row, group, is_taken, num_experts / NUM_GROUPS, lid);
  for (int e = lid; e < num_experts; e += LOCAL) row[e] = value_in_groups(row[e], logits[e]);
#endif

  for (int k = 0; k < rounds; k++) {
    float best = -INFINITY;
    int best_id = MAX_EXPERTS;
    for (int e = lid; e < num_experts; e += LOCAL)
      if (better(row[e], e, best, best_id)) {
        best = row[e];
        best_id = e;
      }
    barrier(CLK_LOCAL_MEM_FENCE); /* the round before still reads value[0], index[0] */
    value[lid] = best;
    index[lid] = best_id;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = LOCAL / 2; step > 0; step /= 2) {
      if (lid < step && better(value[lid + step], index[lid + step], value[lid], index[lid])) {
        value[lid] = value[lid + step];
        index[lid] = index[lid + step];
      }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
#if SCORING == SCORING_SPARSEMIXER
    const float chosen = value[0];
    float share = 0.0f;
    for (int e = lid; e < num_experts; e += LOCAL) share += mixer_share(row[e], chosen);
    barrier(CLK_LOCAL_MEM_FENCE);
    value[lid] = share;
    sum_values(value, lid);
    const float score = 1.0f / value[0];
#elif BY_LOGIT && SECOND_CHOICE == SECOND_CHOICE_ALL
    const float score = rule_score(value[0], maximum);
#else
    const float score = chosen_score(logits[index[0]], maximum);
#endif
    if (lid == 0) {
      topk_ids[k] = index[0];
      topk_weights[k] = score;
      row[index[0]] = -INFINITY; /* taken; the others are finite, so it can't win again */
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#if SECOND_CHOICE == SECOND_CHOICE_SAMPLED
    for (int e = lid; k == 0 && e < num_experts; e += LOCAL)
      row[e] += draw_gumbel(seed, first_token + token, (uint)e);
#endif
  }
  /* By the work-item that wrote them. A number carried through the rounds above,
   * over their barriers, comes out wrong on PoCL 3.1. */
  if (lid == 0)
    rule_finish(topk_ids, topk_weights, rounds, maximum, total, first_token + token, seed);
  barrier(CLK_LOCAL_MEM_FENCE); /* without, PoCL 3.1 lets all work-items do that */
}
