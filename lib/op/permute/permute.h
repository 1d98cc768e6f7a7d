// SPDX-License-Identifier: MIT
/* Permute: chosen experts to the experts' row lists, with capacity. */
#ifndef MOECL_LIB_OP_PERMUTE_PERMUTE_H
#define MOECL_LIB_OP_PERMUTE_PERMUTE_H

#include "desc/rule.h"
#include "op/op.h"

typedef struct op_permute op_permute;

/* All int32 but logits, weights and priorities, which are fp32. What each holds:
 * cl/permute/generic.cl. */
typedef struct op_permute_io {
  int64_t num_tokens;
  const moecl_buffer *logits; /* read for priorities alone; NULL: they are there already */
  const moecl_buffer *topk_ids, *topk_weights;
  const moecl_buffer *block_counts;      /* op_permute_most_blocks * E */
  const moecl_buffer *tokens_per_expert; /* E, before capacity */
  const moecl_buffer *expert_offsets;    /* E+1, after capacity */
  const moecl_buffer *tile_offsets;      /* E+1 */
  const moecl_buffer *all_offsets;       /* E+1, before capacity */
  const moecl_buffer *slot_token;        /* T*K */
  const moecl_buffer *assignment_slot;   /* T*K */
  const moecl_buffer *order;             /* T*K, with desc_selects */
  const moecl_buffer *token_priority;    /* T, with desc_prioritizes */
  const moecl_buffer *kept_weights;      /* T*K, of op_permute_enqueue_weights */
  uint32_t tile_m;                       /* of the GEMM that follows */
} op_permute_io;

/* How a variant's kernels are made and launched. */
typedef struct op_permute_driver {
  const char *const *entries; /* the kernels, ended by NULL; the first one's program is the
                                 variant's */
  moecl_status (*enqueue)(op_permute *permute, ocl_chain *chain, const op_permute_io *io);
  bool counts; /* takes blocks of tokens, whose counts a router may have written */
  uint32_t launches;
} op_permute_driver;
extern const op_permute_driver op_permute_sorted_driver, op_permute_counted_driver;

enum { OP_PERMUTE_MOST_KERNELS = 5 };
struct op_permute {
  moecl_context *context;
  const kernel_variant *variant;
  const op_permute_driver *driver;
  desc_dispatch desc;
  ocl_kernel *kernels[OP_PERMUTE_MOST_KERNELS]; /* the driver's entries */
  ocl_kernel *prioritize;                       /* NULL: not by priority */
  ocl_kernel *kept_weights;                     /* NULL: the router's weights stay as they are */
};

extern const kernel_table op_permute_table; /* the operation "permute" */

/* Rows' predicates: not with a capacity; and behind a router that counts alone. */
bool op_permute_drops_nothing(const kernel_variant *variant, const void *desc);
bool op_permute_follows_counts(const kernel_variant *variant, const void *desc);

extern const op_kind op_permute_kind; /* of a desc_dispatch */
moecl_status op_permute_self_check(moecl_context *context, const kernel_variant *variant,
                                   const void *desc);

/* Rows of block_counts, whatever the variant. */
uint64_t op_permute_most_blocks(int64_t num_tokens, int64_t top_k);
moecl_status op_permute_enqueue(op_permute *permute, ocl_chain *chain, const op_permute_io *io);
/* The priorities alone, with desc_prioritizes. */
moecl_status op_permute_enqueue_priorities(op_permute *permute, ocl_chain *chain,
                                           const op_permute_io *io);
/* After any of these: the weights of kept assignments, where they are renormalized
 * after capacity (permute->kept_weights). */
moecl_status op_permute_enqueue_weights(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io);

/* Variants that count take tokens in blocks of this size; a router that does too may
 * have written block_counts, and then the second half is enough. */
int32_t op_permute_tokens_per_block(int64_t num_tokens);
moecl_status op_permute_enqueue_counted(op_permute *permute, ocl_chain *chain,
                                        const op_permute_io *io);

#endif
