/* How evenly the router loads its experts: plain C on the routing's host
 * arrays, in double precision and a fixed order. */
#include "moecl/routing.h"
#include <math.h>
#include <stdlib.h>

typedef struct token_sums {
  double z_loss, entropy;
  int64_t finite_tokens;
} token_sums;

/* One token's logits into the sums; probabilities are added to mean_probability
 * (may be NULL). False when a logit is not finite. */
static bool add_token(const float *logits, int64_t experts, token_sums *sums,
                      double *mean_probability) {
  double maximum = -INFINITY, sum = 0.0, weighted = 0.0;
  for (int64_t e = 0; e < experts; e++) {
    if (!isfinite(logits[e])) return false;
    maximum = fmax(maximum, logits[e]);
  }
  for (int64_t e = 0; e < experts; e++) {
    const double shifted = logits[e] - maximum, p = exp(shifted);
    sum += p;
    weighted += p * shifted;
  }
  const double log_sum = maximum + log(sum);
  sums->z_loss += log_sum * log_sum;
  sums->entropy += log(sum) - weighted / sum; /* -sum p log p */
  sums->finite_tokens++;
  for (int64_t e = 0; mean_probability && e < experts; e++)
    mean_probability[e] += exp(logits[e] - maximum) / sum;
  return true;
}

static void add_load(const moecl_routing *routing, moecl_routing_statistics *statistics) {
  const int64_t experts = routing->num_experts;
  const double slots = (double)routing->num_tokens * (double)routing->top_k;
  double total = 0.0, squares = 0.0, most = 0.0, kept = 0.0, most_kept = 0.0;
  for (int64_t e = 0; e < experts; e++) {
    const double count = (double)routing->tokens_per_expert[e];
    const double after = (double)routing->tokens_per_expert_after_capacity[e];
    total += count;
    most = fmax(most, count);
    kept += after;
    most_kept = fmax(most_kept, after);
  }
  const double mean = total / (double)experts;
  for (int64_t e = 0; e < experts; e++) {
    const double away = (double)routing->tokens_per_expert[e] - mean;
    squares += away * away;
  }
  if (mean > 0) {
    statistics->max_mean_imbalance = most / mean;
    statistics->coefficient_of_variation = sqrt(squares / (double)experts) / mean;
  }
  if (slots > 0) statistics->dropped_fraction = (total - kept) / slots;
  if (most_kept > 0) statistics->padding_waste = 1.0 - kept / ((double)experts * most_kept);
}

void moecl_routing_statistics_compute(const moecl_routing *routing,
                                      moecl_routing_statistics *statistics) {
  *statistics = (moecl_routing_statistics){.first_nonfinite_token = -1};
  const int64_t experts = routing->num_experts;
  if (routing->num_tokens == 0 || experts == 0) return;
  /* Without memory for the means the load-balancing loss is NaN, the rest stands. */
  double *probability = calloc((size_t)experts, sizeof *probability);
  token_sums sums = {0};
  for (int64_t t = 0; t < routing->num_tokens; t++) {
    if (add_token(routing->router_logits + t * experts, experts, &sums, probability)) continue;
    if (statistics->nonfinite_tokens++ == 0) statistics->first_nonfinite_token = t;
  }
  if (sums.finite_tokens > 0) {
    const double tokens = (double)sums.finite_tokens;
    double loss = 0.0;
    for (int64_t e = 0; probability && e < experts; e++)
      loss += (double)routing->tokens_per_expert[e] / tokens * (probability[e] / tokens);
    statistics->load_balancing_loss = probability ? loss * (double)experts : NAN;
    statistics->router_z_loss = sums.z_loss / tokens;
    statistics->entropy = sums.entropy / tokens;
  }
  free(probability);
  add_load(routing, statistics);
}

void moecl_routing_destroy(moecl_routing *routing) {
  if (!routing) return;
  free(routing->router_logits);
  free(routing->topk_ids);
  free(routing->topk_weights);
  free(routing->kept);
  free(routing->tokens_per_expert);
  free(routing->tokens_per_expert_after_capacity);
  *routing = (moecl_routing){0};
}
