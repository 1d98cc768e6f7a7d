// SPDX-License-Identifier: MIT
/* Rows by a list, as codes with scales, and back: cl/dispatch/pack.cl. */
#include "base/base.h"
#include "op/dispatch/dispatch.h"
#include <stdio.h>

enum { PACK, UNPACK };

/* Oldest and most general first: as those of cl/quantize/variants.def. */
static const kernel_variant variants[] = {
    {.name = "serial", .source = "dispatch/pack.cl", .formats = KERNEL_ALL, .local = 1},
    {.name = "generic",
     .source = "dispatch/pack.cl",
     .formats = KERNEL_ALL,
     .local = 64,
     .local_bytes = 256},
    {.name = "cpu",
     .source = "dispatch/pack.cl",
     .formats = KERNEL_ALL,
     .required = MOECL_CAP_CPU,
     .local = 1}};
static const kernel_table table = {"pack_rows", variants, BASE_COUNT(variants)};

uint64_t op_pack_row_bytes(const desc_format *codes, int64_t columns) {
  return base_round_up((uint64_t)columns, 4) + 4 * base_div_up((uint64_t)columns, codes->block);
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_pack *)op = (op_pack){.desc = *(const op_pack_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_pack *pack = op;
  char defines[160];
  MOECL_TRY(describe(context, variant, desc, op));
  const desc_format *codes = pack->desc.codes;
  snprintf(defines, sizeof defines,
           "DTYPE %d\nWEIGHTS %d\nSCALES %d\nBLOCK %u\nSCALE_ROWS 1\nZERO_POINTS 0\n"
           "MATRIX_SCALE 0\nLOCAL %u\n",
           pack->desc.rows->element, codes->element, codes->scale, codes->block, variant->local);
  MOECL_TRY(
      ocl_kernel_create(context, variant->source, defines, "pack_rows", &pack->kernels[PACK]));
  return ocl_kernel_create(context, variant->source, defines, "unpack_rows",
                           &pack->kernels[UNPACK]);
}

static void release(void *op) {
  for (int i = 0; i < OP_PACK_KERNELS; i++) ocl_kernel_destroy(&((op_pack *)op)->kernels[i]);
}

const op_kind op_pack_kind = {.table = &table,
                              .size = sizeof(op_pack),
                              .describe = describe,
                              .create = create,
                              .self_check = op_pack_self_check,
                              .release = release};

moecl_status op_pack_enqueue(op_pack *pack, ocl_chain *chain, const op_rows_io *io) {
  const uint64_t blocks = base_div_up((uint64_t)pack->desc.columns, pack->desc.codes->block);
  const op_places *to = &io->to;
  uint64_t first = to->first;
  for (size_t i = 0; i < to->count; first += to->parts[i++].count) {
    const op_rows_part *part = &to->parts[i];
    if (part->count == 0) continue;
    MOECL_TRY(ocl_kernel_args(pack->kernels[PACK], "bbbLLl", io->from, io->list, part->to, first,
                              part->first_to, pack->desc.columns));
    MOECL_TRY(ocl_launch_2d(chain, pack->kernels[PACK], blocks, part->count, pack->variant->local));
  }
  return MOECL_OK;
}

moecl_status op_pack_enqueue_back(op_pack *pack, ocl_chain *chain, const moecl_buffer *from,
                                  const moecl_buffer *to, uint64_t first, uint64_t count) {
  if (count == 0) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(pack->kernels[UNPACK], "bbLl", from, to, first, pack->desc.columns));
  return ocl_launch_items_2d(chain, pack->kernels[UNPACK], (uint64_t)pack->desc.columns, count);
}
