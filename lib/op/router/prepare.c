// SPDX-License-Identifier: MIT
#include "op/router/prepare.h"
#include "base/base.h"
#include <stdio.h>

static const kernel_variant prepare_rows[] = {
    {.name = "generic", .source = "router/prepare.cl", .formats = KERNEL_ALL}};
static const kernel_table prepare_table = {"prepare", prepare_rows, BASE_COUNT(prepare_rows)};

/* Philox blocks make four elements each. */
static moecl_status describe_prepare(moecl_context *context, const kernel_variant *variant,
                                     const void *desc, void *op) {
  (void)variant;
  *(op_prepare *)op = (op_prepare){.desc = *(const op_prepare_desc *)desc,
                                   .blocks = context->info.native_vector_width_float >= 4 ? 8 : 1};
  return MOECL_OK;
}

static moecl_status create_prepare(moecl_context *context, const kernel_variant *variant,
                                   const void *desc, void *op) {
  op_prepare *prepare = op;
  char defines[64];
  MOECL_TRY(describe_prepare(context, variant, desc, op));
  snprintf(defines, sizeof defines, "DTYPE %d\nJITTER %d\nBLOCKS %u\n",
           prepare->desc.input->element, prepare->desc.jitter > 0, prepare->blocks);
  return ocl_kernel_create(context, variant->source, defines, "prepare", &prepare->kernel);
}

static void release_prepare(void *op) { ocl_kernel_destroy(&((op_prepare *)op)->kernel); }

const op_kind op_prepare_kind = {.table = &prepare_table,
                                 .size = sizeof(op_prepare),
                                 .describe = describe_prepare,
                                 .create = create_prepare,
                                 .self_check = op_prepare_self_check,
                                 .release = release_prepare};

moecl_status op_prepare_enqueue(op_prepare *prepare, ocl_chain *chain, const op_prepare_io *io) {
  const op_prepare_desc *desc = &prepare->desc;
  const uint64_t items =
      (uint64_t)io->num_tokens * base_div_up((uint64_t)desc->hidden_size, 4 * prepare->blocks);
  MOECL_TRY(ocl_kernel_args(prepare->kernel, "bbllfLL", io->input, io->output, io->num_tokens,
                            desc->hidden_size, desc->jitter, io->seed, io->first_token));
  return ocl_launch_items(chain, prepare->kernel, items);
}

/* ---- noise ---- */

static const kernel_variant noise_rows[] = {
    {.name = "generic", .source = "router/noise.cl", .formats = KERNEL_ALL}};
static const kernel_table noise_table = {"noise", noise_rows, BASE_COUNT(noise_rows)};

static moecl_status describe_noise(moecl_context *context, const kernel_variant *variant,
                                   const void *desc, void *op) {
  (void)context, (void)variant;
  *(op_noise *)op = (op_noise){.desc = *(const op_noise_desc *)desc};
  return MOECL_OK;
}

static moecl_status create_noise(moecl_context *context, const kernel_variant *variant,
                                 const void *desc, void *op) {
  MOECL_TRY(describe_noise(context, variant, desc, op));
  return ocl_kernel_create(context, variant->source, NULL, "add_noise", &((op_noise *)op)->kernel);
}

static void release_noise(void *op) { ocl_kernel_destroy(&((op_noise *)op)->kernel); }

const op_kind op_noise_kind = {.table = &noise_table,
                               .size = sizeof(op_noise),
                               .describe = describe_noise,
                               .create = create_noise,
                               .self_check = op_noise_self_check,
                               .release = release_noise};

/* One work-item a logit. */
moecl_status op_noise_enqueue(op_noise *noise, ocl_chain *chain, const op_noise_io *io) {
  const uint64_t count = (uint64_t)io->num_tokens * (uint64_t)noise->desc.num_experts;
  MOECL_TRY(ocl_kernel_args(noise->kernel, "bbLiLL", io->logits, io->noise_logits, count,
                            (int32_t)noise->desc.num_experts, io->seed, io->first_token));
  return ocl_launch_items(chain, noise->kernel, count);
}
