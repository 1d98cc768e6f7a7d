// SPDX-License-Identifier: MIT
/* Variants for weights with scales that have codes in the order of a matrix instruction's operand:
 * persistent work-groups, several a compute unit, take tile after tile of `tile.n` weight rows by
 * up to LOW_ROWS of an expert's rows, or more where experts have many. The kernels' side of it:
 * cl/grouped_gemm/nvidia_quantized.cl; the packing: nvidia_fragments.clh. */
#include "base/base.h"
#include "desc/quantized.h"
#include "op/gemm/driver.h"
#include <stdio.h>
#include <string.h>

/* Rows of a tile, what local memory holds of tall ones beside codes of 4 or 8 bits; work-groups of
 * a compute unit, which registers decide. */
enum { LOW_ROWS = 32, TALL_ROWS = 64, TALL_ROWS_8_BITS = 48, LOW_GROUPS = 3, TALL_GROUPS = 2 };

enum { LOCAL = 128, PAIR_K = 128, ROW_STEP = 16, QUEUE_BYTES = 2 * sizeof(int32_t) };

typedef struct fragments_state {
  ocl_kernel *low, *tall, *few_tokens; /* the last one NULL where there is none */
  moecl_buffer *queue;                 /* two counters, zero between launches */
} fragments_state;

/* Codes, then scales of groups (a zero point makes one 4 bytes), then fp32 scales of rows where
 * rows or the matrix have one. */
static uint64_t packed_bytes(const op_gemm *gemm) {
  const desc_format *format = gemm->desc.weights;
  const uint64_t k = base_round_up((uint64_t)gemm->desc.k, PAIR_K);
  const uint64_t item = format->zero_points ? 4 : desc_element_bits(format->scale) / 8;
  const uint64_t scales = format->block ? k / format->block * item : 0;
  const uint64_t row =
      k * format->bits / 8 + scales + (!format->block || format->matrix_scale ? sizeof(float) : 0);
  uint64_t bytes;
  return base_mul(op_gemm_column_tiles(gemm) * gemm->tile.n, row, &bytes) ? bytes : UINT64_MAX;
}

static uint32_t tall_rows(const op_gemm *gemm) {
  return gemm->desc.weights->bits == 8 ? TALL_ROWS_8_BITS : TALL_ROWS;
}

static moecl_status create_kernel(op_gemm *gemm, uint32_t rows, const char *entry,
                                  ocl_kernel **kernel) {
  const op_gemm_desc *desc = &gemm->desc;
  const kernel_tile tile = {rows, gemm->tile.n, gemm->tile.vector_width};
  char defines[512];
  op_gemm_defines(desc, &tile, defines, sizeof defines);
  const size_t used = strlen(defines);
  snprintf(defines + used, sizeof defines - used, "DENSE %d\nADDS_SHARED %d\n", desc->ungrouped,
           desc->adds_shared ? 1 + desc->shared_gate : 0);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

static moecl_status create(op_gemm *gemm) {
  fragments_state *state = gemm->state;
  gemm->packed_elements = packed_bytes(gemm);
  MOECL_TRY(moecl_buffer_create(gemm->context, QUEUE_BYTES, &state->queue));
  MOECL_TRY(moecl_buffer_fill_byte(state->queue, 0, QUEUE_BYTES, 0));
  MOECL_TRY(create_kernel(gemm, LOW_ROWS, "pack", &gemm->pack));
  MOECL_TRY(create_kernel(gemm, LOW_ROWS, "gemm", &state->low));
  MOECL_TRY(create_kernel(gemm, tall_rows(gemm), "gemm", &state->tall));
  return op_gemm_has_few_tokens(&gemm->desc)
             ? create_kernel(gemm, LOW_ROWS, "few_tokens", &state->few_tokens)
             : MOECL_OK;
}

static void release(op_gemm *gemm) {
  fragments_state *state = gemm->state;
  ocl_kernel_destroy(&state->low);
  ocl_kernel_destroy(&state->tall);
  ocl_kernel_destroy(&state->few_tokens);
  moecl_buffer_destroy(&state->queue);
}

/* Low tiles leave room for more work-groups, and so for more weights in flight; tall ones read
 * weights less often. gate_up and down share tile_offsets, so that nothing here may hang on their
 * widths. One expert alone is cut so that every compute unit gets a tile. */
static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  enum { MOST_LOW = 24 };
  const uint64_t units = gemm->context->info.compute_units;
  if (!gemm->desc.ungrouped)
    return rows / gemm->desc.num_experts <= MOST_LOW ? LOW_ROWS : tall_rows(gemm);
  const uint64_t each = base_div_up((uint64_t)rows * op_gemm_column_tiles(gemm), units ? units : 1);
  const uint64_t rounded = base_round_up(each ? each : 1, ROW_STEP);
  return rounded < tall_rows(gemm) ? (uint32_t)rounded : tall_rows(gemm);
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const uint64_t experts = (uint64_t)gemm->desc.num_experts, rows = (uint64_t)io->rows;
  const fragments_state *state = gemm->state;
  const uint32_t each = tile_rows(gemm, io->rows);
  const bool low = each <= LOW_ROWS;
  const uint64_t groups =
      (uint64_t)gemm->context->info.compute_units * (low ? LOW_GROUPS : TALL_GROUPS);
  const uint64_t most = op_gemm_most_tiles(gemm, rows, each) * op_gemm_column_tiles(gemm);
  ocl_kernel *kernel = low ? state->low : state->tall;
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbllii", io->input, io->slot_token, io->expert_offsets,
                            io->tile_offsets, gemm->weights, gemm->bias, io->output, state->queue,
                            gemm->desc.k, gemm->desc.n, (int32_t)experts, (int32_t)each));
  return ocl_launch(chain, kernel, most < groups ? most : groups, LOCAL);
}

static bool serves_few_tokens(const op_gemm *gemm, int64_t num_tokens) {
  return op_gemm_few_tokens_pay(gemm, num_tokens, OP_GEMM_MOST_FEW_TOKENS);
}

static moecl_status enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io) {
  const fragments_state *state = gemm->state;
  return op_gemm_launch_few_tokens(gemm, state->few_tokens, chain, io);
}

const op_gemm_driver op_gemm_fragments_driver = {.state_bytes = sizeof(fragments_state),
                                                 .create = create,
                                                 .release = release,
                                                 .pack = op_gemm_pack_strided,
                                                 .tile_rows = tile_rows,
                                                 .packed_bytes = packed_bytes,
                                                 .enqueue = enqueue,
                                                 .serves_few_tokens = serves_few_tokens,
                                                 .enqueue_few_tokens = enqueue_few_tokens,
                                                 .extra_bytes = QUEUE_BYTES,
                                                 .by_rows = true};
