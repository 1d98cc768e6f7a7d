// SPDX-License-Identifier: MIT
/* Combine: expert outputs back into token order, weighted, in a fixed order. */
#ifndef MOECL_LIB_OP_COMBINE_COMBINE_H
#define MOECL_LIB_OP_COMBINE_COMBINE_H

#include "op/op.h"

typedef struct op_combine_desc {
  int64_t hidden_size, top_k;
  const desc_format *input;  /* of the experts' outputs, and the shared one's */
  const desc_format *output; /* and of hidden states */
  bool weighted;             /* rows are multiplied by topk_weights */
  bool shared, shared_gate;  /* a shared expert's output is added; times its gate */
  int64_t first_identity;    /* the first expert that returns its input; 0: none does */
} op_combine_desc;

typedef struct op_combine {
  op_combine_desc desc;
  const kernel_variant *variant; /* tile_n: columns of a work-group */
  ocl_kernel *kernel;
} op_combine;

typedef struct op_combine_io {
  int64_t num_tokens;
  const moecl_buffer *expert_output, *assignment_slot, *topk_weights, *output;
  const moecl_buffer *shared;      /* [T,H], expert_output's format; read if there is one */
  const moecl_buffer *shared_gate; /* [T] fp32, likewise */
  /* [T,H] of the output's format, and E+1 int32: read where there are identity experts */
  const moecl_buffer *hidden_states, *expert_offsets;
} op_combine_io;

extern const kernel_table op_combine_table; /* the operation "combine" */

/* A row's predicate: a multiple of 8 columns, input and output of one format. */
bool op_combine_multiples_of_8(const kernel_variant *variant, const void *desc);

extern const op_kind op_combine_kind; /* of an op_combine_desc */
moecl_status op_combine_self_check(moecl_context *context, const kernel_variant *variant,
                                   const void *desc);
moecl_status op_combine_enqueue(op_combine *combine, ocl_chain *chain, const op_combine_io *io);

#endif
