// SPDX-License-Identifier: MIT
/* How fast wgmma is: rounds of it out of shared memory, on small integers, whose sums are exact.
 *
 * Two warpgroups make D[128][128] += A[128][64] B[128][64]' again and again, in bf16, each 64 rows
 * of it. What A and B hold, lib/op/peak/matrix.c knows too.
 *
 * moecl-ptx-target: sm_90a */
#define DTYPE ELEMENT_BF16
#include "common/nvidia_ptx.clh"
#include "common/nvidia_wgmma.clh"

#define LOCAL 256
#define ROWS 128
#define B_BYTES (ROWS * 128) /* where B begins, behind A */

static uint bf16_pair(float low, float high) {
  return as_uint(low) >> 16 | (as_uint(high) & 0xffff0000u);
}
static float a_at(uint r, uint k) { return (float)((int)(r % 5 + k % 3) - 2); }
static float b_at(uint c, uint k) { return (float)((int)(c % 4 + k % 2) - 1); }
/* Bytes from its operand's beginning to the pair of elements k and k+1 of a row, swizzled. */
static uint place(uint row, uint k) { return row * 128 + (k / 8 ^ (row & 7)) * 16 + k % 8 * 2; }

/* Each work-item writes the total of the sums that it holds. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void multiply_tiles(__global int *out,
                                                                                int rounds) {
  const uint id = (uint)get_local_id(0);
  uint at;
  asm volatile("//@.shared .align 1024 .b8 moecl_peak[32768];");
  asm volatile("//@mov.u32 %0, moecl_peak;" : "=r"(at));
  for (uint i = id; i < ROWS * 32; i += LOCAL) {
    const uint row = i / 32, k = i % 32 * 2;
    store_shared(at + place(row, k), bf16_pair(a_at(row, k), a_at(row, k + 1)));
    store_shared(at + B_BYTES + place(row, k), bf16_pair(b_at(row, k), b_at(row, k + 1)));
  }
  fence_async_proxy();
  barrier(CLK_LOCAL_MEM_FENCE);
  float c[64];
#pragma unroll
  for (uint i = 0; i < 64; i++) c[i] = 0.0f;
  const ulong a = wgmma_operand(at + id / 128 * 8192), b = wgmma_operand(at + B_BYTES);
  for (int round = 0; round < rounds; round++) {
    wgmma_begin();
#pragma unroll
    for (uint step = 0; step < 4; step++) WGMMA(128, c, 64, 65, 66, a + 2 * step, b + 2 * step, 1);
    wgmma_commit();
    wgmma_wait_but_one();
  }
  WGMMA_WAIT(128, c);
  int total = 0;
#pragma unroll
  for (uint i = 0; i < 64; i++) total += (int)c[i];
  out[(uint)get_group_id(0) * LOCAL + id] = total;
}
