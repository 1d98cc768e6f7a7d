// SPDX-License-Identifier: MIT
#include "op/permute/scale.h"
#include "base/base.h"
#include <stdio.h>

moecl_status op_scale_create(moecl_context *context, const op_scale_desc *desc, op_scale *scale) {
  const bool is_f32 = desc_is_f32(desc->rows);
  const uint32_t width = desc->hidden_size % 8 != 0 ? 1 : is_f32 ? 4 : 8;
  const uint32_t local = ocl_local_size(context, 128);
  *scale = (op_scale){.desc = *desc, .columns = width * local};
  char defines[96];
  snprintf(defines, sizeof defines, "ROUNDED %d\nROWS %d\nWIDTH %u\nLOCAL %u\n",
           desc->rounded->element, desc->rows->element, width, local);
  return ocl_kernel_create(context, "permute/scale_rows.cl", defines, "scale_rows", &scale->kernel);
}

void op_scale_release(op_scale *scale) { ocl_kernel_destroy(&scale->kernel); }

moecl_status op_scale_enqueue(op_scale *scale, ocl_chain *chain, const op_scale_io *io) {
  MOECL_TRY(ocl_kernel_args(scale->kernel, "bbbbli", io->hidden, io->assignment_slot,
                            io->topk_weights, io->scaled, scale->desc.hidden_size,
                            (int32_t)scale->desc.top_k));
  const uint64_t groups =
      (uint64_t)io->num_tokens * base_div_up((uint64_t)scale->desc.hidden_size, scale->columns);
  return ocl_launch(chain, scale->kernel, groups, scale->kernel->local);
}
