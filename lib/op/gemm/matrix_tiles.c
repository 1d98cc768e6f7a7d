// SPDX-License-Identifier: MIT
/* Variants by a matrix instruction, with a work-group a tile: `tile.n` weight rows by up to
 * `tile.m` of an expert's rows, or a half or a quarter of that where experts have fewer. One
 * packing serves them all, and few tokens. The kernels' side of it: cl/grouped_gemm/amd_tiles.clh.
 */
#include "base/base.h"
#include "op/gemm/driver.h"

/* Heights of tiles: all rows, half, a quarter. A packed row comes in multiples of ROW_BYTES. */
enum { HEIGHTS = 3, ROW_BYTES = 128 };

typedef struct matrix_tiles_state {
  ocl_kernel *gemm[HEIGHTS], *few_tokens; /* the latter NULL where there is none */
} matrix_tiles_state;

static uint64_t packed_bytes(const op_gemm *gemm) { return op_gemm_tiled_bytes(gemm, ROW_BYTES); }

static uint32_t height(const op_gemm *gemm, int index) { return gemm->tile.m >> index; }

static moecl_status create_kernel(op_gemm *gemm, int index, const char *entry,
                                  ocl_kernel **kernel) {
  const op_gemm_desc *desc = &gemm->desc;
  const kernel_tile tile = {height(gemm, index), gemm->tile.n, gemm->tile.vector_width};
  char defines[512];
  op_gemm_defines(desc, &tile, defines, sizeof defines);
  op_gemm_few_tokens_defines(desc, defines, sizeof defines);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

/* Packing and few tokens are in the program of the lowest tiles. */
static moecl_status create(op_gemm *gemm) {
  matrix_tiles_state *state = gemm->state;
  gemm->packed_elements = packed_bytes(gemm) / desc_format_unit(gemm->desc.weights);
  MOECL_TRY(create_kernel(gemm, HEIGHTS - 1, "pack", &gemm->pack));
  for (int i = HEIGHTS; i-- > 0;) MOECL_TRY(create_kernel(gemm, i, "gemm", &state->gemm[i]));
  return op_gemm_has_few_tokens(&gemm->desc)
             ? create_kernel(gemm, HEIGHTS - 1, "few_tokens", &state->few_tokens)
             : MOECL_OK;
}

static void release(op_gemm *gemm) {
  matrix_tiles_state *state = gemm->state;
  for (int i = 0; i < HEIGHTS; i++) ocl_kernel_destroy(&state->gemm[i]);
  ocl_kernel_destroy(&state->few_tokens);
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

static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  return height(gemm, height_index(gemm, rows));
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const matrix_tiles_state *state = gemm->state;
  const op_gemm_desc *desc = &gemm->desc;
  ocl_kernel *kernel = state->gemm[height_index(gemm, op_gemm_chosen_rows(io))];
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
  const matrix_tiles_state *state = gemm->state;
  return op_gemm_launch_few_tokens(gemm, state->few_tokens, chain, io);
}

const op_gemm_driver op_gemm_matrix_tiles_driver = {.state_bytes = sizeof(matrix_tiles_state),
                                                    .create = create,
                                                    .release = release,
                                                    .pack = op_gemm_pack_strided,
                                                    .tile_rows = tile_rows,
                                                    .packed_bytes = packed_bytes,
                                                    .enqueue = enqueue,
                                                    .serves_few_tokens = serves_few_tokens,
                                                    .enqueue_few_tokens = enqueue_few_tokens,
                                                    .by_rows = true};
