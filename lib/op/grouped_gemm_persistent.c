// SPDX-License-Identifier: MIT
/* Variants whose work-groups stay, one a compute unit, and take tile after
 * tile: `tile.n` weight rows by up to `tile.m` of an expert's rows, as many as
 * tile_offsets was made for, or twice as many by up to TALL_ROWS. The kernels' side of it:
 * cl/grouped_gemm/nvidia_sm90.cl. Their kernels share one packing: for few
 * tokens, for few rows an expert and, with KERNEL_TALL, for many. */
#include "base/base.h"
#include "op/grouped_gemm.h"
#include <stdio.h>
#include <string.h>

/* A packed row is a step of k; rows of a tile come in multiples of ROW_STEP. */
enum { ROW_BYTES = 128, ROW_STEP = 16, TALL_ROWS = 176 /* of a tall tile */ };

static uint64_t column_tiles(const op_gemm *gemm) {
  const uint64_t columns = gemm->shape.gated ? gemm->tile.n / 2 : gemm->tile.n;
  return base_div_up((uint64_t)gemm->shape.n, columns);
}

static uint64_t packed_elements(const op_gemm *gemm) {
  const uint64_t step = ROW_BYTES / moecl_dtype_size(gemm->shape.dtype);
  return column_tiles(gemm) * gemm->tile.n * base_round_up((uint64_t)gemm->shape.k, step);
}

static uint64_t packed_bytes(const op_gemm *gemm) {
  return packed_elements(gemm) * moecl_dtype_size(gemm->shape.dtype);
}

static moecl_status create_kernel(op_gemm *gemm, bool tall, const char *entry,
                                  ocl_kernel **kernel) {
  const op_gemm_shape *shape = &gemm->shape;
  char defines[512];
  op_gemm_defines(shape, &gemm->tile, defines, sizeof defines);
  const size_t used = strlen(defines);
  snprintf(defines + used, sizeof defines - used, "TALL %d\nDENSE %d\nADDS_SHARED %d\n", tall,
           shape->dense, shape->adds_shared ? 1 + shape->shared_gate : 0);
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, entry, kernel);
}

/* The kernel for few tokens is there for one "expert" of all tokens, for gate/up
 * that gathers and for down, which it weights and combines. */
static bool has_few(const op_gemm_shape *shape) {
  if (shape->dtype == MOECL_F32) return false;
  return shape->dense || shape->gather || (shape->epilogue == OP_EPILOGUE_NONE && !shape->gated);
}

static moecl_status create(op_gemm *gemm) {
  gemm->packed_elements = packed_elements(gemm);
  MOECL_TRY(moecl_buffer_create(gemm->context, op_gemm_queue_bytes(gemm), &gemm->queue));
  MOECL_TRY(moecl_buffer_fill_byte(gemm->queue, 0, op_gemm_queue_bytes(gemm), 0));
  MOECL_TRY(create_kernel(gemm, false, "pack", &gemm->pack));
  MOECL_TRY(create_kernel(gemm, false, "gemm", &gemm->gemm));
  if (has_few(&gemm->shape)) MOECL_TRY(create_kernel(gemm, false, "few", &gemm->few));
  /* The router's logits have too few weight rows for more. */
  if (gemm->shape.output_f32 || !(gemm->variant->flags & KERNEL_TALL)) return MOECL_OK;
  return create_kernel(gemm, true, "gemm", &gemm->tall);
}

static uint64_t no_scratch(const op_gemm *gemm, int64_t rows) {
  (void)gemm;
  (void)rows;
  return 0;
}

/* Rows an expert on average from which on tall tiles pay: arithmetic is the limit
 * then, and not the weights' way from memory. */
static bool is_tall(const op_gemm *gemm, int64_t rows) {
  enum { ROWS_EACH = 48 };
  if (!gemm->tall) return false;
  if (!gemm->shape.dense) return rows / gemm->shape.num_experts >= ROWS_EACH;
  /* One expert alone: where there are tiles for every compute unit. */
  return (uint64_t)rows / TALL_ROWS * (column_tiles(gemm) / 2) >= gemm->context->info.compute_units;
}

/* Small tiles leave shared memory for more stages of weights in flight. One
 * expert alone is cut so that every compute unit gets a tile. gate_up and down of
 * experts share tile_offsets, so that nothing here may hang on their widths. */
static uint32_t tile_rows(const op_gemm *gemm, int64_t rows) {
  const uint64_t experts = (uint64_t)gemm->shape.num_experts;
  const uint64_t units = gemm->context->info.compute_units;
  if (is_tall(gemm, rows)) return TALL_ROWS;
  if (gemm->shape.dense) {
    const uint64_t each = base_div_up((uint64_t)rows * column_tiles(gemm), units ? units : 1);
    const uint64_t rounded = base_round_up(each ? each : 1, ROW_STEP);
    return rounded < gemm->tile.m ? (uint32_t)rounded : gemm->tile.m;
  }
  return (uint64_t)rows / experts <= gemm->tile.m / 6 ? gemm->tile.m / 2 : gemm->tile.m;
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const uint64_t experts = (uint64_t)gemm->shape.num_experts, rows = (uint64_t)io->rows;
  const uint64_t units = gemm->context->info.compute_units;
  const uint32_t each = tile_rows(gemm, io->rows);
  const uint64_t active = rows < experts ? rows : experts;
  const uint64_t most = (active + rows / each) * column_tiles(gemm);
  ocl_kernel *kernel = is_tall(gemm, io->rows) ? gemm->tall : gemm->gemm;
  MOECL_TRY(ocl_kernel_args(kernel, "bbbbbbbbllii", io->input, io->slot_token, io->expert_offsets,
                            io->tile_offsets, gemm->weights, gemm->bias, io->output, gemm->queue,
                            gemm->shape.k, gemm->shape.n, (int32_t)experts, (int32_t)each));
  return ocl_launch(chain, kernel, most < units ? most : units, gemm->variant->local);
}

/* Weights are read again for every token of the same expert: of one alone, where
 * they stay in the cache. */
bool op_gemm_serves_few(const op_gemm *gemm, int64_t num_tokens) {
  enum { MOST_TOKENS = 4, MOST_TOKENS_LOGITS = 32, CACHED = 16 << 20 };
  if (!gemm->few || num_tokens > (gemm->shape.output_f32 ? MOST_TOKENS_LOGITS : MOST_TOKENS))
    return false;
  return num_tokens <= 1 || !gemm->shape.dense || packed_bytes(gemm) <= CACHED;
}

moecl_status op_gemm_enqueue_few(op_gemm *gemm, ocl_chain *chain, const op_gemm_few_io *io) {
  enum { LOCAL = 256, ROWS = 16 }; /* as in cl/grouped_gemm/nvidia_few.clh */
  const op_gemm_shape *shape = &gemm->shape;
  const uint64_t columns = shape->gated ? ROWS / 2 : ROWS;
  const uint64_t groups = base_div_up((uint64_t)shape->n, columns);
  const int32_t top_k = shape->dense ? 1 : (int32_t)io->top_k;
  if (shape->dense || shape->gather) {
    MOECL_TRY(ocl_kernel_args(gemm->few, "bbbbblli", io->input, io->topk_ids, gemm->weights,
                              gemm->bias, io->output, shape->k, shape->n, top_k));
    return ocl_launch(chain, gemm->few, groups * (uint64_t)(io->num_tokens * top_k), LOCAL);
  }
  MOECL_TRY(ocl_kernel_args(gemm->few, "bbbbbbbblli", io->input, io->topk_ids, io->topk_weights,
                            gemm->weights, gemm->bias, io->shared, io->shared_gate, io->output,
                            shape->k, shape->n, top_k));
  return ocl_launch(chain, gemm->few, groups * (uint64_t)io->num_tokens, LOCAL);
}

const op_gemm_driver op_gemm_persistent_driver = {.create = create,
                                                  .pack = op_gemm_pack_strided,
                                                  .tile_rows = tile_rows,
                                                  .packed_bytes = packed_bytes,
                                                  .scratch = no_scratch,
                                                  .enqueue = enqueue};
