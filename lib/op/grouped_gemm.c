// SPDX-License-Identifier: MIT
#include "op/grouped_gemm.h"
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void op_gemm_defines(const op_gemm_shape *shape, const kernel_tile *tile, char *text, size_t size) {
  snprintf(text, size,
           "DTYPE %d\nACTIVATION %d\nGATED %d\nBIAS %d\nGATHER %d\nINPUT_F32 %d\nOUTPUT_F32 %d\n"
           "ROUND_OUTPUT %d\nTILE_M %u\nVECTOR_WIDTH %u\n",
           (int)shape->dtype, (int)shape->epilogue, shape->gated, shape->bias, shape->gather,
           shape->input_f32, shape->output_f32, shape->round_output, tile->m, tile->vector_width);
  const size_t used = strlen(text);
  if (shape->epilogue >= OP_EPILOGUE_SWIGLU_CLAMPED)
    base_format(text + used, size - used, "SWIGLU_ALPHA %af\nSWIGLU_LIMIT %af\n",
                (double)shape->swiglu_alpha, (double)shape->swiglu_limit);
}

static int64_t weight_rows(const op_gemm_shape *shape) {
  return shape->gated ? 2 * shape->n : shape->n;
}

uint64_t op_gemm_packed_bytes(const op_gemm *gemm) {
  uint64_t bytes;
  return base_mul(gemm->driver->packed_bytes(gemm), (uint64_t)gemm->shape.num_experts, &bytes)
             ? bytes
             : UINT64_MAX;
}

uint64_t op_gemm_bias_bytes(const op_gemm *gemm) {
  const op_gemm_shape *shape = &gemm->shape;
  return shape->bias
             ? (uint64_t)(shape->num_experts * weight_rows(shape)) * moecl_dtype_size(shape->dtype)
             : 0;
}

uint64_t op_gemm_queue_bytes(const op_gemm *gemm) {
  return gemm->variant->flags & KERNEL_PERSISTENT ? 2 * sizeof(int32_t) : 0;
}

static moecl_status allocate(op_gemm *gemm) {
  MOECL_TRY(moecl_buffer_create(gemm->context, op_gemm_packed_bytes(gemm), &gemm->weights));
  if (!gemm->shape.bias) return MOECL_OK;
  return moecl_buffer_create(gemm->context, op_gemm_bias_bytes(gemm), &gemm->bias);
}

static const op_gemm_driver *driver_of(const kernel_variant *variant) {
  if (variant->flags & KERNEL_LIBRARY) return &op_gemm_clblast_driver;
  if (variant->flags & KERNEL_HEIGHTS) return &op_gemm_heights_driver;
  return variant->flags & KERNEL_PERSISTENT ? &op_gemm_persistent_driver : &op_gemm_kernel_driver;
}

void op_gemm_describe(moecl_context *context, const kernel_variant *variant,
                      const op_gemm_shape *shape, op_gemm *gemm) {
  *gemm = (op_gemm){.context = context,
                    .variant = variant,
                    .driver = driver_of(variant),
                    .shape = *shape,
                    .tile = kernel_gemm_tile(variant, context->info.native_vector_width_float)};
}

bool op_gemm_accepts(const kernel_variant *variant, const op_gemm_shape *shape) {
  if (!(variant->flags & KERNEL_EIGHTS)) return true;
  if (shape->input_f32 && shape->dtype != MOECL_F32) return false;
  /* The choice of experts is not made in tf32. */
  if (shape->output_f32 && variant->flags & KERNEL_TF32) return false;
  return shape->n % 8 == 0 && shape->k % 8 == 0;
}

moecl_status op_gemm_create(moecl_context *context, const kernel_variant *variant,
                            const op_gemm_shape *shape, op_gemm **out) {
  *out = NULL;
  op_gemm *gemm = calloc(1, sizeof *gemm);
  if (!gemm) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  op_gemm_describe(ocl_context_retain(context), variant, shape, gemm);
  moecl_status status = gemm->driver->create(gemm);
  if (status == MOECL_OK) status = allocate(gemm);
  if (status != MOECL_OK) op_gemm_destroy(&gemm);
  *out = gemm;
  return status;
}

void op_gemm_destroy(op_gemm **handle) {
  op_gemm *gemm = *handle;
  *handle = NULL;
  if (!gemm) return;
  ocl_kernel_destroy(&gemm->pack);
  ocl_kernel_destroy(&gemm->gemm);
  ocl_kernel_destroy(&gemm->tall);
  ocl_kernel_destroy(&gemm->low);
  ocl_kernel_destroy(&gemm->few);
  ocl_kernel_destroy(&gemm->gather);
  ocl_kernel_destroy(&gemm->activate);
  moecl_buffer_destroy(&gemm->weights);
  moecl_buffer_destroy(&gemm->bias);
  moecl_buffer_destroy(&gemm->queue);
  moecl_context_destroy(&gemm->context);
  free(gemm);
}

moecl_status op_gemm_set_weights(op_gemm *gemm, int64_t first, int64_t count,
                                 const moecl_buffer *src, uint64_t offset_bytes) {
  return gemm->driver->pack(gemm, first, count, src, offset_bytes);
}

/* Pack kernels take experts in the second dimension. Offsets are in elements. `items`:
 * work-items of the first, where the source requires a work-group, such. */
static moecl_status launch_pack(op_gemm *gemm, int64_t first, int64_t count,
                                const moecl_buffer *src, uint64_t offset_bytes, uint64_t items) {
  const op_gemm_shape *shape = &gemm->shape;
  ocl_chain chain = {.context = gemm->context};
  MOECL_TRY(ocl_kernel_args(gemm->pack, "bLbLll", src,
                            offset_bytes / moecl_dtype_size(shape->dtype), gemm->weights,
                            (uint64_t)first * gemm->packed_elements, weight_rows(shape), shape->k));
  MOECL_TRY(gemm->pack->local
                ? ocl_launch_2d(&chain, gemm->pack, items, (uint64_t)count, gemm->pack->local)
                : ocl_launch_items_2d(&chain, gemm->pack, items, (uint64_t)count));
  /* Some drivers (Mesa) keep a kernel's arguments until others are set: here that
   * would be the weights once more, for as long as the layer lives. */
  return ocl_kernel_arg_buffer(gemm->pack, 0, NULL);
}

/* In the first dimension enough work-items to fill any device. */
moecl_status op_gemm_pack_strided(op_gemm *gemm, int64_t first, int64_t count,
                                  const moecl_buffer *src, uint64_t offset_bytes) {
  const uint64_t most = 2048 * 64;
  const uint64_t items = (uint64_t)weight_rows(&gemm->shape) * (uint64_t)gemm->shape.k;
  return launch_pack(gemm, first, count, src, offset_bytes, items < most ? items : most);
}

moecl_status op_gemm_set_bias(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                              uint64_t offset_bytes) {
  const uint64_t one = (uint64_t)weight_rows(&gemm->shape) * moecl_dtype_size(gemm->shape.dtype);
  return ocl_buffer_copy(src, offset_bytes, gemm->bias, (uint64_t)first * one,
                         (uint64_t)count * one);
}

uint64_t op_gemm_scratch(const op_gemm *gemm, int64_t rows) {
  return gemm->driver->scratch(gemm, rows);
}

uint32_t op_gemm_tile_rows(const op_gemm *gemm, int64_t rows) {
  return gemm->driver->tile_rows(gemm, rows);
}

uint32_t op_gemm_fixed_tile_rows(const op_gemm *gemm, int64_t rows) {
  (void)rows;
  return gemm->tile.m;
}

moecl_status op_gemm_enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  return gemm->driver->enqueue(gemm, chain, io);
}

/* ---- kernels with a work-group a tile: one launch, tiles found on the device ---- */

static uint64_t panels(const op_gemm *gemm) {
  const uint64_t columns = gemm->shape.gated ? gemm->tile.n / 2 : gemm->tile.n;
  return base_div_up((uint64_t)gemm->shape.n, columns);
}

/* Bytes of one expert's packed weights. Tiled through local memory: as they
 * come. By vector width: panels of tile.n columns, the last one padded; gated
 * layers put gate and up side by side in one panel. */
static uint64_t kernel_packed_bytes(const op_gemm *gemm) {
  const uint64_t k = (uint64_t)gemm->shape.k;
  const uint64_t columns =
      gemm->variant->tile_m ? (uint64_t)weight_rows(&gemm->shape) : panels(gemm) * gemm->tile.n;
  return columns * k * moecl_dtype_size(gemm->shape.dtype);
}

static moecl_status kernel_create(op_gemm *gemm) {
  char defines[512];
  op_gemm_defines(&gemm->shape, &gemm->tile, defines, sizeof defines);
  /* Panels hold bf16 in pairs, as 32-bit words. */
  const bool pairs = !gemm->variant->tile_m && gemm->shape.dtype == MOECL_BF16;
  gemm->packed_elements =
      kernel_packed_bytes(gemm) / (pairs ? 4 : moecl_dtype_size(gemm->shape.dtype));
  MOECL_TRY(ocl_kernel_create(gemm->context, gemm->variant->source, defines, "pack", &gemm->pack));
  return ocl_kernel_create(gemm->context, gemm->variant->source, defines, "gemm", &gemm->gemm);
}

static moecl_status kernel_pack(op_gemm *gemm, int64_t first, int64_t count,
                                const moecl_buffer *src, uint64_t offset_bytes) {
  if (gemm->variant->tile_m) return op_gemm_pack_strided(gemm, first, count, src, offset_bytes);
  return launch_pack(gemm, first, count, src, offset_bytes, panels(gemm));
}

static uint64_t kernel_scratch(const op_gemm *gemm, int64_t rows) {
  (void)gemm;
  (void)rows;
  return 0;
}

/* The most tiles `rows` slots can make: every expert may end in a partial one. */
static uint64_t most_tiles(const op_gemm *gemm, uint64_t rows) {
  const uint64_t experts = (uint64_t)gemm->shape.num_experts;
  const uint64_t active = rows < experts ? rows : experts;
  return (rows + active * (gemm->tile.m - 1)) / gemm->tile.m;
}

static moecl_status kernel_enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io) {
  const uint64_t column_tiles =
      gemm->variant->tile_m ? base_div_up((uint64_t)gemm->shape.n, gemm->tile.n) : panels(gemm);
  MOECL_TRY(ocl_kernel_args(gemm->gemm, "bbbbbbblli", io->input, io->slot_token, io->expert_offsets,
                            io->tile_offsets, gemm->weights, gemm->bias, io->output, gemm->shape.k,
                            gemm->shape.n, (int32_t)gemm->shape.num_experts));
  return ocl_launch(chain, gemm->gemm, most_tiles(gemm, (uint64_t)io->rows) * column_tiles,
                    gemm->variant->local);
}

const op_gemm_driver op_gemm_kernel_driver = {.create = kernel_create,
                                              .pack = kernel_pack,
                                              .tile_rows = op_gemm_fixed_tile_rows,
                                              .packed_bytes = kernel_packed_bytes,
                                              .scratch = kernel_scratch,
                                              .enqueue = kernel_enqueue};
