// SPDX-License-Identifier: MIT
/* Reading the latest forward's routing back. */
#include "base/base.h"
#include "layer/layer.h"
#include <stdlib.h>

moecl_status layer_allocate_routing(const moecl_layer *layer, moecl_routing *routing) {
  const size_t tokens = (size_t)routing->num_tokens, experts = (size_t)routing->num_experts;
  const size_t slots = tokens * (size_t)routing->top_k;
  /* At least one element each: T = 0 is not a lack of memory. */
  routing->router_logits = malloc((tokens * experts + 1) * sizeof(float));
  routing->topk_ids = malloc((slots + 1) * sizeof(int32_t));
  routing->topk_weights = malloc((slots + 1) * sizeof(float));
  routing->kept = malloc(slots + 1);
  const bool prioritized = desc_prioritizes(&layer->dispatch);
  if (prioritized) routing->token_priority = malloc((tokens + 1) * sizeof(float));
  routing->tokens_per_expert = calloc(experts, sizeof(int64_t));
  routing->tokens_per_expert_after_capacity = calloc(experts, sizeof(int64_t));
  if (routing->router_logits && routing->topk_ids && routing->topk_weights && routing->kept &&
      routing->tokens_per_expert && routing->tokens_per_expert_after_capacity &&
      (routing->token_priority || !prioritized))
    return MOECL_OK;
  return log_error(&layer->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY,
                   "no host memory for the routing of %zu tokens", tokens);
}

/* From a tensor of 4-byte elements of the latest forward's plan. */
static moecl_status read_tensor(const moecl_layer *layer, int tensor, uint64_t elements,
                                void *dst) {
  const int block = layer->ran.plan->tensor[tensor].block;
  return moecl_buffer_read_wait(layer->ran.space->blocks[block], 0, elements * sizeof(int32_t),
                                dst);
}

static moecl_status read_counts(const moecl_layer *layer, moecl_routing *routing,
                                int32_t *scratch) {
  const uint64_t experts = (uint64_t)routing->num_experts;
  MOECL_TRY(read_tensor(layer, layer->ran.at->tokens_per_expert, experts, scratch));
  for (uint64_t e = 0; e < experts; e++) routing->tokens_per_expert[e] = scratch[e];
  MOECL_TRY(read_tensor(layer, layer->ran.at->expert_offsets, experts + 1, scratch));
  for (uint64_t e = 0; e < experts; e++)
    routing->tokens_per_expert_after_capacity[e] = scratch[e + 1] - scratch[e];
  return MOECL_OK;
}

static moecl_status read_all(const moecl_layer *layer, moecl_routing *routing) {
  const uint64_t slots = (uint64_t)routing->num_tokens * (uint64_t)routing->top_k;
  const uint64_t experts = (uint64_t)routing->num_experts;
  MOECL_TRY(read_tensor(layer, layer->ran.at->logits, (uint64_t)routing->num_tokens * experts,
                        routing->router_logits));
  MOECL_TRY(read_tensor(layer, layer->ran.at->topk_ids, slots, routing->topk_ids));
  MOECL_TRY(read_tensor(layer, layer->ran.at->topk_weights, slots, routing->topk_weights));
  if (routing->token_priority)
    MOECL_TRY(read_tensor(layer, layer->ran.at->token_priority, (uint64_t)routing->num_tokens,
                          routing->token_priority));
  int32_t *scratch = malloc((slots > experts ? slots : experts + 1) * sizeof *scratch);
  if (!scratch) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = read_tensor(layer, layer->ran.at->assignment_slot, slots, scratch);
  for (uint64_t i = 0; status == MOECL_OK && i < slots; i++) routing->kept[i] = scratch[i] >= 0;
  if (status == MOECL_OK) status = read_counts(layer, routing, scratch);
  free(scratch);
  return status;
}

moecl_status moecl_layer_read_routing_wait(moecl_layer *layer, moecl_routing *routing) {
  if (!routing) return MOECL_ERROR_INVALID_ARGUMENT;
  *routing = (moecl_routing){0};
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!plan_space_holds(layer->ran.space, layer->ran.plan))
    return log_error(&layer->context->log, MOECL_ERROR_NOT_READY,
                     "there is no routing to read: no forward yet, or its workspace was destroyed "
                     "or given to another layer since");
  routing->num_tokens = layer->ran.plan->num_tokens;
  routing->num_experts = layer->params.num_experts;
  routing->num_identity_experts = layer->params.num_identity_experts;
  routing->top_k = layer->params.top_k;
  routing->capacity = moecl_expert_capacity(&layer->params, routing->num_tokens);
  moecl_status status = layer_allocate_routing(layer, routing);
  if (status == MOECL_OK && routing->num_tokens > 0) status = read_all(layer, routing);
  if (status != MOECL_OK) {
    moecl_routing_destroy(routing);
    *routing = (moecl_routing){0};
    return status;
  }
  moecl_routing_statistics_compute(routing, &routing->statistics);
  return MOECL_OK;
}
