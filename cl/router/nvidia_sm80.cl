// SPDX-License-Identifier: MIT
/* The router's choice, one warp a token, and how often each block of tokens chose
 * each expert. Defines: those of rule.clh; TOPK_LOCAL, the work-items of topk. Same
 * rules as generic.cl: ties go to the lower expert id; a token with a logit or
 * choice value that is not finite is routed nowhere (ids -1, weights 0).
 *
 * A lane holds experts lane, lane+32, ... in local memory of its own, and knows
 * the best of them; a round of the choice is two warp-wide reductions, after
 * which only the winner's lane looks again. All sums are butterflies: a fixed
 * order. */
#include "permute/scatter.clh"
#include "router/rule.clh"
#define MAX_CHOICES_A_LANE 2                    /* top_k is 64 at most */
#define NO_SCORE (OF_CHOSEN ? -INFINITY : 0.0f) /* of no choice: adds nothing to a sum */

static inline uint warp_max(uint x) {
  uint y;
  asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
  return y;
}
static inline uint warp_min(uint x) {
  uint y;
  asm volatile("redux.sync.min.u32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
  return y;
}
static inline float warp_xor(float x, uint mask) {
  float y;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(mask));
  return y;
}
static inline float warp_sum(float x) {
  for (uint mask = 16; mask > 0; mask /= 2) x += warp_xor(x, mask);
  return x;
}
static inline float warp_read(float x, uint lane) {
  float y;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(lane));
  return y;
}
/* What lanes wrote to local memory, all lanes may read. */
static inline void warp_sync(void) { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }
/* Unsigned integers in the order of the floats. */
static inline uint to_ordered(float x) {
  const uint u = as_uint(x);
  return u >> 31 ? ~u : u | 0x80000000u;
}
static inline float from_ordered(uint u) { return as_float(u >> 31 ? u & 0x7fffffffu : ~u); }

/* The best of a lane's experts and its id; the lowest id of equal ones. */
static inline uint lane_best(const __local float *row, int num_experts, int lane, uint *id) {
  float best = -INFINITY;
  *id = 0xffffffffu;
  for (int e = lane; e < num_experts; e += 32)
    if (row[e] > best) {
      best = row[e];
      *id = (uint)e;
    }
  return to_ordered(best);
}

#if NUM_GROUPS
/* Lanes that share a group, a power of two: each looks at every so many of its
 * members. */
#define SHARE                                                                                      \
  (NUM_GROUPS > 16 ? 1 : NUM_GROUPS > 8 ? 2 : NUM_GROUPS > 4 ? 4 : NUM_GROUPS > 2 ? 8 : 16)

/* Takes the value from the experts of groups that are not among the best. The
 * groups' lanes begin at different members, so that they read different banks. */
static inline void limit_to_groups(__local float *row, int members, int lane) {
  const int group = lane / SHARE, part = lane % SHARE;
  const int mine = group < NUM_GROUPS ? (members - part + SHARE - 1) / SHARE : 0;
  float first = -INFINITY, second = -INFINITY;
  int i = mine > 0 ? group % mine : 0;
  for (int n = 0; n < mine; n++) {
    group_add(row[group * members + part + i * SHARE], &first, &second);
    i = i + 1 < mine ? i + 1 : 0;
  }
  for (uint mask = 1; mask < SHARE; mask *= 2) {
    const float other_first = warp_xor(first, mask), other_second = warp_xor(second, mask);
    second = fmax(fmin(first, other_first), fmax(second, other_second));
    first = fmax(first, other_first);
  }
  const float score = group_value(first, second);
  int rank = 0;
  for (int g = 0; g < NUM_GROUPS; g++) {
    const float other = warp_read(score, (uint)(g * SHARE));
    rank += better(other, g, score, group);
  }
  for (int n = 0; rank >= TOPK_GROUP && n < mine; n++)
    row[group * members + part + n * SHARE] = CUT_VALUE;
  warp_sync();
}
#endif

/* The logits' choice values into `row`, and a softmax's sum over all; false where
 * the token is routed nowhere. A lane's own experts, so nothing is to be waited
 * for. */
static inline int load_row(const __global float *logits, const __global float *correction_bias,
                           __local float *row, int num_experts, int lane, float *maximum,
                           float *total) {
  int finite = 1;
  float most = -INFINITY;
  for (int e = lane; e < num_experts; e += 32) {
    row[e] = logits[e] + 0.0f; /* no negative zero: it is equal, but not in order */
    finite &= isfinite(row[e]) != 0;
    if (!BY_LOGIT) most = fmax(most, row[e]);
  }
#if !BY_LOGIT
#if SUMS_ALL
  *maximum = from_ordered(warp_max(to_ordered(most)));
  float sum = 0.0f;
  for (int e = lane; e < num_experts; e += 32) sum += exp(row[e] - *maximum);
  *total = warp_sum(sum);
#endif
  for (int e = lane; e < num_experts; e += 32) {
    float x = rule_score(row[e], *maximum);
    if (SUMS_ALL) x /= *total;
#if CORRECTION
    x += correction_bias[e];
#endif
    row[e] = x + 0.0f;
    finite &= isfinite(x) != 0;
  }
#endif
  return (int)warp_min((uint)finite);
}

/* Weights of a lane's choices, lane and lane + 32, from their chosen_score and a
 * softmax's `maximum` and `total` over all experts: rule_finish by a warp. */
static inline void finish(int *id, float *weight, int top_k, int lane, float maximum, float total,
                          ulong token, ulong seed) {
#if AFTER_TOPK
  total = warp_sum(weight[0] + weight[1]);
#endif
#if SECOND_CHOICE == SECOND_CHOICE_RANDOM
  for (int i = 0; i < MAX_CHOICES_A_LANE; i++) {
    const int k = lane + 32 * i;
    const float score = OF_CHOSEN ? rule_score(weight[i], maximum) : weight[i];
    if (k == 0 || k >= top_k || draw_keep(seed, token, (uint)k, score / total)) continue;
    id[i] = -1;
    weight[i] = NO_SCORE;
  }
#endif
#if OF_CHOSEN
  const float best = from_ordered(warp_max(to_ordered(fmax(weight[0], weight[1]))));
  for (int i = 0; i < MAX_CHOICES_A_LANE; i++) weight[i] = exp(weight[i] - best);
#endif
#if RENORMALIZE
  total = rule_sum(warp_sum(weight[0] + weight[1]), total);
#endif
  for (int i = 0; i < MAX_CHOICES_A_LANE; i++) weight[i] = rule_scale(weight[i] / total);
}

/* The choice of a token all of whose values are finite; `maximum` and `total` as
 * load_row left them. */
static inline __attribute__((always_inline)) void
choose(const __global float *logits, __global int *ids, __global float *weights, __local float *row,
       __local int *bins, int num_experts, int top_k, int lane, float maximum, float total,
       ulong token, ulong seed) {
#if NUM_GROUPS
  warp_sync();
  limit_to_groups(row, num_experts / NUM_GROUPS, lane);
  for (int e = lane; e < num_experts; e += 32)
    row[e] = value_in_groups(row[e], logits[e]) + 0.0f; /* no negative zero, as in load_row */
#endif
  uint mine_id, mine = lane_best(row, num_experts, lane, &mine_id);
#if BY_LOGIT
  maximum = from_ordered(warp_max(mine));
#endif
#if SUMS_ALL && BY_LOGIT
  float sum = 0.0f;
#if NUM_GROUPS
  for (int e = lane; e < num_experts; e += 32) sum += exp(logits[e] - maximum);
#else
  for (int e = lane; e < num_experts; e += 32) sum += exp(row[e] - maximum);
#endif
  total = warp_sum(sum);
#endif
  int chosen_id[MAX_CHOICES_A_LANE] = {-1, -1};
  float chosen[MAX_CHOICES_A_LANE] = {NO_SCORE, NO_SCORE};
  for (int k = 0; k < top_k; k++) {
    const uint best = warp_max(mine);
    const uint id = warp_min(mine == best ? mine_id : 0xffffffffu);
#if SCORING == SCORING_SPARSEMIXER
    float share = 0.0f;
    for (int e = lane; e < num_experts; e += 32) share += mixer_share(row[e], from_ordered(best));
    share = warp_sum(share);
#endif
    if (mine_id == id) { /* taken */
      row[id] = -INFINITY;
      mine = lane_best(row, num_experts, lane, &mine_id);
    }
#if SECOND_CHOICE == SECOND_CHOICE_SAMPLED
    if (k == 0) {
      for (int e = lane; e < num_experts; e += 32)
        row[e] = row[e] + draw_gumbel(seed, token, (uint)e) + 0.0f;
      mine = lane_best(row, num_experts, lane, &mine_id);
    }
#endif
    if (k % 32 == lane) {
#if SCORING == SCORING_SPARSEMIXER
      const float score = 1.0f / share;
#elif BY_LOGIT && SECOND_CHOICE == SECOND_CHOICE_ALL
      const float score = rule_score(from_ordered(best), maximum);
#else
      const float score = chosen_score(logits[id], maximum);
#endif
      if (k < 32) chosen_id[0] = (int)id, chosen[0] = score;
      else chosen_id[1] = (int)id, chosen[1] = score;
    }
  }
  finish(chosen_id, chosen, top_k, lane, maximum, total, token, seed);
  for (int i = 0; i < MAX_CHOICES_A_LANE; i++) {
    const int k = lane + 32 * i;
    if (k >= top_k) break;
    ids[k] = chosen_id[i];
    weights[k] = chosen[i];
    if (SECOND_CHOICE != SECOND_CHOICE_RANDOM || chosen_id[i] >= 0) atomic_inc(&bins[chosen_id[i]]);
  }
}

static inline __attribute__((always_inline)) void
route_token(const __global float *logits, const __global float *correction_bias, __global int *ids,
            __global float *weights, __local float *row, __local int *bins, int num_experts,
            int top_k, int lane, ulong token, ulong seed) {
  float maximum = 0.0f, total = 1.0f;
  if (load_row(logits, correction_bias, row, num_experts, lane, &maximum, &total))
    choose(logits, ids, weights, row, bins, num_experts, top_k, lane, maximum, total, token, seed);
  else route_nowhere(ids, weights, lane, top_k, 32);
}

/* Tokens [first, end), and into `bins` how often each expert was chosen. */
static inline __attribute__((always_inline)) void
route_block(const __global float *logits, const __global float *correction_bias,
            __global int *topk_ids, __global float *topk_weights, __local float *rows,
            __local int *bins, int first, int end, int num_experts, int top_k, ulong seed,
            ulong first_token, int lid, int local_size) {
  for (int e = lid; e < num_experts; e += local_size) bins[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int t = first + lid / 32; t < end; t += local_size / 32)
    route_token(logits + (size_t)t * (size_t)num_experts, correction_bias,
                topk_ids + (size_t)t * (size_t)top_k, topk_weights + (size_t)t * (size_t)top_k,
                rows + lid / 32 * num_experts, bins, num_experts, top_k, lid % 32,
                first_token + (ulong)t, seed);
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
}

#ifndef AT_ONCE /* else route/nvidia_sm80.cl includes this */
#include "router/by_block.clh"
#endif
