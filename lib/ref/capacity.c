/* The capacity's oracle: each expert's list, sorted by the drop policy, cut. */
#include "moecl/reference.h"
#include <stdlib.h>

typedef struct assignment {
  float weight;
  int64_t token, choice;
} assignment;

static int by_position(const void *a, const void *b) {
  const assignment *x = a, *y = b;
  if (x->choice != y->choice) return x->choice < y->choice ? -1 : 1;
  return (x->token > y->token) - (x->token < y->token);
}

static int by_probability(const void *a, const void *b) {
  const assignment *x = a, *y = b;
  if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
  return (x->token > y->token) - (x->token < y->token);
}

moecl_status moecl_reference_capacity(const moecl_layer_params *params, int64_t num_tokens,
                                      const int32_t *topk_ids, const float *topk_weights,
                                      uint8_t *kept) {
  const int64_t capacity = moecl_expert_capacity(params, num_tokens), top_k = params->top_k;
  assignment *list = malloc(((size_t)num_tokens + 1) * sizeof *list);
  if (!list) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; i < num_tokens * top_k; i++) kept[i] = topk_ids[i] >= 0;
  for (int64_t e = 0; capacity >= 0 && e < params->num_experts; e++) {
    int64_t count = 0;
    for (int64_t i = 0; i < num_tokens * top_k; i++)
      if (topk_ids[i] == e)
        list[count++] = (assignment){topk_weights[i], i / top_k, i % top_k};
    if (count <= capacity) continue;
    qsort(list, (size_t)count, sizeof *list,
          params->drop_policy == MOECL_DROP_POSITION ? by_position : by_probability);
    for (int64_t i = capacity; i < count; i++) kept[list[i].token * top_k + list[i].choice] = 0;
  }
  free(list);
  return MOECL_OK;
}
