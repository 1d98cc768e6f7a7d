// SPDX-License-Identifier: MIT
/* Attention in one kernel: queries, keys and values to outputs, without a matrix of logits
 * in memory. */
#ifndef MOECL_LIB_OP_ATTENTION_ATTENTION_H
#define MOECL_LIB_OP_ATTENTION_ATTENTION_H

#include "op/attention/cache.h"
#include "op/op.h"

typedef struct op_attention_desc {
  desc_attention attention;  /* its norm and rotary embedding are op_rotary's */
  const desc_format *cache;  /* of keys, values, sinks and the relative bias */
  const desc_format *rows;   /* of queries: the cache's or fp32 */
  const desc_format *output; /* likewise */
} op_attention_desc;

/* The `driver` of a variant whose work-groups have rows, a query of a head each, and that splits
 * the keys of few rows over work-groups (cl/attention/parts.clh). tile_m: rows of a tile. */
typedef struct op_attention_driver {
  const char *defines; /* of its kernel, beside those of all variants */
  /* Of a second one, for at most few_rows rows of a head of keys; NULL and 0: there is none. */
  const char *few_defines;
  uint32_t few_rows;
  bool combines; /* puts the parts together itself, else a kernel "combine" does */
} op_attention_driver;

typedef struct op_attention {
  op_attention_desc desc;
  const kernel_variant *variant;
  const op_attention_driver *driver; /* NULL: none */
  op_cache_layout layout;
  uint32_t queries; /* of a work-group; of one with rows, rows */
  uint64_t groups;  /* with a driver: work-groups that fill the device */
  ocl_kernel *kernel;
  ocl_kernel *few, *combine; /* with a driver, where it has them, else NULL */
  moecl_buffer *counters;    /* of one that combines: zeros between launches */
  moecl_buffer *buckets;     /* of a relative bias: of distances -max to max */
} op_attention;

typedef struct op_attention_io {
  int64_t num_tokens;      /* the last ones of context + num_tokens */
  int64_t context;         /* tokens before them in the cache */
  int64_t capacity;        /* of the cache, op_cache_capacity of a number */
  const moecl_buffer *qkv; /* [num_tokens, desc_qkv_size], queries first, as op_rotary leaves
                              them */
  const moecl_buffer *keys, *values;
  const moecl_buffer *sinks;         /* [num_heads]; read where there are sinks */
  const moecl_buffer *relative_bias; /* [num_buckets, num_heads]; likewise */
  const moecl_buffer *output;        /* [num_tokens, num_heads * head_dim] */
  const moecl_buffer *parts;         /* op_attention_parts_bytes; NULL: keys are not split */
} op_attention_io;

extern const kernel_table op_attention_table; /* the operation "attention" */

/* How the variant has keys and values on the context's device. */
op_cache_layout op_attention_layout(const moecl_context *context, const kernel_variant *variant,
                                    const desc_attention *attention);

/* Scratch for so many tokens, 0 where the variant splits no keys of them; and the kernels of a
 * launch with that much. */
uint64_t op_attention_parts_bytes(const op_attention *attention, int64_t num_tokens);
uint32_t op_attention_launches(const op_attention *attention, int64_t num_tokens);

/* What a launch of so many tokens does, for people: "causal, 16 queries a work-group". */
void op_attention_explain(const op_attention *attention, int64_t num_tokens, char *text,
                          size_t size);

/* For variants of 16-byte copies and tensor cores: one element throughout, heads of multiples
 * of 8 elements up to 128, and no relative bias, which they do not add. */
bool op_attention_multiples_of_8(const kernel_variant *variant, const void *desc);

extern const op_kind op_attention_kind; /* of an op_attention_desc */
moecl_status op_attention_self_check(moecl_context *context, const kernel_variant *variant,
                                     const void *desc);
moecl_status op_attention_enqueue(op_attention *attention, ocl_chain *chain,
                                  const op_attention_io *io);

/* Arguments of a kernel for the relative bias, from number `first` on; none where there is none. */
moecl_status op_attention_relative_args(const op_attention *attention, ocl_kernel *kernel,
                                        uint32_t first, const op_attention_io *io);

/* ---- rows.c: variants with a driver ---- */

extern const op_attention_driver op_attention_gpu_driver, op_attention_nvidia_driver;
void op_attention_rows_describe(moecl_context *context, op_attention *attention);
moecl_status op_attention_rows_create(moecl_context *context, const char *defines,
                                      op_attention *attention);
uint64_t op_attention_rows_bytes(const op_attention *attention); /* of its counters */
/* Rows of its tiles for so many tokens, and the most parts that keys are split into. */
void op_attention_rows_sizes(const op_attention *attention, int64_t num_tokens, uint64_t *rows,
                             uint64_t *parts);
moecl_status op_attention_rows_enqueue(op_attention *attention, ocl_chain *chain,
                                       const op_attention_io *io);

#endif
