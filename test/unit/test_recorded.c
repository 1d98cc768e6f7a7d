// SPDX-License-Identifier: MIT
/* What moectl verify makes of recorded choices and rows: which differences are
 * rounding's, and which are mistakes. Expected values are computed here. */
#include "model/recorded.h"
#include "unit.h"
#include <math.h>

enum { MOST = 16 };

typedef struct token {
  moecl_layer_params params;
  double tolerance;
  double logits[MOST], bias[MOST], their_logits[MOST];
  double ids[MOST], weights[MOST], their_ids[MOST], their_weights[MOST];
  bool has_bias, has_logits, has_weights;
  double expected[MOST];
} token;

static token make_token(int experts, int top_k, const double *logits) {
  token t = {.params = {.hidden_size = 8,
                        .intermediate_size = 8,
                        .num_experts = experts,
                        .top_k = top_k,
                        .renormalize = false},
             .tolerance = 1e-5};
  memcpy(t.logits, logits, (size_t)experts * sizeof *logits);
  return t;
}

static double share(const token *t, const double *logits, int expert) {
  double sum = 0;
  for (int e = 0; e < t->params.num_experts; e++) sum += exp(logits[e] - logits[expert]);
  return 1 / sum;
}

/* Ours: `ids`, with the weights of a softmax. */
static void we_chose(token *t, const double *ids) {
  for (int k = 0; k < t->params.top_k; k++) {
    t->ids[k] = ids[k];
    t->weights[k] = share(t, t->logits, (int)ids[k]);
  }
}
#define CHOSEN(...) ((const double[]){__VA_ARGS__})

static unsigned judge(token *t, const double *their_ids) {
  memcpy(t->their_ids, their_ids, (size_t)t->params.top_k * sizeof *their_ids);
  const choice_case of = {.params = &t->params,
                          .correction_bias = t->has_bias ? t->bias : NULL,
                          .tolerance = t->tolerance,
                          .logits = t->logits,
                          .ids = t->ids,
                          .weights = t->weights,
                          .their_logits = t->has_logits ? t->their_logits : NULL,
                          .their_ids = t->their_ids,
                          .their_weights = t->has_weights ? t->their_weights : NULL};
  return compare_choice(&of, t->expected);
}

static void assert_near(const double *got, const double *want, int count) {
  for (int i = 0; i < count; i++)
    if (!(fabs(got[i] - want[i]) <= 1e-9 * fabs(want[i]) + 1e-300))
      fail_msg("element %d is %.12g, expected %.12g", i, got[i], want[i]);
}

/* ---- ties ---- */

/* The last one taken has the value 3, so rounding is 3e-5, or as much as the median's. */
static void test_window(void **state) {
  static const struct {
    double behind, last, others;
    unsigned want;
  } all[] = {{0, 3, 2, CHOICE_TIE},
             {2.7e-5, 3, 2, CHOICE_TIE},
             {3.3e-5, 3, 2, CHOICE_OTHER},
             {3e-3, 3, 2, CHOICE_OTHER},
             {1, 3, 2, CHOICE_OTHER},
             {0.9e-5, 1e-3, 1e-3 - 1, CHOICE_TIE},
             {1.2e-5, 1e-3, 1e-3 - 1, CHOICE_OTHER}};
  (void)state;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    const double last = all[i].last, rest = all[i].others;
    /* One large number moves a mean, not the median. */
    const double logits[6] = {-1e4, last, last + 1, last - all[i].behind, rest, rest};
    token t = make_token(6, 2, logits);
    we_chose(&t, CHOSEN(2, 1));
    t.params.score_after_topk = true; /* nothing but the logits decides */
    assert_int_equal(judge(&t, CHOSEN(2, 3)), all[i].want);
    assert_int_equal(judge(&t, CHOSEN(3, 2)), all[i].want);
    assert_int_equal(judge(&t, CHOSEN(2, 0)), CHOICE_OTHER);
    assert_int_equal(judge(&t, CHOSEN(1, 3)), CHOICE_OTHER); /* without the best one */
    assert_int_equal(judge(&t, CHOSEN(2, -1)), CHOICE_OTHER);
  }
}

/* A tied expert's weight is its own, renormalized with the others. */
static void test_weights_at_a_tie(void **state) {
  const double logits[5] = {1, 3, 4, 3 - 2e-5, 0};
  token t = make_token(5, 2, logits);
  (void)state;
  t.params.renormalize = true;
  t.params.routed_scaling_factor = 2;
  we_chose(&t, CHOSEN(2, 1));
  assert_int_equal(judge(&t, CHOSEN(3, 2)), CHOICE_TIE);
  const double a = exp(logits[3]), b = exp(logits[2]);
  assert_near(t.expected, (const double[]){2 * a / (a + b), 2 * b / (a + b)}, 2);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* With a correction bias it is the score with the bias that ties. */
static void test_bias_in_ties(void **state) {
  const double logits[5] = {1, 0, 0.5, 0.5, -1};
  token t = make_token(5, 1, logits);
  (void)state;
  t.params.scoring = MOECL_SCORING_SIGMOID;
  t.params.score_correction_bias = t.has_bias = true;
  t.bias[0] = 0.1;
  t.bias[1] = sigmoid(1) + 0.1 - 0.5 - 0.5e-5; /* as good as 0 */
  t.bias[3] = -0.2;
  t.ids[0] = 0;
  t.weights[0] = sigmoid(1);
  assert_int_equal(judge(&t, CHOSEN(1)), CHOICE_TIE);
  assert_near(t.expected, CHOSEN(0.5), 1);
  t.bias[1] -= 2e-5;
  assert_int_equal(judge(&t, CHOSEN(1)), CHOICE_OTHER);
  /* The same logits, not the same bias. */
  t.bias[0] = t.bias[1] = -1;
  t.ids[0] = 2;
  t.weights[0] = sigmoid(0.5);
  assert_int_equal(judge(&t, CHOSEN(3)), CHOICE_OTHER);
}

/* Scores of 1 in fp32 can't be told apart there; those that can are no ties. */
static void test_saturated(void **state) {
  token t = make_token(4, 1, (const double[]){17, 18, 19, 1});
  (void)state;
  t.params.scoring = MOECL_SCORING_SIGMOID;
  t.ids[0] = 2;
  t.weights[0] = 1;
  assert_int_equal(judge(&t, CHOSEN(0)), CHOICE_TIE);
  assert_int_equal(judge(&t, CHOSEN(3)), CHOICE_OTHER);
  t = make_token(4, 1, (const double[]){10, 11, 12, 1});
  t.params.scoring = MOECL_SCORING_SIGMOID;
  t.ids[0] = 2;
  t.weights[0] = sigmoid(12);
  assert_int_equal(judge(&t, CHOSEN(1)), CHOICE_OTHER);
}

/* ---- groups ---- */

/* Two of four groups of two experts are taken; the third group is `behind` the
 * second. A tie of groups makes no other expert right. */
static void check_groups(moecl_group_score by, double behind, unsigned want) {
  const double low = by == MOECL_GROUP_MAX ? 0 : 1;
  const double logits[8] = {5, by == MOECL_GROUP_MAX ? 0.2 : 2, 4, low, 4 - behind, low, 1, 0.5};
  token t = make_token(8, 2, logits);
  t.params.num_expert_group = 4;
  t.params.topk_group = 2;
  t.params.group_score = by;
  t.params.scoring = by == MOECL_GROUP_MAX ? MOECL_SCORING_SOFTMAX : MOECL_SCORING_SIGMOID;
  t.ids[0] = 0, t.ids[1] = 2;
  assert_int_equal(judge(&t, CHOSEN(0, 4)), want);
  assert_int_equal(judge(&t, CHOSEN(4, 0)), want);
  assert_int_equal(judge(&t, CHOSEN(0, 6)), CHOICE_OTHER); /* of the worst group */
  assert_int_equal(judge(&t, CHOSEN(0, 1)), CHOICE_OTHER); /* not the best of its group */
  assert_int_equal(judge(&t, CHOSEN(0, 3)), CHOICE_OTHER);
  assert_int_equal(judge(&t, CHOSEN(0, 5)), CHOICE_OTHER);
  assert_int_equal(judge(&t, CHOSEN(2, 4)), CHOICE_OTHER); /* without the best group */
}

static void test_groups(void **state) {
  (void)state;
  check_groups(MOECL_GROUP_MAX, 0, CHOICE_TIE);
  check_groups(MOECL_GROUP_MAX, 3e-5, CHOICE_TIE);
  check_groups(MOECL_GROUP_MAX, 1e-3, CHOICE_OTHER);
  /* Scores of 4 and 4 - x differ by 0.0177 x. */
  check_groups(MOECL_GROUP_TOP2_SUM, 0, CHOICE_TIE);
  check_groups(MOECL_GROUP_TOP2_SUM, 4e-4, CHOICE_TIE);
  check_groups(MOECL_GROUP_TOP2_SUM, 1e-2, CHOICE_OTHER);
}

/* Three experts in two groups that tie with a third: all of them at once would take
 * more groups than there may be. */
static void test_too_many_groups(void **state) {
  token t = make_token(8, 3, (const double[]){5, 0, 4, 0, 4, 0, 1, 0});
  (void)state;
  t.params.num_expert_group = 4;
  t.params.topk_group = 2;
  we_chose(&t, CHOSEN(0, 2, 1));
  t.has_weights = false;
  assert_int_equal(judge(&t, CHOSEN(0, 2, 4)), CHOICE_OTHER);
  assert_int_equal(judge(&t, CHOSEN(0, 4, 5)), CHOICE_TIE);
}

/* Experts in groups that are cut off have value 0, and win against negative ones: all of
 * them are as good as each other. Three groups of two, of which one is taken. */
static token with_zeros(double behind) {
  /* Scores 0.5; values 0.1 and -0.3, -0.1 and -0.1 - behind, -0.4 and -0.45. */
  token t = make_token(6, 2, (const double[]){0, 0, 0, 0, 0, 0});
  t.params.scoring = MOECL_SCORING_SIGMOID;
  t.params.score_correction_bias = t.has_bias = true;
  t.params.num_expert_group = 3;
  t.params.topk_group = 1;
  t.params.group_score = MOECL_GROUP_TOP2_SUM;
  t.params.cut_groups_to_zero = true;
  memcpy(t.bias, (const double[]){-0.4, -0.8, -0.6, -0.6 - behind, -0.9, -0.95},
         6 * sizeof(double));
  t.ids[0] = 0, t.ids[1] = 2;
  t.weights[0] = t.weights[1] = 0.5;
  return t;
}

static void test_zeros_of_groups(void **state) {
  token t = with_zeros(1e-3); /* the first group is the best, by 1e-3 */
  (void)state;
  assert_int_equal(judge(&t, CHOSEN(0, 2)), 0);
  assert_int_equal(judge(&t, CHOSEN(0, 3)), CHOICE_TIE);
  assert_int_equal(judge(&t, CHOSEN(0, 5)), CHOICE_TIE);
  assert_near(t.expected, CHOSEN(0.5, 0.5), 2);
  assert_int_equal(judge(&t, CHOSEN(5, 0)), CHOICE_TIE);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), CHOICE_OTHER); /* -0.3 */
  assert_int_equal(judge(&t, CHOSEN(2, 3)), CHOICE_OTHER); /* without 0.1 */
  assert_int_equal(judge(&t, CHOSEN(4, 5)), CHOICE_OTHER);
  /* What is cut off is no zero by another rule. */
  t.params.cut_groups_to_zero = false;
  t.ids[1] = 1;
  assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
  assert_int_equal(judge(&t, CHOSEN(0, 5)), CHOICE_OTHER);
  /* Groups that tie: had the second been taken, all others would be zeros, 0.1 too. */
  t = with_zeros(1e-7);
  assert_int_equal(judge(&t, CHOSEN(0, 3)), CHOICE_TIE);
  assert_int_equal(judge(&t, CHOSEN(5, 4)), CHOICE_TIE);
  assert_int_equal(judge(&t, CHOSEN(1, 4)), CHOICE_TIE);
  assert_int_equal(judge(&t, CHOSEN(1, 2)), CHOICE_OTHER); /* never both */
  assert_int_equal(judge(&t, CHOSEN(2, 3)), CHOICE_OTHER); /* zeros lose against 0.1 */
}

/* ---- order ---- */

static void test_order(void **state) {
  token t = make_token(5, 3, (const double[]){1, 3, 4, 2, 0});
  (void)state;
  we_chose(&t, CHOSEN(2, 1, 3));
  t.has_weights = true;
  for (int k = 0; k < 3; k++) t.their_weights[k] = t.weights[(k + 1) % 3];
  assert_int_equal(judge(&t, CHOSEN(1, 3, 2)), CHOICE_REORDERED);
  assert_near(t.expected, t.their_weights, 3);
  /* Weights that do not follow their experts are told by what is expected. */
  memcpy(t.their_weights, t.weights, sizeof t.weights);
  assert_int_equal(judge(&t, CHOSEN(1, 3, 2)), CHOICE_REORDERED);
  assert_near(t.expected, (const double[]){t.weights[1], t.weights[2], t.weights[0]}, 3);
  t.has_weights = false;
  assert_int_equal(judge(&t, CHOSEN(2, 1, 3)), 0);
  assert_int_equal(judge(&t, CHOSEN(2, 3, 1)), CHOICE_REORDERED);
  assert_int_equal(judge(&t, CHOSEN(2, 3, 0)), CHOICE_OTHER);
  /* Where first choices come before second ones the order means something. */
  t.params.capacity_factor = 1;
  assert_int_equal(judge(&t, CHOSEN(2, 3, 1)), CHOICE_OTHER);
  t.params.drop_policy = MOECL_DROP_PROBABILITY;
  assert_int_equal(judge(&t, CHOSEN(2, 3, 1)), CHOICE_REORDERED);
  t.params.capacity_factor = 0;
  t.params.second_choice = MOECL_SECOND_RANDOM;
  assert_int_equal(judge(&t, CHOSEN(2, 3, 1)), CHOICE_OTHER);
}

/* ---- weight 0 ---- */

static void test_weightless(void **state) {
  token t = make_token(6, 3, (const double[]){0, -200, -300, 5, -400, -2});
  (void)state;
  we_chose(&t, CHOSEN(3, 0, 5));
  assert_int_equal(judge(&t, CHOSEN(3, 0, 4)), CHOICE_OTHER); /* -2 is no 0 */
  t = make_token(6, 3, (const double[]){0, -200, -300, 5, -400, -120});
  we_chose(&t, CHOSEN(3, 0, 5));
  assert_int_equal(judge(&t, CHOSEN(3, 0, 4)), CHOICE_WEIGHTLESS);
  assert_int_equal(judge(&t, CHOSEN(3, 0, 1)), CHOICE_WEIGHTLESS);
  assert_int_equal(judge(&t, CHOSEN(3, 1, 4)), CHOICE_OTHER);
  /* Told only where the recorded weights are 0 too: they are compared with this. */
  t.has_weights = true;
  memcpy(t.their_weights, t.weights, sizeof t.weights);
  t.their_weights[2] = 0.1;
  judge(&t, CHOSEN(3, 0, 4));
  assert_true(t.expected[2] < 1e-38);
  /* exp(-60) is a number in fp32. */
  t = make_token(6, 3, (const double[]){0, -200, -300, 5, -60, -55});
  we_chose(&t, CHOSEN(3, 0, 5));
  assert_int_equal(judge(&t, CHOSEN(3, 0, 4)), CHOICE_OTHER);
  /* Chosen by logits: those do not underflow. */
  t = make_token(6, 3, (const double[]){0, -200, -300, 5, -400, -120});
  t.params.score_after_topk = true;
  we_chose(&t, CHOSEN(3, 0, 5));
  assert_int_equal(judge(&t, CHOSEN(3, 0, 4)), CHOICE_OTHER);
}

/* ---- sparsemixer ---- */

/* Its weight of choice k with the experts in `bits` inside the limit. */
static double mixer_weight(const token *t, int id, unsigned bits) {
  double sum = 0;
  for (int e = 0; e < t->params.num_experts; e++)
    if (bits >> e & 1) sum += exp(t->logits[e] - t->logits[id]);
  return 1 / sum;
}

/* Limit 0.2: of the first choice, 4, expert 2 is at 0.2 + 0.004 behind; of the second,
 * 3.6, all that are left are far from it. */
static void test_mask(void **state) {
  const double logits[6] = {4, 3.6, 4 * (1 - 0.204), 1, 0.5, 2.5};
  token t = make_token(6, 2, logits);
  (void)state;
  t.params.scoring = MOECL_SCORING_SPARSEMIXER;
  t.params.sparsemixer_jitter = 0.1f;
  t.tolerance = 1e-2;
  t.ids[0] = 0, t.ids[1] = 1;
  t.weights[0] = mixer_weight(&t, 0, 3);
  t.weights[1] = mixer_weight(&t, 1, 6);
  t.has_weights = true;
  memcpy(t.their_weights, t.weights, sizeof t.weights);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
  t.their_weights[0] = mixer_weight(&t, 0, 7); /* 2 as well */
  assert_int_equal(judge(&t, CHOSEN(0, 1)), CHOICE_MASK);
  /* Another one, or none: no rounding does that. */
  const unsigned wrong[] = {3 | 32, 7 | 32, 3 | 8, 1};
  for (int i = 0; i < 4; i++) {
    t.their_weights[0] = mixer_weight(&t, 0, wrong[i]);
    assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
    assert_near(t.expected, t.weights, 2);
  }
  t.their_weights[0] = t.weights[0];
  t.their_weights[1] = mixer_weight(&t, 1, 2);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
  /* In fp32 0.004 is far. */
  t.tolerance = 1e-5;
  t.their_weights[1] = t.weights[1];
  t.their_weights[0] = mixer_weight(&t, 0, 7);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
  /* Other experts are. */
  t.tolerance = 1e-2;
  t.has_weights = false;
  assert_int_equal(judge(&t, CHOSEN(0, 2)), CHOICE_OTHER);
  assert_int_equal(judge(&t, CHOSEN(1, 0)), CHOICE_OTHER);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), CHOICE_MASK); /* may be: nobody recorded it */
  /* A tie of second choices lets none of them come first. */
  t.logits[5] = t.logits[1];
  assert_int_equal(judge(&t, CHOSEN(0, 5)), CHOICE_TIE | CHOICE_MASK);
  assert_int_equal(judge(&t, CHOSEN(5, 0)), CHOICE_OTHER);
}

/* ---- rounded logits ---- */

static double to_bf16(double x) {
  uint16_t half;
  double back;
  moecl_from_double(MOECL_BF16, &x, 1, &half);
  moecl_to_double(MOECL_BF16, &half, 1, &back);
  return back;
}

static void test_rounded(void **state) {
  const double logits[6] = {100.2, 99.6, 30, -70, 98, 20};
  token t = make_token(6, 2, logits);
  (void)state;
  t.tolerance = 1e-2;
  we_chose(&t, CHOSEN(0, 1));
  t.has_weights = t.has_logits = true;
  for (int e = 0; e < 6; e++) t.their_logits[e] = to_bf16(logits[e]);
  for (int k = 0; k < 2; k++) t.their_weights[k] = share(&t, t.their_logits, k);
  assert_true(fabs(t.their_weights[0] - t.weights[0]) > 0.02);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), CHOICE_ROUNDED);
  assert_near(t.expected, t.their_weights, 2);
  t.has_weights = false; /* the output follows from them all the same */
  assert_int_equal(judge(&t, CHOSEN(0, 1)), CHOICE_ROUNDED);
  t.has_weights = true;
  t.their_weights[1] *= 1.05;
  assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
  assert_near(t.expected, t.weights, 2);
  /* A logit that is further off than rounding explains nothing. */
  t.their_logits[1] = 99.6 * 0.98;
  for (int k = 0; k < 2; k++) t.their_weights[k] = share(&t, t.their_logits, k);
  assert_int_equal(judge(&t, CHOSEN(0, 1)), 0);
  assert_near(t.expected, t.weights, 2);
}

/* ---- rows ---- */

enum { ROWS = 9, WIDTH = 4 };

static comparison rows(const double *ours, const double *theirs, const bool *skip) {
  const row_rule rule = {1e-5, 1e-5, skip};
  comparison c;
  assert_true(compare_rows(&rule, ROWS, WIDTH, ours, theirs, &c));
  return c;
}

static void test_rows(void **state) {
  double a[ROWS * WIDTH], b[ROWS * WIDTH];
  bool skip[ROWS] = {false};
  (void)state;
  for (int i = 0; i < ROWS * WIDTH; i++) a[i] = b[i] = i % WIDTH == 0 ? 2 : 0;
  assert_int_equal(rows(a, b, NULL).first, -1);
  /* Not one is off for itself; together they are, and the furthest one is named. */
  for (int t = 0; t < ROWS; t++) a[t * WIDTH + 1] = (t == 6 ? 0.9999 : 0.99) * 2e-5;
  assert_int_equal(rows(a, b, NULL).differ, 0);
  const row_rule strict = {0.5e-5, 1e-5, NULL};
  comparison c;
  assert_true(compare_rows(&strict, ROWS, WIDTH, a, b, &c));
  assert_int_equal(c.differ, 1);
  assert_int_equal(c.first, 6);
  /* A row a thousand times as long neither hides another one nor is hidden. */
  memcpy(a, b, sizeof a);
  a[0] = b[0] = 2000;
  a[5 * WIDTH] += 1e-3;
  c = rows(a, b, NULL);
  assert_int_equal(c.differ, 1);
  assert_int_equal(c.first, 5);
  skip[5] = true;
  assert_int_equal(rows(a, b, skip).differ, 0);
  a[0] += 0.1;
  assert_int_equal(rows(a, b, skip).first, 0);
  a[0] = NAN;
  assert_int_equal(rows(a, b, skip).first, 0);
  /* A short row may be off by the usual one's share. */
  memcpy(a, b, sizeof a);
  b[3 * WIDTH] = 0;
  a[3 * WIDTH] = 1.5e-5;
  assert_int_equal(rows(a, b, NULL).differ, 0);
  a[3 * WIDTH] = 3e-5;
  assert_int_equal(rows(a, b, NULL).first, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_window),          cmocka_unit_test(test_weights_at_a_tie),
      cmocka_unit_test(test_bias_in_ties),    cmocka_unit_test(test_saturated),
      cmocka_unit_test(test_groups),          cmocka_unit_test(test_too_many_groups),
      cmocka_unit_test(test_zeros_of_groups), cmocka_unit_test(test_order),
      cmocka_unit_test(test_weightless),      cmocka_unit_test(test_mask),
      cmocka_unit_test(test_rounded),         cmocka_unit_test(test_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
