// SPDX-License-Identifier: MIT
/* Routing statistics: by hand, and as transformers computes them. */
#include "../golden.h"
#include "unit.h"
#include <math.h>

#define assert_near(got, want, tolerance)                                                          \
  assert_true(fabs((got) - (want)) <= (tolerance)*fmax(1, fabs(want)))

/* Statistics read the logits and the counts alone. */
static moecl_routing_statistics compute(int64_t tokens, int64_t experts, int64_t top_k,
                                        float *logits, int64_t *before, int64_t *after) {
  moecl_routing routing = {.num_tokens = tokens,
                           .num_experts = experts,
                           .top_k = top_k,
                           .router_logits = logits,
                           .tokens_per_expert = before,
                           .tokens_per_expert_after_capacity = after};
  moecl_routing_statistics statistics;
  memset(&statistics, 0xff, sizeof statistics);
  moecl_routing_statistics_compute(&routing, &statistics);
  return statistics;
}

static void test_even(void **state) {
  (void)state;
  float logits[8] = {0};
  int64_t counts[4] = {1, 1, 1, 1};
  moecl_routing_statistics s = compute(2, 4, 2, logits, counts, counts);
  assert_near(s.load_balancing_loss, 2.0, 1e-15); /* K where all is even */
  assert_near(s.router_z_loss, log(4) * log(4), 1e-15);
  assert_near(s.entropy, log(4), 1e-15);
  assert_true(s.max_mean_imbalance == 1 && s.coefficient_of_variation == 0);
  assert_true(s.dropped_fraction == 0 && s.padding_waste == 0);
  assert_true(s.nonfinite_tokens == 0 && s.first_nonfinite_token == -1);
}

/* Scores 3/4 and 1/4 for two tokens that both choose expert 0; one is dropped. */
static void test_by_hand(void **state) {
  (void)state;
  float l = logf(3);
  float logits[4] = {l, 0, l, 0};
  int64_t before[2] = {2, 0}, after[2] = {1, 0};
  moecl_routing_statistics s = compute(2, 2, 1, logits, before, after);
  assert_near(s.load_balancing_loss, 2 * (1 * 0.75), 1e-7);
  assert_near(s.router_z_loss, log(4) * log(4), 1e-7);
  assert_near(s.entropy, -(0.75 * log(0.75) + 0.25 * log(0.25)), 1e-7);
  assert_true(s.max_mean_imbalance == 2 && s.coefficient_of_variation == 1);
  assert_true(s.dropped_fraction == 0.5);
  assert_true(s.padding_waste == 0.5); /* 1 of 2 * 1 padded rows */
}

/* Three experts and two identities, top 2 of four tokens: what is not the softmax's is of
 * the three alone. One of expert 0's is dropped. */
static void test_identities(void **state) {
  (void)state;
  float logits[20] = {0};
  int64_t before[5] = {3, 1, 0, 4, 0}, after[5] = {2, 1, 0, 4, 0};
  moecl_routing routing = {.num_tokens = 4,
                           .num_experts = 5,
                           .num_identity_experts = 2,
                           .top_k = 2,
                           .router_logits = logits,
                           .tokens_per_expert = before,
                           .tokens_per_expert_after_capacity = after};
  moecl_routing_statistics s;
  moecl_routing_statistics_compute(&routing, &s);
  assert_true(s.identity_fraction == 0.5 && s.dropped_fraction == 1.0 / 8);
  assert_near(s.max_mean_imbalance, 3 / (4.0 / 3), 1e-15);
  assert_near(s.coefficient_of_variation, sqrt(14.0 / 9) / (4.0 / 3), 1e-15);
  assert_near(s.padding_waste, 0.5, 1e-15); /* 3 of 3 * 2 */
  assert_near(s.load_balancing_loss, 2.0, 1e-15);
  assert_near(s.entropy, log(5), 1e-15);
  before[3] = 8, before[0] = before[1] = after[0] = after[1] = 0;
  moecl_routing_statistics_compute(&routing, &s);
  assert_true(s.identity_fraction == 1 && s.dropped_fraction == 0 && s.padding_waste == 0);
  assert_true(s.max_mean_imbalance == 0 && s.coefficient_of_variation == 0);
}

static void test_no_tokens(void **state) {
  (void)state;
  int64_t counts[3] = {0, 0, 0};
  moecl_routing_statistics s = compute(0, 3, 2, NULL, counts, counts);
  assert_true(s.load_balancing_loss == 0 && s.router_z_loss == 0 && s.entropy == 0);
  assert_true(s.max_mean_imbalance == 0 && s.coefficient_of_variation == 0);
  assert_true(s.dropped_fraction == 0 && s.padding_waste == 0);
  assert_true(s.nonfinite_tokens == 0 && s.first_nonfinite_token == -1);
}

/* Tokens that are routed nowhere are counted, and change no mean. */
static void test_nonfinite(void **state) {
  (void)state;
  float logits[] = {0, 1, 2, NAN, 0, 0, 1, 0, -INFINITY, INFINITY, 2, 2, 3, 1, 0};
  float finite[] = {0, 1, 2, 3, 1, 0};
  int64_t counts[3] = {1, 0, 1};
  moecl_routing_statistics s = compute(5, 3, 1, logits, counts, counts);
  moecl_routing_statistics want = compute(2, 3, 1, finite, counts, counts);
  assert_true(s.nonfinite_tokens == 3 && s.first_nonfinite_token == 1);
  assert_true(s.load_balancing_loss == want.load_balancing_loss);
  assert_true(s.router_z_loss == want.router_z_loss && s.entropy == want.entropy);
  assert_true(s.dropped_fraction == 0 && isfinite(s.load_balancing_loss));
}

/* Routed nowhere though all logits are finite: its choice scores were not. A second
 * choice that was not kept is neither that nor a weight of 0. */
static void test_odd_choices(void **state) {
  (void)state;
  float logits[] = {0, 1, 0, 1, 0, 1, NAN, 1, 0, 1, 0, 1};
  int32_t ids[] = {1, 0, -1, -1, 1, 0, -1, -1, 1, -1, 0, 1};
  float weights[] = {0.75f, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0.5f}; /* a bias reorders the last */
  int64_t counts[] = {3, 4};
  const moecl_routing routing = {.num_tokens = 6,
                                 .num_experts = 2,
                                 .top_k = 2,
                                 .router_logits = logits,
                                 .topk_ids = ids,
                                 .topk_weights = weights,
                                 .tokens_per_expert = counts,
                                 .tokens_per_expert_after_capacity = counts};
  moecl_routing_statistics s;
  moecl_routing_statistics_compute(&routing, &s);
  assert_true(s.nonfinite_tokens == 1 && s.first_nonfinite_token == 3);
  assert_true(s.nonfinite_score_tokens == 1 && s.first_nonfinite_score_token == 1);
  assert_true(s.zero_weight_tokens == 1 && s.first_zero_weight_token == 2);
}

static void test_all_nonfinite(void **state) {
  (void)state;
  float logits[] = {NAN, NAN};
  int64_t counts[2] = {0, 0};
  moecl_routing_statistics s = compute(1, 2, 2, logits, counts, counts);
  assert_true(s.nonfinite_tokens == 1 && s.first_nonfinite_token == 0);
  assert_true(s.load_balancing_loss == 0 && s.entropy == 0 && s.max_mean_imbalance == 0);
  assert_true(s.coefficient_of_variation == 0 && s.padding_waste == 0 && s.dropped_fraction == 0);
}

/* exp overflows or underflows on the largest logits that fp32 holds. */
static void test_extreme_logits(void **state) {
  (void)state;
  float logits[] = {3e38f, -3e38f, -3e38f, -3e38f};
  int64_t counts[2] = {2, 0};
  moecl_routing_statistics s = compute(2, 2, 1, logits, counts, counts);
  assert_true(s.entropy >= 0);
  assert_near(s.entropy, log(2) / 2, 1e-15);
  assert_near(s.load_balancing_loss, 2 * 0.75, 1e-15);
  assert_true(isfinite(s.router_z_loss) && s.router_z_loss > 1e76);
}

static void test_destroy(void **state) {
  (void)state;
  moecl_routing routing = {.num_tokens = 1,
                           .router_logits = malloc(4),
                           .topk_ids = malloc(4),
                           .topk_weights = malloc(4),
                           .kept = malloc(1),
                           .tokens_per_expert = malloc(8),
                           .tokens_per_expert_after_capacity = malloc(8)},
                zero = {0};
  moecl_routing_destroy(&routing);
  assert_memory_equal(&routing, &zero, sizeof zero);
  moecl_routing_destroy(&routing);
  moecl_routing_destroy(NULL);
}

/* One tensor of a golden case. */
static double *values(const golden *file, const char *name, const char *tensor, int64_t *count) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", name, tensor);
  double *v = golden_doubles(file, key);
  assert_non_null(v);
  if (count) *count = golden_count(file, key);
  return v;
}

static double scalar(const golden *file, const char *name, const char *tensor) {
  double *v = values(file, name, tensor, NULL), value = v[0];
  free(v);
  return value;
}

static void check_golden(const golden *file, const char *name) {
  int64_t experts, elements, assignments;
  double *counts = values(file, name, "tokens_per_expert", &experts);
  double *wide = values(file, name, "router_logits", &elements);
  double *ids = values(file, name, "topk_ids", &assignments);
  float *logits = malloc((size_t)elements * sizeof *logits);
  int64_t *before = malloc((size_t)experts * sizeof *before), tokens = elements / experts;
  assert_true(logits && before);
  for (int64_t i = 0; i < elements; i++) logits[i] = (float)wide[i];
  for (int64_t e = 0; e < experts; e++) before[e] = (int64_t)counts[e];
  moecl_routing_statistics s =
      compute(tokens, experts, assignments / tokens, logits, before, before);
  /* transformers adds up in fp32 even where the logits are double. */
  assert_near(s.load_balancing_loss, scalar(file, name, "load_balancing_loss"), 1e-6);
  assert_near(s.router_z_loss, scalar(file, name, "router_z_loss"), 1e-12);

  assert_near(s.entropy, scalar(file, name, "entropy"), 1e-10);
  assert_near(s.max_mean_imbalance, scalar(file, name, "max_mean_imbalance"), 1e-14);
  assert_near(s.coefficient_of_variation, scalar(file, name, "coefficient_of_variation"), 1e-14);
  free(before);
  free(logits);
  free(ids);
  free(wide);
  free(counts);
}

static void test_golden(void **state) {
  (void)state;
  static const char *const names[] = {"even",       "skewed",      "one_token",
                                      "one_expert", "all_experts", "sharp"};
  golden *file = golden_open("statistics.safetensors");
  assert_non_null(file);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_golden(file, names[i]);
  golden_close(&file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_even),          cmocka_unit_test(test_by_hand),
      cmocka_unit_test(test_identities),    cmocka_unit_test(test_no_tokens),
      cmocka_unit_test(test_nonfinite),     cmocka_unit_test(test_odd_choices),
      cmocka_unit_test(test_all_nonfinite), cmocka_unit_test(test_extreme_logits),
      cmocka_unit_test(test_destroy),       cmocka_unit_test(test_golden),
  };
  return cmocka_run_group_tests_name("statistics", tests, NULL, NULL);
}
