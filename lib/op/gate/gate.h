// SPDX-License-Identifier: MIT
/* What a token's row of a shared expert's output is multiplied by: a factor, or a factor
 * times the sigmoid of the token's hidden states times a gate. */
#ifndef MOECL_LIB_OP_GATE_GATE_H
#define MOECL_LIB_OP_GATE_GATE_H

#include "desc/format.h"
#include "op/op.h"

typedef struct op_gate_desc {
  int64_t hidden_size;
  const desc_format *format; /* of hidden states and the gate */
  bool gated;                /* there is a gate [H]; else the factor alone */
  float factor;
} op_gate_desc;

typedef struct op_gate {
  op_gate_desc desc;
  ocl_kernel *kernel;
  moecl_buffer *weight; /* [H]; NULL without a gate */
} op_gate;

typedef struct op_gate_io {
  int64_t num_tokens;
  const moecl_buffer *hidden_states; /* [T,H], as stored */
  const moecl_buffer *output;        /* [T] fp32 */
} op_gate_io;

extern const op_kind op_gate_kind; /* the operation "gate", of an op_gate_desc */
moecl_status op_gate_self_check(moecl_context *context, const kernel_variant *variant,
                                const void *desc);
moecl_status op_gate_enqueue(op_gate *gate, ocl_chain *chain, const op_gate_io *io);

#endif
