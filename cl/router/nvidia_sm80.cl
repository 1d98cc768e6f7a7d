/* Softmax over all experts and top-k, one warp a token, and how often each block
 * of tokens chose each expert. Defines: RENORMALIZE 0 or 1; TOPK_LOCAL, the
 * work-items of topk. Same rules as generic.cl: ties go to the lower expert id; a token with a logit that is not
 * finite is routed nowhere (ids -1, weights 0).
 *
 * A lane holds experts lane, lane+32, ... in local memory of its own, and knows
 * the best of them; a round of the choice is two warp-wide reductions, after
 * which only the winner's lane looks again. All sums are butterflies: a fixed
 * order. */
#include "permute/scatter.clh"
#define MAX_CHOICES_A_LANE 2 /* top_k is 64 at most */

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
static inline float warp_sum(float x) {
  for (uint mask = 16; mask > 0; mask /= 2) {
    float y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(mask));
    x += y;
  }
  return x;
}
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

static inline void route_token(const __global float *logits, __global int *ids,
                               __global float *weights, __local float *row, __local int *bins,
                               int num_experts, int top_k, int lane) {
  int finite = 1;
  for (int e = lane; e < num_experts; e += 32) {
    row[e] = logits[e] + 0.0f; /* no negative zero: it is equal, but not in order */
    finite &= isfinite(row[e]) != 0;
  }
  if (!warp_min((uint)finite)) {
    for (int k = lane; k < top_k; k += 32) {
      ids[k] = -1;
      weights[k] = 0.0f;
    }
    return;
  }
  uint mine_id, mine = lane_best(row, num_experts, lane, &mine_id);
  const float maximum = from_ordered(warp_max(mine));
  float sum = 0.0f;
#if !RENORMALIZE /* else the full softmax's denominator cancels out */
  for (int e = lane; e < num_experts; e += 32) sum += exp(row[e] - maximum);
#endif
  int chosen_id[MAX_CHOICES_A_LANE];
  float chosen[MAX_CHOICES_A_LANE] = {0.0f, 0.0f};
  for (int k = 0; k < top_k; k++) {
    const uint best = warp_max(mine);
    const uint id = warp_min(mine == best ? mine_id : 0xffffffffu);
    if (mine_id == id) { /* taken */
      row[id] = -INFINITY;
      mine = lane_best(row, num_experts, lane, &mine_id);
    }
    if (k % 32 == lane) {
      const float score = exp(from_ordered(best) - maximum);
      if (k < 32) chosen_id[0] = (int)id, chosen[0] = score;
      else chosen_id[1] = (int)id, chosen[1] = score;
    }
  }
#if RENORMALIZE
  sum = chosen[0] + chosen[1];
#endif
  sum = warp_sum(sum);
  for (int i = 0; i < MAX_CHOICES_A_LANE; i++) {
    const int k = lane + 32 * i;
    if (k >= top_k) break;
    ids[k] = chosen_id[i];
    weights[k] = chosen[i] / sum;
    atomic_inc(&bins[chosen_id[i]]);
  }
}

/* Tokens [first, end), and into `bins` how often each expert was chosen. */
static inline void route_block(const __global float *logits, __global int *topk_ids,
                               __global float *topk_weights, __local float *rows,
                               __local int *bins, int first, int end, int num_experts, int top_k,
                               int lid, int local_size) {
  for (int e = lid; e < num_experts; e += local_size) bins[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int t = first + lid / 32; t < end; t += local_size / 32)
    route_token(logits + (size_t)t * (size_t)num_experts, topk_ids + (size_t)t * (size_t)top_k,
                topk_weights + (size_t)t * (size_t)top_k, rows + lid / 32 * num_experts, bins,
                num_experts, top_k, lid % 32);
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
}

/* `rows`: num_experts floats for each warp. */
__kernel __attribute__((reqd_work_group_size(TOPK_LOCAL, 1, 1))) void
topk(const __global float *logits, __global int *topk_ids, __global float *topk_weights,
     __global int *counts, int num_tokens, int tokens_per_block, int num_experts, int top_k,
     __local float *rows) {
  __local int bins[MAX_EXPERTS];
  const int lid = (int)get_local_id(0), block = (int)get_group_id(0);
  const int first = block * tokens_per_block;
  route_block(logits, topk_ids, topk_weights, rows, bins, first,
              min(first + tokens_per_block, num_tokens), num_experts, top_k, lid, TOPK_LOCAL);
  for (int e = lid; e < num_experts; e += TOPK_LOCAL) counts[block * num_experts + e] = bins[e];
}

/* One block alone permutes too. */
__kernel __attribute__((reqd_work_group_size(SCATTER_LOCAL, 1, 1))) void
topk_scatter(const __global float *logits, __global int *topk_ids, __global float *topk_weights,
             __global int *tokens_per_expert, __global int *expert_offsets,
             __global int *tile_offsets, __global int *all_offsets, __global int *slot_token,
             __global int *assignment_slot, int num_tokens, int num_experts, int top_k,
             int tile_rows, __local float *rows) {
  __local int start[MAX_EXPERTS], bins[MAX_EXPERTS], scratch[SCATTER_LOCAL];
  const int lid = (int)get_local_id(0);
  for (int e = lid; e < num_experts; e += SCATTER_LOCAL) start[e] = 0;
  route_block(logits, topk_ids, topk_weights, rows, bins, 0, num_tokens, num_experts, top_k, lid,
              SCATTER_LOCAL);
  scatter_out out;
  out.tokens_per_expert = tokens_per_expert;
  out.expert_offsets = expert_offsets;
  out.tile_offsets = tile_offsets;
  out.all_offsets = all_offsets;
  scatter_offsets(start, bins, scratch, num_experts, tile_rows, true, out, lid);
  scatter_slots(start, scratch, topk_ids, slot_token, assignment_slot, 0, num_tokens * top_k, top_k,
                lid);
}
