// SPDX-License-Identifier: MIT
/* What an object keeps of its forwards: its latest plans, and the workspace that the latest
 * one ran in. All zeros is empty. */
#ifndef MOECL_LIB_PLAN_SPACE_H
#define MOECL_LIB_PLAN_SPACE_H

#include "plan/plan.h"

enum { PLAN_SPACE_PLANS = 8 };

typedef struct plan_space {
  plan *plans[PLAN_SPACE_PLANS];             /* each the beginning of its owner's struct */
  uint64_t used[PLAN_SPACE_PLANS], forwards; /* when each was last */
  moecl_buffer *own;                         /* the owner's workspace, grown when needed */
  /* The latest forward's: views.parent was cut for `cut`, one of `plans`, which keeps its place. */
  ocl_views views;
  moecl_buffer *blocks[PLAN_MOST_TENSORS];
  const plan *cut;
} plan_space;

/* How an owner's plans are made. */
typedef struct plan_builder {
  size_t size; /* of the struct that begins with a plan */
  /* From plan_begin to plan_arrange. */
  void (*build)(const void *owner, int64_t num_tokens, int key, plan *plan);
  const void *owner;
} plan_builder;

/* Builds the owner's plan into `plan`, of kernels that serve; has them there, which may wait for a
 * compiler. Errors: lack of memory. */
moecl_status plan_make(const plan_builder *builder, moecl_context *context, int64_t num_tokens,
                       int key, plan *plan);

/* most.c: the most bytes of a workspace that a plan for so many tokens or fewer takes, whose
 * kernels are all there then. Errors: lack of memory. */
moecl_status plan_most_workspace(const plan_builder *builder, moecl_context *context,
                                 int64_t num_tokens, int key, uint64_t *bytes);

/* The plan for so many tokens and a key, which is the owner's, built once while it is among
 * the latest ones, and its kernels, which may wait for a compiler. Errors: MOECL_ERROR_UNSUPPORTED
 * (it has more steps or tensors than there is room for), MOECL_ERROR_OUT_OF_HOST_MEMORY. */
moecl_status plan_space_plan(plan_space *space, moecl_context *context, const plan_builder *builder,
                             int64_t num_tokens, int key, plan **found);

/* Cuts `workspace` into the plan's blocks, or where it is NULL the owner's own; also where it is
 * too small for what serves in the place of kernels that do not. Errors:
 * MOECL_ERROR_INVALID_ARGUMENT (it is too small). */
moecl_status plan_space_provide(plan_space *space, moecl_context *context, const plan *plan,
                                moecl_buffer *workspace);

/* Has all there for forwards of so many tokens or fewer: the kernels of their plans, and the
 * owner's own workspace, in memory that the device has found. Waits, where something was not there;
 * what the latest forward left is gone if it is in a workspace that has to grow, else still there.
 */
moecl_status plan_space_reserve(plan_space *space, moecl_context *context,
                                const plan_builder *builder, int64_t num_tokens, int key);

/* The workspace's contents are no forward's any more. */
void plan_space_forget(plan_space *space);
void plan_space_release(plan_space *space);

/* What forwards check of their buffers, logged: `buffer` holds so many bytes and is the
 * context's; what is written (output, workspace) is apart from all else. */
moecl_status plan_check_buffer(moecl_context *context, const moecl_buffer *buffer, const char *name,
                               uint64_t bytes);
moecl_status plan_check_apart(moecl_context *context, const moecl_buffer *hidden_states,
                              const moecl_buffer *output, const moecl_buffer *workspace);

/* Does the latest forward's workspace still hold what a forward of the plan left? */
static inline bool plan_space_holds(const plan_space *space, const plan *plan) {
  return space && plan && space->views.parent && space->cut == plan;
}

#endif
