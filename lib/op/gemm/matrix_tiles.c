// SPDX-License-Identifier: MIT
/* Variants by a matrix instruction, with a work-group a tile: `tile.n` weight rows by up to
 * `tile.m` of an expert's rows, or a half or a quarter of that where experts have fewer. One
 * packing serves them all, and few tokens. The kernels' side of it: cl/grouped_gemm/amd_tiles.clh.
 */
#include "base/base.h"
#include "op/gemm/driver.h"

/* Heights of tiles: all rows, half, a quarter. A packed row comes in multiples of ROW_BYTES. */
enum { HEIGHTS = 3, ROW_BYTES = 128 };

static const op_gemm_kernel_id ids[HEIGHTS] = {OP_GEMM_TALL, OP_GEMM_MIDDLE, OP_GEMM_BASE};

static uint64_t packed_bytes(const op_gemm *gemm) { return op_gemm_tiled_bytes(gemm, ROW_BYTES); }

static uint32_t height(const op_gemm *gemm, int index) { return gemm->tile.m >> index; }

static uint32_t rows_of(const op_gemm *gemm, op_gemm_kernel_id id) {
  int index = 0;
  while (index < HEIGHTS - 1 && ids[index] != id) index++;
  return height(gemm, index);
}

static moecl_status create_entry(op_gemm *gemm, op_gemm_kernel_id id, const char *entry,
                                 ocl_kernel **kernel) {
  const op_gemm_desc *desc = &gemm->desc;
  const kernel_tile tile = {rows_of(gemm, id), gemm->tile.n, gemm->tile.vector_width};
  char defines[512];
  op_gemm_defines(desc, &tile, defines, sizeof defines);
  op_gemm_few_tokens_defines(desc, defines, sizeof defines);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

/* Packing and few tokens are in the program of the lowest tiles. */
static moecl_status create(op_gemm *gemm) {
  gemm->packed_elements = packed_bytes(gemm) / desc_format_unit(gemm->desc.weights);
  return create_entry(gemm, OP_GEMM_BASE, "pack", &gemm->pack);
}

static unsigned kernels(const op_gemm *gemm) {
  return 1u << OP_GEMM_TALL | 1u << OP_GEMM_MIDDLE |
         (op_gemm_has_few_tokens(&gemm->desc) ? 1u << OP_GEMM_FEW_TOKENS : 0);
}

static moecl_status create_kernel(op_gemm *gemm, op_gemm_kernel_id id) {
  return create_entry(gemm, id, id == OP_GEMM_FEW_TOKENS ? "few_tokens" : "gemm",
                      &gemm->kernel[id]);
}

/* One expert alone may have few columns: tiles as tall as leaves two of them for every compute
 * unit. */
static int ungrouped_index(const op_gemm *gemm, uint64_t rows) {
  const uint64_t wanted = 2 * (uint64_t)gemm->context->info.compute_units;
  int index = 0;
  while (index < HEIGHTS - 1 && rows / height(gemm, index) * op_gemm_column_tiles(gemm) < wanted)
    index++;
  return index;
}

/* By rows an expert, on average: an expert with more than a tile has its weights read again, one
 * with less has products that nobody asked for. The same for gate_up and down, which share
 * tile_offsets. self_check.c has loads for each height. */
static int height_index(const op_gemm *gemm, int64_t rows) {
  if (gemm->desc.ungrouped) return ungrouped_index(gemm, (uint64_t)rows);
  const int64_t each = rows / op_gemm_spread(gemm), most = gemm->tile.m;
  return each < most / 8 ? 2 : each < most / 3 ? 1 : 0;
}

static op_gemm_kernel_id best_kernel(const op_gemm *gemm, int64_t rows) {
  return ids[height_index(gemm, rows)];
}

static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  return rows_of(gemm, op_gemm_kernel_for(gemm, rows));
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const op_gemm_desc *desc = &gemm->desc;
  ocl_kernel *kernel = gemm->kernel[op_gemm_kernel_for(gemm, op_gemm_chosen_rows(io))];
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbblli", io->input, io->slot_token, io->expert_offsets,
                            io->tile_offsets, gemm->weights, gemm->bias, io->output, desc->k,
                            desc->n, (int32_t)desc->num_experts));
  const uint64_t tiles =
      op_gemm_most_tiles(gemm, (uint64_t)io->rows, tile_rows(gemm, op_gemm_chosen_rows(io)));
  return ocl_launch(chain, kernel, tiles * op_gemm_column_tiles(gemm), gemm->variant->local);
}

static bool serves_few_tokens(const op_gemm *gemm, int64_t num_tokens) {
  return op_gemm_few_tokens_pay(gemm, num_tokens, OP_GEMM_MOST_FEW_TOKENS);
}

static moecl_status enqueue_few_tokens(op_gemm *gemm, ocl_chain *chain,
                                       const op_gemm_few_tokens_io *io) {
  return op_gemm_launch_few_tokens(gemm, gemm->kernel[OP_GEMM_FEW_TOKENS], chain, io);
}

const op_gemm_driver op_gemm_matrix_tiles_driver = {.create = create,
                                                    .kernels = kernels,
                                                    .create_kernel = create_kernel,
                                                    .best_kernel = best_kernel,
                                                    .late =
                                                        1u << OP_GEMM_TALL | 1u << OP_GEMM_MIDDLE,
                                                    .pack = op_gemm_pack_strided,
                                                    .tile_rows = tile_rows,
                                                    .packed_bytes = packed_bytes,
                                                    .enqueue = enqueue,
                                                    .serves_few_tokens = serves_few_tokens,
                                                    .enqueue_few_tokens = enqueue_few_tokens,
                                                    .by_rows = true};
