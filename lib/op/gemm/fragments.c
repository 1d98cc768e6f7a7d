// SPDX-License-Identifier: MIT
/* Variants for weights with scales that have codes in the order of a matrix instruction's operand:
 * persistent work-groups take tile after tile of `tile.n` weight rows by up to some of an expert's
 * rows, or more where experts have many. The kernels' side of it: cl/grouped_gemm/
 * nvidia_quantized.cl and, with tall tiles of twice as many weight rows, nvidia_sm90_quantized.cl;
 * the packing: nvidia_fragments.clh. */
#include "base/base.h"
#include "desc/quantized.h"
#include "op/gemm/driver.h"
#include <stdio.h>
#include <string.h>

/* How a variant's kernels are cut. Rows of tall tiles are what is left beside codes of 4 or 8 bits,
 * work-groups of a compute unit what registers allow. */
typedef struct heights {
  uint32_t low_rows, tall_rows, tall_rows_8_bits;
  uint32_t most_low; /* rows an expert on average up to which tiles are low */
  uint32_t row_step; /* tiles' rows are multiples of it where one expert is shared out */
  uint32_t low_groups, tall_groups;
  uint32_t tall_tiles;      /* of `tile.n` weight rows that a tall tile has */
  bool tall_scales_weights; /* by groups: not in fp16, which might not hold them */
} heights;

static const heights by_mma = {.low_rows = 32,
                               .tall_rows = 64,
                               .tall_rows_8_bits = 48,
                               .most_low = 24,
                               .row_step = 16,
                               .low_groups = 3,
                               .tall_groups = 2,
                               .tall_tiles = 1};
static const heights by_wgmma = {.low_rows = 32,
                                 .tall_rows = 128,
                                 .tall_rows_8_bits = 128,
                                 .most_low = 24,
                                 .row_step = 32,
                                 .low_groups = 1,
                                 .tall_groups = 1,
                                 .tall_tiles = 2,
                                 .tall_scales_weights = true};

enum { PAIR_K = 128, QUEUE_BYTES = 2 * sizeof(int32_t) };

typedef struct fragments_state {
  moecl_buffer *queue; /* two counters, zero between launches */
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

static const heights *heights_of(const op_gemm *gemm) {
  return gemm->driver == &op_gemm_fragments_wgmma_driver ? &by_wgmma : &by_mma;
}

/* Scales of 16 columns multiply codes in any case. Where tall tiles round weights and low ones do
 * not, a row's numbers would hang on how many there are beside it. */
static bool has_tall(const op_gemm *gemm) {
  return !heights_of(gemm)->tall_scales_weights || gemm->desc.weights->block <= 16 ||
         (gemm->desc.input->element == ELEMENT_BF16 && !gemm->desc.invariant);
}

/* Rows of the tallest tiles. */
static uint32_t most_rows(const op_gemm *gemm) {
  const heights *h = heights_of(gemm);
  if (!has_tall(gemm)) return h->low_rows;
  return gemm->desc.weights->bits == 8 ? h->tall_rows_8_bits : h->tall_rows;
}

/* A program of so many parts alone: compilers take long for each. */
static moecl_status create_entry(op_gemm *gemm, uint32_t rows, unsigned parts, const char *entry,
                                 ocl_kernel **kernel) {
  const op_gemm_desc *desc = &gemm->desc;
  const kernel_tile tile = {rows, gemm->tile.n, gemm->tile.vector_width};
  char defines[512];
  op_gemm_defines(desc, &tile, defines, sizeof defines);
  op_gemm_parts_defines(desc, parts, defines, sizeof defines);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

static moecl_status create(op_gemm *gemm) {
  fragments_state *state = gemm->state;
  gemm->packed_elements = packed_bytes(gemm);
  MOECL_TRY(ocl_buffer_zeroed(gemm->context, QUEUE_BYTES, &state->queue));
  return create_entry(gemm, heights_of(gemm)->low_rows, PART_PACK | PART_GEMM, "pack", &gemm->pack);
}

static unsigned kernels(const op_gemm *gemm) {
  return (has_tall(gemm) ? 1u << OP_GEMM_TALL : 0) |
         (op_gemm_has_few_tokens(&gemm->desc) ? 1u << OP_GEMM_FEW_TOKENS : 0);
}

static moecl_status create_kernel(op_gemm *gemm, op_gemm_kernel_id id) {
  const uint32_t low_rows = heights_of(gemm)->low_rows;
  ocl_kernel **kernel = &gemm->kernel[id];
  if (id == OP_GEMM_TALL) return create_entry(gemm, most_rows(gemm), PART_GEMM, "gemm", kernel);
  return id == OP_GEMM_FEW_TOKENS
             ? create_entry(gemm, low_rows, PART_FEW_TOKENS, "few_tokens", kernel)
             : create_entry(gemm, low_rows, PART_PACK | PART_GEMM, "gemm", kernel);
}

static void release(op_gemm *gemm) {
  fragments_state *state = gemm->state;
  moecl_buffer_destroy(&state->queue);
}

static uint64_t tiles_of(const op_gemm *gemm, bool low) {
  return base_div_up(op_gemm_column_tiles(gemm), low ? 1 : heights_of(gemm)->tall_tiles);
}

/* One expert alone is cut so that every compute unit gets a tile. */
static uint32_t shared_out(const op_gemm *gemm, uint64_t rows) {
  const heights *h = heights_of(gemm);
  const uint64_t units = gemm->context->info.compute_units ? gemm->context->info.compute_units : 1;
  uint64_t each = base_round_up(base_div_up(rows * tiles_of(gemm, true), units), h->row_step);
  if (each > h->low_rows) {
    const uint64_t tall =
        base_round_up(base_div_up(rows * tiles_of(gemm, false), units), h->row_step);
    const uint64_t least = base_round_up(h->low_rows + 1, h->row_step);
    each = tall > least ? tall : least;
  }
  return each < most_rows(gemm) ? (uint32_t)each : most_rows(gemm);
}

static op_gemm_kernel_id best_kernel(const op_gemm *gemm, int64_t rows) {
  const heights *h = heights_of(gemm);
  const bool low = gemm->desc.ungrouped ? shared_out(gemm, rows ? (uint64_t)rows : 1) <= h->low_rows
                                        : rows / op_gemm_spread(gemm) <= h->most_low;
  return low || !has_tall(gemm) ? OP_GEMM_BASE : OP_GEMM_TALL;
}

/* Low tiles leave room for more weights in flight; tall ones read weights less often. gate_up and
 * down share tile_offsets, so that nothing here may hang on their widths. */
static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  const heights *h = heights_of(gemm);
  const bool tall = op_gemm_kernel_for(gemm, rows) == OP_GEMM_TALL;
  if (!gemm->desc.ungrouped) return tall ? most_rows(gemm) : h->low_rows;
  const uint32_t each = shared_out(gemm, rows ? (uint64_t)rows : 1);
  if (tall) return each > h->low_rows ? each : most_rows(gemm);
  return each < h->low_rows ? each : h->low_rows;
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const uint64_t experts = (uint64_t)gemm->desc.num_experts, rows = (uint64_t)io->rows;
  const fragments_state *state = gemm->state;
  const heights *h = heights_of(gemm);
  const uint32_t each = tile_rows(gemm, op_gemm_chosen_rows(io));
  const op_gemm_kernel_id id = op_gemm_kernel_for(gemm, op_gemm_chosen_rows(io));
  const bool low = id == OP_GEMM_BASE;
  const uint64_t groups =
      (uint64_t)gemm->context->info.compute_units * (low ? h->low_groups : h->tall_groups);
  const uint64_t most = op_gemm_most_tiles(gemm, rows, each) * tiles_of(gemm, low);
  ocl_kernel *kernel = gemm->kernel[id];
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbllii", io->input, io->slot_token, io->expert_offsets,
                            io->tile_offsets, gemm->weights, gemm->bias, io->output, state->queue,
                            gemm->desc.k, gemm->desc.n, (int32_t)experts, (int32_t)each));
  return ocl_launch(chain, kernel, most < groups ? most : groups, kernel->local);
}

static bool serves_few_tokens(const op_gemm *gemm, int64_t num_tokens) {
  return op_gemm_few_tokens_pay(gemm, num_tokens, OP_GEMM_MOST_FEW_TOKENS);
}

static moecl_status enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io) {
  return op_gemm_launch_few_tokens(gemm, gemm->kernel[OP_GEMM_FEW_TOKENS], chain, io);
}

#define FRAGMENTS                                                                                  \
  {                                                                                                \
    .state_bytes = sizeof(fragments_state), .create = create, .release = release,                  \
    .kernels = kernels, .create_kernel = create_kernel, .best_kernel = best_kernel,                \
    .late = 1u << OP_GEMM_TALL | 1u << OP_GEMM_FEW_TOKENS, .pack = op_gemm_pack_strided,           \
    .tile_rows = tile_rows, .packed_bytes = packed_bytes, .enqueue = enqueue,                      \
    .serves_few_tokens = serves_few_tokens, .enqueue_few_tokens = enqueue_few_tokens,              \
    .extra_bytes = QUEUE_BYTES, .by_rows = true                                                    \
  }

const op_gemm_driver op_gemm_fragments_driver = FRAGMENTS;
const op_gemm_driver op_gemm_fragments_wgmma_driver = FRAGMENTS; /* see heights_of */
