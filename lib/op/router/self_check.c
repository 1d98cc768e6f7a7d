// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "moecl/reference.h"
#include "op/check.h"
#include "op/router/router.h"
#include "ref/ref.h"
#include <math.h>

enum { MOST_BUFFERS = 5 };

enum {
  ROUTER_TOKENS = 9,
  ROUTER_EXPERTS = 70, /* more in groups of equal size */
  ROUTER_MOST_EXPERTS = 96,
  ROUTER_TOP_K = 7,
  ROUTER_NAN = 3,
  ROUTER_SEED = 5
};

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
static moecl_status compare_token(moecl_context *context, const kernel_variant *variant,
                                  const desc_rule *rule, int token, const double *logits,
                                  const double *bias, const int32_t *ids, const float *weights) {
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
      return check_wrong(context, "router", variant, "topk_ids", token * top_k + k, ids[k],
                         want_ids[k]);
    if (!(fabs(weights[at] - want[k]) <= 1e-5 * want[k] + least))
      return check_wrong(context, "router", variant, "topk_weights", token * top_k + k, weights[at],
                         want[k]);
  }
  return MOECL_OK;
}

static moecl_status check_router(moecl_context *context, const kernel_variant *variant,
                                 op_router *router, moecl_buffer **b) {
  const desc_rule small = small_router(&router->desc);
  const size_t experts = (size_t)small.num_experts, all = ROUTER_TOKENS * (size_t)small.top_k;
  float logits[ROUTER_TOKENS * ROUTER_MOST_EXPERTS], bias[ROUTER_MOST_EXPERTS];
  float weights[ROUTER_TOKENS * ROUTER_TOP_K];
  int32_t ids[ROUTER_TOKENS * ROUTER_TOP_K];
  double exact[ROUTER_MOST_EXPERTS], exact_bias[ROUTER_MOST_EXPERTS];
  ocl_chain chain = {.context = context};
  router->desc = small; /* the program is of the rule, not of its sizes */
  draw_logits(&small, logits, bias);
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
  MOECL_TRY(moecl_buffer_read_wait(b[1], 0, all * 4, ids));
  MOECL_TRY(moecl_buffer_read_wait(b[2], 0, all * 4, weights));
  moecl_to_double(MOECL_F32, bias, experts, exact_bias);
  for (int t = 0; t < ROUTER_TOKENS; t++) {
    moecl_to_double(MOECL_F32, logits + (size_t)t * experts, experts, exact);
    MOECL_TRY(compare_token(context, variant, &small, t, exact, exact_bias, ids + t * small.top_k,
                            weights + t * small.top_k));
  }
  return MOECL_OK;
}

moecl_status op_router_self_check(moecl_context *context, const kernel_variant *variant,
                                  const desc_rule *desc) {
  op_router router;
  moecl_buffer *buffers[MOST_BUFFERS] = {0};
  moecl_status status = op_router_create_unchecked(context, variant, desc, &router);
  if (status == MOECL_OK && !ocl_kernel_is_checked(router.topk)) {
    status = check_router(context, variant, &router, buffers);
    if (status == MOECL_OK) check_passed("router", variant, router.topk);
  }
  check_release(buffers, MOST_BUFFERS);
  op_router_release(&router);
  return status;
}
