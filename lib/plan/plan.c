// SPDX-License-Identifier: MIT
#include "plan/plan.h"
#include "base/base.h"

void plan_begin(plan *plan, int64_t num_tokens, int key, uint64_t align) {
  plan->num_tokens = num_tokens;
  plan->key = key;
  plan->align = align;
  plan->num_tensors = plan->num_steps = plan->num_choices = plan->num_blocks = 0;
  plan->overflows = plan->lost = false;
}

int plan_add_bytes(plan *plan, moecl_life life, const char *name, const desc_format *format,
                   uint64_t rows, uint64_t columns, uint64_t bytes) {
  if (plan->num_tensors == PLAN_MOST_TENSORS) {
    plan->overflows = true;
    return PLAN_NONE;
  }
  plan->tensor[plan->num_tensors] = (plan_tensor){.name = name,
                                                  .rows = rows,
                                                  .columns = columns,
                                                  .format = format,
                                                  .life = life,
                                                  .bytes = bytes,
                                                  .first = PLAN_NONE,
                                                  .last = PLAN_NONE,
                                                  .block = PLAN_NONE};
  return plan->num_tensors++;
}

int plan_add(plan *plan, moecl_life life, const char *name, const desc_format *format,
             uint64_t rows, uint64_t columns) {
  return plan_add_bytes(plan, life, name, format, rows, columns,
                        desc_format_bytes(format, rows, columns));
}

void plan_add_step(plan *plan, const plan_step *step, const int *tensors, size_t count) {
  if (plan->num_steps == PLAN_MOST_STEPS || count > PLAN_STEP_TENSORS) {
    plan->overflows = true;
    return;
  }
  const int index = plan->num_steps++;
  plan_step *added = &plan->step[index];
  *added = *step;
  added->num_tensors = (int)count;
  for (size_t i = 0; i < count; i++) {
    added->tensor[i] = tensors[i];
    if (tensors[i] == PLAN_NONE) continue;
    plan_tensor *tensor = &plan->tensor[tensors[i]];
    if (tensor->first == PLAN_NONE) tensor->first = index;
    tensor->last = index;
  }
}

void plan_repeat(plan *plan, int first, int end) {
  for (int i = 0; i < plan->num_tensors; i++) {
    plan_tensor *tensor = &plan->tensor[i];
    if (tensor->first == PLAN_NONE || tensor->last < first || tensor->first >= end) continue;
    if (tensor->first > first) tensor->first = first;
    if (tensor->last < end - 1) tensor->last = end - 1;
  }
}

void plan_add_choice(plan *plan, const char *part, const char *name, const char *why) {
  if (plan->num_choices < PLAN_MOST_CHOICES)
    plan->choice[plan->num_choices++] = (moecl_plan_choice){.part = part, .name = name, .why = why};
}

/* ---- the workspace ---- */

static bool is_in_workspace(const plan_tensor *tensor) {
  return tensor->life >= MOECL_LIFE_TEMPORARY && tensor->first != PLAN_NONE && tensor->bytes > 0;
}

static bool live_at_once(const plan_tensor *a, const plan_tensor *b) {
  return (b->life == MOECL_LIFE_SAVED || a->first <= b->last) &&
         (a->life == MOECL_LIFE_SAVED || b->first <= a->last);
}

static bool block_is_free(const plan *plan, int block, const plan_tensor *tensor) {
  for (int i = 0; i < plan->num_tensors; i++)
    if (plan->tensor[i].block == block && live_at_once(&plan->tensor[i], tensor)) return false;
  return true;
}

/* The largest tensor that has no block yet, the first of equal ones. */
static plan_tensor *largest_left(plan *plan) {
  plan_tensor *largest = NULL;
  for (int i = 0; i < plan->num_tensors; i++) {
    plan_tensor *tensor = &plan->tensor[i];
    if (is_in_workspace(tensor) && tensor->block == PLAN_NONE &&
        (!largest || tensor->bytes > largest->bytes))
      largest = tensor;
  }
  return largest;
}

/* Greedy by size (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural
 * Net Inference"): each tensor, the largest first, goes where the least is wasted, or
 * makes a block of its own. */
void plan_arrange(plan *plan) {
  plan_tensor *tensor;
  while ((tensor = largest_left(plan))) {
    int best = PLAN_NONE;
    for (int block = 0; block < plan->num_blocks; block++)
      if (block_is_free(plan, block, tensor) &&
          (best == PLAN_NONE || plan->block_bytes[block] < plan->block_bytes[best]))
        best = block;
    if (best == PLAN_NONE) plan->block_bytes[best = plan->num_blocks++] = tensor->bytes;
    tensor->block = best;
  }
}

uint64_t plan_workspace_bytes(const plan *plan) {
  uint64_t bytes = 0;
  for (int i = 0; i < plan->num_blocks; i++)
    bytes += base_round_up(plan->block_bytes[i], plan->align);
  return bytes;
}

uint64_t plan_unshared_bytes(const plan *plan) {
  uint64_t bytes = 0;
  for (int i = 0; i < plan->num_tensors; i++)
    if (is_in_workspace(&plan->tensor[i]))
      bytes += base_round_up(plan->tensor[i].bytes, plan->align);
  return bytes;
}

uint32_t plan_launches(const plan *plan) {
  uint32_t launches = 0;
  for (int i = 0; i < plan->num_steps; i++) launches += plan->step[i].launches;
  return launches;
}

/* ---- running ---- */

static moecl_status prepare_steps(const plan *plan, bool *anew) {
  *anew = false;
  for (int i = 0; i < plan->num_steps; i++) {
    const plan_step *step = &plan->step[i];
    if (step->prepare) MOECL_TRY(step->prepare(step->user, step->number, anew));
  }
  return MOECL_OK;
}

moecl_status plan_prepare(moecl_context *context, const plan *plan, bool *anew) {
  if (ocl_ahead_begin(context)) {
    (void)prepare_steps(plan, anew); /* what goes wrong shows below */
    ocl_ahead_end(context);
  }
  return prepare_steps(plan, anew);
}

moecl_status plan_run(const plan *plan, ocl_chain *chain, moecl_buffer *const *blocks,
                      const moecl_buffer *const *bound, const plan_numbers *with) {
  return plan_run_steps(plan, 0, plan->num_steps, chain, blocks, bound, with);
}

moecl_status plan_run_steps(const plan *plan, int first, int end, ocl_chain *chain,
                            moecl_buffer *const *blocks, const moecl_buffer *const *bound,
                            const plan_numbers *with) {
  plan_call call = {.num_tokens = plan->num_tokens, .with = *with};
  for (int i = first; i < end; i++) {
    const plan_step *step = &plan->step[i];
    for (int t = 0; t < step->num_tensors; t++) {
      const int tensor = step->tensor[t];
      const int block = tensor == PLAN_NONE ? PLAN_NONE : plan->tensor[tensor].block;
      call.buffer[t] = block != PLAN_NONE    ? blocks[block]
                       : tensor != PLAN_NONE ? bound[tensor]
                                             : NULL;
    }
    call.number = step->number;
    chain->label = step->label;
    chain->step = step->name;
    chain->last = i == plan->num_steps - 1;
    MOECL_TRY(step->enqueue(step->user, chain, &call));
  }
  return MOECL_OK;
}
