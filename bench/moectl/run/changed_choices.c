// SPDX-License-Identifier: MIT
#include "run/changed_choices.h"
#include "run/router_alone.h"
#include <math.h>

/* A block's router reads what stands between its halves, which nobody has outside. */
static bool has_jitter(const experiment_point *point) {
  return point->what == WHAT_LAYER && point->layer.jitter > 0;
}

/* The same router without jitter. */
static experiment_point without_jitter(const experiment_point *point) {
  experiment_point plain = router_alone(point);
  plain.layer.jitter = 0;
  return plain;
}

/* Is the expert among a token's choices? */
static bool has_expert(const int32_t *ids, int64_t top_k, int32_t expert) {
  for (int64_t k = 0; k < top_k; k++)
    if (ids[k] == expert) return true;
  return false;
}

static double share_of_others(const moecl_routing *with, const moecl_routing *without) {
  const int64_t choices = with->num_tokens * with->top_k;
  int64_t others = 0;
  for (int64_t i = 0; i < choices; i++)
    others += !has_expert(without->topk_ids + i / with->top_k * with->top_k, with->top_k,
                          with->topk_ids[i]);
  return choices > 0 ? (double)others / (double)choices : 0;
}

moecl_status changed_choices(moecl_context *context, const experiment_point *point,
                             const moecl_buffer *hidden_states, const moecl_routing *routing,
                             double *share) {
  *share = NAN;
  if (!has_jitter(point)) return MOECL_OK;
  const experiment_point plain = without_jitter(point);
  moecl_routing without = {0};
  const moecl_status status = router_choices(context, &plain, hidden_states, &without);
  if (status == MOECL_OK) *share = share_of_others(routing, &without);
  moecl_routing_destroy(&without);
  return status;
}

moecl_status changed_choices_memory(moecl_context *context, const experiment_point *point,
                                    uint64_t *bytes) {
  *bytes = 0;
  if (!has_jitter(point)) return MOECL_OK;
  const experiment_point plain = without_jitter(point);
  moecl_memory memory;
  const moecl_status status = moecl_layer_memory(context, &plain.layer, point->num_tokens, &memory);
  if (status == MOECL_OK)
    *bytes = memory.weight_bytes + memory.workspace_bytes + memory.hidden_bytes;
  return status;
}
