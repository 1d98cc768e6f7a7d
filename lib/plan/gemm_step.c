// SPDX-License-Identifier: MIT
#include "plan/gemm_step.h"
#include "base/base.h"

enum {
  GEMM_INPUT,
  GEMM_OUTPUT,
  GEMM_SCRATCH,
  GEMM_SLOT_TOKEN,
  GEMM_OFFSETS,
  GEMM_TILES,
  GEMM_SLOT_PLACE
};

static moecl_status run_gemm(void *user, ocl_chain *chain, const plan_call *call) {
  const op_gemm_io io = {.input = call->buffer[GEMM_INPUT],
                         .output = call->buffer[GEMM_OUTPUT],
                         .scratch = call->buffer[GEMM_SCRATCH],
                         .slot_token = call->buffer[GEMM_SLOT_TOKEN],
                         .expert_offsets = call->buffer[GEMM_OFFSETS],
                         .tile_offsets = call->buffer[GEMM_TILES],
                         .slot_place = call->buffer[GEMM_SLOT_PLACE],
                         .places = call->with.places,
                         .rows = call->with.rows ? call->with.rows : call->number,
                         .input_rows = op_gemm_gathers(user) ? call->num_tokens : call->number,
                         .chosen_rows = call->with.chosen_rows};
  return op_gemm_enqueue(user, chain, &io);
}

static void explain_gemm(const void *user, int64_t number, char *text, size_t size) {
  op_gemm_explain(user, number, text, size);
}

static moecl_status prepare_gemm(void *user, int64_t number, bool *anew) {
  return op_gemm_prepare(user, number, anew);
}

void plan_add_gemm(plan *plan, const char *name, moecl_stage label, const op_gemm *gemm,
                   int64_t rows, const plan_gemm_tensors *tensors) {
  const bool grouped = !op_gemm_is_ungrouped(gemm);
  const bool few = !grouped && op_gemm_serves_few_tokens(gemm, rows);
  const bool scatters = op_gemm_scatters(gemm);
  const plan_step step = {.name = name,
                          .operation = "grouped_gemm",
                          .variant = op_gemm_variant(gemm)->name,
                          .label = label,
                          .launches = 1,
                          .tile_rows = grouped ? op_gemm_whole_tile_rows(gemm, rows) : 0,
                          .enqueue = run_gemm,
                          .explain = explain_gemm,
                          .prepare = prepare_gemm,
                          .user = (void *)gemm,
                          .number = rows,
                          .kernel = few ? OP_GEMM_FEW_TOKENS : op_gemm_kernel_for(gemm, rows)};
  const int used[] = {[GEMM_INPUT] = tensors->input,
                      [GEMM_OUTPUT] = scatters ? PLAN_NONE : tensors->output,
                      [GEMM_SCRATCH] = grouped ? tensors->scratch : PLAN_NONE,
                      [GEMM_SLOT_TOKEN] = grouped ? tensors->slot_token : PLAN_NONE,
                      [GEMM_OFFSETS] = grouped ? tensors->expert_offsets : PLAN_NONE,
                      [GEMM_TILES] = grouped ? tensors->tile_offsets : PLAN_NONE,
                      [GEMM_SLOT_PLACE] = scatters ? tensors->slot_place : PLAN_NONE};
  plan->lost |= op_gemm_has_lost(gemm);
  plan_add_step(plan, &step, used, BASE_COUNT(used));
}
