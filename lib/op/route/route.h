// SPDX-License-Identifier: MIT
/* Route: few tokens' logits, choice and lists in one launch: what a GEMM, the router and the
 * permutation make in two or three. Nothing is dropped. */
#ifndef MOECL_LIB_OP_ROUTE_ROUTE_H
#define MOECL_LIB_OP_ROUTE_ROUTE_H

#include "op/router/router.h"

typedef struct op_route_desc {
  desc_rule rule;
  int64_t hidden_size;
  const desc_format *stored; /* of hidden states, weights and biases */
  bool bias;
} op_route_desc;

enum { OP_ROUTE_LAUNCHES = 1 << 22 }; /* until counters are set to zero again */

typedef struct op_route {
  op_route_desc desc;
  const kernel_variant *variant; /* NULL: there is none; tile_m, tile_n: tokens and experts of a
                                    work-group */
  ocl_kernel *kernel;
  moecl_buffer *weights, *bias; /* [E,H], [E], as they are given; bias NULL without one */
  moecl_buffer *arrived;        /* counters, which every launch begins at numbers of its own */
  uint32_t launches;            /* since they were zero */
} op_route;

/* hidden states, and of the router's and the permutation's buffers those that both steps have. */
typedef struct op_route_io {
  const moecl_buffer *hidden_states; /* [T,H] */
  op_router_io router;
  op_permute_io permute;
} op_route_io;

extern const kernel_table op_route_table; /* the operation "route" */

/* Rows' predicates: as many experts as local memory has room for; and a hidden size that is a
 * multiple of 8. */
bool op_route_few_experts(const kernel_variant *variant, const void *desc);
bool op_route_multiples_of_8(const kernel_variant *variant, const void *desc);

extern const op_kind op_route_kind; /* of an op_route_desc */
moecl_status op_route_self_check(moecl_context *context, const kernel_variant *variant,
                                 const void *desc);

/* Can it, and does it pay for so many tokens? Not where there is none. */
bool op_route_serves(const op_route *route, int64_t num_tokens);
moecl_status op_route_enqueue(op_route *route, ocl_chain *chain, const op_route_io *io);

#endif
