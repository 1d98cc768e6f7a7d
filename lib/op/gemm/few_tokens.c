// SPDX-License-Identifier: MIT
/* Kernels for few tokens that stream each assignment's weights: cl/grouped_gemm/few_tokens.clh. */
#include "base/base.h"
#include "op/gemm/driver.h"
#include <stdio.h>
#include <string.h>

bool op_gemm_has_few_tokens(const op_gemm_desc *desc) {
  if (desc_is_f32(desc->weights) || desc_is_quantized(desc->input) || desc->scatter) return false;
  return desc->ungrouped || desc->gather || (desc->epilogue == ACTIVATION_NONE && !desc->gated);
}

/* Weights are read again for every token of the same expert: of one alone, where
 * they stay in the cache. */
bool op_gemm_few_tokens_pay(const op_gemm *gemm, int64_t num_tokens, int64_t most) {
  enum { CACHED = 16 << 20 };
  if (!op_gemm_has_few_tokens(&gemm->desc) || num_tokens > most) return false;
  return num_tokens <= 1 || !gemm->desc.ungrouped || gemm->driver->packed_bytes(gemm) <= CACHED;
}

bool op_gemm_plain_few_tokens_pay(const op_gemm *gemm, int64_t num_tokens) {
  enum { MOST_TOKENS_LOGITS = 32 };
  return op_gemm_few_tokens_pay(gemm, num_tokens,
                                gemm->desc.exact ? MOST_TOKENS_LOGITS : OP_GEMM_MOST_FEW_TOKENS);
}

void op_gemm_few_tokens_defines(const op_gemm_desc *desc, char *text, size_t size) {
  const size_t used = strlen(text);
  snprintf(text + used, size - used, "DENSE %d\nADDS_SHARED %d\n", desc->ungrouped,
           desc->adds_shared ? 1 + desc->shared_gate : 0);
}

void op_gemm_parts_defines(const op_gemm_desc *desc, unsigned parts, char *text, size_t size) {
  const size_t used = strlen(text);
  snprintf(text + used, size - used, "PARTS %u\n", parts);
  if (parts & PART_FEW_TOKENS) op_gemm_few_tokens_defines(desc, text, size);
}

moecl_status op_gemm_launch_few_tokens(const op_gemm *gemm, ocl_kernel *few, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io) {
  enum { LOCAL = 256, ROWS = 16 }; /* as in cl/grouped_gemm/few_tokens.clh, where it says nothing */
  const uint32_t local = few->local ? few->local : LOCAL;
  const op_gemm_desc *desc = &gemm->desc;
  const uint64_t columns = desc->gated ? ROWS / 2 : ROWS;
  const uint64_t groups = base_div_up((uint64_t)desc->n, columns);
  const int32_t top_k = desc->ungrouped ? 1 : (int32_t)io->top_k;
  if (desc->ungrouped || desc->gather) {
    MOECL_TRY(ocl_kernel_args(few, "bbbbblli", io->input, io->topk_ids, gemm->weights, gemm->bias,
                              io->output, desc->k, desc->n, top_k));
    return ocl_launch(chain, few, groups * (uint64_t)(io->num_tokens * top_k), local);
  }
  MOECL_TRY(ocl_kernel_args(few, "bbbbbbbblli", io->input, io->topk_ids, io->topk_weights,
                            gemm->weights, gemm->bias, io->shared, io->shared_gate, io->output,
                            desc->k, desc->n, top_k));
  return ocl_launch(chain, few, groups * (uint64_t)io->num_tokens, local);
}
