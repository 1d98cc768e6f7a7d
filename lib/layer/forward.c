// SPDX-License-Identifier: MIT
/* One forward pass: the order of operations. */
#include "base/base.h"
#include "layer/layer.h"
#include "plan/profile.h"
#include <math.h>

moecl_status moe_check_tokens(moecl_context *context, const moecl_layer_params *params,
                              int64_t num_tokens) {
  const int64_t most = MOECL_MAX_ASSIGNMENTS / params->top_k;
  if (num_tokens >= 0 && num_tokens <= most) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "forward: num_tokens is %lld, expected 0 to %lld at top_k %lld",
                   (long long)num_tokens, (long long)most, (long long)params->top_k);
}

static moecl_status check_forward(moecl_layer *layer, const moecl_forward_params *params) {
  const moecl_log *log = &layer->context->log;
  const int64_t tokens = params->num_tokens;
  MOECL_TRY(moe_check_tokens(layer->context, &layer->params, tokens));
  if (layer->missing > 0)
    return log_error(log, MOECL_ERROR_NOT_READY,
                     "forward: %lld of the layer's weight items were not set",
                     (long long)layer->missing);
  if (tokens == 0) return MOECL_OK;
  const uint64_t bytes = (uint64_t)tokens * (uint64_t)layer->params.hidden_size *
                         moecl_dtype_size(layer->params.dtype);
  if (!params->hidden_states || moecl_buffer_size(params->hidden_states) < bytes)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "forward: hidden_states must hold %llu bytes", (unsigned long long)bytes);
  if (!params->output || moecl_buffer_size(params->output) < bytes)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT, "forward: output must hold %llu bytes",
                     (unsigned long long)bytes);
  return MOECL_OK;
}

/* The caller's workspace, or the layer's own, grown when needed. */
static moecl_status provide_workspace(moecl_layer *layer, const moecl_forward_params *params) {
  const uint64_t bytes = moecl_layer_workspace_size(layer, params->num_tokens);
  moecl_buffer *buffer = params->workspace;
  if (buffer && moecl_buffer_size(buffer) < bytes)
    return log_error(&layer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "forward: the workspace holds %llu bytes, %llu are needed",
                     (unsigned long long)moecl_buffer_size(buffer), (unsigned long long)bytes);
  if (!buffer) {
    if (!layer->own_workspace || moecl_buffer_size(layer->own_workspace) < bytes) {
      moecl_buffer_destroy(&layer->own_workspace);
      MOECL_TRY(moecl_buffer_create(layer->context, bytes, &layer->own_workspace));
    }
    buffer = layer->own_workspace;
  }
  return moe_workspace_cut(layer, buffer, params->num_tokens);
}

static op_permute_io permute_io(const moecl_layer *layer, int64_t num_tokens) {
  moecl_buffer *const *region = layer->workspace.region;
  return (op_permute_io){.num_tokens = num_tokens,
                         .logits = region[REGION_LOGITS],
                         .topk_ids = region[REGION_TOPK_IDS],
                         .topk_weights = region[REGION_TOPK_WEIGHTS],
                         .block_counts = region[REGION_BLOCK_COUNTS],
                         .tokens_per_expert = region[REGION_TOKENS_PER_EXPERT],
                         .expert_offsets = region[REGION_EXPERT_OFFSETS],
                         .tile_offsets = region[REGION_TILE_OFFSETS],
                         .all_offsets = region[REGION_ALL_OFFSETS],
                         .slot_token = region[REGION_SLOT_TOKEN],
                         .assignment_slot = region[REGION_ASSIGNMENT_SLOT],
                         .order = region[REGION_ORDER],
                         .token_priority = region[REGION_TOKEN_PRIORITY],
                         .kept_weights = region[REGION_KEPT_WEIGHTS],
                         .tile_m =
                             op_gemm_tile_rows(layer->gate_up, num_tokens * layer->params.top_k)};
}

/* Router and permutation: together for few tokens, else one after the other,
 * and the permutation in one launch less where the router has counted. */
static moecl_status enqueue_permuted(moecl_layer *layer, ocl_chain *chain,
                                     const moecl_forward_params *params,
                                     const op_permute_io *permute) {
  moecl_buffer *const *region = layer->workspace.region;
  const op_router_io io = {.num_tokens = params->num_tokens,
                           .seed = params->seed,
                           .hidden_states = params->hidden_states,
                           .hidden_f32 = region[REGION_HIDDEN_F32],
                           .router_input = region[REGION_ROUTER_INPUT],
                           .logits = region[REGION_LOGITS],
                           .noise_logits = region[REGION_NOISE_LOGITS],
                           .topk_ids = region[REGION_TOPK_IDS],
                           .topk_weights = region[REGION_TOPK_WEIGHTS],
                           .block_counts = region[REGION_BLOCK_COUNTS]};
  chain->label = MOECL_STAGE_ROUTER;
  if (op_router_can_permute(&layer->router, &layer->permute, params->num_tokens))
    return op_router_enqueue_permuted(&layer->router, chain, &io, permute);
  MOECL_TRY(op_router_enqueue(&layer->router, chain, &io));
  chain->label = MOECL_STAGE_PERMUTE;
  const bool counted = layer->variant[OPERATION_ROUTER]->flags &
                       layer->variant[OPERATION_PERMUTE]->flags & KERNEL_BY_BLOCKS;
  return counted ? op_permute_enqueue_counted(&layer->permute, chain, permute)
                 : op_permute_enqueue(&layer->permute, chain, permute);
}

static moecl_status enqueue_routing(moecl_layer *layer, ocl_chain *chain,
                                    const moecl_forward_params *params) {
  const op_permute_io permute = permute_io(layer, params->num_tokens);
  MOECL_TRY(enqueue_permuted(layer, chain, params, &permute));
  chain->label = MOECL_STAGE_PERMUTE;
  return op_permute_enqueue_weights(&layer->permute, chain, &permute);
}

/* What the experts' inputs or outputs are multiplied by. */
static const moecl_buffer *route_weights(const moecl_layer *layer) {
  return layer->workspace
      .region[layer->permute.kept_weights ? REGION_KEPT_WEIGHTS : REGION_TOPK_WEIGHTS];
}

/* Hidden states as the experts read them. */
static const moecl_buffer *expert_input(const moecl_layer *layer,
                                        const moecl_forward_params *params) {
  const bool converted = layer->f32_activations && layer->router.convert;
  return converted ? layer->workspace.region[REGION_HIDDEN_F32] : params->hidden_states;
}

static moecl_status enqueue_scale(moecl_layer *layer, ocl_chain *chain,
                                  const moecl_forward_params *params) {
  moecl_buffer *const *region = layer->workspace.region;
  const op_scale_io io = {.num_tokens = params->num_tokens,
                          .hidden = expert_input(layer, params),
                          .assignment_slot = region[REGION_ASSIGNMENT_SLOT],
                          .topk_weights = route_weights(layer),
                          .scaled = region[REGION_SCALED]};
  chain->label = MOECL_STAGE_PERMUTE;
  return op_scale_enqueue(&layer->scale, chain, &io);
}

static moecl_status enqueue_experts(moecl_layer *layer, ocl_chain *chain,
                                    const moecl_forward_params *params) {
  moecl_buffer *const *region = layer->workspace.region;
  if (layer->scale.kernel) MOECL_TRY(enqueue_scale(layer, chain, params));
  op_gemm_io io = {.input =
                       layer->scale.kernel ? region[REGION_SCALED] : expert_input(layer, params),
                   .slot_token = region[REGION_SLOT_TOKEN],
                   .expert_offsets = region[REGION_EXPERT_OFFSETS],
                   .tile_offsets = region[REGION_TILE_OFFSETS],
                   .output = region[REGION_ACTIVATED],
                   .scratch = region[REGION_SCRATCH],
                   .rows = params->num_tokens * layer->params.top_k};
  chain->label = MOECL_STAGE_GATE_UP;
  MOECL_TRY(op_gemm_enqueue(layer->gate_up, chain, &io));
  chain->label = MOECL_STAGE_DOWN;
  io.input = region[REGION_ACTIVATED];
  io.output = region[REGION_EXPERT_OUTPUT];
  return op_gemm_enqueue(layer->down, chain, &io);
}

static moecl_status enqueue_shared(moecl_layer *layer, ocl_chain *chain,
                                   const moecl_forward_params *params) {
  moecl_buffer *const *region = layer->workspace.region;
  if (!layer->shared.gate_up) return MOECL_OK;
  const op_shared_io io = {.num_tokens = params->num_tokens,
                           .hidden_states = params->hidden_states,
                           .input = expert_input(layer, params),
                           .activated = region[REGION_SHARED_ACTIVATED],
                           .output = region[REGION_SHARED_OUTPUT],
                           .gate = region[REGION_SHARED_GATE]};
  chain->label = MOECL_STAGE_SHARED;
  return op_shared_enqueue(&layer->shared, chain, &io);
}

/* Bytes of weights that few tokens read more than once: an expert's for each
 * further token that chooses it, the choices being as good as random. */
static double bytes_again(const moecl_layer_params *params, int64_t num_tokens) {
  const double experts = (double)params->num_experts, tokens = (double)num_tokens;
  const double share = (double)params->top_k / experts;
  const double reached = experts * (1 - pow(1 - share, tokens));
  const double expert = (double)(moecl_layer_tensor_size(params, MOECL_GATE_UP_PROJ) +
                                 moecl_layer_tensor_size(params, MOECL_DOWN_PROJ));
  const double shared = (double)(moecl_layer_tensor_size(params, MOECL_SHARED_GATE_UP_PROJ) +
                                 moecl_layer_tensor_size(params, MOECL_SHARED_DOWN_PROJ));
  return ((tokens * (double)params->top_k - reached) * expert + (tokens - 1) * shared) *
         (double)moecl_dtype_size(params->dtype);
}

/* Nothing is dropped but whole tokens, all experts have weights, nothing is weighted
 * otherwise than those kernels do it, and the GEMMs have kernels for few tokens; they spare
 * launches that take an H100 as long as some 64 MB of weights. */
static bool are_few(const moecl_layer *layer, int64_t num_tokens) {
  enum { WORTH_BYTES = 64000000 };
  const bool plain =
      !(layer->params.capacity_factor > 0) && layer->params.second_choice != MOECL_SECOND_RANDOM &&
      layer->params.num_identity_experts == 0 && !layer->scale.kernel &&
      !layer->permute.kept_weights && bytes_again(&layer->params, num_tokens) <= WORTH_BYTES;
  return plain && op_gemm_serves_few(layer->gate_up, num_tokens) &&
         op_gemm_serves_few(layer->down, num_tokens);
}

/* The experts and the combination of few tokens, in two launches; with a shared
 * expert two or three more. */
static moecl_status enqueue_few(moecl_layer *layer, ocl_chain *chain,
                                const moecl_forward_params *params) {
  moecl_buffer *const *region = layer->workspace.region;
  op_gemm_few_io io = {.input = params->hidden_states,
                       .topk_ids = region[REGION_TOPK_IDS],
                       .topk_weights = region[REGION_TOPK_WEIGHTS],
                       .shared = region[REGION_SHARED_OUTPUT],
                       .shared_gate = region[REGION_SHARED_GATE],
                       .output = region[REGION_ACTIVATED],
                       .num_tokens = params->num_tokens,
                       .top_k = layer->params.top_k};
  chain->label = MOECL_STAGE_GATE_UP;
  MOECL_TRY(op_gemm_enqueue_few(layer->gate_up, chain, &io));
  MOECL_TRY(enqueue_shared(layer, chain, params));
  chain->label = MOECL_STAGE_DOWN;
  chain->last = true;
  io.input = region[REGION_ACTIVATED];
  io.output = params->output;
  return op_gemm_enqueue_few(layer->down, chain, &io);
}

static moecl_status enqueue_combine(moecl_layer *layer, ocl_chain *chain,
                                    const moecl_forward_params *params) {
  moecl_buffer *const *region = layer->workspace.region;
  chain->label = MOECL_STAGE_COMBINE;
  chain->last = true;
  const op_combine_io io = {.num_tokens = params->num_tokens,
                            .expert_output = region[REGION_EXPERT_OUTPUT],
                            .assignment_slot = region[REGION_ASSIGNMENT_SLOT],
                            .topk_weights = route_weights(layer),
                            .shared = region[REGION_SHARED_OUTPUT],
                            .shared_gate = region[REGION_SHARED_GATE],
                            .hidden_states = params->hidden_states,
                            .expert_offsets = region[REGION_EXPERT_OFFSETS],
                            .output = params->output};
  return op_combine_enqueue(&layer->combine, chain, &io);
}

moecl_status moecl_layer_forward(moecl_layer *layer, const moecl_forward_params *params,
                                 moecl_event **event) {
  if (event) *event = NULL;
  if (!layer || !params) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(check_forward(layer, params));
  MOECL_TRY(provide_workspace(layer, params));
  if (params->profile) plan_profile_reset(params->profile);
  ocl_chain chain = {.context = layer->context,
                     .waits = params->wait_list,
                     .num_waits = params->wait_count,
                     .observer = params->profile ? &params->profile->observer : NULL};
  if (params->num_tokens > 0) {
    MOECL_TRY(enqueue_routing(layer, &chain, params));
    if (are_few(layer, params->num_tokens)) {
      MOECL_TRY(enqueue_few(layer, &chain, params));
    } else {
      MOECL_TRY(enqueue_experts(layer, &chain, params));
      MOECL_TRY(enqueue_shared(layer, &chain, params));
      MOECL_TRY(enqueue_combine(layer, &chain, params));
    }
  }
  return event ? ocl_chain_end(&chain, event) : MOECL_OK;
}
