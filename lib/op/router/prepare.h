// SPDX-License-Identifier: MIT
/* What comes before and after the router's GEMM: its input as fp32, with or without
 * jitter, and noise on its logits. */
#ifndef MOECL_LIB_OP_ROUTER_PREPARE_H
#define MOECL_LIB_OP_ROUTER_PREPARE_H

#include "desc/format.h"
#include "ocl/ocl.h"

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
  uint64_t seed;
  const moecl_buffer *input, *output; /* [T,H] */
} op_prepare_io;

moecl_status op_prepare_create(moecl_context *context, const op_prepare_desc *desc,
                               op_prepare *prepare);
void op_prepare_release(op_prepare *prepare);
moecl_status op_prepare_enqueue(op_prepare *prepare, ocl_chain *chain, const op_prepare_io *io);

/* Logits get a normal number times softplus of the noise's logits. */
typedef struct op_noise {
  int64_t num_experts;
  ocl_kernel *kernel;
} op_noise;

typedef struct op_noise_io {
  int64_t num_tokens;
  uint64_t seed;
  const moecl_buffer *logits, *noise_logits; /* [T,E] fp32 */
} op_noise_io;

moecl_status op_noise_create(moecl_context *context, int64_t num_experts, op_noise *noise);
void op_noise_release(op_noise *noise);
moecl_status op_noise_enqueue(op_noise *noise, ocl_chain *chain, const op_noise_io *io);

#endif
