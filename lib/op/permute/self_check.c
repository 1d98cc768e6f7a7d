// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "op/check.h"
#include "op/permute/permute.h"
#include "ref/ref.h"
#include <math.h>
#include <string.h>

/* More than two blocks of assignments; expert EMPTY is never chosen. With a capacity the
 * last IDENTITIES are identity experts, of which the first goes beyond it. */
enum { TOKENS = 301, EXPERTS = 5, TOP_K = 2, ALL = TOKENS * TOP_K, EMPTY = 3, TILE_M = 48 };
enum { IDENTITIES = 3 };

typedef struct permuted {
  int32_t tokens_per_expert[EXPERTS], expert_offsets[EXPERTS + 1], tile_offsets[EXPERTS + 1];
  int32_t slot_token[ALL], assignment_slot[ALL];
} permuted;

/* Two different experts a token, each of them some token's first and another's
 * second choice, unevenly; some tokens are routed nowhere, as a logit of theirs is
 * not finite. Weights with ties. */
static void draw_assignments(int32_t *ids, float *weights, float *logits) {
  static const int32_t pairs[][TOP_K] = {{0, 1}, {1, 0}, {0, 2}, {4, 0}, {2, 4}};
  uint32_t state = 1;
  for (int t = 0; t < TOKENS; t++) {
    const int pair = (int)(8 * fabs(check_value(&state))) % 5;
    for (int k = 0; k < TOP_K; k++) {
      ids[t * TOP_K + k] = t % 7 == 3 ? -1 : pairs[pair][k];
      weights[t * TOP_K + k] = (float)fabs(check_value(&state));
    }
    for (int e = 0; e < EXPERTS; e++) logits[t * EXPERTS + e] = (float)(8 * check_value(&state));
    if (t % 7 == 3) logits[t * EXPERTS + t % EXPERTS] = t % 2 ? NAN : -INFINITY;
  }
}

/* Each expert's list, one after another, by the assignments' order numbers. */
static moecl_status expect_permuted(const desc_dispatch *desc, const int32_t *ids,
                                    const float *weights, const float *priority, permuted *want) {
  uint8_t kept[ALL];
  const bool by_choice = desc->capacity_factor > 0 && desc->drop_policy != MOECL_DROP_PROBABILITY;
  int32_t slot = 0;
  MOECL_TRY(ref_capacity(desc, TOKENS, ids, weights, priority, kept));
  memset(want, 0, sizeof *want);
  for (int i = 0; i < ALL; i++) want->assignment_slot[i] = -1;
  for (int e = 0; e < EXPERTS; e++) {
    for (int p = 0; p < ALL; p++) {
      const int i = by_choice ? p % TOKENS * TOP_K + p / TOKENS : p;
      want->tokens_per_expert[e] += ids[i] == e;
      if (ids[i] != e || !kept[i]) continue;
      want->slot_token[slot] = i / TOP_K;
      want->assignment_slot[i] = slot++;
    }
    const int32_t rows = slot - want->expert_offsets[e];
    want->expert_offsets[e + 1] = slot;
    want->tile_offsets[e + 1] = want->tile_offsets[e] + (rows + TILE_M - 1) / TILE_M;
  }
  return MOECL_OK;
}

static moecl_status compare_permuted(const check_run *run, const op_permute_io *io,
                                     const permuted *want) {
  const struct {
    const char *what;
    const moecl_buffer *got;
    const int32_t *want;
    size_t count;
  } all[] = {
      {"tokens_per_expert", io->tokens_per_expert, want->tokens_per_expert, EXPERTS},
      {"expert_offsets", io->expert_offsets, want->expert_offsets, EXPERTS + 1},
      {"tile_offsets", io->tile_offsets, want->tile_offsets, EXPERTS + 1},
      {"assignment_slot", io->assignment_slot, want->assignment_slot, ALL},
      {"slot_token", io->slot_token, want->slot_token, (size_t)want->expert_offsets[EXPERTS]}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    MOECL_TRY(check_ints(run, all[i].what, all[i].got, all[i].want, all[i].count));
  return MOECL_OK;
}

/* The device's priorities, as near the reference's as fp32 makes them: equal ones
 * there may differ here. */
static moecl_status check_priorities(const check_run *run, const float *logits,
                                     const moecl_buffer *buffer, float *priority) {
  MOECL_TRY(moecl_buffer_read_wait(buffer, 0, TOKENS * sizeof *priority, priority));
  for (int t = 0; t < TOKENS; t++) {
    double wide[EXPERTS];
    moecl_to_double(MOECL_F32, logits + t * EXPERTS, EXPERTS, wide);
    const double want = moecl_reference_priority(wide, EXPERTS);
    if (!(fabs(priority[t] - want) <= 1e-4 * want))
      return check_fail(run, "token_priority", t, priority[t], want);
  }
  return MOECL_OK;
}

/* What was kept, renormalized where the layer does that. */
static moecl_status check_weights(const check_run *run, op_permute *permute,
                                  const op_permute_io *io, const float *weights,
                                  const permuted *want) {
  float got[ALL];
  if (!permute->kept_weights) return MOECL_OK;
  ocl_chain chain = {.context = permute->context};
  MOECL_TRY(op_permute_enqueue_weights(permute, &chain, io));
  MOECL_TRY(moecl_buffer_read_wait(io->kept_weights, 0, sizeof got, got));
  for (int t = 0; t < TOKENS; t++) {
    uint8_t kept[TOP_K];
    double right[TOP_K];
    for (int k = 0; k < TOP_K; k++) kept[k] = want->assignment_slot[t * TOP_K + k] >= 0;
    ref_kept_weights(&permute->desc, weights + t * TOP_K, kept, right);
    for (int k = 0; k < TOP_K; k++)
      if (!(fabs(got[t * TOP_K + k] - right[k]) <= 1e-4 * right[k]))
        return check_fail(run, "kept_weights", t * TOP_K + k, got[t * TOP_K + k], right[k]);
  }
  return MOECL_OK;
}

static moecl_status check(check_run *run, void *op) {
  static const uint64_t words[] = {EXPERTS, EXPERTS + 1, EXPERTS + 1, EXPERTS + 1, ALL,
                                   ALL,     ALL,         TOKENS,      ALL};
  op_permute *permute = op;
  moecl_context *context = run->context;
  moecl_buffer **b = run->buffer;
  int32_t ids[ALL];
  float weights[ALL], logits[TOKENS * EXPERTS], priority[TOKENS] = {0};
  permuted want;
  draw_assignments(ids, weights, logits);
  MOECL_TRY(check_upload_words(context, ids, ALL, &b[0]));
  MOECL_TRY(check_upload_words(context, weights, ALL, &b[1]));
  MOECL_TRY(check_upload_words(context, logits, TOKENS * EXPERTS, &b[12]));
  MOECL_TRY(
      moecl_buffer_create(context, op_permute_most_blocks(TOKENS, TOP_K) * EXPERTS * 4, &b[2]));
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    MOECL_TRY(moecl_buffer_create(context, words[i] * 4, &b[3 + i]));
  const op_permute_io io = {.num_tokens = TOKENS,
                            .logits = b[12],
                            .topk_ids = b[0],
                            .topk_weights = b[1],
                            .block_counts = b[2],
                            .tokens_per_expert = b[3],
                            .expert_offsets = b[4],
                            .tile_offsets = b[5],
                            .all_offsets = b[6],
                            .slot_token = b[7],
                            .assignment_slot = b[8],
                            .order = b[9],
                            .token_priority = b[10],
                            .kept_weights = b[11],
                            .tile_m = TILE_M};
  ocl_chain chain = {.context = context};
  MOECL_TRY(op_permute_enqueue(permute, &chain, &io));
  if (permute->prioritize) MOECL_TRY(check_priorities(run, logits, b[10], priority));
  MOECL_TRY(expect_permuted(&permute->desc, ids, weights, priority, &want));
  MOECL_TRY(compare_permuted(run, &io, &want));
  return check_weights(run, permute, &io, weights, &want);
}

moecl_status op_permute_self_check(moecl_context *context, const kernel_variant *variant,
                                   const void *problem) {
  const desc_dispatch *desc = problem;
  const desc_dispatch small = {.num_experts = EXPERTS,
                               .num_identity_experts = desc->capacity_factor > 0 ? IDENTITIES : 0,
                               .top_k = TOP_K,
                               .capacity_factor = desc->capacity_factor > 0 ? 0.7 : 0,
                               .drop_policy = desc->drop_policy,
                               .renormalize_after_capacity = desc->renormalize_after_capacity,
                               .routed_scaling_factor = desc->routed_scaling_factor};
  check_run run = {&op_permute_kind, context, variant, {NULL}};
  op_permute permute;
  MOECL_TRY(check_begin(&run, &small, &permute));
  /* Programs of their own: each may have passed beside another one. */
  ocl_kernel *const kernels[] = {permute.kernels[0], permute.prioritize, permute.kept_weights};
  return check_end(&run, &permute, kernels, BASE_COUNT(kernels), check);
}
