// SPDX-License-Identifier: MIT
/* The shared expert: gate/up and down of all tokens, and its own gate. */
#ifndef MOECL_LIB_OP_SHARED_H
#define MOECL_LIB_OP_SHARED_H

#include "op/dense.h"

typedef struct op_shared {
  op_gemm *gate_up, *down; /* NULL: the layer has none */
  op_dense gate_up_rows, down_rows;
  ocl_kernel *gate;          /* NULL where its output is not multiplied */
  moecl_buffer *gate_weight; /* [H]; NULL without a gate of its own */
  int64_t hidden_size;
} op_shared;

typedef struct op_shared_io {
  int64_t num_tokens;
  const moecl_buffer *hidden_states; /* as they are stored */
  const moecl_buffer *input;         /* as the GEMMs read them */
  const moecl_buffer *activated;     /* [T,S] */
  const moecl_buffer *output;        /* [T,H] */
  const moecl_buffer *gate;          /* [T] fp32, what its output is multiplied by,
                                        written where it is */
} op_shared_io;

/* Its GEMM's shape; `f32`: rows are fp32 whatever the storage. */
op_gemm_shape op_shared_shape(const moecl_layer_params *params, op_epilogue epilogue, bool f32,
                              bool down);
/* Is its output multiplied, by a gate or a factor? */
bool op_shared_is_weighted(const moecl_layer_params *params);
uint64_t op_shared_gate_bytes(const moecl_layer_params *params); /* of its weight; 0 without */

/* With both GEMMs made, the rest. What there is after a failure is to be released. */
moecl_status op_shared_create_rest(moecl_context *context, const moecl_layer_params *params,
                                   op_shared *shared);
void op_shared_release(op_shared *shared);
moecl_status op_shared_enqueue(op_shared *shared, ocl_chain *chain, const op_shared_io *io);

#endif
