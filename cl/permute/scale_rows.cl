// SPDX-License-Identifier: MIT
/* Rows for experts whose route weight multiplies their input:
 *   scaled[slot of assignment a] = weight of a * hidden[token of a],
 * rounded to the element ROUNDED. Defines: ROUNDED; ROWS, the element that rows are
 * stored as: ROUNDED, or fp32; LOCAL; WIDTH, the columns of a work-item: 16 bytes of them,
 * 8 or with fp32 rows 4, where the hidden size is a multiple of 8, else 1.
 *
 * A work-group takes LOCAL * WIDTH columns of one token: read once, written for
 * each choice that has a slot, neighbours' memory side by side. */
#include "common/types.clh"

typedef ELEMENT_T(ROWS) row_t;
#define round_value ELEMENT_ROUND(ROUNDED)

#if WIDTH == 8
typedef float8 values_t;

static inline values_t row_load(const __global row_t *p) {
  const uint4 bits = *(const __global uint4 *)p;
#if ROUNDED == ELEMENT_F16
  return vload_half8(0, (const half *)&bits);
#elif ROUNDED == ELEMENT_BF16
  return as_float8(convert_uint8(as_ushort8(bits)) << 16);
#else
#error "rows of this element"
#endif
}

static inline void row_store(values_t v, __global row_t *p) {
  uint4 bits;
#if ROUNDED == ELEMENT_F16
  vstore_half8_rte(v, 0, (half *)&bits);
#else /* bf16 */
  const uint8 u = as_uint8(v);
  const uint8 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint8 nan = (u >> 16) | 0x40u;
  bits = as_uint4(convert_ushort8(select(rounded, nan, (u & 0x7fffffffu) > 0x7f800000u)));
#endif
  *(__global uint4 *)p = bits;
}

#else
#if WIDTH == 4
typedef float4 values_t;
static inline values_t row_load(const __global row_t *p) { return *(const __global float4 *)p; }
static inline void row_store(values_t v, __global row_t *p) {
  *(__global float4 *)p =
      (float4)(round_value(v.x), round_value(v.y), round_value(v.z), round_value(v.w));
}
#else
typedef float values_t;
static inline values_t row_load(const __global row_t *p) { return ELEMENT_LOAD(ROWS)(p, 0); }
static inline void row_store(values_t v, __global row_t *p) {
#if ROWS != ROUNDED /* else storing rounds */
  v = round_value(v);
#endif
  ELEMENT_STORE(ROWS)(v, p, 0);
}
#endif
#endif

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
scale_rows(const __global row_t *hidden, const __global int *assignment_slot,
           const __global float *topk_weights, __global row_t *scaled, long hidden_size,
           int top_k) {
  const ulong columns_per_group = LOCAL * WIDTH;
  const ulong groups_per_row = ((ulong)hidden_size + columns_per_group - 1) / columns_per_group;
  const ulong token = get_group_id(0) / groups_per_row;
  const ulong column =
      (get_group_id(0) - token * groups_per_row) * columns_per_group + get_local_id(0) * WIDTH;
  if (column >= (ulong)hidden_size) return;
  const values_t x = row_load(hidden + token * (ulong)hidden_size + column);
  assignment_slot += token * (ulong)top_k;
  topk_weights += token * (ulong)top_k;
  scaled += column;
#pragma unroll 4
  for (int k = 0; k < top_k; k++) {
    const int slot = assignment_slot[k];
    if (slot >= 0) row_store(topk_weights[k] * x, scaled + (ulong)slot * (ulong)hidden_size);
  }
}
