// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/dispatch/dispatch.h"
#include <stdio.h>

static const kernel_variant variants[] = {
    {.name = "generic", .source = "dispatch/rows.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"gather_rows", variants, BASE_COUNT(variants)};

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context, (void)variant;
  op_rows *made = op;
  *made = (op_rows){.desc = *(const op_rows_desc *)desc, .unit = 16};
  while (made->desc.row_bytes % made->unit) made->unit /= 2;
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_rows *made = op;
  char defines[32];
  MOECL_TRY(describe(context, variant, desc, op));
  snprintf(defines, sizeof defines, "UNIT %u\n", made->unit);
  return ocl_kernel_create(context, variant->source, defines, "gather_rows", &made->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_rows *)op)->kernel); }

const op_kind op_rows_kind = {.table = &table,
                              .size = sizeof(op_rows),
                              .describe = describe,
                              .create = create,
                              .self_check = op_rows_self_check,
                              .release = release};

moecl_status op_rows_enqueue(op_rows *rows, ocl_chain *chain, const op_rows_io *io) {
  const uint64_t units = rows->desc.row_bytes / rows->unit;
  if (io->count == 0) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(rows->kernel, "bbbLLL", io->from, io->list, io->to, io->first,
                            io->first_to, units));
  return ocl_launch_items_2d(chain, rows->kernel, units, io->count);
}
