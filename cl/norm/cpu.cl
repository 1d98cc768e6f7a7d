// SPDX-License-Identifier: MIT
/* norm.clh, a work-item a row, in vectors of VECTOR_WIDTH: 4, 8 or 16. */
#include "norm/norm.clh"
#include "common/cpu.clh"

#if RESIDUAL == ELEMENT_F32
#define residual_loadv(p) vloadv(0, p)
#else
#define residual_loadv(p) storage_loadv(p)
#endif
#if OUTPUT == ELEMENT_F32
#define output_storev(v, p) vstorev(v, 0, p)
#else
#define output_storev(v, p) storage_storev(v, p)
#endif

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
norm(const __global storage_t *x, const __global residual_t *residual, __global storage_t *sum,
     const __global storage_t *weight, const __global storage_t *bias, __global output_t *output,
     long size, float epsilon) {
  const size_t row = (size_t)get_group_id(0) * (size_t)size;
  const size_t whole = (size_t)size / VECTOR_WIDTH * VECTOR_WIDTH;
  floatv totals = 0.0f, squares = 0.0f;
  float total = 0.0f, square = 0.0f;
  for (size_t i = 0; i < whole; i += VECTOR_WIDTH) {
    floatv v = storage_loadv(x + row + i);
#if ADDS
    v += residual_loadv(residual + row + i);
    storage_storev(v, sum + row + i);
    v = storage_loadv(sum + row + i);
#endif
    totals += v;
    squares += v * v;
  }
  for (size_t i = whole; i < (size_t)size; i++) {
    const float v = add_residual(x, residual, sum, row + i);
    total += v;
    square += v * v;
  }
#if NORMALIZES
  const __global storage_t *values = (ADDS ? sum : x) + row;
  float mean = 0.0f;
#if LAYER_NORM
  mean = (sum_of(totals) + total) / (float)size;
  squares = 0.0f;
  square = 0.0f;
  for (size_t i = 0; i < whole; i += VECTOR_WIDTH) {
    const floatv v = storage_loadv(values + i) - mean;
    squares += v * v;
  }
  for (size_t i = whole; i < (size_t)size; i++) {
    const float v = storage_load(values, i) - mean;
    square += v * v;
  }
#endif
  const float scale = 1.0f / sqrt((sum_of(squares) + square) / (float)size + epsilon);
  for (size_t i = 0; i < whole; i += VECTOR_WIDTH) {
    floatv v = (storage_loadv(values + i) - mean) * scale;
    v *= storage_loadv(weight + i) + (PLUS_ONE ? 1.0f : 0.0f);
#if BIAS
    v += storage_loadv(bias + i);
#endif
    output_storev(v, output + row + i);
  }
  for (size_t i = whole; i < (size_t)size; i++) {
    const float v = (storage_load(values, i) - mean) * scale;
    output_store(weighted(v, weight, bias, i), output, row + i);
  }
#endif
}
