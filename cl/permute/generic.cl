// SPDX-License-Identifier: MIT
/* From topk_ids to the experts' row lists: a stable counting sort without
 * float atomics and without any order left to chance.
 *
 * An assignment is a pair (token t, choice k), stored at t*K+k. Assignments are
 * sorted by expert and, within one, by their order number: t*K+k, or k*T+t
 * where capacity is given out by position or priority (all first choices before all
 * second ones). ORDER_BY_CHOICE selects the latter.
 *
 *   histogram      counts[block][expert] over blocks of BLOCK order numbers
 *   scan_blocks    exclusive prefix over blocks; tokens_per_expert
 *   scan_experts   expert_offsets and tile_offsets from the capped counts
 *   scatter        each assignment to its slot, dropping those past capacity
 *   select         instead of the drop in scatter: the largest weights survive, or
 *                  with PRIORITIZED, of the choices that come next, the tokens of
 *                  the largest priority
 *
 * Slots are numbered over the surviving assignments: expert e owns slots
 * expert_offsets[e] .. expert_offsets[e+1]-1. slot_token[slot] is the row of
 * hidden_states that the slot reads; assignment_slot[t*K+k] is the slot, or -1
 * where the assignment was dropped. */
#include "common/scan.clh"
#include "permute/order.clh"
#define MAX_EXPERTS 1024

__kernel __attribute__((reqd_work_group_size(BLOCK, 1, 1))) void
histogram(const __global int *topk_ids, __global int *counts, int num_tokens, int top_k,
          int num_experts) {
  __local int bins[MAX_EXPERTS];
  const int lid = (int)get_local_id(0);
  const int p = (int)get_group_id(0) * BLOCK + lid;
  for (int e = lid; e < num_experts; e += BLOCK) bins[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (p < num_tokens * top_k) {
    const int e = topk_ids[assignment_at(p, num_tokens, top_k)];
    if (e >= 0) atomic_inc(&bins[e]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  counts += (size_t)get_group_id(0) * num_experts;
  for (int e = lid; e < num_experts; e += BLOCK) counts[e] = bins[e];
}

#define SCAN_LOCAL 64

/* One work-group an expert. */
__kernel __attribute__((reqd_work_group_size(SCAN_LOCAL, 1, 1))) void
scan_blocks(__global int *counts, __global int *tokens_per_expert, int num_blocks,
            int num_experts) {
  __local int scratch[SCAN_LOCAL];
  const int e = (int)get_group_id(0);
  const int lid = (int)get_local_id(0);
  int base = 0;
  for (int first = 0; first < num_blocks; first += SCAN_LOCAL) {
    const int b = first + lid;
    const size_t at = (size_t)b * num_experts + e;
    const int count = b < num_blocks ? counts[at] : 0;
    const int sum = group_scan(count, scratch, lid, SCAN_LOCAL);
    if (b < num_blocks) counts[at] = base + sum - count;
    base += scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE); /* scratch is written again */
  }
  if (lid == 0) tokens_per_expert[e] = base;
}

/* One work-group. capacity < 0: dropless; it is that of the first `limited` experts, and the
 * others, which are identity experts, have none. all_offsets (may be null) is the
 * prefix of the counts before capacity; row i of tile_m's prefix counts the
 * tiles of tile_m rows before expert i. */
__kernel __attribute__((reqd_work_group_size(SCAN_LOCAL, 1, 1))) void
scan_experts(const __global int *tokens_per_expert, __global int *expert_offsets,
             __global int *tile_offsets, __global int *all_offsets, int num_experts, int limited,
             int capacity, int tile_m) {
  __local int scratch[SCAN_LOCAL];
  const int lid = (int)get_local_id(0);
  int slots = 0, tiles = 0, all = 0;
  for (int first = 0; first < num_experts; first += SCAN_LOCAL) {
    const int e = first + lid;
    const int count = e < num_experts ? tokens_per_expert[e] : 0;
    const int kept = capacity >= 0 && e < limited ? min(count, capacity) : count;
    const int kept_tiles = (kept + tile_m - 1) / tile_m;
    const int slot_end = slots + group_scan(kept, scratch, lid, SCAN_LOCAL);
    slots += scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    const int tile_end = tiles + group_scan(kept_tiles, scratch, lid, SCAN_LOCAL);
    tiles += scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    const int all_end = all + group_scan(count, scratch, lid, SCAN_LOCAL);
    all += scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (e < num_experts) {
      expert_offsets[e + 1] = slot_end;
      tile_offsets[e + 1] = tile_end;
      all_offsets[e + 1] = all_end;
    }
  }
  if (lid == 0) {
    expert_offsets[0] = 0;
    tile_offsets[0] = 0;
    all_offsets[0] = 0;
  }
}

/* A work-item's rank among its block's earlier assignments to the same expert
 * is counted directly: BLOCK comparisons out of local memory. */
__kernel __attribute__((reqd_work_group_size(BLOCK, 1, 1))) void
scatter(const __global int *topk_ids, const __global int *counts,
        const __global int *expert_offsets, const __global int *all_offsets,
        __global int *slot_token, __global int *assignment_slot, __global int *order,
        int num_tokens, int top_k, int num_experts) {
  __local int ids[BLOCK];
  const int lid = (int)get_local_id(0);
  const int p = (int)get_group_id(0) * BLOCK + lid;
  const bool inside = p < num_tokens * top_k;
  const int assignment = inside ? assignment_at(p, num_tokens, top_k) : 0;
  const int e = inside ? topk_ids[assignment] : -1;
  ids[lid] = e;
  barrier(CLK_LOCAL_MEM_FENCE);
  int rank = 0;
  for (int j = 0; j < BLOCK; j++) rank += (j < lid) & (ids[j] == e);
  if (e >= 0) {
    rank += counts[(size_t)get_group_id(0) * num_experts + e];
#if SELECT
    order[all_offsets[e] + rank] = assignment;
#else
    const int slot = expert_offsets[e] + rank;
    const bool kept = slot < expert_offsets[e + 1];
    assignment_slot[assignment] = kept ? slot : -1;
    if (kept) slot_token[slot] = assignment / top_k;
#endif
  } else if (inside) { /* a token routed nowhere */
    assignment_slot[assignment] = -1;
  }
}

/* Drop policies "probability" and "prioritized": one work-group an expert keeps the
 * `capacity` largest keys, ties in token order. Keys are not negative, so their
 * bits order like unsigned integers: the smallest surviving key is found bit by
 * bit, then a scan in token order hands out the slots.
 *
 * Keys are weights, or with PRIORITIZED tokens' priorities: of the list, which is by
 * choices then, those of the choice that the capacity ends in are compared; earlier
 * ones survive, later ones don't. */
__kernel __attribute__((reqd_work_group_size(SCAN_LOCAL, 1, 1))) void
select_largest(const __global int *order, const __global int *all_offsets,
               const __global int *expert_offsets, const __global float *keys,
               __global int *slot_token, __global int *assignment_slot, int top_k) {
  __local int scratch[SCAN_LOCAL];
  const int e = (int)get_group_id(0);
  const int lid = (int)get_local_id(0);
  const int count = all_offsets[e + 1] - all_offsets[e];
  const int capacity = expert_offsets[e + 1] - expert_offsets[e];
  order += all_offsets[e];
  uint threshold = 0; /* the largest value that at least `room` keys reach */
  int ties = count;   /* how many keys equal to it survive */
  int last = 0;       /* the choice that is compared */
  if (count > capacity) {
    last = CHOICE(order[capacity]);
    int before = 0;
    for (int i = lid; i < count; i += SCAN_LOCAL) before += CHOICE(order[i]) < last;
    group_scan(before, scratch, lid, SCAN_LOCAL);
    const int room = capacity - scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int bit = 30; bit >= 0; bit--) {
      const uint candidate = threshold | (1u << bit);
      int reach = 0;
      for (int i = lid; i < count; i += SCAN_LOCAL)
        reach += CHOICE(order[i]) == last && KEY(order[i]) >= candidate;
      group_scan(reach, scratch, lid, SCAN_LOCAL);
      if (scratch[SCAN_LOCAL - 1] >= room) threshold = candidate;
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    int above = 0;
    for (int i = lid; i < count; i += SCAN_LOCAL)
      above += CHOICE(order[i]) == last && KEY(order[i]) > threshold;
    group_scan(above, scratch, lid, SCAN_LOCAL);
    ties = room - scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  int kept_before = 0, ties_before = 0;
  for (int first = 0; first < count; first += SCAN_LOCAL) {
    const int i = first + lid;
    const int assignment = i < count ? order[i] : 0;
    const uint key = i < count ? KEY(assignment) : 0u;
    const int choice = CHOICE(assignment);
    const int tie = i < count && count > capacity && choice == last && key == threshold;
    const int tie_rank = ties_before + group_scan(tie, scratch, lid, SCAN_LOCAL) - tie;
    ties_before += scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    const int larger = choice < last || (choice == last && key > threshold);
    const int kept = i < count && (count <= capacity || larger || (tie && tie_rank < ties));
    const int rank = kept_before + group_scan(kept, scratch, lid, SCAN_LOCAL) - kept;
    kept_before += scratch[SCAN_LOCAL - 1];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (i < count) {
      const int slot = expert_offsets[e] + rank;
      assignment_slot[assignment] = kept ? slot : -1;
      if (kept) slot_token[slot] = assignment / top_k;
    }
  }
}
