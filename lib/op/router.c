#include "op/router.h"
#include "base/base.h"
#include "op/self_check.h"
#include <stdio.h>

static moecl_status create_prepare(op_router *router, bool jitter, ocl_kernel **kernel) {
  char defines[64];
  snprintf(defines, sizeof defines, "DTYPE %d\nJITTER %d\n", (int)router->params.dtype, jitter);
  return ocl_kernel_create(router->context, "router/prepare.cl", defines, "prepare", kernel);
}

void op_router_init(moecl_context *context, const moecl_layer_params *params, bool convert,
                    op_router *router) {
  *router = (op_router){.context = context, .params = *params, .experts_f32 = convert};
}

/* An fp32-only GEMM needs converted rows, unless the jitter makes them. */
static bool converts(const op_router *router, const kernel_variant *gemm_variant) {
  const bool wants_f32 = gemm_variant->flags & KERNEL_F32_ACTIVATIONS;
  return router->params.dtype != MOECL_F32 &&
         (router->experts_f32 || (wants_f32 && !(router->params.jitter > 0)));
}

bool op_router_converts(const op_router *router) {
  return converts(router, router->logits->variant);
}

op_gemm_shape op_router_logits_shape(const op_router *router, const kernel_variant *gemm_variant) {
  const moecl_layer_params *params = &router->params;
  return (op_gemm_shape){.num_experts = 1,
                         .n = params->num_experts,
                         .k = params->hidden_size,
                         .dtype = params->dtype,
                         .bias = params->router_bias,
                         .input_f32 = converts(router, gemm_variant) || params->jitter > 0 ||
                                      params->dtype == MOECL_F32,
                         .output_f32 = true};
}

moecl_status op_router_create_logits(op_router *router, const kernel_variant *gemm_variant) {
  const op_gemm_shape shape = op_router_logits_shape(router, gemm_variant);
  MOECL_TRY(op_gemm_self_check(router->context, gemm_variant, &shape));
  return op_gemm_create(router->context, gemm_variant, &shape, &router->logits);
}

moecl_status op_router_create_prepare(op_router *router) {
  if (op_router_converts(router))
    MOECL_TRY(create_prepare(router, false, &router->convert));
  if (router->params.jitter > 0) MOECL_TRY(create_prepare(router, true, &router->jitter));
  return MOECL_OK;
}

moecl_status op_router_topk_kernel(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params, ocl_kernel **kernel) {
  char defines[32];
  snprintf(defines, sizeof defines, "RENORMALIZE %d\n", params->renormalize);
  return ocl_kernel_create(context, variant->source, defines, "topk", kernel);
}

moecl_status op_router_create_topk(op_router *router, const kernel_variant *variant) {
  MOECL_TRY(op_router_self_check(router->context, variant, &router->params));
  router->variant = variant;
  return op_router_topk_kernel(router->context, variant, &router->params, &router->topk);
}

void op_router_release(op_router *router) {
  op_gemm_destroy(&router->logits);
  ocl_kernel_destroy(&router->convert);
  ocl_kernel_destroy(&router->jitter);
  ocl_kernel_destroy(&router->topk);
}

static moecl_status prepare(op_router *router, ocl_chain *chain, const op_router_io *io,
                            ocl_kernel *kernel, const moecl_buffer *out) {
  enum { LOCAL = 64 };
  const uint64_t items =
      (uint64_t)io->num_tokens * base_div_up((uint64_t)router->params.hidden_size, 4);
  MOECL_TRY(ocl_kernel_args(kernel, "bbllfL", io->hidden_states, out, io->num_tokens,
                            router->params.hidden_size, router->params.jitter, io->seed));
  return ocl_launch(chain, kernel, base_div_up(items, LOCAL), LOCAL);
}

moecl_status op_router_enqueue(op_router *router, ocl_chain *chain, const op_router_io *io) {
  const moecl_buffer *input = io->hidden_states;
  if (router->convert) {
    MOECL_TRY(prepare(router, chain, io, router->convert, io->hidden_f32));
    input = io->hidden_f32;
  }
  if (router->jitter) {
    MOECL_TRY(prepare(router, chain, io, router->jitter, io->router_input));
    input = io->router_input;
  }
  const op_gemm_io gemm = {.input = input,
                           .expert_offsets = io->dense_offsets,
                           .tile_offsets = io->dense_tiles,
                           .output = io->logits,
                           .rows = io->num_tokens};
  MOECL_TRY(op_gemm_enqueue(router->logits, chain, &gemm));
  MOECL_TRY(ocl_kernel_args(router->topk, "bbbii", io->logits, io->topk_ids, io->topk_weights,
                            (int32_t)router->params.num_experts, (int32_t)router->params.top_k));
  return ocl_launch(chain, router->topk, (uint64_t)io->num_tokens, router->variant->local);
}
