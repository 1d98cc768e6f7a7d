// SPDX-License-Identifier: MIT
/* Variants whose work-groups, of one work-item, compute a tile of rows by a strip of several
 * panels of columns: cl/grouped_gemm/cpu_steps_gemm.clh. */
#include "base/base.h"
#include "desc/quantized.h"
#include "op/gemm/driver.h"

enum {
  LEAST_STRIP = 2,   /* panels of a strip */
  STEP_BYTES = 64,   /* of a row that is multiplied */
  GROUPS_A_UNIT = 8, /* work-groups for each compute unit, so that all have something to do */
  CHECK_K = 331,     /* several steps and scales, and not whole ones */
  SHORT_BLOCK = 2    /* steps of a block of k, of which CHECK_K makes several */
};

typedef struct strips_state {
  ocl_kernel *gemm;
} strips_state;

/* A column's elements in whole steps of k, and its fp32 scales where there are any. */
static uint64_t packed_bytes(const op_gemm *gemm) {
  const desc_format *format = gemm->desc.weights;
  const uint64_t k = (uint64_t)gemm->desc.k;
  const uint64_t scales = format->block ? base_div_up(k, format->block) : 1;
  const uint64_t step = STEP_BYTES * 8 / gemm->desc.input->bits;
  const uint64_t column = base_round_up(k, step) * format->bits / 8 +
                          (desc_is_quantized(format) ? scales * sizeof(float) : 0);
  uint64_t bytes;
  return base_mul(op_gemm_column_tiles(gemm) * gemm->tile.n, column, &bytes) ? bytes : UINT64_MAX;
}

static moecl_status create(op_gemm *gemm) {
  strips_state *state = gemm->state;
  char defines[512];
  op_gemm_defines(&gemm->desc, &gemm->tile, defines, sizeof defines);
  gemm->packed_elements = packed_bytes(gemm);
  MOECL_TRY(ocl_kernel_create(gemm->context, gemm->variant->source, defines, "pack", &gemm->pack));
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, "gemm", &state->gemm);
}

static void release(op_gemm *gemm) { ocl_kernel_destroy(&((strips_state *)gemm->state)->gemm); }

static moecl_status pack(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                         uint64_t offset_bytes) {
  return op_gemm_pack(gemm, first, count, src, offset_bytes, op_gemm_column_tiles(gemm));
}

/* Long strips gather rows less often. (Few panels may be fewer than a strip has.) */
static uint64_t strip_panels(const op_gemm *gemm, uint64_t tiles) {
  const uint64_t panels = op_gemm_column_tiles(gemm);
  const uint64_t wanted = (uint64_t)gemm->context->info.compute_units * GROUPS_A_UNIT;
  const uint64_t most = panels * tiles / (wanted ? wanted : 1);
  const uint64_t strip = most < LEAST_STRIP ? LEAST_STRIP : most;
  /* Of equal length, nearly. */
  return gemm->short_blocks ? panels : base_div_up(panels, base_div_up(panels, strip));
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  ocl_kernel *kernel = ((strips_state *)gemm->state)->gemm;
  const op_gemm_desc *desc = &gemm->desc;
  const uint64_t tiles = op_gemm_most_tiles(gemm, (uint64_t)io->rows, gemm->tile.m);
  const uint64_t strip = strip_panels(gemm, tiles);
  const bool coded = desc_is_quantized(desc->input);
  MOECL_TRY(ocl_kernel_args(kernel, coded ? "bbbbbbblliiiL" : "bbbbbbblliii", io->input,
                            io->slot_token, io->expert_offsets, io->tile_offsets, gemm->weights,
                            gemm->bias, io->output, desc->k, desc->n, (int32_t)desc->num_experts,
                            (int32_t)strip, gemm->short_blocks ? SHORT_BLOCK : INT32_MAX,
                            coded ? op_gemm_input_scales(gemm, io) : 0));
  const uint64_t strips = base_div_up(op_gemm_column_tiles(gemm), strip);
  return ocl_launch(chain, kernel, tiles * strips, gemm->variant->local);
}

const op_gemm_driver op_gemm_strips_driver = {.state_bytes = sizeof(strips_state),
                                              .create = create,
                                              .release = release,
                                              .pack = pack,
                                              .tile_rows = op_gemm_fixed_tile_rows,
                                              .packed_bytes = packed_bytes,
                                              .enqueue = enqueue,
                                              .ragged = true,
                                              .long_k = true,
                                              .check_k = CHECK_K};
