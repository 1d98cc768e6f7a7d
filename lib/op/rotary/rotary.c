// SPDX-License-Identifier: MIT
#include "op/rotary/rotary.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const kernel_variant rows[] = {
#include "rotary/variants.def"
};
const kernel_table op_rotary_table = {"rotary", rows, sizeof rows / sizeof rows[0]};

static int64_t num_pairs(const op_rotary_desc *desc) { return desc->attention.rotary.dim / 2; }

/* Radians as turns, whole ones left out, as a fraction of 2^64. */
static uint64_t turns(double radians) {
  const double all = radians / (2 * 3.14159265358979323846);
  return (uint64_t)((all - floor(all)) * 0x1p63) << 1;
}

static uint64_t bytes(const void *op) {
  return (uint64_t)num_pairs(&((const op_rotary *)op)->desc) * sizeof(uint64_t);
}

static moecl_status create_frequencies(moecl_context *context, op_rotary *rotary) {
  const int64_t pairs = num_pairs(&rotary->desc);
  if (pairs == 0) return MOECL_OK;
  uint64_t *frequency = malloc((size_t)pairs * sizeof *frequency);
  if (!frequency) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  for (int64_t i = 0; i < pairs; i++)
    frequency[i] = turns(desc_rotary_frequency(&rotary->desc.attention.rotary, i));
  const moecl_status status =
      ocl_buffer_filled(context, bytes(rotary), frequency, &rotary->frequency);
  free(frequency);
  return status;
}

static moecl_status describe(moecl_context *context, const kernel_variant *variant,
                             const void *desc, void *op) {
  (void)context;
  *(op_rotary *)op = (op_rotary){.desc = *(const op_rotary_desc *)desc, .variant = variant};
  return MOECL_OK;
}

static moecl_status create(moecl_context *context, const kernel_variant *variant,
                           const void *problem, void *op) {
  const op_rotary_desc *desc = problem;
  op_rotary *rotary = op;
  MOECL_TRY(describe(context, variant, problem, op));
  char defines[256];
  snprintf(defines, sizeof defines,
           "DTYPE %d\nROWS %d\nQK_NORM %d\nPLUS_ONE %d\nINTERLEAVED %d\nCLIP %d\nKEY_BLOCK %u\n"
           "VALUE_STRIDE %u\nLOCAL %u\n",
           desc->cache->element, desc->rows->element, (int)desc->attention.qk_norm,
           desc->attention.qk_norm_plus_one, desc->attention.rotary.interleaved,
           desc->attention.clip > 0, desc->layout.key_block, desc->layout.value_stride,
           variant->local);
  MOECL_TRY(create_frequencies(context, rotary));
  return ocl_kernel_create(context, variant->source, defines, "rotary", &rotary->kernel);
}

static void release(void *op) {
  op_rotary *rotary = op;
  ocl_kernel_destroy(&rotary->kernel);
  moecl_buffer_destroy(&rotary->frequency);
}

const op_kind op_rotary_kind = {.table = &op_rotary_table,
                                .size = sizeof(op_rotary),
                                .describe = describe,
                                .create = create,
                                .self_check = op_rotary_self_check,
                                .release = release,
                                .bytes = bytes};

moecl_status op_rotary_enqueue(op_rotary *rotary, ocl_chain *chain, const op_rotary_io *io) {
  const desc_attention *what = &rotary->desc.attention;
  const int64_t spans =
      what->qk_norm == MOECL_QK_NORM_FULL ? 2 : what->num_heads + what->num_kv_heads;
  const int64_t each = rotary->variant->tile_m ? rotary->variant->tile_m : spans;
  MOECL_TRY(ocl_kernel_args(rotary->kernel, "bbbbbblliiiiiifff", io->qkv, io->q_norm, io->k_norm,
                            rotary->frequency, io->keys, io->values, io->context, io->capacity,
                            (int32_t)what->num_heads, (int32_t)what->num_kv_heads,
                            (int32_t)what->head_dim, (int32_t)num_pairs(&rotary->desc),
                            (int32_t)spans, (int32_t)each, what->qk_norm_epsilon,
                            desc_rotary_magnitude(&what->rotary), what->clip));
  const uint64_t groups = base_div_up((uint64_t)spans, (uint64_t)each);
  return ocl_launch(chain, rotary->kernel, (uint64_t)io->num_tokens * groups,
                    rotary->variant->local);
}
