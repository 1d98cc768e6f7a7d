// SPDX-License-Identifier: MIT
/* Proves that the compiler takes the matrix instruction of sub-groups of LOCAL, and block reads of
 * its operand, and the device multiplies: D[8][LOCAL] = A[8][16] B[16][LOCAL] + C in bf16, then
 * in fp16, with small integers, exact whatever the order of the sum.
 * A[r][k] = r + k % 3 - 1, B[k][c] = c - 2 + k % 2, C[r][c] = r - c; one sub-group. */
#define LANES LOCAL
#define DTYPE ELEMENT_BF16
#include "common/enums.h"
#include "common/types.clh"
#include "common/intel_matrix.clh"

static float a_at(uint r, uint k) { return (float)((int)r + (int)(k % 3) - 1); }
static float b_at(uint k, uint c) { return (float)((int)c - 2 + (int)(k % 2)); }

static ushort half_bits(float x) {
  ushort bits;
  vstore_half_rte(x, 0, (half *)&bits);
  return bits;
}

__kernel SUB_GROUPS __attribute__((reqd_work_group_size(LANES, 1, 1))) void
subgroup_matrix(__global float *out, __global ushort *rows) {
  const uint lane = get_sub_group_local_id();
  for (uint type = 0; type < 2; type++) {
    ushort column[MATRIX_K];
    float8 sum;
    float d[MATRIX_ROWS];
    for (uint i = lane; i < ROWS_ELEMENTS; i += LANES) {
      const float x = a_at(i / MATRIX_K, i % MATRIX_K);
      rows[type * ROWS_ELEMENTS + i] = type ? half_bits(x) : float_to_bf16(x);
    }
    for (uint k = 0; k < MATRIX_K; k++)
      column[k] = type ? half_bits(b_at(k, lane)) : float_to_bf16(b_at(k, lane));
    for (uint r = 0; r < MATRIX_ROWS; r++) d[r] = (float)((int)r - (int)lane);
    sum = vload8(0, d);
    barrier(CLK_GLOBAL_MEM_FENCE);
    const rows_t a = read_rows(rows + type * ROWS_ELEMENTS);
    const columns_t b = as_int8(vload16(0, column));
    if (type) sum = intel_sub_group_f16_f16_matrix_mad_k16(a, b, sum);
    else sum = intel_sub_group_bf16_bf16_matrix_mad_k16(a, b, sum);
    vstore8(sum, 0, d);
    for (uint r = 0; r < MATRIX_ROWS; r++) out[(type * MATRIX_ROWS + r) * LANES + lane] = d[r];
  }
}
