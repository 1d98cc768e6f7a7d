// SPDX-License-Identifier: MIT
/* What stands between the projections and attention: queries and keys are normalized and
 * turned by their positions, keys and values put into the cache. */
#ifndef MOECL_LIB_OP_ROTARY_ROTARY_H
#define MOECL_LIB_OP_ROTARY_ROTARY_H

#include "op/attention/cache.h"
#include "op/op.h"

typedef struct op_rotary_desc {
  desc_attention attention;
  op_cache_layout layout;   /* that of attention's variant */
  const desc_format *cache; /* of keys, values and the norms' weights */
  const desc_format *rows;  /* of queries, keys and values as they come: the cache's or fp32 */
} op_rotary_desc;

typedef struct op_rotary {
  op_rotary_desc desc;
  const kernel_variant *variant;
  ocl_kernel *kernel;
  moecl_buffer *frequency; /* of each pair, in 2^-64 turns; NULL: nothing is turned */
} op_rotary;

typedef struct op_rotary_io {
  int64_t num_tokens, context, capacity; /* as op_attention's */
  const moecl_buffer *qkv;               /* [num_tokens, desc_qkv_size]; queries are changed in it,
                                            keys and values as they were */
  const moecl_buffer *q_norm, *k_norm;   /* [head_dim], or all heads'; read where there is one */
  const moecl_buffer *keys, *values;     /* the new tokens' are written */
} op_rotary_io;

extern const kernel_table op_rotary_table; /* the operation "rotary" */

extern const op_kind op_rotary_kind; /* of an op_rotary_desc */
moecl_status op_rotary_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc);
moecl_status op_rotary_enqueue(op_rotary *rotary, ocl_chain *chain, const op_rotary_io *io);

#endif
