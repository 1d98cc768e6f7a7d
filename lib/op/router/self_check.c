// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "op/check.h"
#include "op/router/router.h"
#include "ref/ref.h"
#include <math.h>

enum { MOST_BUFFERS = 11 };

enum {
  ROUTER_TOKENS = 9,
  ROUTER_EXPERTS = 70, /* more in groups of equal size */
  ROUTER_MOST_EXPERTS = 96,
  ROUTER_TOP_K = 7,
  ROUTER_NAN = 3,
  ROUTER_SEED = 5,
  ROUTER_TILE_M = 2,
  ROUTER_BLOCKS = 2 /* of tokens */
};

/* A variant on trial: the small problem, and what it chose. */
typedef struct trial {
  moecl_context *context;
  const kernel_variant *variant;
  desc_rule rule;
  float logits[ROUTER_TOKENS * ROUTER_MOST_EXPERTS], bias[ROUTER_MOST_EXPERTS];
  int32_t ids[ROUTER_TOKENS * ROUTER_TOP_K];
} trial;

/* The rule on a small problem. */
static desc_rule small_router(const desc_rule *rule) {
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
static moecl_status compare_token(const trial *t, int token, const double *logits,
                                  const double *bias, const int32_t *ids, const float *weights) {
  double want[ROUTER_TOP_K];
  int32_t want_ids[ROUTER_TOP_K];
  const desc_rule *rule = &t->rule;
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
      return check_wrong(t->context, "router", t->variant, "topk_ids", token * top_k + k, ids[k],
                         want_ids[k]);
    if (!(fabs(weights[at] - want[k]) <= 1e-5 * want[k] + least))
      return check_wrong(t->context, "router", t->variant, "topk_weights", token * top_k + k,
                         weights[at], want[k]);
  }
  return MOECL_OK;
}

/* Reads the choice and compares all of it. */
static moecl_status compare_choice(trial *t, const op_router_io *io) {
  const size_t experts = (size_t)t->rule.num_experts, top_k = (size_t)t->rule.top_k;
  float weights[ROUTER_TOKENS * ROUTER_TOP_K];
  double exact[ROUTER_MOST_EXPERTS], exact_bias[ROUTER_MOST_EXPERTS];
  MOECL_TRY(moecl_buffer_read_wait(io->topk_ids, 0, ROUTER_TOKENS * top_k * 4, t->ids));
  MOECL_TRY(moecl_buffer_read_wait(io->topk_weights, 0, ROUTER_TOKENS * top_k * 4, weights));
  moecl_to_double(MOECL_F32, t->bias, experts, exact_bias);
  for (int i = 0; i < ROUTER_TOKENS; i++) {
    const size_t first = (size_t)i * top_k;
    moecl_to_double(MOECL_F32, t->logits + (size_t)i * experts, experts, exact);
    MOECL_TRY(compare_token(t, i, exact, exact_bias, t->ids + first, weights + first));
  }
  return MOECL_OK;
}

/* ---- by block: counts and lists of what was chosen ---- */

static moecl_status same_words(const trial *t, const char *what, const moecl_buffer *buffer,
                               const int32_t *want, size_t count) {
  int32_t got[ROUTER_TOKENS * ROUTER_MOST_EXPERTS];
  MOECL_TRY(moecl_buffer_read_wait(buffer, 0, count * sizeof *got, got));
  for (size_t i = 0; i < count; i++)
    if (got[i] != want[i])
      return check_wrong(t->context, "router", t->variant, what, (int64_t)i, got[i], want[i]);
  return MOECL_OK;
}

static moecl_status compare_counts(const trial *t, const op_router_io *io) {
  int32_t want[ROUTER_BLOCKS * ROUTER_MOST_EXPERTS] = {0};
  const int32_t experts = (int32_t)t->rule.num_experts, top_k = (int32_t)t->rule.top_k;
  const int32_t each = op_permute_tokens_per_block(ROUTER_TOKENS) * top_k;
  for (int32_t i = 0; i < ROUTER_TOKENS * top_k; i++)
    if (t->ids[i] >= 0) want[i / each * experts + t->ids[i]]++;
  return same_words(t, "block_counts", io->block_counts, want, (size_t)(ROUTER_BLOCKS * experts));
}

/* Each expert's list, one after another, by the assignments' numbers. */
static moecl_status compare_lists(const trial *t, const op_permute_io *io) {
  const int32_t experts = (int32_t)t->rule.num_experts, top_k = (int32_t)t->rule.top_k;
  const int32_t all = ROUTER_TOKENS * top_k;
  int32_t rows[ROUTER_MOST_EXPERTS] = {0}, offsets[ROUTER_MOST_EXPERTS + 1] = {0};
  int32_t tiles[ROUTER_MOST_EXPERTS + 1] = {0}, slot = 0;
  int32_t tokens[ROUTER_TOKENS * ROUTER_TOP_K], slots[ROUTER_TOKENS * ROUTER_TOP_K];
  for (int32_t i = 0; i < all; i++) slots[i] = -1;
  for (int32_t e = 0; e < experts; e++) {
    for (int32_t i = 0; i < all; i++) {
      if (t->ids[i] != e) continue;
      rows[e]++;
      tokens[slot] = i / top_k;
      slots[i] = slot++;
    }
    offsets[e + 1] = slot;
    tiles[e + 1] = tiles[e] + (rows[e] + ROUTER_TILE_M - 1) / ROUTER_TILE_M;
  }
  const size_t ends = (size_t)experts + 1;
  MOECL_TRY(same_words(t, "tokens_per_expert", io->tokens_per_expert, rows, (size_t)experts));
  MOECL_TRY(same_words(t, "expert_offsets", io->expert_offsets, offsets, ends));
  MOECL_TRY(same_words(t, "all_offsets", io->all_offsets, offsets, ends));
  MOECL_TRY(same_words(t, "tile_offsets", io->tile_offsets, tiles, ends));
  MOECL_TRY(same_words(t, "assignment_slot", io->assignment_slot, slots, (size_t)all));
  return same_words(t, "slot_token", io->slot_token, tokens, (size_t)slot);
}

/* The choice once more, with the permutation in one launch. */
static moecl_status check_permuted(trial *t, op_router *router, const op_router_io *io,
                                   moecl_buffer **b) {
  const uint64_t experts = (uint64_t)t->rule.num_experts, all = moecl_buffer_size(io->topk_ids) / 4;
  const uint64_t words[] = {experts, experts + 1, experts + 1, experts + 1, all, all};
  ocl_chain chain = {.context = t->context};
  for (size_t i = 0; i < BASE_COUNT(words); i++)
    MOECL_TRY(moecl_buffer_create(t->context, words[i] * 4, &b[i]));
  const op_permute_io permuted = {.num_tokens = ROUTER_TOKENS,
                                  .tokens_per_expert = b[0],
                                  .expert_offsets = b[1],
                                  .tile_offsets = b[2],
                                  .all_offsets = b[3],
                                  .slot_token = b[4],
                                  .assignment_slot = b[5],
                                  .tile_m = ROUTER_TILE_M};
  MOECL_TRY(op_router_enqueue_permuted(router, &chain, io, &permuted));
  MOECL_TRY(compare_choice(t, io));
  return compare_lists(t, &permuted);
}

/* ---- the whole ---- */

static moecl_status check_router(trial *t, op_router *router, moecl_buffer **b) {
  const size_t experts = (size_t)t->rule.num_experts, all = ROUTER_TOKENS * (size_t)t->rule.top_k;
  ocl_chain chain = {.context = t->context};
  router->desc = t->rule; /* the program is of the rule, not of its sizes */
  draw_logits(&t->rule, t->logits, t->bias);
  MOECL_TRY(check_upload_words(t->context, t->logits, ROUTER_TOKENS * experts, &b[0]));
  MOECL_TRY(moecl_buffer_create(t->context, all * 4, &b[1]));
  MOECL_TRY(moecl_buffer_create(t->context, all * 4, &b[2]));
  MOECL_TRY(moecl_buffer_create(t->context, ROUTER_BLOCKS * experts * 4, &b[3]));
  MOECL_TRY(check_upload_words(t->context, t->bias, experts, &b[4]));
  const op_router_io io = {.num_tokens = ROUTER_TOKENS,
                           .seed = ROUTER_SEED,
                           .logits = b[0],
                           .topk_ids = b[1],
                           .topk_weights = b[2],
                           .block_counts = b[3],
                           .correction_bias = b[4]};
  MOECL_TRY(op_router_enqueue(router, &chain, &io));
  MOECL_TRY(compare_choice(t, &io));
  if (!router->driver->by_block) return MOECL_OK;
  MOECL_TRY(compare_counts(t, &io));
  MOECL_TRY(moecl_buffer_fill_byte(b[1], 0, all * 4, 0xcd)); /* nothing of the first launch */
  MOECL_TRY(moecl_buffer_fill_byte(b[2], 0, all * 4, 0xcd));
  return check_permuted(t, router, &io, b + 5);
}

moecl_status op_router_self_check(moecl_context *context, const kernel_variant *variant,
                                  const desc_rule *desc) {
  op_router router;
  moecl_buffer *buffers[MOST_BUFFERS] = {0};
  moecl_status status = op_router_create_unchecked(context, variant, desc, &router);
  if (status == MOECL_OK && !ocl_kernel_is_checked(router.topk)) {
    trial t = {.context = context, .variant = variant, .rule = small_router(desc)};
    status = check_router(&t, &router, buffers);
    if (status == MOECL_OK) check_passed("router", variant, router.topk);
  }
  check_release(buffers, MOST_BUFFERS);
  op_router_release(&router);
  return status;
}
