// SPDX-License-Identifier: MIT
/* Attention in one kernel: queries, keys and values to outputs, without a matrix of logits
 * in memory. */
#ifndef MOECL_LIB_OP_ATTENTION_ATTENTION_H
#define MOECL_LIB_OP_ATTENTION_ATTENTION_H

#include "op/attention/cache.h"
#include "op/op.h"

typedef struct op_attention_desc {
  desc_attention attention;  /* its norm and rotary embedding are op_rotary's */
  const desc_format *cache;  /* of keys, values and sinks */
  const desc_format *rows;   /* of queries: the cache's or fp32 */
  const desc_format *output; /* likewise */
} op_attention_desc;

typedef struct op_attention {
  op_attention_desc desc;
  const kernel_variant *variant;
  op_cache_layout layout;
  uint32_t queries; /* of a work-group */
  ocl_kernel *kernel;
} op_attention;

typedef struct op_attention_io {
  int64_t num_tokens;      /* the last ones of context + num_tokens */
  int64_t context;         /* tokens before them in the cache */
  int64_t capacity;        /* of the cache, op_cache_capacity of a number */
  const moecl_buffer *qkv; /* [num_tokens, desc_qkv_size], queries first, as op_rotary leaves
                              them */
  const moecl_buffer *keys, *values;
  const moecl_buffer *sinks;  /* [num_heads]; read where there are sinks */
  const moecl_buffer *output; /* [num_tokens, num_heads * head_dim] */
} op_attention_io;

extern const kernel_table op_attention_table; /* the operation "attention" */

/* How the variant has keys and values on the context's device. */
op_cache_layout op_attention_layout(const moecl_context *context, const kernel_variant *variant,
                                    const desc_attention *attention);

extern const op_kind op_attention_kind; /* of an op_attention_desc */
moecl_status op_attention_self_check(moecl_context *context, const kernel_variant *variant,
                                     const void *desc);
moecl_status op_attention_enqueue(op_attention *attention, ocl_chain *chain,
                                  const op_attention_io *io);

#endif
