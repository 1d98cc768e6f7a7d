// SPDX-License-Identifier: MIT
/* Offsets of the one "expert" that owns all rows, for a GEMM that has no other. */
#include "base/base.h"
#include "op/gemm/driver.h"

moecl_status op_gemm_lists_create(moecl_context *context, op_gemm_lists *lists) {
  *lists = (op_gemm_lists){.rows = -1};
  MOECL_TRY(moecl_buffer_create(context, OP_GEMM_LISTS_BYTES / 2, &lists->offsets));
  MOECL_TRY(moecl_buffer_create(context, OP_GEMM_LISTS_BYTES / 2, &lists->tiles));
  return ocl_kernel_create(context, "grouped_gemm/ungrouped.cl", NULL, "ungrouped_offsets",
                           &lists->kernel);
}

void op_gemm_lists_release(op_gemm_lists *lists) {
  ocl_kernel_destroy(&lists->kernel);
  moecl_buffer_destroy(&lists->offsets);
  moecl_buffer_destroy(&lists->tiles);
}

/* Forwards of the same size follow each other. */
moecl_status op_gemm_lists_write(op_gemm_lists *lists, ocl_chain *chain, int64_t rows,
                                 uint32_t tile_rows) {
  if (lists->rows == rows && lists->tile_rows == tile_rows) return MOECL_OK;
  lists->rows = -1;
  MOECL_TRY(ocl_kernel_args(lists->kernel, "bbii", lists->offsets, lists->tiles, (int32_t)rows,
                            (int32_t)tile_rows));
  MOECL_TRY(ocl_launch(chain, lists->kernel, 1, 1));
  lists->rows = rows;
  lists->tile_rows = tile_rows;
  return MOECL_OK;
}
