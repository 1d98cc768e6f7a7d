// SPDX-License-Identifier: MIT
#include "op/dense.h"
#include "base/base.h"

moecl_status op_dense_create(moecl_context *context, op_dense *dense) {
  *dense = (op_dense){.rows = -1};
  MOECL_TRY(moecl_buffer_create(context, OP_DENSE_BYTES / 2, &dense->offsets));
  MOECL_TRY(moecl_buffer_create(context, OP_DENSE_BYTES / 2, &dense->tiles));
  return ocl_kernel_create(context, "grouped_gemm/dense.cl", NULL, "dense_offsets", &dense->kernel);
}

void op_dense_release(op_dense *dense) {
  ocl_kernel_destroy(&dense->kernel);
  moecl_buffer_destroy(&dense->offsets);
  moecl_buffer_destroy(&dense->tiles);
}

/* Once for every number of rows: forwards of the same size follow each other. */
static moecl_status write(op_dense *dense, ocl_chain *chain, int64_t rows, uint32_t tile_rows) {
  if (dense->rows == rows && dense->tile_rows == tile_rows) return MOECL_OK;
  dense->rows = -1;
  MOECL_TRY(ocl_kernel_args(dense->kernel, "bbii", dense->offsets, dense->tiles, (int32_t)rows,
                            (int32_t)tile_rows));
  MOECL_TRY(ocl_launch(chain, dense->kernel, 1, 1));
  dense->rows = rows;
  dense->tile_rows = tile_rows;
  return MOECL_OK;
}

moecl_status op_dense_enqueue(op_dense *dense, ocl_chain *chain, op_gemm *gemm,
                              const moecl_buffer *input, const moecl_buffer *output, int64_t rows) {
  if (op_gemm_serves_few(gemm, rows)) {
    const op_gemm_few_io few = {.input = input, .output = output, .num_tokens = rows};
    return op_gemm_enqueue_few(gemm, chain, &few);
  }
  MOECL_TRY(write(dense, chain, rows, op_gemm_tile_rows(gemm, rows)));
  const op_gemm_io io = {.input = input,
                         .expert_offsets = dense->offsets,
                         .tile_offsets = dense->tiles,
                         .output = output,
                         .rows = rows};
  return op_gemm_enqueue(gemm, chain, &io);
}
