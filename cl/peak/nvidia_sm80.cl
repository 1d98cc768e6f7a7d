// SPDX-License-Identifier: MIT
/* How fast mma.sync is: rounds of it out of registers, on small integers, whose sums are exact.
 *
 * A work-group's eight warps each make D[16][64] += A[16][16] B[64][16]' again and again, in bf16:
 * eight sums in flight, so that none waits for the last one's result. What A and B hold,
 * lib/op/peak/matrix.c knows too. */
#define DTYPE ELEMENT_BF16
#include "common/nvidia_mma.clh"

#define LOCAL 256
#define SUMS 8

static uint bf16_pair(float low, float high) {
  return as_uint(low) >> 16 | (as_uint(high) & 0xffff0000u);
}
static float a_at(uint r, uint k) { return (float)((int)(r % 5 + k % 3) - 2); }
static float b_at(uint c, uint k) { return (float)((int)(c % 4 + k % 2) - 1); }
static uint a_pair(uint r, uint k) { return bf16_pair(a_at(r, k), a_at(r, k + 1)); }
static uint b_pair(uint c, uint k) { return bf16_pair(b_at(c, k), b_at(c, k + 1)); }

/* Each work-item writes the total of the sums that it holds. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void multiply_tiles(__global int *out,
                                                                                int rounds) {
  const uint id = (uint)get_local_id(0), r = id % 32 / 4, k = id % 4 * 2;
  const uint a0 = a_pair(r, k), a1 = a_pair(r + 8, k);
  const uint a2 = a_pair(r, k + 8), a3 = a_pair(r + 8, k + 8);
  uint b0[SUMS], b1[SUMS];
  float c[SUMS][4];
#pragma unroll
  for (uint i = 0; i < SUMS; i++) {
    b0[i] = b_pair(8 * i + r, k);
    b1[i] = b_pair(8 * i + r, k + 8);
    c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0.0f;
  }
  for (int round = 0; round < rounds; round++) {
#pragma unroll
    for (uint i = 0; i < SUMS; i++) mma(c[i], a0, a1, a2, a3, b0[i], b1[i]);
  }
  int total = 0;
#pragma unroll
  for (uint i = 0; i < SUMS; i++)
    total += (int)c[i][0] + (int)c[i][1] + (int)c[i][2] + (int)c[i][3];
  out[(uint)get_group_id(0) * LOCAL + id] = total;
}
