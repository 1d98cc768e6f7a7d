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

/* Rows of packed weights come in multiples of two 16-byte chunks' elements. */
static uint64_t packed_bytes(const op_gemm *gemm) {
  return op_gemm_tiled_bytes(gemm, 2 * CHUNK_BYTES);
}

static bool has_few_tokens(const op_gemm *gemm) {
  return gemm->driver == &op_gemm_tile_heights_few_driver && op_gemm_has_few_tokens(&gemm->desc);
}

static moecl_status create_entry(op_gemm *gemm, uint32_t rows, const char *entry,
                                 ocl_kernel **kernel) {
  char defines[512];
  const kernel_tile tile = {rows, gemm->tile.n, gemm->tile.vector_width};
  op_gemm_defines(&gemm->desc, &tile, defines, sizeof defines);
  if (rows == LOW_ROWS && has_few_tokens(gemm))
    op_gemm_few_tokens_defines(&gemm->desc, defines, sizeof defines);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

/* Packing and few tokens are in the program of low tiles. */
static moecl_status create(op_gemm *gemm) {
  gemm->packed_elements = packed_bytes(gemm) / desc_format_unit(gemm->desc.weights);
  return create_entry(gemm, LOW_ROWS, "pack", &gemm->pack);
}

static unsigned kernels(const op_gemm *gemm) {
  return 1u << OP_GEMM_TALL | 1u << OP_GEMM_FEW_ROWS |
         (has_few_tokens(gemm) ? 1u << OP_GEMM_FEW_TOKENS : 0);
}

static uint32_t rows_of(const op_gemm *gemm, op_gemm_kernel_id id) {
  return id == OP_GEMM_TALL ? gemm->tile.m : id == OP_GEMM_FEW_ROWS ? FEW_ROWS : LOW_ROWS;
}

static moecl_status create_kernel(op_gemm *gemm, op_gemm_kernel_id id) {
  const char *entry = id == OP_GEMM_FEW_TOKENS ? "few_tokens" : "gemm";
  return create_entry(gemm, rows_of(gemm, id), entry, &gemm->kernel[id]);
}

/* One expert alone may have few columns: tiles as tall as leaves two of them for
 * every compute unit. */
static op_gemm_kernel_id best_ungrouped(const op_gemm *gemm, uint64_t rows) {
  const uint64_t wanted = 2 * (uint64_t)gemm->context->info.compute_units;
  if (rows / gemm->tile.m * op_gemm_column_tiles(gemm) >= wanted) return OP_GEMM_TALL;
  const bool low = gemm->desc.invariant || rows / LOW_ROWS * op_gemm_column_tiles(gemm) >= wanted;
  return low ? OP_GEMM_BASE : OP_GEMM_FEW_ROWS;
}

/* The same for gate_up and down, which share tile_offsets. */
static op_gemm_kernel_id best_kernel(const op_gemm *gemm, int64_t rows) {
  const int64_t experts = op_gemm_spread(gemm);
  if (gemm->desc.ungrouped) return best_ungrouped(gemm, (uint64_t)rows);
  if (rows <= MOST_FEW * experts && !gemm->desc.invariant) return OP_GEMM_FEW_ROWS;
  return rows < LEAST_TALL * experts ? OP_GEMM_BASE : OP_GEMM_TALL;
}

static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  return rows_of(gemm, op_gemm_kernel_for(gemm, rows));
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const op_gemm_desc *desc = &gemm->desc;
  const op_gemm_kernel_id id = op_gemm_kernel_for(gemm, op_gemm_chosen_rows(io));
  const uint32_t each = rows_of(gemm, id);
  const bool few = id == OP_GEMM_FEW_ROWS;
  const uint32_t few_local = FEW_ITEMS * (uint32_t)(CHUNK_BYTES / desc_format_unit(desc->weights));
  ocl_kernel *kernel = gemm->kernel[id];
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
  return op_gemm_launch_few_tokens(gemm, gemm->kernel[OP_GEMM_FEW_TOKENS], chain, io);
}

#define TILE_HEIGHTS                                                                               \
  .create = create, .kernels = kernels, .create_kernel = create_kernel,                            \
  .best_kernel = best_kernel, .late = 1u << OP_GEMM_TALL | 1u << OP_GEMM_FEW_ROWS,                 \
  .pack = op_gemm_pack_strided, .tile_rows = tile_rows, .packed_bytes = packed_bytes,              \
  .enqueue = enqueue, .by_rows = true

const op_gemm_driver op_gemm_tile_heights_driver = {TILE_HEIGHTS};
const op_gemm_driver op_gemm_tile_heights_few_driver = {
    TILE_HEIGHTS, .serves_few_tokens = op_gemm_plain_few_tokens_pay,
    .enqueue_few_tokens = enqueue_few_tokens};
