// SPDX-License-Identifier: MIT
/* The router's choice of one token, by the letter of include/moecl/layer.h. */
#include "moecl/reference.h"
#include "ref/ref.h"
#include <float.h>
#include <math.h>

typedef struct choice {
  const desc_rule *rule;
  const double *logits, *bias; /* bias NULL without one */
  int64_t experts;
  bool by_logit;                   /* scores in the logits' order: those decide */
  double score[MOECL_MAX_EXPERTS]; /* of all experts, without the bias */
  double value[MOECL_MAX_EXPERTS]; /* what experts are chosen by */
  bool taken[MOECL_MAX_EXPERTS];
  double size; /* of the numbers that values are sums of */
  double gap;  /* to the nearest other choice */
} choice;

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }

static bool has_groups(const desc_rule *rule) { return rule->topk_group < rule->num_expert_group; }

/* The largest logit of the experts that are taken, or of all. */
static double largest(const choice *c, bool of_taken) {
  double max = -INFINITY;
  for (int64_t e = 0; e < c->experts; e++)
    if (!of_taken || c->taken[e]) max = fmax(max, c->logits[e]);
  return max;
}

/* Shares in a softmax over the experts that are taken, or over all. */
static void softmax(choice *c, bool of_taken) {
  const double max = largest(c, of_taken);
  double sum = 0;
  for (int64_t e = 0; e < c->experts; e++)
    if (!of_taken || c->taken[e]) sum += exp(c->logits[e] - max);
  for (int64_t e = 0; e < c->experts; e++) c->score[e] = exp(c->logits[e] - max) / sum;
}

static void make_scores(choice *c) {
  const moecl_scoring scoring = c->rule->scoring;
  if (scoring == MOECL_SCORING_SOFTMAX || scoring == MOECL_SCORING_SPARSEMIXER) softmax(c, false);
  for (int64_t e = 0; e < c->experts; e++) {
    if (scoring == MOECL_SCORING_SIGMOID) c->score[e] = 1 / (1 + exp(-c->logits[e]));
    if (scoring == MOECL_SCORING_SQRT_SOFTPLUS) c->score[e] = sqrt(softplus(c->logits[e]));
  }
}

/* Values are kept as fp32, as logits are: what is finite in double but not there
 * counts as infinite. */
static bool make_values(choice *c) {
  const bool sums = has_groups(c->rule) && c->rule->group_score == MOECL_GROUP_TOP2_SUM;
  c->by_logit = !c->bias && !sums;
  for (int64_t e = 0; e < c->experts; e++) {
    const double bias = c->bias ? c->bias[e] : 0;
    c->value[e] = c->by_logit ? c->logits[e] : c->score[e] + bias;
    c->size = fmax(c->size, fmax(c->score[e], fabs(bias)));
    if (!isfinite((float)c->logits[e]) || !isfinite((float)c->value[e])) return false;
  }
  return true;
}

/* `b` might have been chosen instead of `a`, which is no smaller. A difference of
 * logits is a quotient of scores. */
static void note_gap(choice *c, double a, double b) {
  c->gap = fmin(c->gap, c->by_logit ? -expm1(b - a) : (a - b) / c->size);
}

/* The best expert that is not taken, the first of equal ones; -1: none is left. */
static int32_t best_left(const choice *c) {
  int32_t best = -1;
  for (int64_t e = 0; e < c->experts; e++)
    if (!c->taken[e] && (best < 0 || c->value[e] > c->value[best])) best = (int32_t)e;
  return best;
}

static double group_score(const choice *c, int64_t group, int64_t members) {
  double first = -INFINITY, second = -INFINITY;
  for (int64_t e = group * members; e < (group + 1) * members; e++) {
    second = fmax(second, fmin(first, c->value[e]));
    first = fmax(first, c->value[e]);
  }
  return c->rule->group_score == MOECL_GROUP_MAX ? first : first + second;
}

/* Takes the value from experts in groups that are not among the best, or makes it 0;
 * without a bias all are above that. */
static void limit_to_groups(choice *c) {
  const bool to_zero = c->rule->cut_groups_to_zero && c->bias;
  const int64_t groups = c->rule->num_expert_group, members = c->experts / groups;
  double score[MOECL_MAX_EXPERT_GROUPS];
  double worst_in = INFINITY, best_out = -INFINITY;
  for (int64_t g = 0; g < groups; g++) score[g] = group_score(c, g, members);
  for (int64_t g = 0; g < groups; g++) {
    int64_t better = 0;
    for (int64_t h = 0; h < groups; h++)
      better += score[h] > score[g] || (score[h] == score[g] && h < g);
    if (better < c->rule->topk_group) {
      worst_in = fmin(worst_in, score[g]);
      continue;
    }
    best_out = fmax(best_out, score[g]);
    for (int64_t e = g * members; e < (g + 1) * members; e++) c->value[e] = to_zero ? 0 : -INFINITY;
  }
  note_gap(c, worst_in, best_out);
}

/* Within the groups that were taken. */
static void choose_by_logit(choice *c) {
  for (int64_t e = 0; e < c->experts; e++)
    if (c->value[e] != -INFINITY) c->value[e] = c->logits[e];
  c->by_logit = true;
}

/* The weight of sparsemixer's choice `id`, not yet marked as taken. */
static double sparsemixer_weight(choice *c, int32_t id) {
  const double limit = 2 * c->rule->sparsemixer_jitter;
  const double m = c->logits[id];
  double sum = 0;
  for (int64_t e = 0; e < c->experts; e++) {
    const double l = c->logits[e], size = fmax(fabs(l), m);
    if (c->taken[e]) continue;
    const double behind = size == 0 ? 0 : (m - l) / size;
    if (behind <= limit) sum += exp(l - m);
    if (e != id) c->gap = fmin(c->gap, fabs(behind - limit));
  }
  return 1 / sum;
}

static void sample_others(choice *c, uint64_t seed, int64_t token) {
  for (int64_t e = 0; e < c->experts; e++)
    c->value[e] = c->logits[e] + moecl_reference_gumbel(seed, (uint64_t)token, (uint32_t)e);
}

/* The best value that rounding might have put before expert `id`: zeros of experts that
 * were cut off are exact, and the first ones' turn is not open. */
static double best_behind(const choice *c, int32_t id) {
  const bool is_zero = c->rule->cut_groups_to_zero && c->bias && c->value[id] == 0;
  double best = -INFINITY;
  for (int64_t e = 0; e < c->experts; e++)
    if (!c->taken[e] && !(is_zero && c->value[e] == 0)) best = fmax(best, c->value[e]);
  return best;
}

/* Takes K experts; sparsemixer's weights come with them. */
static void take(choice *c, uint64_t seed, int64_t token, int32_t *ids, double *weights) {
  const int64_t top_k = c->rule->top_k;
  const bool ordered = c->rule->scoring == MOECL_SCORING_SPARSEMIXER;
  for (int64_t k = 0; k < top_k; k++) {
    const bool sampled = k == 0 && c->rule->second_choice == MOECL_SECOND_SAMPLED;
    ids[k] = best_left(c);
    if (ordered) weights[k] = sparsemixer_weight(c, ids[k]);
    c->taken[ids[k]] = true;
    if (best_left(c) >= 0 && (k == top_k - 1 || ordered || sampled))
      note_gap(c, c->value[ids[k]], best_behind(c, ids[k]));
    if (sampled) sample_others(c, seed, token);
  }
}

/* Second choices by chance: id -1 and weight 0 for those not kept. */
static void drop_others(choice *c, uint64_t seed, int64_t token, int32_t *ids, double *weights) {
  for (int64_t k = 1; k < c->rule->top_k; k++) {
    const double draw = moecl_reference_keep(seed, (uint64_t)token, (uint32_t)k);
    c->gap = fmin(c->gap, fabs(2 * weights[k] - draw));
    if (draw < 2 * weights[k]) continue;
    ids[k] = -1;
    weights[k] = 0;
  }
}

static void scale_weights(const desc_rule *rule, double *weights) {
  double sum = rule->renormalize_epsilon;
  for (int64_t k = 0; k < rule->top_k; k++) sum += weights[k];
  sum = fmax(sum, rule->renormalize_minimum);
  for (int64_t k = 0; k < rule->top_k; k++)
    weights[k] = (rule->renormalize ? weights[k] / sum : weights[k]) * rule->routed_scaling_factor;
}

/* Is the divisor the sum alone, of shares in a softmax over all experts? */
static bool divides_by_sum(const desc_rule *rule) {
  return rule->renormalize && rule->scoring == MOECL_SCORING_SOFTMAX &&
         rule->renormalize_epsilon == 0 && rule->renormalize_minimum == 0;
}

/* Renormalized shares are those in a softmax over what is kept: the same numbers, also
 * where all shares in the one over all experts underflow. */
static void shares_of_kept(const choice *c, const int32_t *ids, double *weights) {
  double most = -INFINITY;
  for (int64_t k = 0; k < c->rule->top_k; k++)
    if (ids[k] >= 0) most = fmax(most, c->logits[ids[k]]);
  for (int64_t k = 0; k < c->rule->top_k; k++)
    weights[k] = ids[k] < 0 ? 0 : exp(c->logits[ids[k]] - most);
}

static double route_nowhere(const desc_rule *rule, int32_t *ids, double *weights, double *scores) {
  for (int64_t k = 0; k < rule->top_k; k++) {
    ids[k] = -1;
    weights[k] = 0;
  }
  for (int64_t e = 0; scores && e < rule->num_experts; e++) scores[e] = 0;
  return INFINITY; /* there is nothing to be confused about */
}

double ref_weight_floor(const desc_rule *rule) {
  double divisor = fmax(rule->renormalize_epsilon, rule->renormalize_minimum);
  /* Shares that are divided by their sum alone have one of 1 or more. */
  if (!rule->renormalize || divisor == 0) divisor = 1;
  return FLT_MIN * fmax(1, rule->routed_scaling_factor / divisor);
}

double moecl_reference_weight_floor(const moecl_layer_params *params) {
  if (!params) return 0;
  const desc_rule rule = desc_rule_of(params);
  return ref_weight_floor(&rule);
}

double ref_topk(const desc_rule *rule, const double *logits, const double *correction_bias,
                uint64_t seed, int64_t token, int32_t *ids, double *weights, double *scores) {
  choice c = {.rule = rule,
              .logits = logits,
              .bias = correction_bias,
              .experts = rule->num_experts,
              .gap = INFINITY};
  make_scores(&c);
  if (!make_values(&c)) return route_nowhere(rule, ids, weights, scores);
  for (int64_t e = 0; scores && e < c.experts; e++) scores[e] = c.score[e];
  if (has_groups(rule)) limit_to_groups(&c);
  if (has_groups(rule) && !c.bias) choose_by_logit(&c);
  take(&c, seed, token, ids, weights);
  if (rule->score_after_topk && rule->scoring == MOECL_SCORING_SOFTMAX) softmax(&c, true);
  for (int64_t k = 0; rule->scoring != MOECL_SCORING_SPARSEMIXER && k < rule->top_k; k++)
    weights[k] = c.score[ids[k]];
  if (rule->second_choice == MOECL_SECOND_RANDOM) drop_others(&c, seed, token, ids, weights);
  if (divides_by_sum(rule)) shares_of_kept(&c, ids, weights);
  scale_weights(rule, weights);
  return c.gap;
}

double moecl_reference_topk(const moecl_layer_params *params, const double *logits,
                            const double *correction_bias, uint64_t seed, int64_t token,
                            int32_t *ids, double *weights, double *scores) {
  if (!params || !logits || !ids || !weights) return 0;
  const desc_rule rule = desc_rule_of(params);
  return ref_topk(&rule, logits, correction_bias, seed, token, ids, weights, scores);
}
