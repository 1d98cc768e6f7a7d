// SPDX-License-Identifier: MIT
/* The router's choice, one work-item a token. Defines: those of rule.clh. */
#define ROW __private
#include "router/choose_token.clh"

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
topk(const __global float *logits, const __global float *correction_bias, __global int *topk_ids,
     __global float *topk_weights, int num_experts, int top_k, ulong seed, ulong first_token) {
  float row[MAX_EXPERTS];
  const size_t token = get_group_id(0);
  choose_token(logits + token * (size_t)num_experts, correction_bias,
               topk_ids + token * (size_t)top_k, topk_weights + token * (size_t)top_k, row,
               num_experts, top_k, first_token + token, seed);
}
