// SPDX-License-Identifier: MIT
/* One grouped GEMM: each expert's rows times its packed weights, with bias and
 * activation in the epilogue. Also serves the router's logits, as one expert
 * that owns all rows. */
#ifndef MOECL_LIB_OP_GROUPED_GEMM_H
#define MOECL_LIB_OP_GROUPED_GEMM_H

#include "kernel/variant.h"
#include "ocl/ocl.h"

/* Values of the kernels' ACTIVATION. */
typedef enum op_epilogue {
  OP_EPILOGUE_NONE = 0,
  OP_EPILOGUE_SILU,
  OP_EPILOGUE_GELU,
  OP_EPILOGUE_RELU,
  OP_EPILOGUE_GELU_TANH,
  OP_EPILOGUE_RELU2,
  OP_EPILOGUE_SWIGLU_CLAMPED,
  OP_EPILOGUE_SWIGLU_LIMITED,
  OP_EPILOGUE_SWIGLU_LIMITED_SILU
} op_epilogue;

typedef struct op_gemm_shape {
  int64_t num_experts;
  int64_t n, k; /* output columns and inner size; gated: weights have 2n rows */
  moecl_dtype dtype;
  op_epilogue epilogue;
  float swiglu_alpha, swiglu_limit; /* of the last three */
  bool gated, bias;
  bool dense;                    /* its one "expert" owns all rows (op/dense.h) */
  bool adds_shared, shared_gate; /* for few tokens: the combination has a shared expert's output,
                                    and times its gate */
  bool gather;                   /* slot s reads row slot_token[s] of the input, else row s */
  bool input_f32;                /* the input is fp32, else the storage type */
  bool output_f32;               /* likewise */
  bool round_output;             /* fp32 output holds numbers of the storage type */
} op_gemm_shape;

typedef struct op_gemm_io {
  const moecl_buffer *input, *slot_token, *expert_offsets, *tile_offsets, *output;
  const moecl_buffer *scratch; /* op_gemm_scratch bytes; NULL where that is 0 */
  int64_t rows;                /* the most slots there can be */
} op_gemm_io;

typedef struct op_gemm op_gemm;

/* Does the variant take this shape? */
bool op_gemm_accepts(const kernel_variant *variant, const op_gemm_shape *shape);

/* Fills in what the sizes below follow from; builds, allocates and retains
 * nothing, so there is nothing to destroy. */
void op_gemm_describe(moecl_context *context, const kernel_variant *variant,
                      const op_gemm_shape *shape, op_gemm *gemm);

/* Builds the kernels and allocates the packed weights. */
moecl_status op_gemm_create(moecl_context *context, const kernel_variant *variant,
                            const op_gemm_shape *shape, op_gemm **gemm);
void op_gemm_destroy(op_gemm **gemm);

/* Enqueues packing `count` experts' canonical weights, or copying biases. */
moecl_status op_gemm_set_weights(op_gemm *gemm, int64_t first, int64_t count,
                                 const moecl_buffer *src, uint64_t offset_bytes);
moecl_status op_gemm_set_bias(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                              uint64_t offset_bytes);

/* Bytes of the buffers of a GEMM that was made, or described; the weights
 * UINT64_MAX where they do not fit 64 bits. */
uint64_t op_gemm_packed_bytes(const op_gemm *gemm);
uint64_t op_gemm_bias_bytes(const op_gemm *gemm); /* 0 without a bias */
uint64_t op_gemm_queue_bytes(const op_gemm *gemm);
uint64_t op_gemm_scratch(const op_gemm *gemm, int64_t rows);
/* The most rows of one tile when `rows` slots are spread over the experts: what
 * tile_offsets is the prefix of. Larger where experts have many rows, so that
 * weights are read less often; smaller where they have few. */
uint32_t op_gemm_tile_rows(const op_gemm *gemm, int64_t rows);

moecl_status op_gemm_enqueue(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io);

/* Few tokens, without permuting: every assignment t*top_k+j streams its expert's
 * weights. A GEMM that gathers writes row t*top_k+j for it; one that does not
 * reads that row, and writes row t, summed over j with topk_weights: combined, with
 * the shared expert's output where the shape adds one. Of a dense one, rows are
 * tokens and nothing is chosen. */
typedef struct op_gemm_few_io {
  const moecl_buffer *input, *topk_ids, *topk_weights, *output;
  const moecl_buffer *shared, *shared_gate; /* [T,n], [T] fp32 */
  int64_t num_tokens, top_k;
} op_gemm_few_io;

/* Can the GEMM, and does it pay for so many tokens? */
bool op_gemm_serves_few(const op_gemm *gemm, int64_t num_tokens);
moecl_status op_gemm_enqueue_few(op_gemm *gemm, ocl_chain *chain, const op_gemm_few_io *io);

/* A source's defines for a data type and the rest of a shape. */
void op_gemm_defines(const op_gemm_shape *shape, const kernel_tile *tile, char *text, size_t size);

/* The implementation behind a variant: one for kernels with a work-group a
 * tile, one for such with tiles of several heights, one for persistent work-groups
 * that take tile after tile, one for CLBlast. */
typedef struct op_gemm_driver {
  moecl_status (*create)(op_gemm *gemm);
  /* Enqueues packing `count` experts' canonical weights. */
  moecl_status (*pack)(op_gemm *gemm, int64_t first, int64_t count, const moecl_buffer *src,
                       uint64_t offset_bytes);
  uint32_t (*tile_rows)(const op_gemm *gemm, int64_t rows);
  uint64_t (*packed_bytes)(const op_gemm *gemm); /* of one expert */
  uint64_t (*scratch)(const op_gemm *gemm, int64_t rows);
  moecl_status (*enqueue)(op_gemm *gemm, ocl_chain *chain, const op_gemm_io *io);
} op_gemm_driver;
extern const op_gemm_driver op_gemm_kernel_driver, op_gemm_heights_driver,
    op_gemm_persistent_driver, op_gemm_clblast_driver;
/* Launches a pack kernel that strides over one expert's elements. */
moecl_status op_gemm_pack_strided(op_gemm *gemm, int64_t first, int64_t count,
                                  const moecl_buffer *src, uint64_t offset_bytes);
uint32_t op_gemm_fixed_tile_rows(const op_gemm *gemm, int64_t rows);

struct op_gemm {
  moecl_context *context;
  const kernel_variant *variant;
  const op_gemm_driver *driver;
  op_gemm_shape shape;
  kernel_tile tile;
  ocl_kernel *pack, *gemm, *tall, *low, *few, *gather, *activate; /* what the driver uses of them */
  moecl_buffer *weights, *bias;                                   /* bias NULL without one */
  moecl_buffer *queue;      /* two counters, zero between launches; NULL where no kernel has one */
  uint64_t packed_elements; /* of one expert, in the packed type */
};

#endif
