// SPDX-License-Identifier: MIT
/* norm.clh, a work-group of LOCAL a row. A work-item reads what it stored itself. */
#include "common/group_sum.clh"
#include "norm/norm.clh"

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
norm(const __global storage_t *x, const __global residual_t *residual, __global storage_t *sum,
     const __global storage_t *weight, const __global storage_t *bias, __global output_t *output,
     long size, float epsilon) {
  __local float part[LOCAL];
  const int lid = (int)get_local_id(0);
  const size_t row = (size_t)get_group_id(0) * (size_t)size;
  float total = 0.0f, squares = 0.0f;
  for (size_t i = lid; i < (size_t)size; i += LOCAL) {
    const float v = add_residual(x, residual, sum, row + i);
    total += v;
    squares = fma(v, v, squares);
  }
#if NORMALIZES
  const __global storage_t *values = ADDS ? sum : x;
  float mean = 0.0f;
#if LAYER_NORM
  mean = group_sum(part, lid, total) / (float)size;
  squares = 0.0f;
  for (size_t i = lid; i < (size_t)size; i += LOCAL) {
    const float v = storage_load(values, row + i) - mean;
    squares = fma(v, v, squares);
  }
#endif
  const float scale = 1.0f / sqrt(group_sum(part, lid, squares) / (float)size + epsilon);
  for (size_t i = lid; i < (size_t)size; i += LOCAL) {
    const float v = (storage_load(values, row + i) - mean) * scale;
    output_store(weighted(v, weight, bias, i), output, row + i);
  }
#endif
}
