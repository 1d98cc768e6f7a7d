// SPDX-License-Identifier: MIT
/* Variants whose work-groups stay, one a compute unit, and take tile after
 * tile: `tile.n` weight rows by up to `tile.m` of an expert's rows, as many as
 * tile_offsets was made for, or twice as many by up to TALL_ROWS. The kernels' side of it:
 * cl/grouped_gemm/nvidia_sm90.cl. Their kernels share one packing: for few
 * tokens, for few rows an expert and, with the tall driver, for many. Of codes by codes:
 * cl/grouped_gemm/nvidia_sm90_w8a8.cl. */
#include "base/base.h"
#include "op/gemm/driver.h"
#include <stdio.h>
#include <string.h>

/* A packed row is a step of k; rows of a tile come in multiples of ROW_STEP. */
enum {
  ROW_BYTES = 128,
  ROW_STEP = 16,
  TALL_ROWS = 176,
  INT8_TALL_ROWS = 144,
  CODED_TALL_ROWS = 128 /* of a tall tile */
};

enum { QUEUE_BYTES = 2 * sizeof(int32_t) };

typedef struct persistent_state {
  moecl_buffer *queue; /* two counters, zero between launches */
} persistent_state;

static bool is_coded(const op_gemm *gemm) {
  return gemm->driver == &op_gemm_persistent_coded_driver;
}

/* Codes and where blocks have one a row's fp32 scale of each step; else one behind them. */
static uint64_t coded_bytes(const op_gemm *gemm) {
  const desc_format *weights = gemm->desc.weights;
  const bool each = weights->block != 0;
  /* What is promoted after two steps has an even number of them. */
  const bool pairs = weights->element == ELEMENT_E4M3 && !each && gemm->desc.input->block == 0;
  const uint64_t steps =
      base_round_up(base_div_up((uint64_t)gemm->desc.k, ROW_BYTES), pairs ? 2 : 1);
  const uint64_t row =
      steps * (ROW_BYTES + (each ? sizeof(float) : 0)) + (each ? 0 : sizeof(float));
  uint64_t bytes;
  return base_mul(op_gemm_column_tiles(gemm) * gemm->tile.n, row, &bytes) ? bytes : UINT64_MAX;
}

static uint64_t packed_bytes(const op_gemm *gemm) {
  return is_coded(gemm) ? coded_bytes(gemm) : op_gemm_tiled_bytes(gemm, ROW_BYTES);
}

/* int8 without groups of scales needs no registers but the tile's sums. */
static uint32_t tall_rows(const op_gemm *gemm) {
  const desc_format *weights = gemm->desc.weights, *input = gemm->desc.input;
  if (!is_coded(gemm)) return TALL_ROWS;
  return weights->element == ELEMENT_INT8 && weights->block == 0 && input->block == 0
             ? INT8_TALL_ROWS
             : CODED_TALL_ROWS;
}

/* A program of so many parts alone: compilers take long for each. */
static moecl_status create_entry(op_gemm *gemm, bool tall, unsigned parts, const char *entry,
                                 ocl_kernel **kernel) {
  const op_gemm_desc *desc = &gemm->desc;
  char defines[512];
  op_gemm_defines(desc, &gemm->tile, defines, sizeof defines);
  const size_t used = strlen(defines);
  snprintf(defines + used, sizeof defines - used, "TALL %d\n", tall);
  op_gemm_parts_defines(desc, parts, defines, sizeof defines);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

/* The router's logits have too few weight rows for tall tiles. */
static bool has_tall(const op_gemm *gemm) {
  return gemm->driver != &op_gemm_persistent_driver && !gemm->desc.exact;
}

static moecl_status create(op_gemm *gemm) {
  persistent_state *state = gemm->state;
  gemm->packed_elements = packed_bytes(gemm) / desc_format_unit(gemm->desc.weights);
  MOECL_TRY(ocl_buffer_zeroed(gemm->context, QUEUE_BYTES, &state->queue));
  return create_entry(gemm, false, PART_PACK | PART_GEMM, "pack", &gemm->pack);
}

static unsigned kernels(const op_gemm *gemm) {
  return (has_tall(gemm) ? 1u << OP_GEMM_TALL : 0) |
         (op_gemm_has_few_tokens(&gemm->desc) ? 1u << OP_GEMM_FEW_TOKENS : 0);
}

static moecl_status create_kernel(op_gemm *gemm, op_gemm_kernel_id id) {
  ocl_kernel **kernel = &gemm->kernel[id];
  if (id == OP_GEMM_TALL) return create_entry(gemm, true, PART_GEMM, "gemm", kernel);
  return id == OP_GEMM_FEW_TOKENS
             ? create_entry(gemm, false, PART_FEW_TOKENS, "few_tokens", kernel)
             : create_entry(gemm, false, PART_PACK | PART_GEMM, "gemm", kernel);
}

static void release(op_gemm *gemm) {
  persistent_state *state = gemm->state;
  moecl_buffer_destroy(&state->queue);
}

/* Rows an expert on average from which on tall tiles pay: arithmetic is the limit
 * then, and not the weights' way from memory. */
static bool tall_pays(const op_gemm *gemm, int64_t rows) {
  enum { ROWS_EACH = 48 };
  if (!gemm->desc.ungrouped) return rows / op_gemm_spread(gemm) >= ROWS_EACH;
  /* One expert alone: where there are tiles for every compute unit. */
  return (uint64_t)rows / tall_rows(gemm) * (op_gemm_column_tiles(gemm) / 2) >=
         gemm->context->info.compute_units;
}

static op_gemm_kernel_id best_kernel(const op_gemm *gemm, int64_t rows) {
  return has_tall(gemm) && tall_pays(gemm, rows) ? OP_GEMM_TALL : OP_GEMM_BASE;
}

/* Small tiles leave shared memory for more stages of weights in flight. One
 * expert alone is cut so that every compute unit gets a tile. gate_up and down of
 * experts share tile_offsets, so that nothing here may hang on their widths. */
static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  const uint64_t experts = (uint64_t)op_gemm_spread(gemm);
  const uint64_t units = gemm->context->info.compute_units;
  if (op_gemm_kernel_for(gemm, rows) == OP_GEMM_TALL) return tall_rows(gemm);
  if (gemm->desc.ungrouped) {
    const uint64_t each =
        base_div_up((uint64_t)rows * op_gemm_column_tiles(gemm), units ? units : 1);
    const uint64_t rounded = base_round_up(each ? each : 1, ROW_STEP);
    return rounded < gemm->tile.m ? (uint32_t)rounded : gemm->tile.m;
  }
  return (uint64_t)rows / experts <= gemm->tile.m / 6 ? gemm->tile.m / 2 : gemm->tile.m;
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const uint64_t experts = (uint64_t)gemm->desc.num_experts, rows = (uint64_t)io->rows;
  const uint64_t units = gemm->context->info.compute_units;
  const uint32_t each = tile_rows(gemm, op_gemm_chosen_rows(io));
  const uint64_t active = rows < experts ? rows : experts;
  const uint64_t most = (active + rows / each) * op_gemm_column_tiles(gemm);
  const persistent_state *state = gemm->state;
  ocl_kernel *kernel = gemm->kernel[op_gemm_kernel_for(gemm, op_gemm_chosen_rows(io))];
  const bool coded = is_coded(gemm);
  MOECL_TRY(ocl_kernel_args(kernel, coded ? "bbbbbbbblliiL" : "bbbbbbbbllii", io->input,
                            io->slot_token, io->expert_offsets, io->tile_offsets, gemm->weights,
                            gemm->bias, op_gemm_output(gemm, io), state->queue, gemm->desc.k,
                            gemm->desc.n, (int32_t)experts, (int32_t)each,
                            coded ? op_gemm_input_scales(gemm, io) : 0));
  MOECL_TRY(op_gemm_set_places(gemm, kernel, coded ? 13 : 12, io));
  return ocl_launch(chain, kernel, most < units ? most : units, gemm->variant->local);
}

static moecl_status enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io) {
  return op_gemm_launch_few_tokens(gemm, gemm->kernel[OP_GEMM_FEW_TOKENS], chain, io);
}

#define PERSISTENT                                                                                 \
  {                                                                                                \
    .state_bytes = sizeof(persistent_state), .create = create, .release = release,                 \
    .kernels = kernels, .create_kernel = create_kernel, .best_kernel = best_kernel,                \
    .late = 1u << OP_GEMM_TALL | 1u << OP_GEMM_FEW_TOKENS, .pack = op_gemm_pack_strided,           \
    .tile_rows = tile_rows, .packed_bytes = packed_bytes, .enqueue = enqueue,                      \
    .serves_few_tokens = op_gemm_plain_few_tokens_pay, .enqueue_few_tokens = enqueue_few_tokens,   \
    .extra_bytes = QUEUE_BYTES, .by_rows = true                                                    \
  }

const op_gemm_driver op_gemm_persistent_driver = PERSISTENT;
const op_gemm_driver op_gemm_persistent_tall_driver = PERSISTENT;  /* see has_tall */
const op_gemm_driver op_gemm_persistent_coded_driver = PERSISTENT; /* see is_coded */
