// SPDX-License-Identifier: MIT
#include "moecl/routing.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void moecl_routing_destroy(moecl_routing *routing) {
  if (!routing) return;
  free(routing->router_logits);
  free(routing->topk_ids);
  free(routing->topk_weights);
  free(routing->token_priority);
  free(routing->kept);
  free(routing->tokens_per_expert);
  free(routing->tokens_per_expert_after_capacity);
  memset(routing, 0, sizeof *routing);
}

static bool all_finite(const float *logits, int64_t count) {
  for (int64_t e = 0; e < count; e++)
    if (!isfinite(logits[e])) return false;
  return true;
}

/* What one token's softmax adds up to. */
typedef struct token_sums {
  double z_loss, entropy;
  double balance; /* sum_e assignments_e * score_e */
} token_sums;

static token_sums sum_token(const moecl_routing *routing, const float *logits) {
  const int64_t experts = routing->num_experts;
  double max = logits[0], sum = 0, weighted = 0, balance = 0;
  for (int64_t e = 1; e < experts; e++) max = fmax(max, logits[e]);
  for (int64_t e = 0; e < experts; e++) {
    double shifted = logits[e] - max, exponential = exp(shifted);
    sum += exponential;
    weighted += exponential * shifted;
    balance += exponential * (double)routing->tokens_per_expert[e];
  }
  double log_sum = max + log(sum);
  /* -sum p log p, with log p = shifted - log sum; 0 * log 0 never arises.
   * Rounding may leave a few ulps below zero where one expert has it all. */
  double entropy = fmax(0, log(sum) - weighted / sum);
  return (token_sums){log_sum * log_sum, entropy, balance / sum};
}

/* The three means over tokens. The loss is E * sum_e (assignments_e / T) *
 * mean_t score_te; summing over e first needs no vector of means. */
static void token_means(const moecl_routing *routing, moecl_routing_statistics *statistics) {
  token_sums total = {0, 0, 0};
  int64_t finite = 0;
  for (int64_t t = 0; t < routing->num_tokens; t++) {
    const float *logits = routing->router_logits + t * routing->num_experts;
    if (!all_finite(logits, routing->num_experts)) {
      if (statistics->nonfinite_tokens++ == 0) statistics->first_nonfinite_token = t;
      continue;
    }
    token_sums one = sum_token(routing, logits);
    total.z_loss += one.z_loss;
    total.entropy += one.entropy;
    total.balance += one.balance;
    finite++;
  }
  if (finite == 0) return;
  const double count = (double)finite;
  statistics->router_z_loss = total.z_loss / count;
  statistics->entropy = total.entropy / count;
  statistics->load_balancing_loss = (double)routing->num_experts * (total.balance / count) / count;
}

static void count_token(int64_t *tokens, int64_t *first, int64_t token) {
  if ((*tokens)++ == 0) *first = token;
}

/* Was a routed token's every choice given weight 0? */
static bool all_zero(const float *weights, int64_t count) {
  for (int64_t k = 0; k < count; k++)
    if (weights[k] != 0) return false;
  return true;
}

/* What came of the choices: a first choice of -1 is a token routed nowhere, be it for
 * its logits or for its choice scores. */
static void count_choices(const moecl_routing *routing, moecl_routing_statistics *statistics) {
  if (!routing->topk_ids || !routing->topk_weights) return;
  for (int64_t t = 0; t < routing->num_tokens; t++) {
    const int64_t at = t * routing->top_k;
    if (routing->topk_ids[at] >= 0) {
      if (all_zero(routing->topk_weights + at, routing->top_k))
        count_token(&statistics->zero_weight_tokens, &statistics->first_zero_weight_token, t);
    } else if (all_finite(routing->router_logits + t * routing->num_experts,
                          routing->num_experts)) {
      count_token(&statistics->nonfinite_score_tokens, &statistics->first_nonfinite_score_token, t);
    }
  }
}

typedef struct load {
  double sum, max, variance; /* variance: of the population */
} load;

static load measure_load(const int64_t *tokens, int64_t experts) {
  load l = {0, 0, 0};
  for (int64_t e = 0; e < experts; e++) {
    l.sum += (double)tokens[e];
    l.max = fmax(l.max, (double)tokens[e]);
  }
  double mean = l.sum / (double)experts;
  for (int64_t e = 0; e < experts; e++)
    l.variance += ((double)tokens[e] - mean) * ((double)tokens[e] - mean);
  l.variance /= (double)experts;
  return l;
}

void moecl_routing_statistics_compute(const moecl_routing *routing,
                                      moecl_routing_statistics *statistics) {
  if (!statistics) return;
  *statistics = (moecl_routing_statistics){.first_nonfinite_token = -1,
                                           .first_nonfinite_score_token = -1,
                                           .first_zero_weight_token = -1};
  if (!routing || routing->num_tokens == 0 || !routing->router_logits ||
      !routing->tokens_per_expert || !routing->tokens_per_expert_after_capacity)
    return;
  token_means(routing, statistics);
  count_choices(routing, statistics);
  const int64_t computed = routing->num_experts - routing->num_identity_experts;
  const double experts = (double)computed;
  const double assignments = (double)routing->num_tokens * (double)routing->top_k;
  const load before = measure_load(routing->tokens_per_expert, computed);
  const load after = measure_load(routing->tokens_per_expert_after_capacity, computed);
  if (before.sum > 0) {
    statistics->max_mean_imbalance = before.max * experts / before.sum;
    statistics->coefficient_of_variation = sqrt(before.variance) * experts / before.sum;
  }
  statistics->dropped_fraction = (before.sum - after.sum) / assignments;
  double identities = 0;
  for (int64_t e = computed; e < routing->num_experts; e++)
    identities += (double)routing->tokens_per_expert[e];
  statistics->identity_fraction = identities / assignments;
  if (after.max > 0) statistics->padding_waste = 1 - after.sum / (experts * after.max);
}
