// SPDX-License-Identifier: MIT
/* Reading the latest forward's routing back: the whole batch's. */
#include "base/base.h"
#include "group/group.h"
#include <stdlib.h>
#include <string.h>

/* Of a member's own tokens, where its plan left it. */
static moecl_status read_home(const moecl_group_layer *layer, int m, moecl_routing *routing) {
  const group_member *member = &layer->member[m];
  const size_t experts = (size_t)routing->num_experts, first = (size_t)layer->first[m];
  const uint64_t bytes = (uint64_t)layer->tokens[m] * experts * sizeof(float);
  if (layer->tokens[m] == 0) return MOECL_OK;
  return moecl_buffer_read_wait(
      group_block_of(&member->space[GROUP_HOME], &member->home.plan, member->home.at.logits), 0,
      bytes, routing->router_logits + first * experts);
}

/* Any member has the batch's lists. */
static moecl_status read_list(const moecl_group_layer *layer, int tensor, size_t count,
                              int32_t *words) {
  const group_member *member = &layer->member[layer->group->begin];
  return moecl_buffer_read_wait(
      group_block_of(&member->space[GROUP_LISTS], &member->lists.plan, tensor), 0,
      count * sizeof *words, words);
}

static moecl_status read_lists(const moecl_group_layer *layer, moecl_routing *routing,
                               int32_t *words) {
  const layer_tensors *at = &layer->member[layer->group->begin].lists.at;
  const size_t slots = (size_t)(routing->num_tokens * routing->top_k);
  const size_t experts = (size_t)routing->num_experts;
  MOECL_TRY(read_list(layer, at->assignment_slot, slots, words));
  for (size_t i = 0; i < slots; i++) routing->kept[i] = words[i] >= 0;
  MOECL_TRY(read_list(layer, at->tokens_per_expert, experts, words));
  for (size_t e = 0; e < experts; e++) routing->tokens_per_expert[e] = words[e];
  MOECL_TRY(read_list(layer, at->expert_offsets, experts + 1, words));
  for (size_t e = 0; e < experts; e++)
    routing->tokens_per_expert_after_capacity[e] = words[e + 1] - words[e];
  return MOECL_OK;
}

static moecl_status begin(const moecl_group_layer *layer, moecl_routing *routing) {
  if (!routing) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!layer->ran)
    return log_error(group_log(layer->group), MOECL_ERROR_NOT_READY,
                     "there is no routing to read: no forward yet, or the latest one failed");
  routing->num_tokens = layer->first[layer->group->count];
  routing->num_experts = layer->params.num_experts;
  routing->num_identity_experts = layer->params.num_identity_experts;
  routing->top_k = layer->params.top_k;
  routing->capacity = moecl_expert_capacity(&layer->params, routing->num_tokens);
  return MOECL_OK;
}

/* All but the logits of other ranks' tokens. */
static moecl_status read_own(const moecl_group_layer *layer, moecl_routing *routing) {
  MOECL_TRY(begin(layer, routing));
  const size_t tokens = (size_t)routing->num_tokens, experts = (size_t)routing->num_experts;
  const size_t slots = tokens * (size_t)routing->top_k;
  MOECL_TRY(layer_allocate_routing(layer->member[layer->group->begin].share, routing));
  if (tokens == 0) return MOECL_OK;
  const group_member *member = &layer->member[layer->group->begin]; /* any has all choices */
  MOECL_TRY(moecl_buffer_read_wait(member->topk_ids, 0, slots * sizeof *routing->topk_ids,
                                   routing->topk_ids));
  MOECL_TRY(moecl_buffer_read_wait(member->topk_weights, 0, slots * sizeof *routing->topk_weights,
                                   routing->topk_weights));
  if (routing->token_priority)
    MOECL_TRY(moecl_buffer_read_wait(member->token_priority, 0, tokens * sizeof(float),
                                     routing->token_priority));
  for (int m = layer->group->begin; m < layer->group->end; m++)
    MOECL_TRY(read_home(layer, m, routing));
  int32_t *words = malloc((slots > experts ? slots : experts + 1) * sizeof *words);
  if (!words)
    return log_error(group_log(layer->group), MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const moecl_status status = read_lists(layer, routing, words);
  free(words);
  return status;
}

static moecl_status gather_logits(const moecl_group_layer *layer, moecl_routing *routing) {
  const moecl_group *group = layer->group;
  int64_t first[MOECL_MAX_GROUP_MEMBERS + 1] = {0};
  for (int m = 0; m < group->count; m++) first[group->device[m].rank + 1] = layer->first[m + 1];
  return ranks_gather(group->ranks, routing->router_logits, first,
                      (size_t)routing->num_experts * sizeof(float));
}

moecl_status moecl_group_layer_read_routing_wait(moecl_group_layer *layer, moecl_routing *routing) {
  if (routing) *routing = (moecl_routing){0};
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_status status =
      ranks_agree(layer->group->ranks, read_own(layer, routing), "group_read_routing");
  if (status == MOECL_OK && routing->num_tokens > 0)
    status = ranks_agree(layer->group->ranks, gather_logits(layer, routing), "group_read_routing");
  if (status != MOECL_OK) {
    if (routing) {
      moecl_routing_destroy(routing);
      *routing = (moecl_routing){0};
    }
    return status;
  }
  moecl_routing_statistics_compute(routing, &routing->statistics);
  return MOECL_OK;
}
