// SPDX-License-Identifier: MIT
/* Variants with a work-group a tile: one launch, tiles found on the device. */
#include "base/base.h"
#include "desc/quantized.h"
#include "op/gemm/driver.h"

typedef struct tiles_state {
  ocl_kernel *gemm;
} tiles_state;

/* Bytes of a panel of codes with scales, part by part: cl/grouped_gemm/cpu_quantized.clh. */
static uint64_t panel_bytes(const op_gemm *gemm) {
  enum { PANEL_ALIGN = 64 };
  const desc_format *format = gemm->desc.weights;
  const uint64_t k = (uint64_t)gemm->desc.k, columns = gemm->tile.n;
  if (k > UINT64_MAX / 1024) return UINT64_MAX;
  const uint64_t scales = columns * (format->block ? base_div_up(k, format->block) : 1);
  const uint64_t scale_bytes =
      format->scale == ELEMENT_NONE ? 0 : desc_element_bits(format->scale) / 8;
  return base_round_up(format->matrix_scale ? columns * sizeof(float) : 0, PANEL_ALIGN) +
         base_round_up(scales * scale_bytes, PANEL_ALIGN) +
         base_round_up(format->zero_points ? scales : 0, PANEL_ALIGN) +
         base_round_up(columns * base_round_up(k, 8) * format->bits / 8, PANEL_ALIGN);
}

/* Bytes of one expert's packed weights. Tiled through local memory: as they
 * come. By vector width: panels of tile.n columns, the last one padded; gated
 * layers put gate and up side by side in one panel. */
static uint64_t packed_bytes(const op_gemm *gemm) {
  const uint64_t panels = op_gemm_column_tiles(gemm);
  uint64_t bytes;
  if (gemm->variant->tile_m) return op_gemm_given_bytes(&gemm->desc);
  if (desc_is_quantized(gemm->desc.weights))
    return base_mul(panel_bytes(gemm), panels, &bytes) ? bytes : UINT64_MAX;
  return desc_format_bytes(gemm->desc.weights, panels * gemm->tile.n, (uint64_t)gemm->desc.k);
}

static moecl_status create(op_gemm *gemm) {
  tiles_state *state = gemm->state;
  char defines[512];
  op_gemm_defines(&gemm->desc, &gemm->tile, defines, sizeof defines);
  /* Panels hold bf16 in pairs, as 32-bit words. */
  const bool pairs = !gemm->variant->tile_m && desc_format_dtype(gemm->desc.weights) == MOECL_BF16;
  gemm->packed_elements = packed_bytes(gemm) / (pairs ? 4 : desc_format_unit(gemm->desc.weights));
  MOECL_TRY(ocl_kernel_create(gemm->context, gemm->variant->source, defines, "pack", &gemm->pack));
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, "gemm", &state->gemm);
}

static void release(op_gemm *gemm) { ocl_kernel_destroy(&((tiles_state *)gemm->state)->gemm); }

static moecl_status pack(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                         uint64_t offset_bytes) {
  if (gemm->variant->tile_m) return op_gemm_pack_strided(gemm, first, count, src, offset_bytes);
  return op_gemm_pack(gemm, first, count, src, offset_bytes, op_gemm_column_tiles(gemm));
}

static moecl_status enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  ocl_kernel *kernel = ((tiles_state *)gemm->state)->gemm;
  const op_gemm_desc *desc = &gemm->desc;
  const uint64_t column_tiles = gemm->variant->tile_m ? base_div_up((uint64_t)desc->n, gemm->tile.n)
                                                      : op_gemm_column_tiles(gemm);
  const bool coded = desc_is_quantized(desc->input);
  MOECL_TRY(ocl_kernel_args(kernel, coded ? "bbbbbbblliL" : "bbbbbbblli", io->input, io->slot_token,
                            io->expert_offsets, io->tile_offsets, gemm->weights, gemm->bias,
                            op_gemm_output(gemm, io), desc->k, desc->n, (int32_t)desc->num_experts,
                            coded ? op_gemm_input_scales(gemm, io) : 0));
  MOECL_TRY(op_gemm_set_places(gemm, kernel, coded ? 11 : 10, io));
  const uint64_t tiles = op_gemm_most_tiles(gemm, (uint64_t)io->rows, gemm->tile.m);
  return ocl_launch(chain, kernel, tiles * column_tiles, gemm->variant->local);
}

const op_gemm_driver op_gemm_tiles_driver = {.state_bytes = sizeof(tiles_state),
                                             .create = create,
                                             .release = release,
                                             .pack = pack,
                                             .tile_rows = op_gemm_fixed_tile_rows,
                                             .packed_bytes = packed_bytes,
                                             .enqueue = enqueue};
