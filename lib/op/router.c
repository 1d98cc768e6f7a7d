// SPDX-License-Identifier: MIT
#include "op/router.h"
#include "base/base.h"
#include "op/self_check.h"
#include <stdio.h>

/* Philox blocks, of four elements, that a work-item of prepare.cl makes. */
static uint32_t prepare_blocks(const moecl_context *context) {
  return context->info.native_vector_width_float >= 4 ? 8 : 1;
}

static moecl_status create_prepare(op_router *router, bool jitter, ocl_kernel **kernel) {
  char defines[64];
  snprintf(defines, sizeof defines, "DTYPE %d\nJITTER %d\nBLOCKS %u\n", (int)router->params.dtype,
           jitter, prepare_blocks(router->context));
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
                         .dense = true,
                         .input_f32 = converts(router, gemm_variant) || params->jitter > 0 ||
                                      params->dtype == MOECL_F32,
                         .output_f32 = true};
}

op_gemm_shape op_router_noise_shape(const op_router *router, const kernel_variant *gemm_variant) {
  op_gemm_shape shape = op_router_logits_shape(router, gemm_variant);
  shape.bias = false;
  return shape;
}

static moecl_status create_checked(op_router *router, const kernel_variant *gemm_variant,
                                   op_gemm_shape shape, op_gemm **gemm) {
  MOECL_TRY(op_gemm_self_check(router->context, gemm_variant, &shape));
  return op_gemm_create(router->context, gemm_variant, &shape, gemm);
}

moecl_status op_router_create_logits(op_router *router, const kernel_variant *gemm_variant) {
  MOECL_TRY(create_checked(router, gemm_variant, op_router_logits_shape(router, gemm_variant),
                           &router->logits));
  if (!router->params.router_noise) return MOECL_OK;
  const moecl_status status = create_checked(
      router, gemm_variant, op_router_noise_shape(router, gemm_variant), &router->noise);
  if (status != MOECL_OK) op_gemm_destroy(&router->logits);
  return status;
}

uint64_t op_router_correction_bytes(const moecl_layer_params *params) {
  return params->score_correction_bias ? (uint64_t)params->num_experts * sizeof(float) : 0;
}

moecl_status op_router_set_correction(op_router *router, int64_t count, const moecl_buffer *src,
                                      uint64_t offset_bytes) {
  return ocl_buffer_copy(src, offset_bytes, router->correction_bias, 0,
                         (uint64_t)count * op_router_correction_bytes(&router->params));
}

moecl_status op_router_create_prepare(op_router *router) {
  if (op_router_converts(router)) MOECL_TRY(create_prepare(router, false, &router->convert));
  if (router->params.jitter > 0) MOECL_TRY(create_prepare(router, true, &router->jitter));
  if (router->params.router_noise)
    MOECL_TRY(ocl_kernel_create(router->context, "router/noise.cl", NULL, "add_noise",
                                &router->add_noise));
  if (router->params.score_correction_bias)
    MOECL_TRY(moecl_buffer_create(router->context, op_router_correction_bytes(&router->params),
                                  &router->correction_bias));
  return op_dense_create(router->context, &router->rows);
}

/* Work-items of a block's choice, where it is made by blocks: as many as there is
 * local memory for a row of logits for each warp. */
static uint32_t topk_local(const moecl_layer_params *params) {
  return params->num_experts <= 256 ? 1024 : 256;
}

/* What keeps the sum that weights are divided by from 0; zeros for nothing. */
typedef struct renormalize_guard {
  float epsilon, minimum;
} renormalize_guard;

static renormalize_guard guard_of(const moecl_layer_params *params) {
  const bool shares =
      params->scoring == MOECL_SCORING_SOFTMAX || params->scoring == MOECL_SCORING_SPARSEMIXER;
  if (!params->renormalize) return (renormalize_guard){0};
  const float epsilon =
      shares || params->renormalize_epsilon > 0 ? params->renormalize_epsilon : 1e-20f;
  return (renormalize_guard){epsilon, params->renormalize_minimum};
}

/* Those of rule.clh. Rules that come to the same have the same defines, so that
 * they are one program. */
enum { MOST_DEFINES = 512 };
static void topk_defines(const moecl_layer_params *params, char *text, size_t size) {
  const bool groups = params->topk_group < params->num_expert_group;
  const bool softmax = params->scoring == MOECL_SCORING_SOFTMAX;
  const bool after = params->score_after_topk && softmax;
  const bool random = params->second_choice == MOECL_SECOND_RANDOM;
  const float mixer = params->sparsemixer_jitter > 0 ? params->sparsemixer_jitter : 0.01f;
  const float scale = params->routed_scaling_factor == 0 ? 1 : params->routed_scaling_factor;
  const renormalize_guard guard = guard_of(params);
  const bool guarded = guard.epsilon > 0 || guard.minimum > 0;
  int used = snprintf(text, size,
                      "SCORING %d\nAFTER_TOPK %d\nRENORMALIZE %d\nCORRECTION %d\nNUM_GROUPS %d\n"
                      "TOPK_GROUP %d\nGROUP_SCORE %d\nSECOND_CHOICE %d\nTOPK_LOCAL %u\n",
                      (int)params->scoring, after && (random || guarded),
                      params->renormalize || (after && !random), params->score_correction_bias,
                      groups ? (int)params->num_expert_group : 0,
                      groups ? (int)params->topk_group : 0, groups ? (int)params->group_score : 0,
                      (int)params->second_choice, topk_local(params));
  if (groups)
    used += snprintf(text + used, size - (size_t)used, "CUT_VALUE %s\n",
                     params->cut_groups_to_zero && params->score_correction_bias ? "0.0f"
                                                                                 : "-INFINITY");
  if (guard.epsilon > 0)
    used += base_format(text + used, size - (size_t)used, "EPSILON %af\n", (double)guard.epsilon);
  if (guard.minimum > 0)
    used += base_format(text + used, size - (size_t)used, "MINIMUM %af\n", (double)guard.minimum);
  if (scale != 1)
    used += base_format(text + used, size - (size_t)used, "SCALE %af\n", (double)scale);
  if (params->scoring == MOECL_SCORING_SPARSEMIXER)
    base_format(text + used, size - (size_t)used, "MIXER_LIMIT %af\n", (double)(2 * mixer));
}

moecl_status op_router_topk_kernel(moecl_context *context, const kernel_variant *variant,
                                   const moecl_layer_params *params, ocl_kernel **kernel) {
  char defines[MOST_DEFINES];
  topk_defines(params, defines, sizeof defines);
  return ocl_kernel_create(context, variant->source, defines, "topk", kernel);
}

moecl_status op_router_create_topk(op_router *router, const kernel_variant *variant) {
  MOECL_TRY(op_router_self_check(router->context, variant, &router->params));
  router->variant = variant;
  MOECL_TRY(op_router_topk_kernel(router->context, variant, &router->params, &router->topk));
  if (!(variant->flags & KERNEL_BY_BLOCKS)) return MOECL_OK;
  char defines[MOST_DEFINES];
  topk_defines(&router->params, defines, sizeof defines);
  return ocl_kernel_create(router->context, variant->source, defines, "topk_scatter",
                           &router->topk_scatter);
}

void op_router_release(op_router *router) {
  op_gemm_destroy(&router->logits);
  op_gemm_destroy(&router->noise);
  moecl_buffer_destroy(&router->correction_bias);
  ocl_kernel_destroy(&router->add_noise);
  ocl_kernel_destroy(&router->convert);
  ocl_kernel_destroy(&router->jitter);
  ocl_kernel_destroy(&router->topk);
  ocl_kernel_destroy(&router->topk_scatter);
  op_dense_release(&router->rows);
}

static moecl_status prepare(op_router *router, ocl_chain *chain, const op_router_io *io,
                            ocl_kernel *kernel, const moecl_buffer *out) {
  const uint64_t items =
      (uint64_t)io->num_tokens *
      base_div_up((uint64_t)router->params.hidden_size, 4 * prepare_blocks(router->context));
  MOECL_TRY(ocl_kernel_args(kernel, "bbllfL", io->hidden_states, out, io->num_tokens,
                            router->params.hidden_size, router->params.jitter, io->seed));
  return ocl_launch_items(chain, kernel, items);
}

/* One work-item a logit. */
static moecl_status add_noise(op_router *router, ocl_chain *chain, const moecl_buffer *input,
                              const op_router_io *io) {
  const uint64_t count = (uint64_t)io->num_tokens * (uint64_t)router->params.num_experts;
  MOECL_TRY(op_dense_enqueue(&router->rows, chain, router->noise, input, io->noise_logits,
                             io->num_tokens));
  MOECL_TRY(ocl_kernel_args(router->add_noise, "bbLiL", io->logits, io->noise_logits, count,
                            (int32_t)router->params.num_experts, io->seed));
  return ocl_launch_items(chain, router->add_noise, count);
}

static moecl_status enqueue_logits(op_router *router, ocl_chain *chain, const op_router_io *io) {
  const moecl_buffer *input = io->hidden_states;
  if (router->convert) {
    MOECL_TRY(prepare(router, chain, io, router->convert, io->hidden_f32));
    input = io->hidden_f32;
  }
  if (router->jitter) {
    MOECL_TRY(prepare(router, chain, io, router->jitter, io->router_input));
    input = io->router_input;
  }
  MOECL_TRY(
      op_dense_enqueue(&router->rows, chain, router->logits, input, io->logits, io->num_tokens));
  return router->noise ? add_noise(router, chain, input, io) : MOECL_OK;
}

/* Local memory of a router by blocks: a row of logits for each warp of 32. */
static size_t rows_bytes(uint32_t local, const moecl_layer_params *params) {
  return local / 32 * (size_t)params->num_experts * sizeof(float);
}

moecl_status op_router_enqueue_topk(ocl_kernel *topk, const kernel_variant *variant,
                                    const moecl_layer_params *params, ocl_chain *chain,
                                    const op_router_io *io) {
  const int32_t experts = (int32_t)params->num_experts, top_k = (int32_t)params->top_k;
  if (!(variant->flags & KERNEL_BY_BLOCKS)) {
    MOECL_TRY(ocl_kernel_args(topk, "bbbbiiL", io->logits, io->correction_bias, io->topk_ids,
                              io->topk_weights, experts, top_k, io->seed));
    return ocl_launch(chain, topk, (uint64_t)io->num_tokens, variant->local);
  }
  const int32_t each = op_permute_tokens_per_block(io->num_tokens);
  if (io->num_tokens == 0) return MOECL_OK;
  MOECL_TRY(ocl_kernel_args(topk, "bbbbbiiiiLs", io->logits, io->correction_bias, io->topk_ids,
                            io->topk_weights, io->block_counts, (int32_t)io->num_tokens, each,
                            experts, top_k, io->seed, rows_bytes(topk->local, params)));
  return ocl_launch(chain, topk, base_div_up((uint64_t)io->num_tokens, (uint64_t)each),
                    topk->local);
}

moecl_status op_router_enqueue(op_router *router, ocl_chain *chain, const op_router_io *io) {
  MOECL_TRY(enqueue_logits(router, chain, io));
  op_router_io choice = *io;
  choice.correction_bias = router->correction_bias;
  return op_router_enqueue_topk(router->topk, router->variant, &router->params, chain, &choice);
}

/* One work-group takes 8 tokens at a time: beyond a few such rounds a launch
 * more is cheaper. */
bool op_router_can_permute(const op_router *router, const op_permute *permute, int64_t num_tokens) {
  enum { MOST_TOKENS = 32 };
  return router->topk_scatter && (permute->variant->flags & KERNEL_BY_BLOCKS) &&
         num_tokens <= MOST_TOKENS;
}

moecl_status op_router_enqueue_permuted(op_router *router, ocl_chain *chain, const op_router_io *io,
                                        const op_permute_io *permuted) {
  MOECL_TRY(enqueue_logits(router, chain, io));
  MOECL_TRY(ocl_kernel_args(
      router->topk_scatter, "bbbbbbbbbbiiiiLs", io->logits, router->correction_bias, io->topk_ids,
      io->topk_weights, permuted->tokens_per_expert, permuted->expert_offsets,
      permuted->tile_offsets, permuted->all_offsets, permuted->slot_token,
      permuted->assignment_slot, (int32_t)io->num_tokens, (int32_t)router->params.num_experts,
      (int32_t)router->params.top_k, (int32_t)permuted->tile_m, io->seed,
      rows_bytes(router->topk_scatter->local, &router->params)));
  return ocl_launch(chain, router->topk_scatter, 1, router->topk_scatter->local);
}
