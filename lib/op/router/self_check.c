// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "op/router/check.h"
#include "ref/ref.h"
#include <math.h>

enum { ROUTER_TOKENS = 9, ROUTER_NAN = 3 };

desc_rule router_small(const desc_rule *rule) {
  desc_rule small = *rule;
  small.num_experts = ROUTER_EXPERTS;
  small.top_k = ROUTER_TOP_K;
  if (rule->num_expert_group > 0) {
    const int64_t groups = rule->num_expert_group;
    const int64_t members =
        groups > ROUTER_EXPERTS / 3 ? 3 : (ROUTER_EXPERTS + groups - 1) / groups;
    small.num_experts = groups * members;
    if (rule->topk_group * members < ROUTER_TOP_K) small.top_k = rule->topk_group * members;
  }
  return small;
}

/* Few different values, so many ties; one token is not finite. */
static void draw_logits(const desc_rule *small, float *logits, float *bias) {
  uint32_t state = 1;
  for (int i = 0; i < ROUTER_TOKENS * (int)small->num_experts; i++)
    logits[i] = (float)check_value(&state);
  for (int e = 0; e < (int)small->num_experts; e++) bias[e] = (float)check_value(&state);
  logits[ROUTER_NAN * small->num_experts + 5] = NAN;
}

/* Does the choice hang on numbers that the device rounds, beside the logits? */
static bool is_rounded(const desc_rule *rule) {
  return rule->score_correction_bias || rule->num_expert_group > 0 ||
         rule->scoring == MOECL_SCORING_SPARSEMIXER || rule->second_choice != MOECL_SECOND_ALL;
}

/* Choices of one token. By logit they are exact, ties and order too; where they
 * hang on rounding, nothing can be said of near ties, and not of the order. */
static moecl_status compare_token(const check_run *run, const desc_rule *rule, int token,
                                  const double *logits, const double *bias, const int32_t *ids,
                                  const float *weights) {
  double want[ROUTER_TOP_K];
  int32_t want_ids[ROUTER_TOP_K];
  const int top_k = (int)rule->top_k;
  const double gap = ref_topk(rule, logits, rule->score_correction_bias ? bias : NULL, ROUTER_SEED,
                              token, want_ids, want, NULL);
  const double least = ref_weight_floor(rule);
  const bool rounded = is_rounded(rule);
  if (rounded && gap <= 1e-5) return MOECL_OK;
  for (int k = 0; k < top_k; k++) {
    int at = rounded ? 0 : k;
    while (rounded && at < top_k - 1 && ids[at] != want_ids[k]) at++;
    if (ids[at] != want_ids[k])
      return check_fail(run, "topk_ids", token * top_k + k, ids[k], want_ids[k]);
    if (!(fabs(weights[at] - want[k]) <= 1e-5 * want[k] + least))
      return check_fail(run, "topk_weights", token * top_k + k, weights[at], want[k]);
  }
  return MOECL_OK;
}

moecl_status router_compare_choices(const check_run *run, const desc_rule *rule,
                                    const float *logits, const float *bias, const op_router_io *io,
                                    int32_t *ids) {
  const size_t experts = (size_t)rule->num_experts, top_k = (size_t)rule->top_k;
  const size_t tokens = (size_t)io->num_tokens;
  float weights[ROUTER_MOST_CHOICES];
  double exact[ROUTER_MOST_EXPERTS], exact_bias[ROUTER_MOST_EXPERTS];
  MOECL_TRY(moecl_buffer_read_wait(io->topk_ids, 0, tokens * top_k * 4, ids));
  MOECL_TRY(moecl_buffer_read_wait(io->topk_weights, 0, tokens * top_k * 4, weights));
  moecl_to_double(MOECL_F32, bias, experts, exact_bias);
  for (size_t t = 0; t < tokens; t++) {
    moecl_to_double(MOECL_F32, logits + t * experts, experts, exact);
    MOECL_TRY(
        compare_token(run, rule, (int)t, exact, exact_bias, ids + t * top_k, weights + t * top_k));
  }
  return MOECL_OK;
}

/* ---- by block: its counts, and the permutation ---- */

/* How often each block of tokens chose each expert. */
static moecl_status compare_counts(const check_run *run, const desc_rule *rule, const int32_t *ids,
                                   const op_router_io *io) {
  const int each = op_permute_tokens_per_block(ROUTER_TOKENS);
  const int experts = (int)rule->num_experts, top_k = (int)rule->top_k;
  int32_t want[ROUTER_TOKENS * ROUTER_MOST_EXPERTS] = {0};
  for (int i = 0; i < ROUTER_TOKENS * top_k; i++)
    if (ids[i] >= 0 && ids[i] < experts) want[i / top_k / each * experts + ids[i]]++;
  const size_t blocks = (size_t)((ROUTER_TOKENS + each - 1) / each);
  return check_ints(run, "block_counts", io->block_counts, want, blocks * (size_t)experts);
}

typedef struct permuted {
  int32_t tokens_per_expert[ROUTER_MOST_EXPERTS];
  int32_t offsets[ROUTER_MOST_EXPERTS + 1], tile_offsets[ROUTER_MOST_EXPERTS + 1];
  int32_t slot_token[ROUTER_MOST_CHOICES], assignment_slot[ROUTER_MOST_CHOICES];
} permuted;

/* Each expert's list, one after another, by the assignments' numbers. */
static void expect_permuted(const desc_rule *rule, const int32_t *ids, int tokens, permuted *want) {
  const int top_k = (int)rule->top_k, all = tokens * top_k;
  int32_t slot = 0;
  for (int i = 0; i < all; i++) want->assignment_slot[i] = -1;
  want->offsets[0] = want->tile_offsets[0] = 0;
  for (int e = 0; e < (int)rule->num_experts; e++) {
    for (int i = 0; i < all; i++) {
      if (ids[i] != e) continue;
      want->slot_token[slot] = i / top_k;
      want->assignment_slot[i] = slot++;
    }
    const int32_t rows = slot - want->offsets[e];
    want->tokens_per_expert[e] = rows;
    want->offsets[e + 1] = slot;
    want->tile_offsets[e + 1] = want->tile_offsets[e] + (rows + ROUTER_TILE_M - 1) / ROUTER_TILE_M;
  }
}

moecl_status router_compare_lists(const check_run *run, const desc_rule *rule, const int32_t *ids,
                                  const op_permute_io *io) {
  const size_t experts = (size_t)rule->num_experts;
  permuted want;
  expect_permuted(rule, ids, (int)io->num_tokens, &want);
  MOECL_TRY(
      check_ints(run, "tokens_per_expert", io->tokens_per_expert, want.tokens_per_expert, experts));
  MOECL_TRY(check_ints(run, "expert_offsets", io->expert_offsets, want.offsets, experts + 1));
  MOECL_TRY(check_ints(run, "all_offsets", io->all_offsets, want.offsets, experts + 1));
  MOECL_TRY(check_ints(run, "tile_offsets", io->tile_offsets, want.tile_offsets, experts + 1));
  MOECL_TRY(check_ints(run, "assignment_slot", io->assignment_slot, want.assignment_slot,
                       (size_t)(io->num_tokens * rule->top_k)));
  return check_ints(run, "slot_token", io->slot_token, want.slot_token,
                    (size_t)want.offsets[experts]);
}

moecl_status router_make_lists(check_run *run, int first, const desc_rule *rule, int64_t num_tokens,
                               op_permute_io *lists) {
  const uint64_t experts = (uint64_t)rule->num_experts;
  const uint64_t all = (uint64_t)(num_tokens * rule->top_k);
  const uint64_t words[ROUTER_LISTS] = {experts, experts + 1, experts + 1, experts + 1, all, all};
  moecl_buffer **b = run->buffer + first;
  for (size_t i = 0; i < ROUTER_LISTS; i++)
    MOECL_TRY(moecl_buffer_create(run->context, words[i] * 4, &b[i]));
  *lists = (op_permute_io){.num_tokens = num_tokens,
                           .tokens_per_expert = b[0],
                           .expert_offsets = b[1],
                           .tile_offsets = b[2],
                           .all_offsets = b[3],
                           .slot_token = b[4],
                           .assignment_slot = b[5],
                           .tile_m = ROUTER_TILE_M};
  return MOECL_OK;
}

/* Choice and permutation in one launch, over buffers from `first` on. */
static moecl_status check_permuted(check_run *run, op_router *router, const float *logits,
                                   const float *bias, op_router_io io, int first) {
  const uint64_t all = ROUTER_TOKENS * (uint64_t)router->desc.top_k;
  moecl_buffer **b = run->buffer + first;
  op_permute_io lists;
  int32_t ids[ROUTER_MOST_CHOICES];
  ocl_chain chain = {.context = run->context};
  for (size_t i = 0; i < 2; i++) MOECL_TRY(moecl_buffer_create(run->context, all * 4, &b[i]));
  MOECL_TRY(router_make_lists(run, first + 2, &router->desc, ROUTER_TOKENS, &lists));
  io.topk_ids = b[0];
  io.topk_weights = b[1];
  MOECL_TRY(op_router_enqueue_permuted(router, &chain, &io, &lists));
  MOECL_TRY(router_compare_choices(run, &router->desc, logits, bias, &io, ids));
  return router_compare_lists(run, &router->desc, ids, &lists);
}

static moecl_status check(check_run *run, void *op) {
  op_router *router = op;
  const desc_rule *small = &router->desc;
  const size_t experts = (size_t)small->num_experts, all = ROUTER_TOKENS * (size_t)small->top_k;
  moecl_context *context = run->context;
  moecl_buffer **b = run->buffer;
  float logits[ROUTER_TOKENS * ROUTER_MOST_EXPERTS], bias[ROUTER_MOST_EXPERTS];
  int32_t ids[ROUTER_MOST_CHOICES];
  ocl_chain chain = {.context = context};
  draw_logits(small, logits, bias);
  MOECL_TRY(check_upload_words(context, logits, ROUTER_TOKENS * experts, &b[0]));
  MOECL_TRY(moecl_buffer_create(context, all * 4, &b[1]));
  MOECL_TRY(moecl_buffer_create(context, all * 4, &b[2]));
  MOECL_TRY(moecl_buffer_create(context, ROUTER_TOKENS * experts * 4, &b[3]));
  MOECL_TRY(check_upload_words(context, bias, experts, &b[4]));
  const op_router_io io = {.num_tokens = ROUTER_TOKENS,
                           .seed = ROUTER_SEED,
                           .logits = b[0],
                           .topk_ids = b[1],
                           .topk_weights = b[2],
                           .block_counts = b[3],
                           .correction_bias = b[4]};
  MOECL_TRY(op_router_enqueue(router, &chain, &io));
  MOECL_TRY(router_compare_choices(run, small, logits, bias, &io, ids));
  if (!router->driver->by_block) return MOECL_OK;
  MOECL_TRY(compare_counts(run, small, ids, &io));
  return check_permuted(run, router, logits, bias, io, 5);
}

moecl_status op_router_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc) {
  check_run run = {&op_router_kind, context, variant, {NULL}};
  op_router router;
  MOECL_TRY(check_begin(&run, desc, &router));
  router.desc = router_small(desc); /* the program is of the rule, and of how many experts */
  return check_end(&run, &router, &router.topk, 1, check);
}
