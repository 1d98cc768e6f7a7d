// SPDX-License-Identifier: MIT
/* Permuting without capacity in two launches, or one after a router that
 * counted: row b of `counts` holds how often each expert was chosen by block b's
 * tokens. */
#include "permute/scatter.clh"

__kernel __attribute__((reqd_work_group_size(SCATTER_LOCAL, 1, 1))) void
histogram(const __global int *topk_ids, __global int *counts, int num_tokens, int tokens_per_block,
          int top_k, int num_experts) {
  __local int bins[MAX_EXPERTS];
  const int lid = (int)get_local_id(0), block = (int)get_group_id(0);
  for (int e = lid; e < num_experts; e += SCATTER_LOCAL) bins[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  const int first = block * tokens_per_block;
  const int end = min(first + tokens_per_block, num_tokens) * top_k;
  for (int p = first * top_k + lid; p < end; p += SCATTER_LOCAL)
    if (topk_ids[p] >= 0) atomic_inc(&bins[topk_ids[p]]);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int e = lid; e < num_experts; e += SCATTER_LOCAL) counts[block * num_experts + e] = bins[e];
}

__kernel __attribute__((reqd_work_group_size(SCATTER_LOCAL, 1, 1))) void
scatter(const __global int *topk_ids, const __global int *counts, __global int *tokens_per_expert,
        __global int *expert_offsets, __global int *tile_offsets, __global int *all_offsets,
        __global int *slot_token, __global int *assignment_slot, int num_tokens,
        int tokens_per_block, int top_k, int num_experts, int tile_rows) {
  __local int start[MAX_EXPERTS], total[MAX_EXPERTS], scratch[SCATTER_LOCAL];
  const int lid = (int)get_local_id(0), block = (int)get_group_id(0);
  const int blocks = (int)get_num_groups(0);
  for (int e = lid; e < num_experts; e += SCATTER_LOCAL) {
    int before = 0, all = 0;
#pragma unroll 8
    for (int b = 0; b < blocks; b++) {
      const int count = counts[b * num_experts + e];
      all += count;
      before += b < block ? count : 0;
    }
    start[e] = before;
    total[e] = all;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  scatter_out out;
  out.tokens_per_expert = tokens_per_expert;
  out.expert_offsets = expert_offsets;
  out.tile_offsets = tile_offsets;
  out.all_offsets = all_offsets;
  scatter_offsets(start, total, scratch, num_experts, tile_rows, block == 0, out, lid);
  const int first = block * tokens_per_block;
  scatter_slots(start, scratch, topk_ids, slot_token, assignment_slot, first * top_k,
                min(first + tokens_per_block, num_tokens) * top_k, top_k, lid);
}
