// SPDX-License-Identifier: MIT
/* What a layer and its forwards take: of one that was made, or described. */
#include "base/base.h"
#include "layer/layer.h"

moecl_status layer_check_tokens(moecl_context *context, const moecl_layer_params *params,
                                int64_t num_tokens) {
  const int64_t most = MOECL_MAX_ASSIGNMENTS / params->top_k;
  if (num_tokens >= 0 && num_tokens <= most) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "forward: num_tokens is %lld, expected 0 to %lld at top_k %lld",
                   (long long)num_tokens, (long long)most, (long long)params->top_k);
}

/* A sum that stays at the largest number instead of beginning anew. */
static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

uint64_t moecl_layer_weight_bytes(const moecl_layer *layer) {
  uint64_t bytes = 0;
  if (!layer) return 0;
  if (layer->params.score_correction_bias)
    bytes += (uint64_t)layer->params.num_experts * sizeof(float);
  for (int i = 0; i < LAYER_PARTS; i++)
    if (layer_parts[i].kind->bytes)
      bytes = add(bytes, layer_parts[i].kind->bytes((const char *)layer + layer_parts[i].at));
  return bytes;
}

bool layer_is_beyond_64_bits(const moecl_layer_params *params, int64_t num_tokens) {
  const uint64_t columns = (uint64_t)(params->hidden_size + params->intermediate_size +
                                      params->shared_intermediate_size + params->num_experts) +
                           8;
  uint64_t elements;
  return !base_mul((uint64_t)(num_tokens * params->top_k), columns, &elements) ||
         elements > UINT64_MAX / 64;
}

uint64_t moecl_layer_workspace_size(const moecl_layer *layer, int64_t num_tokens) {
  layer_plan built;
  if (!layer || num_tokens < 0 || num_tokens > MOECL_MAX_ASSIGNMENTS / layer->params.top_k)
    return 0;
  if (layer_is_beyond_64_bits(&layer->params, num_tokens)) return UINT64_MAX;
  layer_plan_build(layer, num_tokens, &built);
  return plan_workspace_bytes(&built.plan);
}

/* ---- ahead of forwards ---- */

moecl_status layer_check_reserve(moecl_context *context, const moecl_layer_params *params,
                                 int64_t num_tokens) {
  MOECL_TRY(layer_check_tokens(context, params, num_tokens));
  if (!layer_is_beyond_64_bits(params, num_tokens)) return MOECL_OK;
  return log_error(&context->log, MOECL_ERROR_OUT_OF_DEVICE_MEMORY,
                   "reserve: no device has the memory for %lld tokens", (long long)num_tokens);
}

moecl_status moecl_layer_reserve(moecl_layer *layer, int64_t num_tokens) {
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  const plan_builder plans = layer_plans(layer);
  MOECL_TRY(layer_check_reserve(layer->context, &layer->params, num_tokens));
  return plan_space_reserve(&layer->space, layer->context, &plans, num_tokens, 0);
}

static uint64_t largest_buffer(const moecl_layer *layer, const moecl_memory *memory) {
  const op_gemm *const gemms[] = {layer->gate_up, layer->down,           layer->logits,
                                  layer->noise,   layer->shared_gate_up, layer->shared_down};
  uint64_t largest = memory->workspace_bytes > memory->hidden_bytes ? memory->workspace_bytes
                                                                    : memory->hidden_bytes;
  for (size_t i = 0; i < BASE_COUNT(gemms); i++)
    if (gemms[i] && op_gemm_largest_bytes(gemms[i]) > largest)
      largest = op_gemm_largest_bytes(gemms[i]);
  return largest;
}

moecl_status layer_memory(const moecl_layer *layer, int64_t num_tokens, moecl_memory *memory) {
  MOECL_TRY(layer_check_tokens(layer->context, &layer->params, num_tokens));
  memory->weight_bytes = moecl_layer_weight_bytes(layer);
  memory->workspace_bytes = moecl_layer_workspace_size(layer, num_tokens);
  memory->hidden_bytes =
      desc_format_bytes(layer->stored, (uint64_t)num_tokens, (uint64_t)layer->params.hidden_size);
  memory->host_bytes = layer_host_bytes(layer);
  memory->largest_buffer_bytes = largest_buffer(layer, memory);
  return MOECL_OK;
}

moecl_status moecl_layer_memory(moecl_context *context, const moecl_layer_params *params,
                                int64_t num_tokens, moecl_memory *memory) {
  if (!memory) return MOECL_ERROR_INVALID_ARGUMENT;
  *memory = (moecl_memory){0};
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_layer *layer;
  MOECL_TRY(layer_make(context, params, true, &layer));
  const moecl_status status = layer_memory(layer, num_tokens, memory);
  moecl_layer_destroy(&layer);
  return status;
}
