// SPDX-License-Identifier: MIT
/* generic.cl for 16-bit storage and hidden sizes that are multiples of 8: a
 * work-item makes eight neighbouring columns, read and written as 16 bytes.
 * Defines: OUTPUT, fp16 or bf16 and the element of all rows, SHARED, SHARED_GATE, WEIGHTED, LOCAL,
 * IDENTITY. */
#define DTYPE OUTPUT
#include "common/types.clh"
#include "common/vectors.clh"
#define PER_ITEM 8
DEFINE_STORAGE_VECTORS(8)

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
combine(const __global storage_t *expert_output, const __global int *assignment_slot,
        const __global float *topk_weights, const __global storage_t *shared,
        const __global float *shared_gate, __global storage_t *output, long hidden_size, int top_k
#if IDENTITY
        ,
        const __global storage_t *hidden, const __global int *expert_offsets, int first_identity
#endif
) {
  const ulong columns_per_group = LOCAL * PER_ITEM;
  const ulong groups_per_token = ((ulong)hidden_size + columns_per_group - 1) / columns_per_group;
  const ulong token = get_group_id(0) / groups_per_token;
  const ulong column =
      (get_group_id(0) - token * groups_per_token) * columns_per_group + get_local_id(0) * PER_ITEM;
  if (column >= (ulong)hidden_size) return;
  assignment_slot += token * (ulong)top_k;
  topk_weights += token * (ulong)top_k;
  float8 sum = (float8)(0.0f);
#if IDENTITY
  const int first_without_row = expert_offsets[first_identity];
  float identity = 0.0f;
#endif
#pragma unroll 4
  for (int k = 0; k < top_k; k++) {
    const int slot = assignment_slot[k];
    if (slot < 0) continue;
#if IDENTITY
    if (slot >= first_without_row) {
      identity += topk_weights[k];
      continue;
    }
#endif
    const float8 x = storage_load8(expert_output + (ulong)slot * (ulong)hidden_size + column);
    sum = fma((float8)(WEIGHTED ? topk_weights[k] : 1.0f), x, sum);
  }
#if IDENTITY
  if (identity != 0.0f)
    sum = fma((float8)(identity), storage_load8(hidden + token * (ulong)hidden_size + column), sum);
#endif
#if SHARED
  sum = fma((float8)(SHARED_GATE ? shared_gate[token] : 1.0f),
            storage_load8(shared + token * (ulong)hidden_size + column), sum);
#endif
  storage_store8(sum, output + token * (ulong)hidden_size + column);
}
