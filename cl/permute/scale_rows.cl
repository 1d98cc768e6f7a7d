/* Rows for experts whose route weight multiplies their input:
 *   scaled[slot of assignment a] = weight of a * hidden[token of a],
 * rounded to the storage type. Defines: DTYPE; INPUT_F32 (rows are fp32, their
 * numbers those of the storage type all the same).
 * A work-group takes LOCAL * PER_ITEM columns of one assignment. */
#include "common/types.clh"
#define LOCAL 64
#define PER_ITEM 4

#if INPUT_F32
typedef float row_t;
#define row_load(p, i) ((p)[i])

static inline void row_store(float v, __global float *p, size_t i) {
#if DTYPE == 1
  ushort bits;
  vstore_half_rte(v, 0, (half *)&bits);
  v = vload_half(0, (const half *)&bits);
#elif DTYPE == 2
  v = bf16_to_float(float_to_bf16(v));
#endif
  p[i] = v;
}
#else
typedef storage_t row_t;
#define row_load storage_load
#define row_store storage_store
#endif

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
scale_rows(const __global row_t *hidden, const __global int *assignment_slot,
           const __global float *topk_weights, __global row_t *scaled, long hidden_size,
           int top_k) {
  const ulong columns_per_group = LOCAL * PER_ITEM;
  const ulong groups_per_row = ((ulong)hidden_size + columns_per_group - 1) / columns_per_group;
  const ulong assignment = get_group_id(0) / groups_per_row;
  const ulong first = (get_group_id(0) - assignment * groups_per_row) * columns_per_group;
  const int slot = assignment_slot[assignment];
  const float weight = topk_weights[assignment];
  const size_t from = (size_t)(assignment / (ulong)top_k * (ulong)hidden_size);
  for (int i = 0; i < PER_ITEM; i++) {
    const ulong column = first + (ulong)(i * LOCAL) + get_local_id(0);
    if (slot >= 0 && column < (ulong)hidden_size) {
      const size_t to = (size_t)((ulong)slot * (ulong)hidden_size + column);
      row_store(weight * row_load(hidden, from + column), scaled, to);
    }
  }
}
