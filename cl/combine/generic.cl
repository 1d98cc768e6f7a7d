// SPDX-License-Identifier: MIT
/* output[t] = sum over k of topk_weights[t,k] * expert_output[slot of (t,k)],
 * always in the order of k; after them, with IDENTITY, hidden[t] times the weights of
 * choices of identity experts, whose slots are those from
 * expert_offsets[first_identity] on and have no rows; then the shared expert's
 * output[t], times its gate. Dropped assignments contribute nothing.
 * Defines: INPUT, the element of expert_output and shared; OUTPUT, that of output and hidden;
 * SHARED, SHARED_GATE: there is one; WEIGHTED 0: rows have their weights already;
 * LOCAL; IDENTITY, only where there are identity experts.
 *
 * A work-group makes LOCAL * PER_ITEM columns of one token; neighbouring
 * work-items take neighbouring columns. */
#include "common/types.clh"
#define PER_ITEM 4
typedef ELEMENT_T(INPUT) input_t;
typedef ELEMENT_T(OUTPUT) output_t;
#define input_load ELEMENT_LOAD(INPUT)

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
combine(const __global input_t *expert_output, const __global int *assignment_slot,
        const __global float *topk_weights, const __global input_t *shared,
        const __global float *shared_gate, __global output_t *output, long hidden_size, int top_k
#if IDENTITY
        ,
        const __global output_t *hidden, const __global int *expert_offsets, int first_identity
#endif
) {
  const ulong columns_per_group = LOCAL * PER_ITEM;
  const ulong groups_per_token = ((ulong)hidden_size + columns_per_group - 1) / columns_per_group;
  const ulong token = get_group_id(0) / groups_per_token;
  const ulong first = (get_group_id(0) - token * groups_per_token) * columns_per_group;
  float sum[PER_ITEM];
  for (int i = 0; i < PER_ITEM; i++) sum[i] = 0.0f;
#if IDENTITY
  const int first_without_row = expert_offsets[first_identity];
  float identity = 0.0f;
#endif
  for (int k = 0; k < top_k; k++) {
    const int slot = assignment_slot[token * (ulong)top_k + k];
    if (slot < 0) continue;
    const float weight = WEIGHTED ? topk_weights[token * (ulong)top_k + k] : 1.0f;
#if IDENTITY
    if (slot >= first_without_row) {
      identity += weight;
      continue;
    }
#endif
    for (int i = 0; i < PER_ITEM; i++) {
      const ulong column = first + i * LOCAL + get_local_id(0);
      if (column >= (ulong)hidden_size) continue;
      const size_t at = (size_t)((ulong)slot * (ulong)hidden_size + column);
      sum[i] = fma(weight, input_load(expert_output, at), sum[i]);
    }
  }
  for (int i = 0; i < PER_ITEM; i++) {
    const ulong column = first + i * LOCAL + get_local_id(0);
    const size_t at = (size_t)(token * (ulong)hidden_size + column);
    if (column >= (ulong)hidden_size) continue;
#if IDENTITY
    if (identity != 0.0f) sum[i] = fma(identity, ELEMENT_LOAD(OUTPUT)(hidden, at), sum[i]);
#endif
#if SHARED
    sum[i] = fma(SHARED_GATE ? shared_gate[token] : 1.0f, input_load(shared, at), sum[i]);
#endif
    ELEMENT_STORE(OUTPUT)(sum[i], output, at);
  }
}
