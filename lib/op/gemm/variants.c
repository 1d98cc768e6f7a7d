// SPDX-License-Identifier: MIT
/* The operation's variants, and what their rows say of problems. */
#include "op/gemm/driver.h"

static const kernel_variant rows[] = {
#include "grouped_gemm/variants.def"
};

const kernel_table op_gemm_table = {"grouped_gemm", rows, sizeof rows / sizeof rows[0]};

bool op_gemm_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return desc->input == desc->weights && desc->biases == desc->weights &&
         (desc->output == desc->weights || desc_is_f32(desc->output)) &&
         (!desc->rounded || desc->rounded == desc->output) && desc->n % 8 == 0 && desc->k % 8 == 0;
}

bool op_gemm_inexact_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  return !desc->exact && op_gemm_multiples_of_8(variant, problem);
}
