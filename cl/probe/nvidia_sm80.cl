// SPDX-License-Identifier: MIT
/* Proves that the compiler takes inline PTX and the device runs sm_80's
 * tensor core instruction: D[16][8] = A[16][16] B[16][8] in bf16 with small
 * integers, exact whatever the order of the sum.
 * A[r][k] = r + k % 3 - 1, B[k][c] = c - 2 + k % 2; one warp. */
static uint bf16_pair(float low, float high) {
  return as_uint(low) >> 16 | (as_uint(high) & 0xffff0000u);
}
static float a_at(uint r, uint k) { return (float)((int)r + (int)(k % 3) - 1); }
static float b_at(uint k, uint c) { return (float)((int)c - 2 + (int)(k % 2)); }

__kernel __attribute__((reqd_work_group_size(32, 1, 1))) void ptx_sm80(__global float *out) {
  uint lane = (uint)get_local_id(0), r = lane / 4, k = lane % 4 * 2;
  uint a0 = bf16_pair(a_at(r, k), a_at(r, k + 1));
  uint a1 = bf16_pair(a_at(r + 8, k), a_at(r + 8, k + 1));
  uint a2 = bf16_pair(a_at(r, k + 8), a_at(r, k + 9));
  uint a3 = bf16_pair(a_at(r + 8, k + 8), a_at(r + 8, k + 9));
  uint b0 = bf16_pair(b_at(k, r), b_at(k + 1, r));
  uint b1 = bf16_pair(b_at(k + 8, r), b_at(k + 9, r));
  float d0 = 0.0f, d1 = 0.0f, d2 = 0.0f, d3 = 0.0f;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  out[r * 8 + k] = d0;
  out[r * 8 + k + 1] = d1;
  out[(r + 8) * 8 + k] = d2;
  out[(r + 8) * 8 + k + 1] = d3;
}
