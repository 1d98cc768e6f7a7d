// SPDX-License-Identifier: MIT
/* Router: hidden states to logits, and by the layer's rule to the experts chosen. */
#ifndef MOECL_LIB_OP_ROUTER_H
#define MOECL_LIB_OP_ROUTER_H

#include "op/dense.h"
#include "op/permute.h"

typedef struct op_router {
  moecl_context *context;
  const kernel_variant *variant;
  moecl_layer_params params;
  bool experts_f32; /* the experts read converted hidden states */
  op_gemm *logits;
  ocl_kernel *convert;           /* hidden states to fp32; NULL where nobody reads them so */
  ocl_kernel *jitter;            /* to the jittered router input; NULL without jitter */
  op_gemm *noise;                /* logits of the noise's size; NULL without noise */
  ocl_kernel *add_noise;         /* likewise */
  moecl_buffer *correction_bias; /* [E] fp32; NULL without one */
  ocl_kernel *topk;
  ocl_kernel *topk_scatter; /* choice and permutation of one block; NULL where there is none */
  op_dense rows;            /* of its GEMMs */
} op_router;

typedef struct op_router_io {
  int64_t num_tokens;
  uint64_t seed;
  const moecl_buffer *hidden_states;
  const moecl_buffer *hidden_f32;   /* [T,H] fp32, written when `convert` is there */
  const moecl_buffer *router_input; /* [T,H] fp32, written when `jitter` is there */
  const moecl_buffer *logits, *topk_ids, *topk_weights;
  const moecl_buffer *noise_logits;    /* [T,E] fp32, written when `noise` is there */
  const moecl_buffer *correction_bias; /* of the choice alone: a whole router has its own */
  const moecl_buffer *block_counts; /* written by variants by blocks, op_permute_most_blocks * E */
} op_router_io;

/* A router is made in these steps. `convert`: the experts read hidden states as
 * fp32 that are stored as something else. The two steps with a variant check it
 * first, and leave nothing behind on failure. */
void op_router_init(moecl_context *context, const moecl_layer_params *params, bool convert,
                    op_router *router);
/* With its logits' GEMM made or described: are hidden states converted? */
bool op_router_converts(const op_router *router);
/* Bytes of the correction bias; 0 without one. */
uint64_t op_router_correction_bytes(const moecl_layer_params *params);
/* The shape of the logits' GEMM in a variant, and of the noise's, which has no bias. */
op_gemm_shape op_router_logits_shape(const op_router *router, const kernel_variant *gemm_variant);
op_gemm_shape op_router_noise_shape(const op_router *router, const kernel_variant *gemm_variant);
moecl_status op_router_create_logits(op_router *router, const kernel_variant *gemm_variant);
moecl_status op_router_create_prepare(op_router *router);
/* Enqueues copying `count` (0 or 1) correction biases. */
moecl_status op_router_set_correction(op_router *router, int64_t count, const moecl_buffer *src,
                                      uint64_t offset_bytes);
moecl_status op_router_create_topk(op_router *router, const kernel_variant *variant);
void op_router_release(op_router *router);
moecl_status op_router_enqueue(op_router *router, ocl_chain *chain, const op_router_io *io);

/* Of few tokens, a router by blocks makes the permutation in the same launch:
 * can this one, for one that is by blocks too? */
bool op_router_can_permute(const op_router *router, const op_permute *permute, int64_t num_tokens);
moecl_status op_router_enqueue_permuted(op_router *router, ocl_chain *chain, const op_router_io *io,
                                        const op_permute_io *permuted);

/* The choice alone, from io->logits. */
moecl_status op_router_enqueue_topk(ocl_kernel *topk, const kernel_variant *variant,
                                    const moecl_layer_params *params, ocl_chain *chain,
                                    const op_router_io *io);
/* The kernel of the choice alone. */
moecl_status op_router_topk_kernel(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params, ocl_kernel **kernel);

#endif
