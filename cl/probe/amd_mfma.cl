// SPDX-License-Identifier: MIT
/* Proves that the compiler has the builtins for v_mfma_f32_16x16x16, that the device runs them, and
 * in waves of 64: D[16][16] = A[16][16] B[16][16] with small integers, exact whatever the order of
 * the sum. Product p, that of wave p / 2, is in fp16 or, where p is odd, in bf16.
 * A[r][k] = r + k % 3 - p, B[k][c] = c - 2 + k % 5. */
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
static float a_at(uint r, uint k, uint p) { return (float)((int)(r + k % 3) - (int)p); }
static float b_at(uint k, uint c) { return (float)((int)(c + k % 5) - 2); }
static short fp16(float x) { return as_short((half)x); }
static short bf16(float x) { return (short)(as_uint(x) >> 16); }

typedef union operand_t {
  short each[4];
  half4 halves;
  short4 shorts;
} operand_t;

/* A lane's sums: rows 4 (lane / 16) and on of column lane % 16. */
static void store(__global float *out, uint p, uint lane, float4 d) {
  out += p * 256 + lane / 16 * 64 + lane % 16;
  out[0] = d.x;
  out[16] = d.y;
  out[32] = d.z;
  out[48] = d.w;
}

__kernel __attribute__((reqd_work_group_size(256, 1, 1))) void matrices(__global float *out) {
  const uint id = (uint)get_local_id(0), lane = id % 64, side = lane % 16, p = id / 64 * 2;
  const float4 none = (float4)(0.0f);
  operand_t a, b, c, d;
#pragma unroll
  for (uint i = 0; i < 4; i++) {
    const uint k = lane / 16 * 4 + i;
    a.each[i] = fp16(a_at(side, k, p));
    b.each[i] = fp16(b_at(k, side));
    c.each[i] = bf16(a_at(side, k, p + 1));
    d.each[i] = bf16(b_at(k, side));
  }
  store(out, p, lane, __builtin_amdgcn_mfma_f32_16x16x16f16(a.halves, b.halves, none, 0, 0, 0));
  store(out, p + 1, lane,
        __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(c.shorts, d.shorts, none, 0, 0, 0));
}
