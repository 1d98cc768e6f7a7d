// SPDX-License-Identifier: MIT
/* What include/moecl/plan.h reads: a plan, and of whom it is. */
#ifndef MOECL_LIB_PLAN_EXPLAINED_H
#define MOECL_LIB_PLAN_EXPLAINED_H

#include "plan/plan.h"

/* Copies the plan of a described owner, which is destroyed with it; where it fails the owner
 * stays the caller's. */
moecl_status plan_explain(moecl_context *context, const plan *plan, const moecl_memory *memory,
                          void *owner, void (*destroy)(void *owner), moecl_plan **made);
/* Adds weights that are no tensor of a step: packed ones. */
void plan_explain_weight(moecl_plan *made, moecl_plan_tensor weight);

#endif
