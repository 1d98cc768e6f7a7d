// SPDX-License-Identifier: MIT
/* Routing in one launch on NVIDIA GPUs since Ampere: the choice of router/nvidia_sm80.cl.
 * Defines: those of rule.clh; DTYPE, fp16 or bf16; HAS_BIAS; TOPK_LOCAL, 512. The hidden size is a
 * multiple of 8.
 *
 * Tokens are the matrix instruction's A, 16 rows, experts its B, 8 columns; products are exact and
 * sums fp32. Warps share out K by steps of 32: lane 4g + q takes 16 bytes of rows g and g+8 and of
 * expert g, which are the k of two instructions, the same in both operands
 * (grouped_gemm/nvidia_sm80.cl has more on that order). Their sums are added up in the warps'
 * order. */
#define AT_ONCE 1
#include "common/types.clh"
#include "common/nvidia_mma.clh"
#include "router/nvidia_sm80.cl"
#define BLOCK_TOKENS 16
#define BLOCK_EXPERTS 8
#define WARPS (TOPK_LOCAL / 32)
#define STEP_K 32
#define STEPS_AHEAD 4 /* in flight: 6 KiB a warp */

static inline void device_fence(void) { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

/* 16 bytes of a row, or zeros where it is not there. The compiler leaves the load where it stands,
 * long before its use. */
static inline uint4 load_chunk(const __global storage_t *row, long at, int there) {
  uint x, y, z, w;
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %5, 0; mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0; "
               "mov.u32 %3, 0; @p ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4]; }"
               : "=&r"(x), "=&r"(y), "=&r"(z), "=&r"(w)
               : "l"((const __global ushort *)row + at), "r"(there));
  return (uint4)(x, y, z, w);
}

static inline __attribute__((always_inline)) void
block_logits(const __global storage_t *hidden, const __global storage_t *weights,
             __local float *memory, long hidden_size, int tokens, int experts, int lid) {
  const int warp = lid / 32, g = lid % 32 / 4, q = lid % 4;
  const __global storage_t *x = hidden + (long)g * hidden_size;
  const __global storage_t *w = weights + (long)g * hidden_size;
  float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (long from = warp * STEP_K + q * 8; from - q * 8 < hidden_size;
       from += WARPS * STEPS_AHEAD * STEP_K) {
    uint4 low[STEPS_AHEAD], high[STEPS_AHEAD], b[STEPS_AHEAD];
#pragma unroll
    for (int i = 0; i < STEPS_AHEAD; i++) {
      const long at = from + i * WARPS * STEP_K;
      const int inside = at < hidden_size;
      b[i] = load_chunk(w, at, inside && g < experts);
      low[i] = load_chunk(x, at, inside && g < tokens);
      high[i] = load_chunk(x + 8 * hidden_size, at, inside && g + 8 < tokens);
    }
#pragma unroll
    for (int i = 0; i < STEPS_AHEAD; i++) {
      mma(c, low[i].x, high[i].x, low[i].y, high[i].y, b[i].x, b[i].y);
      mma(c, low[i].z, high[i].z, low[i].w, high[i].w, b[i].z, b[i].w);
    }
  }
  __local float *mine = memory + (1 + warp) * (BLOCK_TOKENS * BLOCK_EXPERTS) + g * BLOCK_EXPERTS;
  mine[2 * q] = c[0];
  mine[2 * q + 1] = c[1];
  mine[8 * BLOCK_EXPERTS + 2 * q] = c[2];
  mine[8 * BLOCK_EXPERTS + 2 * q + 1] = c[3];
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid < BLOCK_TOKENS * BLOCK_EXPERTS) {
    float sum = 0.0f;
    for (int i = 1; i <= WARPS; i++) sum += memory[i * (BLOCK_TOKENS * BLOCK_EXPERTS) + lid];
    memory[lid] = sum;
  }
}

#include "route/route.clh"
