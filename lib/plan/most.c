// SPDX-License-Identifier: MIT
/* What plans for any number of tokens up to one take, without building each of them. */
#include "plan/space.h"
#include <stdlib.h>
#include <string.h>

/* What plans have in common whose memory grows with the tokens: steps, and who shares a block. With
 * their kernels, so that none is passed over. */
typedef struct plan_shape {
  const char *step[PLAN_MOST_STEPS];
  int kernel[PLAN_MOST_STEPS], block[PLAN_MOST_TENSORS];
} plan_shape;

typedef struct plan_search {
  const plan_builder *builder;
  moecl_context *context;
  int key;
  plan *plan;    /* room for one of the builder's */
  uint64_t most; /* bytes of a workspace */
  moecl_status status;
} plan_search;

/* Of one number of tokens. */
static void look_at(plan_search *search, int64_t num_tokens, plan_shape *shape) {
  plan *p = search->plan;
  memset(shape, 0, sizeof *shape);
  if (search->status == MOECL_OK)
    search->status = plan_make(search->builder, search->context, num_tokens, search->key, p);
  if (search->status != MOECL_OK) return;
  const uint64_t bytes = plan_workspace_bytes(p);
  if (bytes > search->most) search->most = bytes;
  for (int i = 0; i < p->num_steps; i++) {
    shape->step[i] = p->step[i].name;
    shape->kernel[i] = p->step[i].kernel;
  }
  for (int i = 0; i < p->num_tensors; i++) shape->block[i] = p->tensor[i].block;
}

/* Between two that were looked at: halved as long as the ends' plans differ, so that the last
 * number of tokens of each shape is looked at. */
static void look_between(plan_search *search, int64_t low, const plan_shape *low_shape,
                         int64_t high, const plan_shape *high_shape) {
  plan_shape shape;
  const int64_t middle = low + (high - low) / 2;
  if (middle == low || memcmp(low_shape, high_shape, sizeof shape) == 0) return;
  look_at(search, middle, &shape);
  look_between(search, low, low_shape, middle, &shape);
  look_between(search, middle, &shape, high, high_shape);
}

/* Fewer tokens may be served in another way, which takes more. */
static void look_at_all(plan_search *search, int64_t num_tokens) {
  plan_shape shapes[2];
  int64_t high = num_tokens;
  if (high > 0) look_at(search, high, &shapes[0]);
  for (int at = 0; high > 1; high /= 2, at = !at) {
    look_at(search, high / 2, &shapes[!at]);
    look_between(search, high / 2, &shapes[!at], high, &shapes[at]);
  }
}

/* Programs that all of these plans together want are noted first, and built several at a time. */
static void look_ahead(const plan_search *search, int64_t num_tokens) {
  plan_search noting = *search;
  if (!ocl_ahead_begin(search->context)) return;
  look_at_all(&noting, num_tokens);
  ocl_ahead_end(search->context);
}

moecl_status plan_most_workspace(const plan_builder *builder, moecl_context *context,
                                 int64_t num_tokens, int key, uint64_t *bytes) {
  plan_search search = {.builder = builder, .context = context, .key = key};
  *bytes = 0;
  search.plan = malloc(builder->size);
  if (!search.plan)
    return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  look_ahead(&search, num_tokens);
  look_at_all(&search, num_tokens);
  free(search.plan);
  *bytes = search.most;
  return search.status;
}
