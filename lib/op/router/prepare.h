// SPDX-License-Identifier: MIT
/* What comes before and after the router's GEMM: its input as fp32, with or without
 * jitter, and noise on its logits. */
#ifndef MOECL_LIB_OP_ROUTER_PREPARE_H
#define MOECL_LIB_OP_ROUTER_PREPARE_H

#include "desc/format.h"
#include "op/op.h"

typedef struct op_prepare_desc {
  int64_t hidden_size;
  const desc_format *input; /* the output is fp32 */
  float jitter;             /* 0: a conversion */
} op_prepare_desc;

typedef struct op_prepare {
  op_prepare_desc desc;
  uint32_t blocks; /* of four elements, that a work-item makes */
  ocl_kernel *kernel;
} op_prepare;

typedef struct op_prepare_io {
  int64_t num_tokens;
  uint64_t seed, first_token;         /* numbers are drawn as for tokens from this one on */
  const moecl_buffer *input, *output; /* [T,H] */
} op_prepare_io;

extern const op_kind op_prepare_kind; /* the operation "prepare", of an op_prepare_desc */
moecl_status op_prepare_self_check(moecl_context *context, const kernel_variant *variant,
                                   const void *desc);
moecl_status op_prepare_enqueue(op_prepare *prepare, ocl_chain *chain, const op_prepare_io *io);

/* Logits get a normal number times softplus of the noise's logits. */
typedef struct op_noise_desc {
  int64_t num_experts;
} op_noise_desc;

typedef struct op_noise {
  op_noise_desc desc;
  ocl_kernel *kernel;
} op_noise;

typedef struct op_noise_io {
  int64_t num_tokens;
  uint64_t seed, first_token;                /* numbers are drawn as for tokens from this one on */
  const moecl_buffer *logits, *noise_logits; /* [T,E] fp32 */
} op_noise_io;

extern const op_kind op_noise_kind; /* the operation "noise", of an op_noise_desc */
moecl_status op_noise_self_check(moecl_context *context, const kernel_variant *variant,
                                 const void *desc);
moecl_status op_noise_enqueue(op_noise *noise, ocl_chain *chain, const op_noise_io *io);

#endif
