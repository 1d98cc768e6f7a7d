// SPDX-License-Identifier: MIT
/* The reference's routing rules against answers worked out by hand. */
#include "moecl/reference.h"
#include "unit.h"
#include <math.h>

enum { MOST = 16 };
typedef struct chosen {
  int32_t ids[MOST];
  double weights[MOST], scores[MOST], gap;
} chosen;

static moecl_layer_params rule(int64_t experts, int64_t top_k, moecl_scoring scoring) {
  return (moecl_layer_params){.hidden_size = 1,
                              .intermediate_size = 1,
                              .num_experts = experts,
                              .top_k = top_k,
                              .scoring = scoring};
}

static chosen choose(const moecl_layer_params *params, const double *logits, const double *bias) {
  chosen c;
  assert_int_equal(moecl_layer_params_check(params, NULL, 0), MOECL_OK);
  c.gap = moecl_reference_topk(params, logits, bias, 3, 5, c.ids, c.weights, c.scores);
  return c;
}

static void near(double got, double want) {
  if (fabs(got - want) <= 1e-12 * fmax(1, fabs(want))) return;
  fprintf(stderr, "%.17g instead of %.17g\n", got, want);
  fail();
}

static void is(const chosen *c, int64_t top_k, const int32_t *ids, const double *weights) {
  for (int64_t k = 0; k < top_k; k++) {
    assert_int_equal(c->ids[k], ids[k]);
    near(c->weights[k], weights[k]);
  }
}

/* The logit of a sigmoid. */
static double of_sigmoid(double score) { return log(score / (1 - score)); }

static void test_sigmoid(void **state) {
  const double logits[] = {of_sigmoid(0.2), of_sigmoid(0.8), of_sigmoid(0.5)};
  moecl_layer_params params = rule(3, 2, MOECL_SCORING_SIGMOID);
  (void)state;
  chosen c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 2}, (double[]){0.8, 0.5});
  near(c.scores[0], 0.2);
  params.renormalize = true;
  params.routed_scaling_factor = 2.5f;
  c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 2}, (double[]){2.5 * 0.8 / 1.3, 2.5 * 0.5 / 1.3});
  params.renormalize = false;
  c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 2}, (double[]){2.0, 1.25});
  /* Scores that underflow: 1e-20 in the sum decides, and the weights vanish. */
  params.renormalize = true;
  c = choose(&params, (double[]){-200, -100, -300}, NULL);
  is(&c, 2, (int32_t[]){1, 0}, (double[]){0, 0});
  assert_true(c.weights[0] > 0 && c.weights[0] < 1e-20);
}

/* max(sum + epsilon, minimum): by hand. */
static void test_renormalize_guard(void **state) {
  const double logits[] = {of_sigmoid(0.2), of_sigmoid(0.8), of_sigmoid(0.5)};
  moecl_layer_params params = rule(3, 2, MOECL_SCORING_SIGMOID);
  (void)state;
  params.renormalize = true;
  params.renormalize_epsilon = 0.25f;
  chosen c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 2}, (double[]){0.8 / 1.55, 0.5 / 1.55});
  params.renormalize_minimum = 4;
  c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 2}, (double[]){0.2, 0.125});
  params.renormalize = false; /* then they mean nothing */
  c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 2}, (double[]){0.8, 0.5});
  /* LFM2's 1e-6 against sigmoids that are as small. */
  params = rule(3, 2, MOECL_SCORING_SIGMOID);
  params.renormalize = true;
  params.renormalize_epsilon = 1e-6f;
  c = choose(&params, (double[]){of_sigmoid(1e-6), of_sigmoid(2e-6), -40}, NULL);
  const double sum = 3e-6 + (double)1e-6f;
  is(&c, 2, (int32_t[]){1, 0}, (double[]){2e-6 / sum, 1e-6 / sum});
  /* ERNIE's least sum: shares of 1e-13 and 3e-13 of all, which the bias prefers. */
  params = rule(3, 2, MOECL_SCORING_SOFTMAX);
  params.renormalize = params.score_correction_bias = true;
  params.renormalize_minimum = 1e-12f;
  const double shares[] = {log(1e-13), log(3e-13), log(1 - 4e-13)};
  c = choose(&params, shares, (double[]){5, 5, 0});
  is(&c, 2, (int32_t[]){1, 0},
     (double[]){0.3 * 1e-12 / (double)1e-12f, 0.1 * 1e-12 / (double)1e-12f});
  params.renormalize_minimum = 0;
  c = choose(&params, shares, (double[]){5, 5, 0});
  is(&c, 2, (int32_t[]){1, 0}, (double[]){0.75, 0.25});
}

static void test_sqrt_softplus(void **state) {
  /* softplus(log(e^4 - 1)) = 4. */
  const double logits[] = {log(exp(4) - 1), log(exp(1) - 1), 50000};
  const moecl_layer_params params = rule(3, 3, MOECL_SCORING_SQRT_SOFTPLUS);
  (void)state;
  const chosen c = choose(&params, logits, NULL);
  is(&c, 3, (int32_t[]){2, 0, 1}, (double[]){sqrt(50000), 2, 1});
}

/* The scores are of the K chosen logits alone. */
static void test_after_topk(void **state) {
  const double logits[] = {log(1), log(2), log(4), log(3)};
  moecl_layer_params params = rule(4, 2, MOECL_SCORING_SOFTMAX);
  params.score_after_topk = true;
  (void)state;
  chosen c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){2, 3}, (double[]){4.0 / 7, 3.0 / 7});
  near(c.scores[0], 0.1); /* of all experts */
  params.scoring = MOECL_SCORING_SIGMOID;
  c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){2, 3}, (double[]){0.8, 0.75});
}

/* The bias moves the choice, not the weight. */
static void test_correction(void **state) {
  const double logits[] = {of_sigmoid(0.2), of_sigmoid(0.8), of_sigmoid(0.5), of_sigmoid(0.5)};
  moecl_layer_params params = rule(4, 2, MOECL_SCORING_SIGMOID);
  params.score_correction_bias = true;
  (void)state;
  chosen c = choose(&params, logits, (double[]){0.65, 0, 0, 0});
  is(&c, 2, (int32_t[]){0, 1}, (double[]){0.2, 0.8});
  near(c.gap, 0.3 / 0.8); /* 0.8 and 0.5, made of numbers up to 0.8 */
  c = choose(&params, logits, (double[]){0, -1, 0, 0});
  is(&c, 2, (int32_t[]){2, 3}, (double[]){0.5, 0.5});
  params.scoring = MOECL_SCORING_SOFTMAX;
  c = choose(&params, (double[]){log(1), log(2), log(4), log(3)}, (double[]){0.35, 0, 0, 0});
  is(&c, 2, (int32_t[]){0, 2}, (double[]){0.1, 0.4});
  /* A bias that is not finite leaves nothing to choose by. */
  c = choose(&params, logits, (double[]){0, NAN, 0, 0});
  is(&c, 2, (int32_t[]){-1, -1}, (double[]){0, 0});
  assert_true(isinf(c.gap));
}

/* Three groups of two, of which two are taken. */
static void test_groups(void **state) {
  static const double score[] = {0.9, 0.1, 0.6, 0.5, 0.7, 0.35};
  double logits[6];
  moecl_layer_params params = rule(6, 3, MOECL_SCORING_SIGMOID);
  (void)state;
  for (int e = 0; e < 6; e++) logits[e] = of_sigmoid(score[e]);
  params.num_expert_group = 3;
  params.topk_group = 2;
  /* By the best: groups 0 and 2, and so experts 2 and 3 are cut off. */
  chosen c = choose(&params, logits, NULL);
  is(&c, 3, (int32_t[]){0, 4, 5}, (double[]){0.9, 0.7, 0.35});
  near(c.gap, 1 - (0.6 / 0.4) / (0.7 / 0.3)); /* group 1 behind group 2, by their logits */
  /* By the sum of two: 1.0, 1.1 and 1.05, and so expert 0 is. */
  params.group_score = MOECL_GROUP_TOP2_SUM;
  c = choose(&params, logits, NULL);
  is(&c, 3, (int32_t[]){4, 2, 3}, (double[]){0.7, 0.6, 0.5});
  near(c.gap, (1.05 - 1.0) / 0.9);
  /* All groups: none is cut off. */
  params.topk_group = 3;
  c = choose(&params, logits, NULL);
  is(&c, 3, (int32_t[]){0, 4, 2}, (double[]){0.9, 0.7, 0.6});
  /* The bias takes part in the groups' choice: 1.4, 1.1 and 1.05. */
  params.topk_group = 2;
  params.score_correction_bias = true;
  c = choose(&params, logits, (double[]){0.4, 0, 0, 0, 0, 0});
  is(&c, 3, (int32_t[]){0, 2, 3}, (double[]){0.9, 0.6, 0.5});
  /* Values -0.1, -0.9, -0.4, -0.5, 0.1, -0.65; sums -1, -0.9 and -0.55: expert 0 is cut
   * off, and as a zero comes behind the one above. */
  const double lower[] = {-1, -1, -1, -1, -0.6, -1};
  c = choose(&params, logits, lower);
  is(&c, 3, (int32_t[]){4, 2, 3}, (double[]){0.7, 0.6, 0.5});
  params.cut_groups_to_zero = true;
  c = choose(&params, logits, lower);
  is(&c, 3, (int32_t[]){4, 0, 1}, (double[]){0.7, 0.9, 0.1});
  /* Nothing is negative without a bias. */
  params.score_correction_bias = false;
  c = choose(&params, logits, NULL);
  is(&c, 3, (int32_t[]){4, 2, 3}, (double[]){0.7, 0.6, 0.5});
}

/* Equally good groups: the first ones. */
static void test_tied_groups(void **state) {
  const double logits[] = {1, 2, 2, 1, 2, 1};
  moecl_layer_params params = rule(6, 2, MOECL_SCORING_SOFTMAX);
  (void)state;
  params.num_expert_group = 3;
  params.topk_group = 1;
  const chosen c = choose(&params, logits, NULL);
  assert_int_equal(c.ids[0], 1);
  assert_int_equal(c.ids[1], 0);
  assert_true(c.gap == 0);
}

/* A bias that makes all choice scores negative lets nobody in from other groups. */
static void test_negative_choice(void **state) {
  const double logits[] = {0, 0, 0, 0};
  moecl_layer_params params = rule(4, 1, MOECL_SCORING_SIGMOID);
  (void)state;
  params.num_expert_group = 2;
  params.topk_group = 1;
  params.score_correction_bias = true;
  const chosen c = choose(&params, logits, (double[]){-1, -1, -2, -2});
  is(&c, 1, (int32_t[]){0}, (double[]){0.5});
}

/* With jitter 0.1, 2 is within 0.2 * 2.4 of 2.4, and 1.9 is not; then 1.9 is
 * within 0.4 of 2. */
static void test_sparsemixer(void **state) {
  const double logits[] = {1.9, 2.4, -5, 2.0};
  moecl_layer_params params = rule(4, 2, MOECL_SCORING_SPARSEMIXER);
  params.sparsemixer_jitter = 0.1f;
  (void)state;
  chosen c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 3}, (double[]){1 / (1 + exp(-0.4)), 1 / (1 + exp(-0.1))});
  params.sparsemixer_jitter = 0; /* 0.01: each is alone */
  c = choose(&params, logits, NULL);
  is(&c, 2, (int32_t[]){1, 3}, (double[]){1, 1});
  near(c.gap, fmin(fabs(0.1 / 2.0 - 2 * (double)0.01f), -expm1(-0.1)));
  c = choose(&params, (double[]){0, 0, 0, 0}, NULL); /* 0 of 0 is near */
  is(&c, 2, (int32_t[]){0, 1}, (double[]){1.0 / 4, 1.0 / 3});
}

/* As moecl_reference_keep says, and renormalized over those kept. */
static void test_random_second(void **state) {
  int kept = 0, dropped = 0;
  (void)state;
  for (int64_t token = 0; token < 200; token++) {
    const double logits[] = {log(0.6), log(0.25), log(0.15)};
    moecl_layer_params params = rule(3, 2, MOECL_SCORING_SOFTMAX);
    params.second_choice = MOECL_SECOND_RANDOM;
    params.renormalize = token % 2;
    int32_t ids[2];
    double weights[2];
    moecl_reference_topk(&params, logits, NULL, 9, token, ids, weights, NULL);
    assert_int_equal(ids[0], 0);
    if (moecl_reference_keep(9, (uint64_t)token, 1) < 0.5) {
      assert_int_equal(ids[1], 1);
      near(weights[0], params.renormalize ? 0.6 / 0.85 : 0.6);
      near(weights[1], params.renormalize ? 0.25 / 0.85 : 0.25);
      kept++;
    } else {
      assert_int_equal(ids[1], -1);
      near(weights[0], params.renormalize ? 1 : 0.6);
      assert_true(weights[1] == 0);
      dropped++;
    }
  }
  assert_true(kept > 60 && dropped > 60); /* 100 are expected, 7 their deviation */
}

/* The first choice by logit, the second by logit and Gumbel, the weights without. */
static void test_sampled_second(void **state) {
  static const double score[] = {0.5, 0.1, 0.15, 0.25};
  int counts[4] = {0};
  (void)state;
  for (int64_t token = 0; token < 1000; token++) {
    double logits[4], weights[2];
    int32_t ids[2], best = 1;
    for (int e = 0; e < 4; e++) logits[e] = log(score[e]) + 7;
    moecl_layer_params params = rule(4, 2, MOECL_SCORING_SOFTMAX);
    params.second_choice = MOECL_SECOND_SAMPLED;
    moecl_reference_topk(&params, logits, NULL, 11, token, ids, weights, NULL);
    for (int32_t e = 2; e < 4; e++)
      if (logits[e] + moecl_reference_gumbel(11, (uint64_t)token, (uint32_t)e) >
          logits[best] + moecl_reference_gumbel(11, (uint64_t)token, (uint32_t)best))
        best = e;
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], best);
    near(weights[0], 0.5);
    near(weights[1], score[best]);
    counts[best]++;
  }
  /* In proportion to the scores: the Gumbel maximum is a draw from the softmax. */
  for (int e = 1; e < 4; e++) {
    const double p = score[e] / 0.5;
    assert_true(fabs(counts[e] - 1000 * p) < 4 * sqrt(1000 * p * (1 - p)));
  }
}

/* Moments of the numbers drawn, and that seed, token and index all matter. */
static void test_draws(void **state) {
  enum { COUNT = 20000 };
  double normal = 0, square = 0, pairs = 0, gumbel = 0, uniform = 0;
  (void)state;
  for (uint32_t i = 0; i < COUNT; i++) {
    const double x = moecl_reference_noise(1, i / 4, i % 4),
                 u = moecl_reference_keep(1, i / 4, i % 4);
    normal += x;
    square += x * x;
    if (i % 2) pairs += x * moecl_reference_noise(1, i / 4, i % 4 - 1);
    gumbel += moecl_reference_gumbel(1, i / 4, i % 4);
    uniform += u;
    assert_true(u >= 0 && u < 1 && isfinite(x));
  }
  assert_true(fabs(normal / COUNT) < 0.03 && fabs(square / COUNT - 1) < 0.04);
  assert_true(fabs(pairs / COUNT) < 0.03);
  assert_true(fabs(gumbel / COUNT - 0.5772) < 0.04 && fabs(uniform / COUNT - 0.5) < 0.01);
  const double one = moecl_reference_noise(1, 2, 3);
  assert_true(one != moecl_reference_noise(2, 2, 3) && one != moecl_reference_noise(1, 3, 3) &&
              one != moecl_reference_noise(1, 2, 7) &&
              one != moecl_reference_noise(UINT64_C(1) << 32 | 1, 2, 3) &&
              one != moecl_reference_noise(1, UINT64_C(1) << 32 | 2, 3));
}

static void test_noise(void **state) {
  const moecl_layer_params params = rule(2, 1, MOECL_SCORING_SOFTMAX);
  double logits[] = {1, 2};
  (void)state;
  moecl_reference_add_noise(&params, (double[]){log(exp(3) - 1), -800}, 4, 6, logits);
  near(logits[0], 1 + 3 * moecl_reference_noise(4, 6, 0));
  near(logits[1], 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sigmoid),        cmocka_unit_test(test_renormalize_guard),
      cmocka_unit_test(test_sqrt_softplus),  cmocka_unit_test(test_after_topk),
      cmocka_unit_test(test_correction),     cmocka_unit_test(test_groups),
      cmocka_unit_test(test_tied_groups),    cmocka_unit_test(test_negative_choice),
      cmocka_unit_test(test_sparsemixer),    cmocka_unit_test(test_random_second),
      cmocka_unit_test(test_sampled_second), cmocka_unit_test(test_draws),
      cmocka_unit_test(test_noise),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
