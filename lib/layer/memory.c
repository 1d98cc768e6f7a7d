// SPDX-License-Identifier: MIT
/* What a layer takes, without a layer: its operations are described, not made,
 * and then asked as a layer that was made is asked. */
#include "base/base.h"
#include "layer/layer.h"

typedef struct description {
  moecl_layer layer; /* first: a pointer to one is a pointer to the other */
  op_gemm gate_up, down, logits, noise, shared_gate_up, shared_down;
} description;

static moecl_status describe_experts(void *user, const kernel_variant *variant) {
  description *described = user;
  moecl_layer *layer = &described->layer;
  const op_gemm_shape gate_up = moe_expert_shape(&layer->params, variant, false);
  const op_gemm_shape down = moe_expert_shape(&layer->params, variant, true);
  op_gemm_describe(layer->context, variant, &gate_up, layer->gate_up = &described->gate_up);
  op_gemm_describe(layer->context, variant, &down, layer->down = &described->down);
  layer->variant[OPERATION_GROUPED_GEMM] = variant;
  layer->f32_activations = variant->flags & KERNEL_F32_ACTIVATIONS;
  layer->f32_outputs = moe_outputs_f32(variant);
  return MOECL_OK;
}

static moecl_status describe_shared(void *user, const kernel_variant *variant) {
  description *described = user;
  moecl_layer *layer = &described->layer;
  const op_gemm_shape gate_up = moe_shared_shape(layer, false);
  const op_gemm_shape down = moe_shared_shape(layer, true);
  op_gemm_describe(layer->context, variant, &gate_up,
                   layer->shared.gate_up = &described->shared_gate_up);
  op_gemm_describe(layer->context, variant, &down, layer->shared.down = &described->shared_down);
  return MOECL_OK;
}

static moecl_status describe_logits(void *user, const kernel_variant *variant) {
  description *described = user;
  op_router *router = &described->layer.router;
  const op_gemm_shape shape = op_router_logits_shape(router, variant);
  op_gemm_describe(router->context, variant, &shape, router->logits = &described->logits);
  if (router->params.router_noise) {
    const op_gemm_shape noise = op_router_noise_shape(router, variant);
    op_gemm_describe(router->context, variant, &noise, router->noise = &described->noise);
  }
  return MOECL_OK;
}

static moecl_status describe(moecl_context *context, const moecl_layer_params *params,
                             description *described) {
  moecl_layer *layer = &described->layer;
  const kernel_choice choice = {.operation = "grouped_gemm",
                                .asked = params->grouped_gemm_variant,
                                .dtype = params->dtype,
                                .accepts = moe_accepts_experts,
                                .try_variant = describe_experts,
                                .user = described};
  const kernel_variant *chosen;
  size_t set_aside;
  layer->context = context;
  layer->params = *params;
  MOECL_TRY(kernel_choose(context, &choice, &chosen, &set_aside));
  MOECL_TRY(moe_choose_shared(layer, params->grouped_gemm_variant, describe_shared));
  op_router_init(context, params, moe_converts_for_experts(layer), &layer->router);
  return moe_choose_logits(layer, params->grouped_gemm_variant, describe_logits);
}

/* A sum that stays at the largest number instead of beginning anew. */
static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static uint64_t gemm_bytes(const op_gemm *gemm) {
  return add(op_gemm_packed_bytes(gemm), op_gemm_bias_bytes(gemm) + op_gemm_queue_bytes(gemm));
}

static uint64_t shared_bytes(const moecl_layer *layer) {
  if (!layer->shared.gate_up) return 0;
  return add(add(gemm_bytes(layer->shared.gate_up), gemm_bytes(layer->shared.down)),
             2 * OP_DENSE_BYTES + op_shared_gate_bytes(&layer->params));
}

uint64_t moecl_layer_weight_bytes(const moecl_layer *layer) {
  const op_router *router = &layer->router;
  const uint64_t noise = router->noise ? gemm_bytes(router->noise) : 0;
  const uint64_t small = OP_DENSE_BYTES + op_router_correction_bytes(&layer->params);
  return add(add(add(gemm_bytes(router->logits), noise), add(small, shared_bytes(layer))),
             add(gemm_bytes(layer->gate_up), gemm_bytes(layer->down)));
}

/* Biases are never the largest: their matrices are at least as large. */
static uint64_t largest_buffer(const moecl_layer *layer, const moecl_memory *memory) {
  const op_shared *shared = &layer->shared;
  const uint64_t candidates[] = {op_gemm_packed_bytes(layer->router.logits),
                                 op_gemm_packed_bytes(layer->gate_up),
                                 op_gemm_packed_bytes(layer->down),
                                 shared->gate_up ? op_gemm_packed_bytes(shared->gate_up) : 0,
                                 shared->down ? op_gemm_packed_bytes(shared->down) : 0,
                                 memory->workspace_bytes,
                                 memory->hidden_bytes};
  uint64_t largest = 0;
  for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++)
    if (candidates[i] > largest) largest = candidates[i];
  return largest;
}

moecl_status moecl_layer_memory(moecl_context *context, const moecl_layer_params *params,
                                int64_t num_tokens, moecl_memory *memory) {
  if (!memory) return MOECL_ERROR_INVALID_ARGUMENT;
  *memory = (moecl_memory){0};
  if (!context || !params) return MOECL_ERROR_INVALID_ARGUMENT;
  char message[256];
  const moecl_status status = moecl_layer_params_check(params, message, sizeof message);
  if (status != MOECL_OK) return log_error(&context->log, status, "layer: %s", message);
  MOECL_TRY(moe_check_tokens(context, params, num_tokens));
  description described = {0};
  MOECL_TRY(describe(context, params, &described));
  const moecl_layer *layer = &described.layer;
  memory->weight_bytes = moecl_layer_weight_bytes(layer);
  memory->workspace_bytes = moecl_layer_workspace_size(layer, num_tokens);
  memory->hidden_bytes =
      (uint64_t)num_tokens * (uint64_t)params->hidden_size * moecl_dtype_size(params->dtype);
  memory->largest_buffer_bytes = largest_buffer(layer, memory);
  return MOECL_OK;
}
