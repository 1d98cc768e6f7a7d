// SPDX-License-Identifier: MIT
/* The operation's variants, and what their rows say of problems. */
#include "op/gemm/driver.h"

static const kernel_variant rows[] = {
#include "grouped_gemm/variants.def"
};

const kernel_table op_gemm_table = {"grouped_gemm", rows, sizeof rows / sizeof rows[0]};

static bool is_plain(const op_gemm_desc *desc, const desc_format *format) {
  return format == desc->weights || desc_is_f32(format);
}

/* What is rounded first goes through the weights' format in the kernels. */
bool op_gemm_plain(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return is_plain(desc, desc->input) && is_plain(desc, desc->output) &&
         (!desc->rounded || desc->rounded == desc->output || desc->rounded == desc->weights);
}

bool op_gemm_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  return op_gemm_plain(variant, problem) && desc->input == desc->weights && desc->n % 8 == 0 &&
         desc->k % 8 == 0;
}

bool op_gemm_inexact_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  return !desc->exact && op_gemm_multiples_of_8(variant, problem);
}
