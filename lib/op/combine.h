// SPDX-License-Identifier: MIT
/* Combine: expert outputs back into token order, weighted, in a fixed order. */
#ifndef MOECL_LIB_OP_COMBINE_H
#define MOECL_LIB_OP_COMBINE_H

#include "kernel/variant.h"
#include "ocl/ocl.h"

typedef struct op_combine {
  int64_t hidden_size, top_k;
  int64_t first_identity;        /* expert; 0: no identity experts */
  const kernel_variant *variant; /* tile_n: columns of a work-group */
  ocl_kernel *combine;
} op_combine; /* also adds the shared expert's output */

typedef struct op_combine_io {
  int64_t num_tokens;
  const moecl_buffer *expert_output, *assignment_slot, *topk_weights, *output;
  const moecl_buffer *shared;      /* [T,H], expert_output's type; read if the layer has it */
  const moecl_buffer *shared_gate; /* [T] fp32, likewise */
  /* [T,H] of the storage type, and E+1 int32: read where there are identity experts */
  const moecl_buffer *hidden_states, *expert_offsets;
} op_combine_io;

/* Does the variant take these parameters? */
bool op_combine_accepts(const kernel_variant *variant, const moecl_layer_params *params,
                        bool input_f32);
moecl_status op_combine_create(moecl_context *context, const kernel_variant *variant,
                               const moecl_layer_params *params, bool input_f32,
                               op_combine *combine);
void op_combine_release(op_combine *combine);
moecl_status op_combine_enqueue(op_combine *combine, ocl_chain *chain, const op_combine_io *io);

#endif
