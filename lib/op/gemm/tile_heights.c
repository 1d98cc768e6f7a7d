// SPDX-License-Identifier: MIT
/* Variants with a work-group a tile and kernels for tiles of three heights over
 * one packing: `tile.m` rows where experts have many, LOW_ROWS where they have
 * some, FEW_ROWS where weights are streamed for a few. The kernels' side of it:
 * cl/grouped_gemm/gpu.cl; with kernels for few tokens, intel_xmx.clh. */
#include "base/base.h"
#include "op/gemm/driver.h"

enum { LOW_ROWS = 32, FEW_ROWS = 8 };
/* A tall or low tile's work-items make 8 x 8 sums. Few rows' columns are shared by
 * FEW_PARTS work-groups, of 32 work-items for every element of a 16-byte chunk. */
enum { SUMS = 64, CHUNK_BYTES = 16, FEW_PARTS = 2, FEW_ITEMS = 32 };
/* Rows an expert on average up to which few-row tiles pay, and from which on tall
 * ones do; self_check.c has loads on all three sides of them. */
enum { MOST_FEW = 12, LEAST_TALL = 64 };

typedef struct tile_heights_state {
  ocl_kernel *tall, *low, *few; /* by tiles of tile.m, LOW_ROWS and FEW_ROWS */
  ocl_kernel *few_tokens;       /* in the program of low; NULL where there is none */
} tile_heights_state;

/* Rows of packed weights come in multiples of two 16-byte chunks' elements. */
static uint64_t packed_bytes(const op_gemm *gemm) {
  return op_gemm_tiled_bytes(gemm, 2 * CHUNK_BYTES);
}

static bool has_few_tokens(const op_gemm *gemm) {
  return gemm->driver == &op_gemm_tile_heights_few_driver && op_gemm_has_few_tokens(&gemm->desc);
}

static moecl_status create_kernel(op_gemm *gemm, uint32_t rows, const char *entry,
                                  ocl_kernel **kernel) {
  char defines[512];
  const kernel_tile tile = {rows, gemm->tile.n, gemm->tile.vector_width};
  op_gemm_defines(&gemm->desc, &tile, defines, sizeof defines);
  if (rows == LOW_ROWS && has_few_tokens(gemm))
    op_gemm_few_tokens_defines(&gemm->desc, defines, sizeof defines);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

static moecl_status create(op_gemm *gemm) {
  tile_heights_state *state = gemm->state;
  gemm->packed_elements = packed_bytes(gemm) / desc_format_unit(gemm->desc.weights);
  MOECL_TRY(create_kernel(gemm, gemm->tile.m, "pack", &gemm->pack));
  MOECL_TRY(create_kernel(gemm, gemm->tile.m, "gemm", &state->tall));
  MOECL_TRY(create_kernel(gemm, LOW_ROWS, "gemm", &state->low));
  if (has_few_tokens(gemm))
    MOECL_TRY(create_kernel(gemm, LOW_ROWS, "few_tokens", &state->few_tokens));
  return create_kernel(gemm, FEW_ROWS, "gemm", &state->few);
}

static void release(op_gemm *gemm) {
  tile_heights_state *state = gemm->state;
  ocl_kernel_destroy(&state->tall);
  ocl_kernel_destroy(&state->low);
  ocl_kernel_destroy(&state->few);
  ocl_kernel_destroy(&state->few_tokens);
}

/* One expert alone may have few columns: tiles as tall as leaves two of them for
 * every compute unit. */
static uint32_t ungrouped_tile_rows(const op_gemm *gemm, uint64_t rows) {
  const uint64_t wanted = 2 * (uint64_t)gemm->context->info.compute_units;
  if (rows / gemm->tile.m * op_gemm_column_tiles(gemm) >= wanted) return gemm->tile.m;
  const bool low = gemm->desc.invariant || rows / LOW_ROWS * op_gemm_column_tiles(gemm) >= wanted;
  return low ? LOW_ROWS : FEW_ROWS;
}

/* The same for gate_up and down, which share tile_offsets. */
static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  const int64_t experts = op_gemm_spread(gemm);
  if (gemm->desc.ungrouped) return ungrouped_tile_rows(gemm, (uint64_t)rows);
  if (rows <= MOST_FEW * experts && !gemm->desc.invariant) return FEW_ROWS;
  return rows < LEAST_TALL * experts ? LOW_ROWS : gemm->tile.m;
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const tile_heights_state *state = gemm->state;
  const op_gemm_desc *desc = &gemm->desc;
  const uint32_t each = tile_rows(gemm, op_gemm_chosen_rows(io));
  const bool few = each == FEW_ROWS;
  const uint32_t few_local = FEW_ITEMS * (uint32_t)(CHUNK_BYTES / desc_format_unit(desc->weights));
  ocl_kernel *kernel = few ? state->few : each == LOW_ROWS ? state->low : state->tall;
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbblli", io->input, io->slot_token, io->expert_offsets,
                            io->tile_offsets, gemm->weights, gemm->bias, io->output, desc->k,
                            desc->n, (int32_t)desc->num_experts));
  const uint64_t groups =
      op_gemm_most_tiles(gemm, (uint64_t)io->rows, each) * op_gemm_column_tiles(gemm);
  return ocl_launch(chain, kernel, few ? groups * FEW_PARTS : groups,
                    few ? few_local : each * gemm->tile.n / SUMS);
}

static moecl_status enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io) {
  const tile_heights_state *state = gemm->state;
  return op_gemm_launch_few_tokens(gemm, state->few_tokens, chain, io);
}

#define TILE_HEIGHTS                                                                               \
  .state_bytes = sizeof(tile_heights_state), .create = create, .release = release,                 \
  .pack = op_gemm_pack_strided, .tile_rows = tile_rows, .packed_bytes = packed_bytes,              \
  .enqueue = enqueue, .by_rows = true

const op_gemm_driver op_gemm_tile_heights_driver = {TILE_HEIGHTS};
const op_gemm_driver op_gemm_tile_heights_few_driver = {
    TILE_HEIGHTS, .serves_few_tokens = op_gemm_plain_few_tokens_pay,
    .enqueue_few_tokens = enqueue_few_tokens};
