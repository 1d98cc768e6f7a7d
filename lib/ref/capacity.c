// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "ref/ref.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* First choices before second choices, then token order. `room` is how many
 * assignments each expert still takes. */
static void keep_by_position(const desc_dispatch *dispatch, int64_t num_tokens,
                             const int32_t *topk_ids, int64_t *room, uint8_t *kept) {
  for (int64_t k = 0; k < dispatch->top_k; k++) {
    for (int64_t t = 0; t < num_tokens; t++) {
      int64_t at = t * dispatch->top_k + k;
      if (topk_ids[at] < 0 || room[topk_ids[at]] == 0) continue;
      room[topk_ids[at]]--;
      kept[at] = 1;
    }
  }
}

typedef struct assignment {
  int64_t at;    /* index into [T,K]; grows with the token */
  int64_t class; /* all of a lower one come first */
  float key;
} assignment;

/* Largest key first, then token order: a total order, so that the result doesn't
 * depend on how qsort treats equals. */
static int compare_assignments(const void *left, const void *right) {
  const assignment *a = left, *b = right;
  if (a->class != b->class) return a->class < b->class ? -1 : 1;
  if (a->key != b->key) return a->key > b->key ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

/* By route weight, or choice by choice by the token's priority. */
static moecl_status keep_sorted(const desc_dispatch *dispatch, int64_t count,
                                const int32_t *topk_ids, const float *topk_weights,
                                const float *token_priority, int64_t *room, uint8_t *kept) {
  const bool prioritized = dispatch->drop_policy == MOECL_DROP_PRIORITIZED;
  uint64_t bytes;
  if (!base_mul((uint64_t)count, sizeof(assignment), &bytes) || bytes > SIZE_MAX)
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  assignment *sorted = malloc((size_t)bytes);
  if (!sorted) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  /* One order over all assignments serves every expert: each takes its own
   * from it, in order, until it is full. */
  for (int64_t i = 0; i < count; i++)
    sorted[i] = prioritized
                    ? (assignment){i, i % dispatch->top_k, token_priority[i / dispatch->top_k]}
                    : (assignment){i, 0, topk_weights[i]};
  qsort(sorted, (size_t)count, sizeof *sorted, compare_assignments);
  for (int64_t i = 0; i < count; i++) {
    int32_t id = topk_ids[sorted[i].at];
    if (id < 0 || room[id] == 0) continue;
    room[id]--;
    kept[sorted[i].at] = 1;
  }
  free(sorted);
  return MOECL_OK;
}

/* `limited`: there is a capacity, which priorities may be needed for. */
static bool are_valid(const desc_dispatch *dispatch, bool limited, const int32_t *ids,
                      const float *weights, const float *priority, int64_t count) {
  const bool prioritized = limited && dispatch->drop_policy == MOECL_DROP_PRIORITIZED;
  if (prioritized && count > 0 && priority == NULL) return false;
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < -1 || ids[i] >= dispatch->num_experts || isnan(weights[i]) ||
        (prioritized && isnan(priority[i / dispatch->top_k])))
      return false;
  return true;
}

double moecl_reference_priority(const double *logits, int64_t num_experts) {
  double most = -INFINITY, sum = 0;
  if (!logits) return 0;
  for (int64_t e = 0; e < num_experts; e++) {
    if (!isfinite((float)logits[e])) return 0;
    most = fmax(most, logits[e]);
  }
  for (int64_t e = 0; e < num_experts; e++) sum += exp(logits[e] - most);
  return 1 / sum;
}

static bool is_identity(const desc_dispatch *dispatch, int64_t expert) {
  return expert >= dispatch->num_experts - dispatch->num_identity_experts;
}

moecl_status ref_capacity(const desc_dispatch *dispatch, int64_t num_tokens,
                          const int32_t *topk_ids, const float *topk_weights,
                          const float *token_priority, uint8_t *kept) {
  uint64_t product;
  if (num_tokens < 0 || dispatch->top_k < 1 || dispatch->num_experts < 1 ||
      dispatch->num_experts > MOECL_MAX_EXPERTS ||
      !base_mul((uint64_t)num_tokens, (uint64_t)dispatch->top_k, &product) || product > INT64_MAX)
    return MOECL_ERROR_INVALID_ARGUMENT;
  const int64_t count = (int64_t)product;
  const int64_t capacity = desc_expert_capacity(dispatch, num_tokens);
  const bool limited = capacity >= 0;
  if (!are_valid(dispatch, limited, topk_ids, topk_weights, token_priority, count))
    return MOECL_ERROR_INVALID_ARGUMENT;
  if (count == 0) return MOECL_OK;
  int64_t room[MOECL_MAX_EXPERTS];
  for (int64_t e = 0; e < dispatch->num_experts; e++)
    room[e] = limited && !is_identity(dispatch, e) ? capacity : count;
  memset(kept, 0, (size_t)count);
  if (limited && dispatch->drop_policy != MOECL_DROP_POSITION)
    return keep_sorted(dispatch, count, topk_ids, topk_weights, token_priority, room, kept);
  keep_by_position(dispatch, num_tokens, topk_ids, room, kept);
  return MOECL_OK;
}

void ref_kept_weights(const desc_dispatch *dispatch, const float *topk_weights, const uint8_t *kept,
                      double *weights) {
  const double scale = dispatch->routed_scaling_factor;
  double sum = 0;
  for (int64_t k = 0; k < dispatch->top_k; k++) {
    weights[k] = kept[k] ? (double)topk_weights[k] : 0;
    sum += weights[k];
  }
  if (!dispatch->renormalize_after_capacity) return;
  sum = fmax(sum, 0x1p-23 * scale);
  for (int64_t k = 0; k < dispatch->top_k; k++) weights[k] *= scale / sum;
}

/* ---- the same of a layer's parameters ---- */

bool moecl_reference_is_identity(const moecl_layer_params *params, int64_t expert) {
  if (!params) return false;
  const desc_dispatch dispatch = desc_dispatch_of(params);
  return is_identity(&dispatch, expert);
}

moecl_status moecl_reference_capacity(const moecl_layer_params *params, int64_t num_tokens,
                                      const int32_t *topk_ids, const float *topk_weights,
                                      const float *token_priority, uint8_t *kept) {
  if (!params || (num_tokens > 0 && (!topk_ids || !topk_weights || !kept)))
    return MOECL_ERROR_INVALID_ARGUMENT;
  const desc_dispatch dispatch = desc_dispatch_of(params);
  return ref_capacity(&dispatch, num_tokens, topk_ids, topk_weights, token_priority, kept);
}

void moecl_reference_kept_weights(const moecl_layer_params *params, const float *topk_weights,
                                  const uint8_t *kept, double *weights) {
  if (!params || !topk_weights || !kept || !weights) return;
  const desc_dispatch dispatch = desc_dispatch_of(params);
  ref_kept_weights(&dispatch, topk_weights, kept, weights);
}
