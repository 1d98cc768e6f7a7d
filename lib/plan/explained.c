// SPDX-License-Identifier: MIT
/* Plans for people and programs: include/moecl/plan.h. */
#include "plan/explained.h"
#include "base/base.h"
#include <stdlib.h>

enum { MOST_WEIGHTS = 24 };

struct moecl_plan {
  void *owner; /* described; what the steps' operations are of */
  void (*destroy)(void *owner);
  moecl_memory memory;
  plan plan;
  char detail[PLAN_MOST_STEPS][96]; /* of each step; may be empty */
  moecl_plan_tensor weight[MOST_WEIGHTS];
  size_t num_weights;
};

moecl_status plan_explain(moecl_context *context, const plan *plan, const moecl_memory *memory,
                          void *owner, void (*destroy)(void *owner), moecl_plan **out) {
  moecl_plan *made = calloc(1, sizeof *made);
  if (!made) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  made->owner = owner;
  made->destroy = destroy;
  made->memory = *memory;
  made->plan = *plan;
  for (int i = 0; i < plan->num_steps; i++) {
    const plan_step *step = &plan->step[i];
    if (step->explain)
      step->explain(step->user, step->number, made->detail[i], sizeof made->detail[i]);
  }
  *out = made;
  return MOECL_OK;
}

void plan_explain_weight(moecl_plan *made, moecl_plan_tensor weight) {
  if (made->num_weights < MOST_WEIGHTS) made->weight[made->num_weights++] = weight;
}

void moecl_plan_destroy(moecl_plan **handle) {
  if (!handle || !*handle) return;
  (*handle)->destroy((*handle)->owner);
  free(*handle);
  *handle = NULL;
}

size_t moecl_plan_choices(const moecl_plan *made, moecl_plan_choice *choices, size_t capacity) {
  const size_t count = made ? (size_t)made->plan.num_choices : 0;
  for (size_t i = 0; choices && i < count && i < capacity; i++) choices[i] = made->plan.choice[i];
  return count;
}

size_t moecl_plan_steps(const moecl_plan *made, moecl_plan_step *steps, size_t capacity) {
  const size_t count = made ? (size_t)made->plan.num_steps : 0;
  for (size_t i = 0; steps && i < count && i < capacity; i++) {
    const plan_step *step = &made->plan.step[i];
    steps[i] = (moecl_plan_step){.name = step->name,
                                 .operation = step->operation,
                                 .variant = step->variant,
                                 .detail = made->detail[i],
                                 .stage = step->label,
                                 .launches = step->launches,
                                 .tile_rows = step->tile_rows};
  }
  return count;
}

size_t moecl_plan_tensors(const moecl_plan *made, moecl_plan_tensor *tensors, size_t capacity) {
  if (!made) return 0;
  size_t count = made->num_weights;
  for (size_t i = 0; tensors && i < count && i < capacity; i++) tensors[i] = made->weight[i];
  for (int i = 0; i < made->plan.num_tensors; i++) {
    const plan_tensor *tensor = &made->plan.tensor[i];
    if (tensor->first == PLAN_NONE) continue;
    if (tensors && count < capacity)
      tensors[count] = (moecl_plan_tensor){.name = tensor->name,
                                           .format = tensor->format->name,
                                           .rows = tensor->rows,
                                           .columns = tensor->columns,
                                           .bytes = tensor->bytes,
                                           .life = tensor->life,
                                           .first_step = tensor->first,
                                           .last_step = tensor->last,
                                           .block = tensor->block};
    count++;
  }
  return count;
}

moecl_memory moecl_plan_memory(const moecl_plan *made) {
  return made ? made->memory : (moecl_memory){0};
}

uint64_t moecl_plan_unshared_workspace_bytes(const moecl_plan *made) {
  return made ? plan_unshared_bytes(&made->plan) : 0;
}

const char *moecl_life_name(moecl_life life) {
  static const char *const names[] = {"weight", "input", "output", "temporary", "saved"};
  return (unsigned)life < MOECL_LIFE_COUNT ? names[life] : "?";
}
