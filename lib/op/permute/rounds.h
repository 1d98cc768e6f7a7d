// SPDX-License-Identifier: MIT
/* Slots in the order of rounds, for experts that are brought to the device in turns:
 * cl/permute/rounds.cl. */
#ifndef MOECL_LIB_OP_PERMUTE_ROUNDS_H
#define MOECL_LIB_OP_PERMUTE_ROUNDS_H

#include "op/op.h"

typedef struct op_rounds_desc {
  int64_t num_experts; /* with matrices */
  int64_t places;      /* experts that the device has room for */
  int64_t top_k;
} op_rounds_desc;

enum { OP_ROUNDS_KERNELS = 2 };
typedef struct op_rounds {
  op_rounds_desc desc;
  ocl_kernel *kernels[OP_ROUNDS_KERNELS];
} op_rounds;

extern const op_kind op_rounds_kind; /* the operation "rounds", of an op_rounds_desc */
moecl_status op_rounds_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc);

/* Numbers of the list for so many rounds, and where round r's begin in it. */
static inline size_t op_rounds_list_size(const op_rounds_desc *desc, size_t rounds) {
  return (size_t)desc->num_experts + rounds * 2 * (size_t)(desc->places + 1);
}

typedef struct op_rounds_io {
  int64_t num_tokens;
  const moecl_buffer *topk_ids, *assignment_slot, *list;
  const moecl_buffer *moved_slot, *moved_token; /* [T,K], [slots] */
} op_rounds_io;
moecl_status op_rounds_enqueue_slots(op_rounds *rounds, ocl_chain *chain, const op_rounds_io *io);
/* Offsets of the experts of a round. */
moecl_status op_rounds_enqueue_offsets(op_rounds *rounds, ocl_chain *chain, size_t round,
                                       const moecl_buffer *list, const moecl_buffer *offsets,
                                       const moecl_buffer *tiles);

#endif
