// SPDX-License-Identifier: MIT
/* The router's choice by blocks of tokens on any device, one work-item a token: what CPUs
 * are good at, and few of a GPU's work-items. Defines: those of rule.clh;
 * TOPK_LOCAL, the work-items of topk. */
#define ROW __local
#include "permute/scatter.clh"
#include "router/choose_token.clh"

/* As many tokens at a time as there are rows: the first work-items take them. */
static inline void route_block(const __global float *logits, const __global float *correction_bias,
                               __global int *topk_ids, __global float *topk_weights,
                               __local float *rows, __local int *bins, int first, int end,
                               int num_experts, int top_k, ulong seed, ulong first_token, int lid,
                               int local_size) {
  const int chosen_at_once = local_size / 32;
  for (int e = lid; e < num_experts; e += local_size) bins[e] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int t = first + lid; lid < chosen_at_once && t < end; t += chosen_at_once) {
    __global int *ids = topk_ids + (size_t)t * (size_t)top_k;
    choose_token(logits + (size_t)t * (size_t)num_experts, correction_bias, ids,
                 topk_weights + (size_t)t * (size_t)top_k, rows + lid * ROW_SIZE(num_experts),
                 num_experts, top_k, first_token + (ulong)t, seed);
    for (int k = 0; k < top_k; k++)
      if (ids[k] >= 0) atomic_inc(&bins[ids[k]]);
  }
  barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
}

#ifndef AT_ONCE /* else route/by_block.cl includes this */
#include "router/by_block.clh"
#endif
