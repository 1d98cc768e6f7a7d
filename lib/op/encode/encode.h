// SPDX-License-Identifier: MIT
/* Matrices of numbers to codes with scales: weights, as moecl_quantize stores them. */
#ifndef MOECL_LIB_OP_ENCODE_ENCODE_H
#define MOECL_LIB_OP_ENCODE_ENCODE_H

#include "op/op.h"

typedef struct op_encode_desc {
  const desc_format *numbers; /* plain elements */
  const desc_format *codes;   /* with scales */
  moecl_scale_search search;
} op_encode_desc;

typedef struct op_encode {
  op_encode_desc desc;
  const kernel_variant *variant;
  ocl_kernel *begin, *encode;
  /* Of formats with a matrix' scale, and where that is searched; else NULL: */
  ocl_kernel *find_largest, *put_matrix_scale, *add_errors, *choose_matrix_scale;
} op_encode;

typedef struct op_encode_io {
  uint64_t matrices, rows, columns;
  const moecl_buffer *numbers, *codes;
  uint64_t first_number;      /* where the first matrix is, in elements */
  uint64_t first_byte;        /* and where it goes: a multiple of 16 */
  const moecl_buffer *errors; /* op_encode_errors_bytes of it; NULL: not wanted */
} op_encode_io;

extern const kernel_table op_encode_table; /* the operation "encode" */
extern const op_kind op_encode_kind;       /* of an op_encode_desc */
moecl_status op_encode_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc);
/* Of the sums that a search of matrices' scales adds up; 0: there are none. */
uint64_t op_encode_errors_bytes(const op_encode_desc *desc, uint64_t matrices);
moecl_status op_encode_enqueue(op_encode *encode, ocl_chain *chain, const op_encode_io *io);

#endif
