// SPDX-License-Identifier: MIT
#include "op/quantize/quantize.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "quantize/variants.def"
};
const kernel_table op_quantize_table = {"quantize", rows, BASE_COUNT(rows)};

bool op_quantize_multiples_of_8(const kernel_variant *variant, const void *desc) {
  (void)variant;
  return ((const op_quantize_desc *)desc)->columns % 8 == 0;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_quantize *)op = (op_quantize){.desc = *(const op_quantize_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_quantize_desc *desc = problem;
  const desc_format *codes = desc->codes;
  op_quantize *quantize = op;
  char defines[256], output[32] = "";
  MOECL_TRY(describe(context, variant, desc, op));
  if (desc->output != codes) snprintf(output, sizeof output, "OUTPUT %d\n", desc->output->element);
  snprintf(defines, sizeof defines,
           "DTYPE %d\nWEIGHTS %d\nSCALES %d\nBLOCK %u\nSCALE_ROWS 1\nZERO_POINTS 0\n"
           "MATRIX_SCALE 0\nLOCAL %u\n%s",
           desc->rows->element, codes->element, codes->scale, codes->block, variant->local, output);
  return ocl_kernel_create(context, variant->source, defines, "quantize", &quantize->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_quantize *)op)->kernel); }

const op_kind op_quantize_kind = {.table = &op_quantize_table,
                                  .size = sizeof(op_quantize),
                                  .describe = describe,
                                  .create = create,
                                  .self_check = op_quantize_self_check,
                                  .release = release};

moecl_status op_quantize_enqueue(op_quantize *quantize, ocl_chain *chain,
                                 const op_quantize_io *io) {
  const uint64_t columns = (uint64_t)quantize->desc.columns, block = quantize->desc.codes->block;
  MOECL_TRY(ocl_kernel_args(quantize->kernel, "bbll", io->input, io->output, io->rows,
                            quantize->desc.columns));
  const uint32_t local = quantize->variant->local;
  const uint64_t neighbours = quantize->variant->tile_n;
  if (neighbours)
    return ocl_launch_2d(chain, quantize->kernel,
                         block ? base_div_up(columns, neighbours * local) : 1, (uint64_t)io->rows,
                         local);
  const uint64_t groups = (uint64_t)io->rows * (block ? base_div_up(columns, block) : 1);
  return ocl_launch(chain, quantize->kernel, groups, local);
}
