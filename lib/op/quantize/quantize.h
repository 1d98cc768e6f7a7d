// SPDX-License-Identifier: MIT
/* Rows to codes with scales: what the experts read, where a layer has an activation_format. */
#ifndef MOECL_LIB_OP_QUANTIZE_QUANTIZE_H
#define MOECL_LIB_OP_QUANTIZE_QUANTIZE_H

#include "op/op.h"

typedef struct op_quantize_desc {
  int64_t columns;
  const desc_format *rows;   /* as they are: plain elements */
  const desc_format *codes;  /* one of moecl_format_is_for_activations */
  const desc_format *output; /* codes; or plain elements, of codes times their scales */
} op_quantize_desc;

typedef struct op_quantize {
  op_quantize_desc desc;
  const kernel_variant *variant;
  ocl_kernel *kernel;
} op_quantize;

typedef struct op_quantize_io {
  int64_t rows;
  const moecl_buffer *input, *output; /* a matrix [rows, columns] of each format */
} op_quantize_io;

extern const kernel_table op_quantize_table; /* the operation "quantize" */
extern const op_kind op_quantize_kind;       /* of an op_quantize_desc */
/* Columns are a multiple of 8: for kernels whose work-items have 8 of them, and rows of
 * work-groups. */
bool op_quantize_multiples_of_8(const kernel_variant *variant, const void *desc);
moecl_status op_quantize_self_check(moecl_context *context, const kernel_variant *variant,
                                    const void *desc);
moecl_status op_quantize_enqueue(op_quantize *quantize, ocl_chain *chain, const op_quantize_io *io);

#endif
