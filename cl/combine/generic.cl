/* output[t] = sum over k of topk_weights[t,k] * expert_output[slot of (t,k)],
 * always in the order of k; dropped assignments contribute nothing.
 * Defines: DTYPE; INPUT_F32 (expert_output is fp32, else storage).
 *
 * A work-group makes LOCAL * PER_ITEM columns of one token; neighbouring
 * work-items take neighbouring columns. */
#include "common/types.clh"
#define LOCAL 64
#define PER_ITEM 4

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
combine(
#if INPUT_F32
    const __global float *expert_output,
#else
    const __global storage_t *expert_output,
#endif
    const __global int *assignment_slot, const __global float *topk_weights,
    __global storage_t *output, long hidden_size, int top_k) {
  const ulong columns_per_group = LOCAL * PER_ITEM;
  const ulong groups_per_token = ((ulong)hidden_size + columns_per_group - 1) / columns_per_group;
  const ulong token = get_group_id(0) / groups_per_token;
  const ulong first = (get_group_id(0) - token * groups_per_token) * columns_per_group;
  float sum[PER_ITEM];
  for (int i = 0; i < PER_ITEM; i++) sum[i] = 0.0f;
  for (int k = 0; k < top_k; k++) {
    const int slot = assignment_slot[token * (ulong)top_k + k];
    if (slot < 0) continue;
    const float weight = topk_weights[token * (ulong)top_k + k];
    for (int i = 0; i < PER_ITEM; i++) {
      const ulong column = first + i * LOCAL + get_local_id(0);
      if (column >= (ulong)hidden_size) continue;
      const size_t at = (size_t)((ulong)slot * (ulong)hidden_size + column);
#if INPUT_F32
      sum[i] = fma(weight, expert_output[at], sum[i]);
#else
      sum[i] = fma(weight, storage_load(expert_output, at), sum[i]);
#endif
    }
  }
  for (int i = 0; i < PER_ITEM; i++) {
    const ulong column = first + i * LOCAL + get_local_id(0);
    if (column < (ulong)hidden_size)
      storage_store(sum[i], output, (size_t)(token * (ulong)hidden_size + column));
  }
}
