// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/norm/norm.h"
#include "ref/ref.h"

/* Rows that end within a vector; of whole ones for variants that take no others. */
enum { ROWS = 3, MOST_SIZE = 77, WHOLE_SIZE = 72, MOST = ROWS * MOST_SIZE };
enum { INPUT, RESIDUAL, SUM, WEIGHT, BIAS, OUTPUT, TENSORS };

/* Sums of multiples of 1/8 are exact in every storage type. */
static moecl_status check(check_run *run, void *op) {
  const op_norm *norm = op;
  const op_norm_desc *desc = &norm->desc;
  moecl_context *context = run->context;
  moecl_buffer **b = run->buffer;
  const desc_format *stored = desc->stored;
  const desc_format *output = desc->output ? desc->output : stored;
  double value[TENSORS][MOST];
  uint32_t state = 1;
  const uint64_t size = (uint64_t)desc->norm.size;
  for (int i = 0; i < TENSORS; i++)
    for (int j = 0; j < MOST; j++) value[i][j] = check_value(&state);
  const desc_format *residual = desc->residual ? desc->residual : stored;
  MOECL_TRY(check_upload(context, stored, value[INPUT], ROWS, size, &b[INPUT]));
  MOECL_TRY(check_upload(context, residual, value[RESIDUAL], ROWS, size, &b[RESIDUAL]));
  MOECL_TRY(check_upload(context, stored, value[WEIGHT], 1, size, &b[WEIGHT]));
  MOECL_TRY(check_upload(context, stored, value[BIAS], 1, size, &b[BIAS]));
  MOECL_TRY(moecl_buffer_create(context, desc_format_bytes(stored, ROWS, size), &b[SUM]));
  MOECL_TRY(moecl_buffer_create(context, desc_format_bytes(output, ROWS, size), &b[OUTPUT]));
  const op_norm_io io = {ROWS, b[INPUT], b[RESIDUAL], b[SUM], b[WEIGHT], b[BIAS], b[OUTPUT]};
  ocl_chain chain = {.context = context};
  MOECL_TRY(op_norm_enqueue(op, &chain, &io));
  for (uint64_t i = 0; i < ROWS * size; i++)
    value[SUM][i] = value[INPUT][i] + (desc->residual ? value[RESIDUAL][i] : 0);
  if (desc->residual)
    MOECL_TRY(
        check_numbers(run, "sum", b[SUM], stored, ROWS, size, value[SUM], (check_tolerance){0}));
  if (!desc->output) return MOECL_OK;
  for (uint64_t row = 0; row < ROWS; row++)
    ref_norm(&desc->norm, value[SUM] + row * size, value[WEIGHT], value[BIAS],
             value[OUTPUT] + row * size);
  return check_numbers(run, "output", b[OUTPUT], output, ROWS, size, value[OUTPUT],
                       (check_tolerance){1e-2, 1e-2});
}

moecl_status op_norm_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc) {
  check_run run = {&op_norm_kind, context, variant, {NULL}};
  op_norm_desc small = *(const op_norm_desc *)desc;
  op_norm norm;
  small.norm.size = MOST_SIZE;
  if (!kernel_variant_accepts(variant, &small)) small.norm.size = WHOLE_SIZE;
  small.norm.epsilon = 1e-5;
  MOECL_TRY(check_begin(&run, &small, &norm));
  return check_end(&run, &norm, &norm.kernel, 1, check);
}
