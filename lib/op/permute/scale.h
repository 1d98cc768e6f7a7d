// SPDX-License-Identifier: MIT
/* Rows times their route weights, for experts that take them so. */
#ifndef MOECL_LIB_OP_PERMUTE_SCALE_H
#define MOECL_LIB_OP_PERMUTE_SCALE_H

#include "desc/format.h"
#include "op/op.h"

typedef struct op_scale_desc {
  int64_t hidden_size, top_k;
  const desc_format *rows;    /* of input and output */
  const desc_format *rounded; /* numbers of the output are this format's */
} op_scale_desc;

typedef struct op_scale {
  op_scale_desc desc;
  ocl_kernel *kernel;
  uint32_t columns; /* of a work-group */
} op_scale;

typedef struct op_scale_io {
  int64_t num_tokens;
  const moecl_buffer *hidden, *assignment_slot, *topk_weights;
  const moecl_buffer *scaled; /* [slots,H], hidden's type */
} op_scale_io;

extern const op_kind op_scale_kind; /* the operation "scale_rows", of an op_scale_desc */
moecl_status op_scale_self_check(moecl_context *context, const kernel_variant *variant,
                                 const void *desc);
moecl_status op_scale_enqueue(op_scale *scale, ocl_chain *chain, const op_scale_io *io);

#endif
