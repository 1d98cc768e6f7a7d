/* Rows for experts whose route weight multiplies their input:
 *   scaled[slot of assignment a] = weight of a * hidden[token of a],
 * rounded to the storage type. Defines: DTYPE; INPUT_F32 (rows are fp32).
 * A work-group takes LOCAL * PER_ITEM columns of one assignment. */
#include "common/types.clh"
#define LOCAL 64
#define PER_ITEM 4

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
scale_rows(
#if INPUT_F32
    const __global float *hidden,
#else
    const __global storage_t *hidden,
#endif
    const __global int *assignment_slot, const __global float *topk_weights,
#if INPUT_F32
    __global float *scaled,
#else
    __global storage_t *scaled,
#endif
    long hidden_size, int top_k) {
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
#if INPUT_F32
      scaled[to] = weight * hidden[from + column];
#else
      storage_store(weight * storage_load(hidden, from + column), scaled, to);
#endif
    }
  }
}
