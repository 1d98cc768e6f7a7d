// SPDX-License-Identifier: MIT
#include "op/router/prepare.h"
#include "base/base.h"
#include <stdio.h>

moecl_status op_prepare_create(moecl_context *context, const op_prepare_desc *desc,
                               op_prepare *prepare) {
  /* Philox blocks make four elements each. */
  const uint32_t blocks = context->info.native_vector_width_float >= 4 ? 8 : 1;
  *prepare = (op_prepare){.desc = *desc, .blocks = blocks};
  char defines[64];
  snprintf(defines, sizeof defines, "DTYPE %d\nJITTER %d\nBLOCKS %u\n", desc->input->element,
           desc->jitter > 0, blocks);
  return ocl_kernel_create(context, "router/prepare.cl", defines, "prepare", &prepare->kernel);
}

void op_prepare_release(op_prepare *prepare) { ocl_kernel_destroy(&prepare->kernel); }

moecl_status op_prepare_enqueue(op_prepare *prepare, ocl_chain *chain, const op_prepare_io *io) {
  const op_prepare_desc *desc = &prepare->desc;
  const uint64_t items =
      (uint64_t)io->num_tokens * base_div_up((uint64_t)desc->hidden_size, 4 * prepare->blocks);
  MOECL_TRY(ocl_kernel_args(prepare->kernel, "bbllfL", io->input, io->output, io->num_tokens,
                            desc->hidden_size, desc->jitter, io->seed));
  return ocl_launch_items(chain, prepare->kernel, items);
}

moecl_status op_noise_create(moecl_context *context, int64_t num_experts, op_noise *noise) {
  *noise = (op_noise){.num_experts = num_experts};
  return ocl_kernel_create(context, "router/noise.cl", NULL, "add_noise", &noise->kernel);
}

void op_noise_release(op_noise *noise) { ocl_kernel_destroy(&noise->kernel); }

/* One work-item a logit. */
moecl_status op_noise_enqueue(op_noise *noise, ocl_chain *chain, const op_noise_io *io) {
  const uint64_t count = (uint64_t)io->num_tokens * (uint64_t)noise->num_experts;
  MOECL_TRY(ocl_kernel_args(noise->kernel, "bbLiL", io->logits, io->noise_logits, count,
                            (int32_t)noise->num_experts, io->seed));
  return ocl_launch_items(chain, noise->kernel, count);
}
