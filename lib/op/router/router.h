// SPDX-License-Identifier: MIT
/* Router: logits to the experts chosen and their weights. What makes the logits: a GEMM
 * of what prepare.h makes of hidden states. */
#ifndef MOECL_LIB_OP_ROUTER_ROUTER_H
#define MOECL_LIB_OP_ROUTER_ROUTER_H

#include "desc/rule.h"
#include "op/permute/permute.h"

typedef struct op_router op_router;

typedef struct op_router_io {
  int64_t num_tokens;
  uint64_t seed, first_token;          /* numbers are drawn as for tokens from this one on */
  const moecl_buffer *logits;          /* [T,E] fp32 */
  const moecl_buffer *correction_bias; /* [E] fp32; NULL without one */
  const moecl_buffer *topk_ids, *topk_weights;
  const moecl_buffer *block_counts; /* op_permute_most_blocks * E; written by variants by block */
} op_router_io;

typedef struct op_router_driver {
  moecl_status (*enqueue)(op_router *router, ocl_chain *chain, const op_router_io *io);
  bool by_block; /* takes blocks of tokens, counts for the permutation, and makes it in the same
                    launch where there is one block */
} op_router_driver;
extern const op_router_driver op_router_by_token_driver, op_router_by_block_driver;

struct op_router {
  moecl_context *context;
  const kernel_variant *variant;
  const op_router_driver *driver;
  desc_rule desc;
  ocl_kernel *topk;
  ocl_kernel *topk_scatter; /* choice and permutation of one block; NULL: not by block */
};

extern const kernel_table op_router_table; /* the operation "router" */

extern const op_kind op_router_kind; /* of a desc_rule */
moecl_status op_router_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc);
moecl_status op_router_enqueue(op_router *router, ocl_chain *chain, const op_router_io *io);
/* The defines of cl/router/rule.clh, and TOPK_LOCAL. */
void op_router_defines(const desc_rule *rule, uint32_t local, char *text, size_t size);

/* Of few tokens, a router by block makes the permutation in the same launch, for one
 * that counts: can these two? */
bool op_router_can_permute(const op_router_driver *router, const op_permute_driver *permute,
                           int64_t num_tokens);
moecl_status op_router_enqueue_permuted(op_router *router, ocl_chain *chain, const op_router_io *io,
                                        const op_permute_io *permuted);

#endif
