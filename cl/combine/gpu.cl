// SPDX-License-Identifier: MIT
/* generic.cl for 16-bit storage and hidden sizes that are multiples of 8: a
 * work-item makes eight neighbouring columns, read and written as 16 bytes.
 * Defines: OUTPUT, fp16 or bf16 and the element of all rows, SHARED, SHARED_GATE, WEIGHTED, LOCAL,
 * IDENTITY. */
#define DTYPE OUTPUT
#ifndef IDENTITY
#define IDENTITY 0
#endif
#include "common/types.clh"
#include "common/vectors.clh"
#define PER_ITEM 8
#define TOGETHER 4 /* rows whose reads are under way at once */
DEFINE_STORAGE_VECTORS(8)

/* Those of vectors.clh may be eight accesses, for their pointers need no alignment. */
#if DTYPE == ELEMENT_F16
#define load_columns(p) vloada_half8(0, p)
#define store_columns(v, p) vstorea_half8_rte(v, 0, p)
#else
static inline float8 load_columns(const __global storage_t *p) {
  return as_float8(convert_uint8(*(const __global ushort8 *)p) << 16);
}
#define store_columns(v, p) (*(__global ushort8 *)(p) = storage_round8(v))
#endif

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
  for (int first = 0; first < top_k; first += TOGETHER) {
    int slot[TOGETHER];
    float weight[TOGETHER];
    float8 x[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      const int k = min(first + i, top_k - 1);
      slot[i] = first + i < top_k ? assignment_slot[k] : -1;
      weight[i] = WEIGHTED || IDENTITY ? topk_weights[k] : 1.0f;
    }
    /* Also of what is not there, a row that is: a branch would wait for the read before it. */
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
#if IDENTITY
      if (slot[i] >= first_without_row) {
        identity += weight[i];
        slot[i] = -1;
      }
#endif
      x[i] = load_columns(expert_output + (ulong)max(slot[i], 0) * (ulong)hidden_size + column);
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; i++)
      if (slot[i] >= 0) sum = fma((float8)(WEIGHTED ? weight[i] : 1.0f), x[i], sum);
  }
#if IDENTITY
  if (identity != 0.0f)
    sum = fma((float8)(identity), load_columns(hidden + token * (ulong)hidden_size + column), sum);
#endif
#if SHARED
  sum = fma((float8)(SHARED_GATE ? shared_gate[token] : 1.0f),
            load_columns(shared + token * (ulong)hidden_size + column), sum);
#endif
  store_columns(sum, output + token * (ulong)hidden_size + column);
}
