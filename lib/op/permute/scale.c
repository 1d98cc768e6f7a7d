// SPDX-License-Identifier: MIT
#include "op/permute/scale.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant rows[] = {
    {.name = "generic", .source = "permute/scale_rows.cl", .formats = KERNEL_ALL}};
static const kernel_table table = {"scale_rows", rows, BASE_COUNT(rows)};

/* Columns of a work-item. */
static uint32_t width_of(const op_scale_desc *desc) {
  return desc->hidden_size % 8 != 0 ? 1 : desc_is_f32(desc->rows) ? 4 : 8;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  op_scale *scale = op;
  (void)variant;
  *scale = (op_scale){.desc = *(const op_scale_desc *)desc};
  scale->columns = width_of(&scale->desc) * ocl_local_size(context, 128);
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant, const void *desc,
                           void *op) {
  op_scale *scale = op;
  char defines[96];
  MOECL_TRY(describe(context, variant, desc, op));
  const uint32_t width = width_of(&scale->desc);
  snprintf(defines, sizeof defines, "ROUNDED %d\nROWS %d\nWIDTH %u\nLOCAL %u\n",
           scale->desc.rounded->element, scale->desc.rows->element, width, scale->columns / width);
  return ocl_kernel_create(context, variant->source, defines, "scale_rows", &scale->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_scale *)op)->kernel); }

const op_kind op_scale_kind = {.table = &table,
                               .size = sizeof(op_scale),
                               .describe = describe,
                               .create = create,
                               .self_check = op_scale_self_check,
                               .release = release};

moecl_status op_scale_enqueue(op_scale *scale, ocl_chain *chain, const op_scale_io *io) {
  MOECL_TRY(ocl_kernel_args(scale->kernel, "bbbbli", io->hidden, io->assignment_slot,
                            io->topk_weights, io->scaled, scale->desc.hidden_size,
                            (int32_t)scale->desc.top_k));
  const uint64_t groups =
      (uint64_t)io->num_tokens * base_div_up((uint64_t)scale->desc.hidden_size, scale->columns);
  return ocl_launch(chain, scale->kernel, groups, scale->kernel->local);
}
