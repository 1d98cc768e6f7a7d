#include "base/base.h"
#include "moecl/reference.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* First choices before second choices, then token order. `room` is how many
 * assignments each expert still takes. */
static void keep_by_position(const moecl_layer_params *params, int64_t num_tokens,
                             const int32_t *topk_ids, int64_t *room, uint8_t *kept) {
  for (int64_t k = 0; k < params->top_k; k++) {
    for (int64_t t = 0; t < num_tokens; t++) {
      int64_t at = t * params->top_k + k;
      if (topk_ids[at] < 0 || room[topk_ids[at]] == 0) continue;
      room[topk_ids[at]]--;
      kept[at] = 1;
    }
  }
}

typedef struct assignment {
  int64_t at; /* index into [T,K]; grows with the token */
  float weight;
} assignment;

/* Largest weight first, then token order: a total order, so that the result
 * doesn't depend on how qsort treats equals. */
static int compare_assignments(const void *left, const void *right) {
  const assignment *a = left, *b = right;
  if (a->weight != b->weight) return a->weight > b->weight ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

static moecl_status keep_by_probability(int64_t count, const int32_t *topk_ids,
                                        const float *topk_weights, int64_t *room, uint8_t *kept) {
  uint64_t bytes;
  if (!base_mul((uint64_t)count, sizeof(assignment), &bytes) || bytes > SIZE_MAX)
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  assignment *sorted = malloc((size_t)bytes);
  if (!sorted) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  /* One order over all assignments serves every expert: each takes its own
   * from it, in order, until it is full. */
  for (int64_t i = 0; i < count; i++)
    sorted[i] = (assignment){i, topk_weights[i]};
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

static bool are_valid(const moecl_layer_params *params, const int32_t *ids, const float *weights,
                      int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < -1 || ids[i] >= params->num_experts || isnan(weights[i])) return false;
  return true;
}

moecl_status moecl_reference_capacity(const moecl_layer_params *params, int64_t num_tokens,
                                      const int32_t *topk_ids, const float *topk_weights,
                                      uint8_t *kept) {
  uint64_t product;
  if (num_tokens < 0 || params->top_k < 1 || params->num_experts < 1 ||
      params->num_experts > MOECL_MAX_EXPERTS ||
      !base_mul((uint64_t)num_tokens, (uint64_t)params->top_k, &product) || product > INT64_MAX)
    return MOECL_ERROR_INVALID_ARGUMENT;
  const int64_t count = (int64_t)product;
  if (!are_valid(params, topk_ids, topk_weights, count)) return MOECL_ERROR_INVALID_ARGUMENT;
  if (count == 0) return MOECL_OK;
  const int64_t capacity = moecl_expert_capacity(params, num_tokens);
  int64_t room[MOECL_MAX_EXPERTS];
  for (int64_t e = 0; e < params->num_experts; e++)
    room[e] = capacity < 0 ? count : capacity;
  memset(kept, 0, (size_t)count);
  if (params->drop_policy == MOECL_DROP_PROBABILITY)
    return keep_by_probability(count, topk_ids, topk_weights, room, kept);
  keep_by_position(params, num_tokens, topk_ids, room, kept);
  return MOECL_OK;
}
