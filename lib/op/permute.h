// SPDX-License-Identifier: MIT
/* Permute: chosen experts to the experts' row lists, with capacity. */
#ifndef MOECL_LIB_OP_PERMUTE_H
#define MOECL_LIB_OP_PERMUTE_H

#include "kernel/variant.h"
#include "ocl/ocl.h"

typedef struct op_permute {
  moecl_context *context;
  const kernel_variant *variant;
  moecl_layer_params params;
  bool select; /* capacity by weight or priority: a second pass over each expert's list */
  ocl_kernel *histogram, *scan_blocks, *scan_experts, *scatter, *select_largest;
  ocl_kernel *prioritize;   /* NULL: not by priority */
  ocl_kernel *kept_weights; /* NULL: the router's weights stay as they are */
} op_permute;

/* All int32 but logits, weights and priorities, which are fp32. What each holds:
 * cl/permute/generic.cl. */
typedef struct op_permute_io {
  int64_t num_tokens;
  const moecl_buffer *logits; /* read for priorities alone */
  const moecl_buffer *topk_ids, *topk_weights;
  const moecl_buffer *block_counts;      /* op_permute_most_blocks * E */
  const moecl_buffer *tokens_per_expert; /* E, before capacity */
  const moecl_buffer *expert_offsets;    /* E+1, after capacity */
  const moecl_buffer *tile_offsets;      /* E+1 */
  const moecl_buffer *all_offsets;       /* E+1, before capacity */
  const moecl_buffer *slot_token;        /* T*K */
  const moecl_buffer *assignment_slot;   /* T*K */
  const moecl_buffer *order;             /* T*K, see op_permute_selects */
  const moecl_buffer *token_priority;    /* T, see op_permute_prioritizes */
  const moecl_buffer *kept_weights;      /* T*K, of op_permute_enqueue_weights */
  uint32_t tile_m;                       /* of the GEMM that follows */
} op_permute_io;

/* Is capacity given out by weight or priority, and by the latter? */
bool op_permute_selects(const moecl_layer_params *params);
bool op_permute_prioritizes(const moecl_layer_params *params);
moecl_status op_permute_create(moecl_context *context, const kernel_variant *variant,
                               const moecl_layer_params *params, op_permute *permute);
void op_permute_release(op_permute *permute);
/* Does the variant take these parameters? */
bool op_permute_accepts(const kernel_variant *variant, const moecl_layer_params *params);
/* Rows of block_counts, whatever the variant. */
uint64_t op_permute_most_blocks(int64_t num_tokens, int64_t top_k);
moecl_status op_permute_enqueue(op_permute *permute, ocl_chain *chain, const op_permute_io *io);
/* Behind it, whichever way it was done: the weights of what was kept, where
 * permute->kept_weights says that they are other ones. */
moecl_status op_permute_enqueue_weights(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io);

/* Variants by blocks (KERNEL_BY_BLOCKS) take tokens in blocks of this size; a
 * router that does too may have written block_counts, and then the second half
 * is enough. */
int32_t op_permute_tokens_per_block(int64_t num_tokens);
moecl_status op_permute_enqueue_counted(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io);

#endif
