/* generic.cl for 16-bit storage and hidden sizes that are multiples of 8: a
 * work-item makes eight neighbouring columns, read and written as 16 bytes.
 * Defines: DTYPE 1 or 2, SHARED, SHARED_GATE, WEIGHTED. */
#include "common/types.clh"
#define LOCAL 128
#define PER_ITEM 8

static inline float8 load8(const __global storage_t *p) {
#if DTYPE == 1
  return vload_half8(0, p);
#else
  return as_float8(convert_uint8(vload8(0, p)) << 16);
#endif
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
combine(const __global storage_t *expert_output, const __global int *assignment_slot,
        const __global float *topk_weights, const __global storage_t *shared,
        const __global float *shared_gate, __global storage_t *output, long hidden_size,
        int top_k) {
  const ulong columns_per_group = LOCAL * PER_ITEM;
  const ulong groups_per_token = ((ulong)hidden_size + columns_per_group - 1) / columns_per_group;
  const ulong token = get_group_id(0) / groups_per_token;
  const ulong column = (get_group_id(0) - token * groups_per_token) * columns_per_group +
                       get_local_id(0) * PER_ITEM;
  if (column >= (ulong)hidden_size) return;
  assignment_slot += token * (ulong)top_k;
  topk_weights += token * (ulong)top_k;
  float8 sum = (float8)(0.0f);
#pragma unroll 4
  for (int k = 0; k < top_k; k++) {
    const int slot = assignment_slot[k];
    if (slot < 0) continue;
    const float8 x = load8(expert_output + (ulong)slot * (ulong)hidden_size + column);
    sum = fma((float8)(WEIGHTED ? topk_weights[k] : 1.0f), x, sum);
  }
#if SHARED
  sum = fma((float8)(SHARED_GATE ? shared_gate[token] : 1.0f),
            load8(shared + token * (ulong)hidden_size + column), sum);
#endif
  __global storage_t *to = output + token * (ulong)hidden_size + column;
#if DTYPE == 1
  vstore_half8_rte(sum, 0, to);
#else
  const uint8 u = as_uint8(sum);
  const uint8 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint8 nan = (u >> 16) | 0x40u;
  vstore8(convert_ushort8(select(rounded, nan, (u & 0x7fffffffu) > 0x7f800000u)), 0, to);
#endif
}
