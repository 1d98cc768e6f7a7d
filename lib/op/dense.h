// SPDX-License-Identifier: MIT
/* Offsets of the one "expert" that owns all rows, for a GEMM that has no other. */
#ifndef MOECL_LIB_OP_DENSE_H
#define MOECL_LIB_OP_DENSE_H

#include "op/grouped_gemm.h"

typedef struct op_dense {
  ocl_kernel *kernel;
  moecl_buffer *offsets, *tiles;
  int64_t rows; /* that they are for; -1: none yet */
  uint32_t tile_rows;
} op_dense;

enum { OP_DENSE_BYTES = 4 * sizeof(int32_t) }; /* of both buffers */

/* On failure too, what there is then is to be released. */
moecl_status op_dense_create(moecl_context *context, op_dense *dense);
void op_dense_release(op_dense *dense);

/* Enqueues `gemm` over all of `rows` rows. */
moecl_status op_dense_enqueue(op_dense *dense, ocl_chain *chain, op_gemm *gemm,
                              const moecl_buffer *input, const moecl_buffer *output, int64_t rows);

#endif
