// SPDX-License-Identifier: MIT
/* Routing in one launch on CPUs: the choice of router/by_block.cl, where that router is asked for.
 * OpenCL 1.2's fences promise nothing to other work-groups. On a CPU, whose cores see one memory,
 * they are enough; on a GPU they may be not, which a self-check need not notice.
 * Defines: those of rule.clh; DTYPE; HAS_BIAS; TOPK_LOCAL, 256. */
#define AT_ONCE 1
#include "common/types.clh"
#include "router/by_block.cl"
#define BLOCK_TOKENS 16
#define BLOCK_EXPERTS 8
#define BLOCK_ROWS (BLOCK_TOKENS + BLOCK_EXPERTS)
#define CHUNK 32 /* of K, in local memory at a time */
#define APART (CHUNK + 1)

static inline void device_fence(void) { mem_fence(CLK_GLOBAL_MEM_FENCE); }

/* Two work-items a sum: each has half of every chunk. */
static inline void block_logits(const __global storage_t *hidden, const __global storage_t *weights,
                                __local float *memory, long hidden_size, int tokens, int experts,
                                int lid) {
  __local float *sums = memory + BLOCK_ROWS * APART;
  const int sum_at = lid % (BLOCK_TOKENS * BLOCK_EXPERTS), part = lid / (TOPK_LOCAL / 2);
  const __local float *x = memory + sum_at / BLOCK_EXPERTS * APART + part * (CHUNK / 2);
  const __local float *w =
      memory + (BLOCK_TOKENS + sum_at % BLOCK_EXPERTS) * APART + part * (CHUNK / 2);
  sums[lid] = 0.0f;
  for (long at = 0; at < hidden_size; at += CHUNK) {
    for (int i = lid; i < BLOCK_ROWS * CHUNK; i += TOPK_LOCAL) {
      const int r = i / CHUNK, of_weights = r >= BLOCK_TOKENS;
      const int row = of_weights ? r - BLOCK_TOKENS : r;
      const long k = at + i % CHUNK;
      const int there = row < (of_weights ? experts : tokens) && k < hidden_size;
      const size_t from = there ? (size_t)((long)row * hidden_size + k) : 0;
      const float value = storage_load(of_weights ? weights : hidden, from);
      memory[r * APART + i % CHUNK] = there ? value : 0.0f;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = sums[lid];
    for (int i = 0; i < CHUNK / 2; i++) sum = fma(x[i], w[i], sum);
    sums[lid] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  if (part == 0) memory[lid] = sums[lid] + sums[lid + TOPK_LOCAL / 2];
  barrier(CLK_LOCAL_MEM_FENCE);
}

#include "route/route.clh"
