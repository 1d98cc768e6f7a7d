// SPDX-License-Identifier: MIT
/* The baseline: one CLBlast GEMM an expert. It needs the counts on the host, so
 * enqueueing waits for the permutation; everything else moecl does not. */
#include "base/base.h"
#include "kernel/clblast.h"
#include "op/gemm/driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ITEMS = 4096 * 64 };

typedef struct clblast_state {
  ocl_kernel *gather, *activate;
} clblast_state;

static uint64_t raw_columns(const op_gemm *gemm) {
  return (uint64_t)(gemm->desc.gated ? 2 * gemm->desc.n : gemm->desc.n);
}

/* Bias, activation and gate are a pass of their own over raw products. */
static bool has_epilogue(const op_gemm *gemm) {
  return gemm->desc.epilogue != ACTIVATION_NONE || gemm->desc.gated || gemm->desc.bias;
}

/* CLBlast's kernels count a matrix's elements, its offset included, in 32 bits. */
static moecl_status check_reach(const op_gemm *gemm, uint64_t end, const char *what) {
  if (end <= INT32_MAX) return MOECL_OK;
  return log_error(&gemm->context->log, MOECL_ERROR_UNSUPPORTED,
                   "variant 'clblast' reaches 2147483647 elements of %s, here are %llu: choose "
                   "another variant",
                   what, (unsigned long long)end);
}

/* Elements of one expert's weights, and what they are padded to a multiple of:
 * experts lie at offsets where a view may begin, so that no two views overlap. */
static uint64_t expert_elements(const op_gemm *gemm) {
  return raw_columns(gemm) * (uint64_t)gemm->desc.k;
}
static uint64_t expert_align(const op_gemm *gemm) {
  return base_div_up(gemm->context->address_align, sizeof(float));
}

static uint64_t packed_bytes(const op_gemm *gemm) {
  return base_round_up(expert_elements(gemm), expert_align(gemm)) * sizeof(float);
}

static moecl_status create(op_gemm *gemm) {
  clblast_state *state = gemm->state;
  char defines[512];
  MOECL_TRY(check_reach(gemm, expert_elements(gemm), "one expert's weights"));
  gemm->packed_elements = packed_bytes(gemm) / sizeof(float);
  op_gemm_defines(&gemm->desc, &gemm->tile, defines, sizeof defines);
  const size_t used = strlen(defines);
  snprintf(defines + used, sizeof defines - used, "EXPERT_ALIGN %u\n",
           (unsigned)expert_align(gemm));
  const char *source = gemm->variant->source;
  MOECL_TRY(ocl_kernel_create(gemm->context, source, defines, "pack", &gemm->pack));
  MOECL_TRY(ocl_kernel_create(gemm->context, source, defines, "gather", &state->gather));
  return ocl_kernel_create(gemm->context, source, defines, "activate_rows", &state->activate);
}

static void release(op_gemm *gemm) {
  clblast_state *state = gemm->state;
  ocl_kernel_destroy(&state->gather);
  ocl_kernel_destroy(&state->activate);
}

/* Gathered input rows, then raw products. */
static uint64_t gathered_bytes(const op_gemm *gemm, int64_t rows) {
  const uint64_t bytes = (uint64_t)rows * (uint64_t)gemm->desc.k * sizeof(float);
  return gemm->desc.gather ? base_round_up(bytes, 4096) : 0;
}

static uint64_t scratch(const op_gemm *gemm, int64_t rows) {
  const uint64_t raw = (uint64_t)rows * raw_columns(gemm) * sizeof(float);
  return gathered_bytes(gemm, rows) + (has_epilogue(gemm) ? raw : 0);
}

static uint64_t at_most(uint64_t items) { return items < MOST_ITEMS ? items : MOST_ITEMS; }

/* One expert's weights: *weights from element *offset on. All experts' may be
 * more than CLBlast reaches; from there on a view, *view, which the caller
 * destroys, begins with the expert. */
static moecl_status find_weights(const op_gemm *gemm, int64_t expert, const moecl_buffer **weights,
                                 uint64_t *offset, moecl_buffer **view) {
  *weights = gemm->weights;
  *offset = (uint64_t)expert * gemm->packed_elements;
  *view = NULL;
  if (*offset + gemm->packed_elements <= INT32_MAX) return MOECL_OK;
  MOECL_TRY(ocl_buffer_view(gemm->weights, *offset * sizeof(float), packed_bytes(gemm), view));
  *weights = *view;
  *offset = 0;
  return MOECL_OK;
}

/* One expert's rows [first, first+rows): product, then epilogue. */
static moecl_status one_expert(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io,
                               const moecl_buffer *input, int64_t expert, uint64_t first,
                               int64_t rows) {
  const op_gemm_desc *desc = &gemm->desc;
  const clblast_state *state = gemm->state;
  const uint64_t columns = raw_columns(gemm);
  const uint64_t raw_base = gathered_bytes(gemm, io->rows) / sizeof(float);
  const bool epilogue = has_epilogue(gemm);
  const moecl_buffer *raw = epilogue ? io->scratch : io->output;
  const uint64_t raw_offset = epilogue ? raw_base + first * columns : first * columns;
  MOECL_TRY(check_reach(gemm, (first + (uint64_t)rows) * (uint64_t)desc->k, "activations"));
  MOECL_TRY(check_reach(gemm, raw_offset + (uint64_t)rows * columns, "activations"));
  const moecl_buffer *weights;
  moecl_buffer *view;
  uint64_t weights_offset;
  MOECL_TRY(find_weights(gemm, expert, &weights, &weights_offset, &view));
  const moecl_status status =
      kernel_clblast_sgemm(chain, rows, (int64_t)columns, desc->k, input, first * (uint64_t)desc->k,
                           weights, weights_offset, raw, raw_offset);
  moecl_buffer_destroy(&view); /* the enqueued product keeps the memory */
  if (status != MOECL_OK) return status;
  if (!epilogue) return MOECL_OK;
  /* The raw rows of this expert are addressed from its first one. */
  MOECL_TRY(ocl_kernel_args(state->activate, "bLbLbLll", io->scratch, raw_offset, gemm->bias,
                            (uint64_t)expert * columns, io->output, first, (int64_t)rows, desc->n));
  return ocl_launch_items(chain, state->activate, at_most((uint64_t)rows * (uint64_t)desc->n));
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const op_gemm_desc *desc = &gemm->desc;
  const clblast_state *state = gemm->state;
  const uint64_t experts = (uint64_t)desc->num_experts;
  int32_t *offsets = malloc((experts + 1) * sizeof *offsets);
  if (!offsets)
    return log_error(&gemm->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status =
      moecl_buffer_read_wait(io->expert_offsets, 0, (experts + 1) * sizeof *offsets, offsets);
  const moecl_buffer *input = io->input;
  if (status == MOECL_OK && desc->gather && offsets[experts] > 0) {
    input = io->scratch;
    status = ocl_kernel_args(state->gather, "bbbll", io->input, io->slot_token, io->scratch,
                             (int64_t)offsets[experts], desc->k);
    if (status == MOECL_OK)
      status = ocl_launch_items(chain, state->gather,
                                at_most((uint64_t)offsets[experts] * (uint64_t)desc->k));
  }
  for (uint64_t e = 0; status == MOECL_OK && e < experts; e++) {
    const int64_t rows = offsets[e + 1] - offsets[e];
    if (rows > 0)
      status = one_expert(gemm, chain, io, input, (int64_t)e, (uint64_t)offsets[e], rows);
  }
  free(offsets);
  return status;
}

const op_gemm_driver op_gemm_clblast_driver = {.state_bytes = sizeof(clblast_state),
                                               .create = create,
                                               .release = release,
                                               .pack = op_gemm_pack_strided,
                                               .tile_rows = op_gemm_fixed_tile_rows,
                                               .packed_bytes = packed_bytes,
                                               .scratch = scratch,
                                               .enqueue = enqueue,
                                               .waits = true};
