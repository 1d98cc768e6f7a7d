// SPDX-License-Identifier: MIT
/* Proves that the compiler has the builtins for v_wmma_f32_16x16x16, that the device runs them, and
 * in waves of 32: D[16][16] = A[16][16] B[16][16] with small integers, exact whatever the order of
 * the sum. Product p, that of wave p / 2, is in fp16 or, where p is odd, in bf16.
 * A[r][k] = r + k % 3 - p, B[k][c] = c - 2 + k % 5. */
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
static float a_at(uint r, uint k, uint p) { return (float)((int)(r + k % 3) - (int)p); }
static float b_at(uint k, uint c) { return (float)((int)(c + k % 5) - 2); }
static short fp16(float x) { return as_short((half)x); }
static short bf16(float x) { return (short)(as_uint(x) >> 16); }

/* Which of K's elements are a lane's does not matter, as long as they are the same of A and B. */
#ifdef __GFX12__ /* a lane has half of K's, and of D rows 8 (lane / 16) and on */
#define EACH 8
#define FIRST_K(lane) ((lane) / 16 * 8)
#define ROW(lane, i) ((lane) / 16 * 8 + (i))
typedef half8 halves_t;
typedef short8 shorts_t;
#define WMMA_F16 __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12
#define WMMA_BF16 __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12
#else /* all of K, and of D rows lane / 16, 2 + lane / 16, ... */
#define EACH 16
#define FIRST_K(lane) 0
#define ROW(lane, i) ((i)*2 + (lane) / 16)
typedef half16 halves_t;
typedef short16 shorts_t;
#define WMMA_F16 __builtin_amdgcn_wmma_f32_16x16x16_f16_w32
#define WMMA_BF16 __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32
#endif

typedef union operand_t {
  short each[EACH];
  halves_t halves;
  shorts_t shorts;
} operand_t;
typedef union sums_t {
  float each[8];
  float8 all;
} sums_t;

static void store(__global float *out, uint p, uint lane, sums_t d) {
#pragma unroll
  for (uint i = 0; i < 8; i++) out[p * 256 + ROW(lane, i) * 16 + lane % 16] = d.each[i];
}

__kernel __attribute__((reqd_work_group_size(256, 1, 1))) void matrices(__global float *out) {
  const uint id = (uint)get_local_id(0), lane = id % 32, side = lane % 16, p = id / 32 * 2;
  operand_t a, b, c, d;
#pragma unroll
  for (uint i = 0; i < EACH; i++) {
    const uint k = FIRST_K(lane) + i;
    a.each[i] = fp16(a_at(side, k, p));
    b.each[i] = fp16(b_at(k, side));
    c.each[i] = bf16(a_at(side, k, p + 1));
    d.each[i] = bf16(b_at(k, side));
  }
  sums_t sums;
  sums.all = WMMA_F16(a.halves, b.halves, (float8)(0.0f));
  store(out, p, lane, sums);
  sums.all = WMMA_BF16(c.shorts, d.shorts, (float8)(0.0f));
  store(out, p + 1, lane, sums);
}
