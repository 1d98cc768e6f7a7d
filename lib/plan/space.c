// SPDX-License-Identifier: MIT
#include "plan/space.h"
#include "base/base.h"
#include <stdlib.h>

/* ---- plans ---- */

/* The place of the one that is asked for; else one that is empty, or was not used for longest. The
 * workspace's own plan says where in it the latest forward's results are, and keeps its place
 * however many others are planned since. */
static int place_of(const plan_space *space, int64_t num_tokens, int key) {
  int oldest = -1;
  for (int i = 0; i < PLAN_SPACE_PLANS; i++) {
    const plan *plan = space->plans[i];
    if (!plan || (plan->num_tokens == num_tokens && plan->key == key)) return i;
    if (plan == space->cut) continue;
    if (oldest < 0 || space->used[i] < space->used[oldest]) oldest = i;
  }
  return oldest;
}

/* Each time that some kernels do not serve, others are planned with. Without tokens none are
 * launched. */
moecl_status plan_make(const plan_builder *builder, moecl_context *context, int64_t num_tokens,
                       int key, plan *plan) {
  bool anew;
  do {
    anew = false;
    builder->build(builder->owner, num_tokens, key, plan);
    if (num_tokens > 0 && !plan->overflows) MOECL_TRY(plan_prepare(context, plan, &anew));
  } while (anew);
  return MOECL_OK;
}

moecl_status plan_space_plan(plan_space *space, moecl_context *context, const plan_builder *builder,
                             int64_t num_tokens, int key, plan **found) {
  const int place = place_of(space, num_tokens, key);
  plan *plan = space->plans[place];
  if (!plan) {
    plan = space->plans[place] = calloc(1, builder->size);
    if (!plan) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
    plan->num_tokens = -1;
  }
  if (plan->num_tokens != num_tokens || plan->key != key) {
    const moecl_status status = plan_make(builder, context, num_tokens, key, plan);
    if (status != MOECL_OK) {
      plan->num_tokens = -1; /* it is tried again */
      return status;
    }
  }
  space->used[place] = ++space->forwards;
  *found = plan;
  if (!plan->overflows) return MOECL_OK;
  plan->num_tokens = -1;
  return log_error(&context->log, MOECL_ERROR_UNSUPPORTED,
                   "the plan has more steps or tensors than moecl has room for");
}

/* ---- the workspace ---- */

/* Unless it already is so. */
static moecl_status cut(plan_space *space, moecl_buffer *buffer, const plan *plan) {
  if (space->views.parent == buffer && space->cut == plan) return MOECL_OK;
  plan_space_forget(space); /* those of the plan that it was cut for */
  space->cut = plan;
  space->views.view = space->blocks;
  space->views.count = (size_t)plan->num_blocks;
  return ocl_views_cut(buffer, plan->block_bytes, &space->views);
}

/* The space's own buffer, of so many bytes or more. Its beginning is written, because a
 * driver was measured to take 0.7 to 1.9 s to release a buffer that no command ever had but in
 * parts, and takes 1 to 10 ms so (16,384 tokens; docs/devices.md). */
static moecl_status provide_own(plan_space *space, moecl_context *context, uint64_t bytes) {
  if (space->own && moecl_buffer_size(space->own) >= bytes) return MOECL_OK;
  moecl_buffer_destroy(&space->own);
  MOECL_TRY(moecl_buffer_create(context, bytes, &space->own));
  return moecl_buffer_fill_byte(space->own, 0, bytes < 64 ? bytes : 64, 0);
}

/* Drivers find memory for a buffer when a command first has it, and many a page when it is first
 * written: that is now. */
static moecl_status reserve_own(plan_space *space, moecl_context *context, uint64_t bytes) {
  if (bytes == 0 || (space->own && moecl_buffer_size(space->own) >= bytes)) return MOECL_OK;
  MOECL_TRY(provide_own(space, context, bytes));
  MOECL_TRY(moecl_buffer_fill_byte(space->own, 0, bytes, 0));
  return moecl_context_finish_wait(context);
}

moecl_status plan_space_reserve(plan_space *space, moecl_context *context,
                                const plan_builder *builder, int64_t num_tokens, int key) {
  uint64_t bytes;
  plan *found;
  MOECL_TRY(plan_most_workspace(builder, context, num_tokens, key, &bytes));
  MOECL_TRY(reserve_own(space, context, bytes));
  return plan_space_plan(space, context, builder, num_tokens, key, &found);
}

moecl_status plan_space_provide(plan_space *space, moecl_context *context, const plan *plan,
                                moecl_buffer *workspace) {
  const uint64_t bytes = plan_workspace_bytes(plan);
  if (workspace && plan->lost && moecl_buffer_size(workspace) < bytes) workspace = NULL;
  if (workspace && moecl_buffer_size(workspace) < bytes)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "forward: the workspace holds %llu bytes, %llu are needed",
                     (unsigned long long)moecl_buffer_size(workspace), (unsigned long long)bytes);
  if (!workspace) {
    MOECL_TRY(provide_own(space, context, bytes));
    workspace = space->own;
  }
  return cut(space, workspace, plan);
}

void plan_space_forget(plan_space *space) { ocl_views_release(&space->views); }

void plan_space_release(plan_space *space) {
  plan_space_forget(space);
  moecl_buffer_destroy(&space->own);
  for (int i = 0; i < PLAN_SPACE_PLANS; i++) free(space->plans[i]);
}

/* ---- the buffers of a forward ---- */

moecl_status plan_check_buffer(moecl_context *context, const moecl_buffer *buffer, const char *name,
                               uint64_t bytes) {
  if (!buffer || moecl_buffer_size(buffer) < bytes)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT, "%s must hold %llu bytes", name,
                     (unsigned long long)bytes);
  return ocl_check_owner(context, buffer->context, name);
}

moecl_status plan_check_apart(moecl_context *context, const moecl_buffer *hidden_states,
                              const moecl_buffer *output, const moecl_buffer *workspace) {
  const struct {
    const moecl_buffer *a, *b;
    const char *names;
  } pairs[] = {{output, hidden_states, "output and hidden_states"},
               {workspace, hidden_states, "workspace and hidden_states"},
               {workspace, output, "workspace and output"}};
  for (size_t i = 0; i < BASE_COUNT(pairs); i++)
    if (ocl_buffers_overlap(pairs[i].a, pairs[i].b))
      return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                       "forward: %s overlap, expected buffers that share no memory",
                       pairs[i].names);
  return MOECL_OK;
}
