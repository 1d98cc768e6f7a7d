// SPDX-License-Identifier: MIT
/* A GEMM as a step of a plan. */
#ifndef MOECL_LIB_PLAN_GEMM_STEP_H
#define MOECL_LIB_PLAN_GEMM_STEP_H

#include "op/gemm/gemm.h"
#include "plan/plan.h"

/* Tensors of the plan. Of an ungrouped GEMM input and output alone are looked at. */
typedef struct plan_gemm_tensors {
  int input, output;
  int scratch; /* PLAN_NONE: it needs none */
  int slot_token, expert_offsets, tile_offsets;
  int slot_place; /* of one that scatters, in place of the output */
} plan_gemm_tensors;

/* The step `name` of so many rows. */
void plan_add_gemm(plan *plan, const char *name, moecl_stage label, const op_gemm *gemm,
                   int64_t rows, const plan_gemm_tensors *tensors);

#endif
