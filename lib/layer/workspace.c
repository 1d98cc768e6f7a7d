// SPDX-License-Identifier: MIT
/* One buffer for everything a forward needs between its input and output. */
#include "base/base.h"
#include "layer/layer.h"

uint64_t moe_region_bytes(const moecl_layer *layer, moe_region region, int64_t num_tokens) {
  const moecl_layer_params *params = &layer->params;
  const uint64_t tokens = (uint64_t)num_tokens, experts = (uint64_t)params->num_experts;
  const uint64_t slots = tokens * (uint64_t)params->top_k;
  const uint64_t row = layer->f32_activations ? sizeof(float) : moecl_dtype_size(params->dtype);
  const uint64_t output_row = layer->f32_outputs ? sizeof(float) : row;
  const uint64_t hidden = (uint64_t)params->hidden_size;
  switch (region) {
  case REGION_HIDDEN_F32:
    return op_router_converts(&layer->router) ? tokens * hidden * sizeof(float) : 0;
  case REGION_ROUTER_INPUT: return params->jitter > 0 ? tokens * hidden * sizeof(float) : 0;
  case REGION_LOGITS: return tokens * experts * sizeof(float);
  case REGION_NOISE_LOGITS: return params->router_noise ? tokens * experts * sizeof(float) : 0;
  case REGION_TOPK_IDS:
  case REGION_TOPK_WEIGHTS:
  case REGION_SLOT_TOKEN:
  case REGION_ASSIGNMENT_SLOT: return slots * sizeof(int32_t);
  case REGION_ORDER: return op_permute_selects(params) ? slots * sizeof(int32_t) : 0;
  case REGION_TOKEN_PRIORITY: return op_permute_prioritizes(params) ? tokens * sizeof(float) : 0;
  case REGION_KEPT_WEIGHTS: return params->renormalize_after_capacity ? slots * sizeof(float) : 0;
  case REGION_BLOCK_COUNTS:
    return op_permute_most_blocks(num_tokens, params->top_k) * experts * sizeof(int32_t);
  case REGION_TOKENS_PER_EXPERT: return experts * sizeof(int32_t);
  case REGION_EXPERT_OFFSETS:
  case REGION_TILE_OFFSETS:
  case REGION_ALL_OFFSETS: return (experts + 1) * sizeof(int32_t);
  case REGION_SCALED: return params->weight_on_input ? slots * hidden * row : 0;
  case REGION_SHARED_ACTIVATED: return tokens * (uint64_t)params->shared_intermediate_size * row;
  case REGION_SHARED_OUTPUT:
    return params->shared_intermediate_size > 0 ? tokens * hidden * output_row : 0;
  case REGION_SHARED_GATE: return op_shared_is_weighted(params) ? tokens * sizeof(float) : 0;
  case REGION_ACTIVATED: return slots * (uint64_t)params->intermediate_size * row;
  case REGION_EXPERT_OUTPUT: return slots * hidden * output_row;
  case REGION_SCRATCH: {
    const uint64_t gate_up = op_gemm_scratch(layer->gate_up, (int64_t)slots);
    const uint64_t down = op_gemm_scratch(layer->down, (int64_t)slots);
    return gate_up > down ? gate_up : down;
  }
  default: return 0;
  }
}

static uint64_t region_stride(const moecl_layer *layer, moe_region region, int64_t num_tokens) {
  return base_round_up(moe_region_bytes(layer, region, num_tokens), layer->context->address_align);
}

/* More than 2^58 elements, of which the regions hold 64 bytes or less each. */
static bool is_beyond_64_bits(const moecl_layer_params *params, int64_t num_tokens) {
  const uint64_t columns = (uint64_t)(params->hidden_size + params->intermediate_size +
                                      params->shared_intermediate_size + params->num_experts) +
                           8;
  uint64_t elements;
  return !base_mul((uint64_t)(num_tokens * params->top_k), columns, &elements) ||
         elements > UINT64_MAX / 64;
}

uint64_t moecl_layer_workspace_size(const moecl_layer *layer, int64_t num_tokens) {
  uint64_t bytes = 0;
  if (!layer || num_tokens < 0 || num_tokens > MOECL_MAX_ASSIGNMENTS / layer->params.top_k)
    return 0;
  if (is_beyond_64_bits(&layer->params, num_tokens)) return UINT64_MAX;
  for (int region = 0; region < REGION_COUNT; region++)
    bytes += region_stride(layer, (moe_region)region, num_tokens);
  return bytes;
}

moecl_status moe_workspace_cut(moecl_layer *layer, moecl_buffer *buffer, int64_t num_tokens) {
  moe_workspace *workspace = &layer->workspace;
  uint64_t bytes[REGION_COUNT];
  if (workspace->views.parent == buffer && workspace->num_tokens == num_tokens) return MOECL_OK;
  for (int region = 0; region < REGION_COUNT; region++)
    bytes[region] = moe_region_bytes(layer, (moe_region)region, num_tokens);
  workspace->views.view = workspace->region;
  workspace->views.count = REGION_COUNT;
  workspace->num_tokens = num_tokens;
  return ocl_views_cut(buffer, bytes, &workspace->views);
}
