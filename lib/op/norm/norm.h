// SPDX-License-Identifier: MIT
/* A residual added to rows, and the sum normalized: one step of a transformer block. */
#ifndef MOECL_LIB_OP_NORM_NORM_H
#define MOECL_LIB_OP_NORM_NORM_H

#include "desc/norm.h"
#include "op/op.h"

typedef struct op_norm_desc {
  desc_norm norm;              /* of the rows' sizes too where there is no output */
  const desc_format *stored;   /* of rows, sums, weights and biases */
  const desc_format *residual; /* stored or fp32; NULL: nothing is added */
  const desc_format *output;   /* stored or fp32; NULL: the sum is all */
} op_norm_desc;

typedef struct op_norm {
  op_norm_desc desc;
  const kernel_variant *variant;
  ocl_kernel *kernel;
} op_norm;

typedef struct op_norm_io {
  int64_t rows;
  const moecl_buffer *input;         /* [rows, size] */
  const moecl_buffer *residual;      /* likewise; read where the description has one */
  const moecl_buffer *sum;           /* their sum as it is stored, written then */
  const moecl_buffer *weight, *bias; /* [size]; bias read where the norm has one */
  const moecl_buffer *output;        /* [rows, size] */
} op_norm_io;

extern const kernel_table op_norm_table; /* the operation "norm" */

/* For variants that keep rows in registers, eight elements at a time: 32 a work-item at most. */
bool op_norm_whole_eights(const kernel_variant *variant, const void *desc);

extern const op_kind op_norm_kind; /* of an op_norm_desc */
moecl_status op_norm_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc);
moecl_status op_norm_enqueue(op_norm *norm, ocl_chain *chain, const op_norm_io *io);

#endif
