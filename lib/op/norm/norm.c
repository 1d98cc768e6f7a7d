// SPDX-License-Identifier: MIT
#include "op/norm/norm.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "norm/variants.def"
};
const kernel_table op_norm_table = {"norm", rows, sizeof rows / sizeof rows[0]};

bool op_norm_whole_eights(const kernel_variant *variant, const void *desc) {
  const int64_t size = ((const op_norm_desc *)desc)->norm.size;
  return size % 8 == 0 && size <= 32 * (int64_t)variant->local;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_norm *)op = (op_norm){.desc = *(const op_norm_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_norm_desc *desc = problem;
  op_norm *norm = op;
  char defines[256];
  MOECL_TRY(describe(context, variant, desc, op));
  snprintf(defines, sizeof defines,
           "DTYPE %d\nADDS %d\nRESIDUAL %d\nNORMALIZES %d\nOUTPUT %d\nLAYER_NORM %d\n"
           "PLUS_ONE %d\nBIAS %d\nLOCAL %u\nVECTOR_WIDTH %u\n",
           desc->stored->element, desc->residual != NULL,
           (desc->residual ? desc->residual : desc->stored)->element, desc->output != NULL,
           (desc->output ? desc->output : desc->stored)->element,
           desc->norm.kind == MOECL_NORM_LAYER, desc->norm.plus_one, desc->norm.bias,
           variant->local, kernel_vector_width(context->info.native_vector_width_float));
  return ocl_kernel_create(context, variant->source, defines, "norm", &norm->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_norm *)op)->kernel); }

const op_kind op_norm_kind = {.table = &op_norm_table,
                              .size = sizeof(op_norm),
                              .describe = describe,
                              .create = create,
                              .self_check = op_norm_self_check,
                              .release = release};

moecl_status op_norm_enqueue(op_norm *norm, ocl_chain *chain, const op_norm_io *io) {
  MOECL_TRY(ocl_kernel_args(norm->kernel, "bbbbbblf", io->input, io->residual, io->sum, io->weight,
                            io->bias, io->output, norm->desc.norm.size, norm->desc.norm.epsilon));
  return ocl_launch(chain, norm->kernel, (uint64_t)io->rows, norm->variant->local);
}
