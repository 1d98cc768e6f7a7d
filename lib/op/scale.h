// SPDX-License-Identifier: MIT
/* Rows times their route weights, for experts that take them so. */
#ifndef MOECL_LIB_OP_SCALE_H
#define MOECL_LIB_OP_SCALE_H

#include "moecl/layer.h"
#include "ocl/ocl.h"

typedef struct op_scale {
  ocl_kernel *kernel; /* NULL: the layer's weights multiply outputs */
  int64_t hidden_size, top_k;
  uint32_t columns; /* of a work-group */
} op_scale;

typedef struct op_scale_io {
  int64_t num_tokens;
  const moecl_buffer *hidden, *assignment_slot, *topk_weights;
  const moecl_buffer *scaled; /* [slots,H], hidden's type */
} op_scale_io;

moecl_status op_scale_create(moecl_context *context, const moecl_layer_params *params, bool f32,
                             op_scale *scale);
void op_scale_release(op_scale *scale);
moecl_status op_scale_enqueue(op_scale *scale, ocl_chain *chain, const op_scale_io *io);

#endif
