// SPDX-License-Identifier: MIT
/* generic.cl for devices that have neither its work-groups nor its local memory: the
 * same kernels with the same arguments and results, by single work-items. */
#include "permute/order.clh"

/* A work-item a block. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void histogram(const __global int *topk_ids,
                                                                       __global int *counts,
                                                                       int num_tokens, int top_k,
                                                                       int num_experts) {
  const int first = (int)get_group_id(0) * BLOCK;
  const int end = min(first + BLOCK, num_tokens * top_k);
  counts += (size_t)get_group_id(0) * num_experts;
  for (int e = 0; e < num_experts; e++) counts[e] = 0;
  for (int p = first; p < end; p++) {
    const int e = topk_ids[assignment_at(p, num_tokens, top_k)];
    if (e >= 0) counts[e]++;
  }
}

/* A work-item an expert. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
scan_blocks(__global int *counts, __global int *tokens_per_expert, int num_blocks,
            int num_experts) {
  const int e = (int)get_group_id(0);
  int sum = 0;
  for (int b = 0; b < num_blocks; b++) {
    const size_t at = (size_t)b * num_experts + e;
    const int count = counts[at];
    counts[at] = sum;
    sum += count;
  }
  tokens_per_expert[e] = sum;
}

/* One work-item. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
scan_experts(const __global int *tokens_per_expert, __global int *expert_offsets,
             __global int *tile_offsets, __global int *all_offsets, int num_experts, int limited,
             int capacity, int tile_m) {
  int slots = 0, tiles = 0, all = 0;
  for (int e = 0; e <= num_experts; e++) {
    expert_offsets[e] = slots;
    tile_offsets[e] = tiles;
    all_offsets[e] = all;
    const int count = e < num_experts ? tokens_per_expert[e] : 0;
    const int kept = capacity >= 0 && e < limited ? min(count, capacity) : count;
    slots += kept;
    tiles += (kept + tile_m - 1) / tile_m;
    all += count;
  }
}

/* A work-item a block. An assignment's rank within its expert is what its block's
 * prefix has come to, which it then counts itself in. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
scatter(const __global int *topk_ids, __global int *counts, const __global int *expert_offsets,
        const __global int *all_offsets, __global int *slot_token, __global int *assignment_slot,
        __global int *order, int num_tokens, int top_k, int num_experts) {
  const int first = (int)get_group_id(0) * BLOCK;
  const int end = min(first + BLOCK, num_tokens * top_k);
  counts += (size_t)get_group_id(0) * num_experts;
  for (int p = first; p < end; p++) {
    const int assignment = assignment_at(p, num_tokens, top_k);
    const int e = topk_ids[assignment];
    if (e < 0) { /* a token routed nowhere */
      assignment_slot[assignment] = -1;
      continue;
    }
    const int rank = counts[e]++;
#if SELECT
    order[all_offsets[e] + rank] = assignment;
#else
    const int slot = expert_offsets[e] + rank;
    const bool kept = slot < expert_offsets[e + 1];
    assignment_slot[assignment] = kept ? slot : -1;
    if (kept) slot_token[slot] = assignment / top_k;
#endif
  }
}

/* A work-item an expert; generic.cl says what is kept. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
select_largest(const __global int *order, const __global int *all_offsets,
               const __global int *expert_offsets, const __global float *keys,
               __global int *slot_token, __global int *assignment_slot, int top_k) {
  const int e = (int)get_group_id(0);
  const int count = all_offsets[e + 1] - all_offsets[e];
  const int capacity = expert_offsets[e + 1] - expert_offsets[e];
  order += all_offsets[e];
  uint threshold = 0; /* the largest value that at least `room` keys reach */
  int ties = count;   /* how many keys equal to it survive */
  int last = 0;       /* the choice that is compared */
  if (count > capacity) {
    last = CHOICE(order[capacity]);
    int room = capacity;
    for (int i = 0; i < count; i++) room -= CHOICE(order[i]) < last;
    for (int bit = 30; bit >= 0; bit--) {
      const uint candidate = threshold | (1u << bit);
      int reach = 0;
      for (int i = 0; i < count; i++)
        reach += CHOICE(order[i]) == last && KEY(order[i]) >= candidate;
      if (reach >= room) threshold = candidate;
    }
    ties = room;
    for (int i = 0; i < count; i++) ties -= CHOICE(order[i]) == last && KEY(order[i]) > threshold;
  }
  int slot = expert_offsets[e];
  for (int i = 0; i < count; i++) {
    const int assignment = order[i], choice = CHOICE(assignment);
    const uint key = KEY(assignment);
    bool kept = count <= capacity || choice < last || (choice == last && key > threshold);
    if (!kept && choice == last && key == threshold) kept = ties-- > 0;
    assignment_slot[assignment] = kept ? slot : -1;
    if (kept) slot_token[slot++] = assignment / top_k;
  }
}
