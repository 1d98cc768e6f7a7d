// SPDX-License-Identifier: MIT
/* The operation's variants, and what their rows say of problems. */
#include "op/gemm/driver.h"

static const kernel_variant rows[] = {
#include "grouped_gemm/variants.def"
};

const kernel_table op_gemm_table = {"grouped_gemm", rows, sizeof rows / sizeof rows[0]};

bool op_gemm_takes(const kernel_variant *variant, const op_gemm_desc *desc) {
  return (!desc_is_quantized(desc->input) || variant->traits & KERNEL_CODED_INPUT) &&
         (!desc->scatter || variant->traits & KERNEL_SCATTERED_OUTPUT) &&
         kernel_variant_accepts(variant, desc);
}

bool op_gemm_as_weights(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return desc->input == desc->weights && desc->biases == desc->weights &&
         (desc->output == desc->weights || desc_is_f32(desc->output)) &&
         (!desc->rounded || desc->rounded == desc->output);
}

bool op_gemm_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  return op_gemm_as_weights(variant, problem) && desc->n % 8 == 0 && desc->k % 8 == 0;
}

/* Sums of int8's products have 31 bits: so many are of 14 each. */
static bool fits_int32(const op_gemm_desc *desc) {
  enum { MOST_PRODUCTS = 1 << 17 };
  return desc->weights->element != ELEMENT_INT8 || desc->k <= MOST_PRODUCTS;
}

bool op_gemm_int8_codes(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return desc->weights->element == ELEMENT_INT8 && desc->input->element == ELEMENT_INT8 &&
         !desc_is_quantized(desc->output) && (!desc->rounded || desc->rounded == desc->output) &&
         fits_int32(desc);
}

bool op_gemm_int8_weights(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  op_gemm_desc plain = *desc;
  plain.weights = desc_format_of(MOECL_BF16);
  return op_gemm_int8_codes(variant, desc) ||
         (desc->weights->element == ELEMENT_INT8 && op_gemm_as_weights(variant, &plain));
}

bool op_gemm_16_bits_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return desc->input->bits == 16 && desc->biases == desc->input &&
         (desc->output == desc->input || desc_is_f32(desc->output)) &&
         (!desc->rounded || desc->rounded == desc->output) && !desc->exact && desc->n % 8 == 0 &&
         desc->k % 8 == 0;
}

static bool is_coded_pair(const desc_format *weights, const desc_format *rows) {
  return desc_is_quantized(rows) && weights->element == rows->element && weights->bits == 8 &&
         (weights->block == 0 || weights->block == 128) && (rows->block == 0 || rows->block == 128);
}

bool op_gemm_int8_multiples_of_16(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return is_coded_pair(desc->weights, desc->input) && fits_int32(desc) && !desc->exact &&
         desc->weights->element == ELEMENT_INT8 && desc->k % 16 == 0;
}

bool op_gemm_coded_multiples_of_16(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  (void)variant;
  return is_coded_pair(desc->weights, desc->input) && fits_int32(desc) &&
         desc->biases->bits == 16 && (desc->output == desc->biases || desc_is_f32(desc->output)) &&
         (!desc->rounded || desc->rounded == desc->output) && !desc->exact && desc->n % 8 == 0 &&
         desc->k % 16 == 0;
}

bool op_gemm_inexact_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_gemm_desc *desc = problem;
  return !desc->exact && op_gemm_multiples_of_8(variant, problem);
}

/* ---- the operation's row ---- */

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  return op_gemm_describe(context, variant, desc, op);
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  return op_gemm_create_unchecked(context, variant, desc, op);
}

static moecl_status self_check(moecl_context *context, const kernel_variant *variant,
                               const void *desc) {
  return op_gemm_self_check(context, variant, desc);
}

static void release(void *op) { op_gemm_destroy(op); }

static uint64_t bytes(const void *op) {
  const op_gemm *const *gemm = op;
  return *gemm ? op_gemm_bytes(*gemm) : 0;
}

const op_kind op_gemm_kind = {.table = &op_gemm_table,
                              .size = sizeof(op_gemm *),
                              .describe = describe,
                              .create = create,
                              .self_check = self_check,
                              .release = release,
                              .bytes = bytes};
