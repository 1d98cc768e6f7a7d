// SPDX-License-Identifier: MIT
/* Proves what the sm_90a kernels need, end to end: the second build that takes
 * the marks off, a bulk copy that completes on an mbarrier, and wgmma on its
 * result. D[64][16] = A[64][64] B[16][64]' in bf16 with small integers, exact
 * whatever the order of the sum.
 * A[r][k] = r % 5 + k % 3 - 2, B[c][k] = c % 4 - 1 + k % 2; one warpgroup.
 *
 * moecl-ptx-target: sm_90a */
#define DTYPE ELEMENT_BF16
#include "common/enums.h"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_wgmma.clh"

static ushort bf16_of(int x) { return (ushort)(as_uint((float)x) >> 16); }

/* Element k of row r, swizzled. */
static uint place(uint r, uint k) { return r * 64 + (((k / 8) ^ (r & 7)) * 8 + k % 8); }

__kernel __attribute__((reqd_work_group_size(128, 1, 1))) void ptx_sm90(__global float *out,
                                                                        __global ushort *memory) {
  const uint id = (uint)get_local_id(0), lane = id % 32;
  uint at, full;
  asm volatile("//@.shared .align 1024 .b8 moecl_probe[10304];");
  asm volatile("//@mov.u32 %0, moecl_probe;" : "=r"(at));
  full = at + 10240;
  for (uint i = id; i < 64 * 64; i += 128)
    memory[place(i / 64, i % 64)] = bf16_of((int)(i / 64 % 5 + i % 64 % 3) - 2);
  for (uint i = id; i < 16 * 64; i += 128)
    memory[4096 + place(i / 64, i % 64)] = bf16_of((int)(i / 64 % 4 + i % 64 % 2) - 1);
  if (id == 0) {
    mbarrier_init(full, 1);
    fence_barrier_init();
  }
  asm volatile("//@fence.proxy.async;" ::: "memory");
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
  if (id == 0) {
    mbarrier_arrive_expect(full, 10240);
    bulk_copy(at, (ulong)memory, 10240, full);
  }
  mbarrier_wait(full, 0);
  float c[8];
  const ulong a = wgmma_operand(at), b = wgmma_operand(at + 8192);
  wgmma_begin();
  for (uint step = 0; step < 4; step++) WGMMA(16, c, 8, 9, 10, a + 2 * step, b + 2 * step, step);
  wgmma_commit();
  WGMMA_WAIT(16, c);
  const uint r = id / 32 * 16 + lane / 4, column = lane % 4 * 2;
  for (uint j = 0; j < 2; j++)
    for (uint i = 0; i < 4; i++) out[(r + i / 2 * 8) * 16 + j * 8 + column + i % 2] = c[4 * j + i];
}
