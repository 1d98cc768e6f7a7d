// SPDX-License-Identifier: MIT
#include "op/combine/combine.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant rows[] = {
#include "combine/variants.def"
};
const kernel_table op_combine_table = {"combine", rows, sizeof rows / sizeof rows[0]};

bool op_combine_multiples_of_8(const kernel_variant *variant, const void *problem) {
  const op_combine_desc *desc = problem;
  (void)variant;
  return desc->input == desc->output && desc->hidden_size % 8 == 0;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_combine *)op = (op_combine){.desc = *(const op_combine_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_combine_desc *desc = problem;
  op_combine *combine = op;
  char defines[128];
  MOECL_TRY(describe(context, variant, desc, op));
  snprintf(defines, sizeof defines,
           "INPUT %d\nOUTPUT %d\nSHARED %d\nSHARED_GATE %d\nWEIGHTED %d\nLOCAL %u\n%s",
           desc->input->element, desc->output->element, desc->shared, desc->shared_gate,
           desc->weighted, variant->local, desc->first_identity > 0 ? "IDENTITY 1\n" : "");
  return ocl_kernel_create(context, variant->source, defines, "combine", &combine->kernel);
}

static void release(void *op) { ocl_kernel_destroy(&((op_combine *)op)->kernel); }

const op_kind op_combine_kind = {.table = &op_combine_table,
                                 .size = sizeof(op_combine),
                                 .describe = describe,
                                 .create = create,
                                 .self_check = op_combine_self_check,
                                 .release = release};

moecl_status op_combine_enqueue(op_combine *combine, ocl_chain *chain, const op_combine_io *io) {
  const op_combine_desc *desc = &combine->desc;
  const bool identity = desc->first_identity > 0;
  MOECL_TRY(ocl_kernel_args(combine->kernel, identity ? "bbbbbblibbi" : "bbbbbbli",
                            io->expert_output, io->assignment_slot, io->topk_weights, io->shared,
                            io->shared_gate, io->output, desc->hidden_size, (int32_t)desc->top_k,
                            io->hidden_states, io->expert_offsets, (int32_t)desc->first_identity));
  const uint64_t groups =
      (uint64_t)io->num_tokens * base_div_up((uint64_t)desc->hidden_size, combine->variant->tile_n);
  return ocl_launch(chain, combine->kernel, groups, combine->variant->local);
}
