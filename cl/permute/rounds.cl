// SPDX-License-Identifier: MIT
/* For experts that are brought to the device in rounds: the order of slots, and whose they are in
 * a round. What the host finds out from expert_offsets it writes into one list:
 *   shifts[E]   of each expert with matrices: what is added to its slots' numbers, so that slots
 *               lie round by round, and in a round by the places that their experts have
 *   a round's expert_offsets[places+1] and tile_offsets[places+1], of every round
 * A slot moves with its whole expert: rows of one stay side by side, in the same order. */

__kernel void move_slots(const __global int *topk_ids, const __global int *assignment_slot,
                         const __global int *shifts, __global int *moved_slot,
                         __global int *moved_token, int count, int top_k, int num_experts) {
  const int a = (int)get_global_id(0);
  if (a >= count) return;
  const int e = topk_ids[a];
  int slot = assignment_slot[a];
  if (slot >= 0) {
    if (e < num_experts) slot += shifts[e]; /* identity experts' slots are the last ones */
    moved_token[slot] = a / top_k;
  }
  moved_slot[a] = slot;
}

__kernel void round_offsets(const __global int *list, __global int *expert_offsets,
                            __global int *tile_offsets, int first, int count) {
  const int i = (int)get_global_id(0);
  if (i >= count) return;
  expert_offsets[i] = list[first + i];
  tile_offsets[i] = list[first + count + i];
}
