// SPDX-License-Identifier: MIT
/* Rounds: how many, who gets which share of the forwards, what becomes of their
 * times, and the ratios of two points round by round. */
#include "results/rounds.h"
#include "unit.h"
#include <math.h>

static void test_planned(void **state) {
  (void)state;
  experiment plan = {.iterations = 20, .num_points = 4};
  assert_int_equal(rounds_planned(&plan, 0.1), 3);
  assert_int_equal(rounds_planned(&plan, ROUND_SECONDS), 3);
  assert_int_equal(rounds_planned(&plan, 2.1), 1); /* a long point */
  plan.num_points = 1;                             /* nothing to take turns with */
  assert_int_equal(rounds_planned(&plan, 0.1), 1);
  plan.rounds = 5; /* asked for */
  assert_int_equal(rounds_planned(&plan, 1000), 5);
  plan.iterations = 2; /* no round without a forward */
  assert_int_equal(rounds_planned(&plan, 0.1), 2);
}

/* All forwards are timed, in shares that differ by one at most. */
static void test_share(void **state) {
  (void)state;
  for (int64_t iterations = 1; iterations <= 40; iterations++)
    for (int64_t rounds = 1; rounds <= iterations; rounds++) {
      int64_t sum = 0;
      for (int64_t r = 0; r < rounds; r++) {
        const int64_t share = rounds_share(iterations, rounds, r);
        assert_true(share == iterations / rounds || share == iterations / rounds + 1);
        sum += share;
      }
      assert_int_equal(sum, iterations);
    }
}

static point_round make_round(double median, double min, double p90) {
  point_round round = {.iterations = 7, .host_ms = median / 10, .load_average = 1};
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    round.time_ms[stage] = (sample_summary){median, min, p90};
  round.time_ms[MOECL_STAGE_COMBINE] = (sample_summary){NAN, NAN, NAN};
  return round;
}

static void check_layer(const point_result *point, double median, double min, double p90) {
  const sample_summary *time = &point->time_ms[MOECL_STAGE_LAYER];
  if (time->median != median || time->min != min || time->p90 != p90)
    fail_msg("expected %g %g %g, found %g %g %g", median, min, p90, time->median, time->min,
             time->p90);
}

static void test_add(void **state) {
  (void)state;
  point_result point = {.num_rounds = 0};
  point_round round = make_round(4, 3, 9);
  assert_true(rounds_add(&point, &round));
  check_layer(&point, 4, 3, 9);
  point.tokens_per_s = 1000;
  point.tflops = 2;
  point.gbytes_per_s = 8;
  round = make_round(8, 2, 10);
  assert_true(rounds_add(&point, &round));
  check_layer(&point, 6, 2, 9.5);
  round = make_round(5, 4, 30);
  assert_true(rounds_add(&point, &round));
  check_layer(&point, 5, 2, 10);
  assert_true(isnan(point.time_ms[MOECL_STAGE_COMBINE].median)); /* fused */
  assert_int_equal(point.iterations, 21);
  assert_true(point.host_ms == 0.5);
  assert_true(fabs(point.tokens_per_s - 1000 * 4.0 / 5) < 1e-9);
  assert_true(fabs(point.tflops - 2 * 4.0 / 5) < 1e-12);
  assert_true(fabs(point.gbytes_per_s - 8 * 4.0 / 5) < 1e-12);
  round = make_round(NAN, NAN, NAN); /* a time that is not credible */
  assert_true(rounds_add(&point, &round));
  assert_true(isnan(point.time_ms[MOECL_STAGE_LAYER].median) &&
              isnan(point.time_ms[MOECL_STAGE_LAYER].min));
  free(point.rounds);
}

/* The machine is twice as slow in every later round: the ratio is not. */
static void test_compare(void **state) {
  (void)state;
  point_result a = {.num_rounds = 0}, b = {.num_rounds = 0};
  static const double times[3][2] = {{1, 1.5}, {2, 3.2}, {4, 6}};
  for (int r = 0; r < 3; r++) {
    point_round round = make_round(times[r][0], 1, 9);
    assert_true(rounds_add(&a, &round));
    round = make_round(times[r][1], 1, 9);
    assert_true(rounds_add(&b, &round));
  }
  paired_ratio ratio = rounds_compare(&a, &b);
  assert_int_equal(ratio.count, 3);
  assert_true(ratio.median == 1.5);
  /* exp(mean log +- t stdev / sqrt(3)) of 1.5, 1.6, 1.5, by Python's statistics */
  assert_true(fabs(ratio.low - 1.39712) < 1e-4 && fabs(ratio.high - 1.68125) < 1e-4);
  b.num_rounds = 2; /* interrupted: the rounds that both have */
  ratio = rounds_compare(&a, &b);
  assert_int_equal(ratio.count, 2);
  assert_true(fabs(ratio.median - 1.55) < 1e-12);
  assert_true(ratio.low < 1.05 && ratio.high > 2); /* two say little */
  a.rounds[0].time_ms[MOECL_STAGE_LAYER].median = NAN;
  ratio = rounds_compare(&a, &b);
  assert_int_equal(ratio.count, 1);
  assert_true(ratio.low == 1.6 && ratio.high == 1.6);
  a.num_rounds = 0;
  ratio = rounds_compare(&a, &b);
  assert_int_equal(ratio.count, 0);
  assert_true(isnan(ratio.median));
  free(a.rounds);
  free(b.rounds);
}

static point_result make_times(const double *times, int count, double min, double p90) {
  point_result point = {.num_rounds = 0};
  for (int r = 0; r < count; r++) {
    const point_round round = make_round(times[r], min, p90);
    assert_true(rounds_add(&point, &round));
  }
  return point;
}

static void check_runs(const point_result *a, const point_result *b, double ratio, double low,
                       double high) {
  const run_ratio found = rounds_compare_runs(a, b);
  if (fabs(found.ratio - ratio) > 1e-4 || fabs(found.low - low) > 1e-4 ||
      fabs(found.high - high) > 1e-4)
    fail_msg("expected %g (%g to %g), found %g (%g to %g)", ratio, low, high, found.ratio,
             found.low, found.high);
}

/* Of two runs: Welch's interval. Its numbers by hand, t from a printed table. */
static void test_compare_runs(void **state) {
  (void)state;
  /* exp(-0.1), 1, exp(0.1), and twice that: variances of the means 0.01/3 each, 4 degrees of
   * freedom, half = 2.776 sqrt(0.02/3) = 0.22666. */
  static const double once[] = {1, 1.1051709, 0.9048374}, twice[] = {2, 1.8096748, 2.2103418};
  static const double steady[] = {3, 3, 3}, leaning[] = {1, 1, 1.3498588};
  point_result a = make_times(once, 3, 0.5, 1.5), b = make_times(twice, 3, 1.5, 3);
  check_runs(&a, &b, 0.5, 0.5 * 0.797192, 0.5 * 1.254403);
  check_runs(&b, &a, 2, 2 * 0.797192, 2 * 1.254403);
  assert_true(rounds_exceed_noise(&(run_ratio){2, 1.59, 2.51}));
  /* Rounds that do not differ add nothing: 2 degrees, half = 4.303 sqrt(0.01/3) = 0.24844. */
  point_result c = make_times(steady, 3, 3, 3), d = make_times(leaning, 3, 1, 2);
  check_runs(&c, &a, 3, 3 * 0.780017, 3 * 1.282024);
  check_runs(&c, &c, 1, 1, 1);
  /* Logarithms 0, 0, 0.3: the mean is 0.1 from the median, half = 4.303 0.1 = 0.4303. */
  check_runs(&c, &d, 3, 3 * exp(-0.1 - 0.4303), 3 * exp(-0.1 + 0.4303));
  /* One round: what the forwards allow. */
  d.num_rounds = 1;
  check_runs(&c, &d, 3, 3.0 / 2, 3);
  d.iterations = 4;
  const run_ratio few = rounds_compare_runs(&c, &d);
  assert_true(few.ratio == 3 && isnan(few.low) && isnan(few.high));
  assert_false(rounds_exceed_noise(&few));
  d.time_ms[MOECL_STAGE_LAYER].median = NAN;
  assert_true(isnan(rounds_compare_runs(&c, &d).ratio));
  free(a.rounds), free(b.rounds), free(c.rounds), free(d.rounds);
}

/* Beyond 2%, the whole interval. */
static void test_noise(void **state) {
  (void)state;
  assert_true(rounds_exceed_noise(&(run_ratio){1.05, 1.021, 1.1}));
  assert_false(rounds_exceed_noise(&(run_ratio){1.05, 1.019, 1.1}));
  assert_true(rounds_exceed_noise(&(run_ratio){0.9, 0.8, 0.98}));
  assert_false(rounds_exceed_noise(&(run_ratio){0.9, 0.8, 0.981}));
}

/* Quantiles as tables of Student's t have them. */
static void test_student(void **state) {
  (void)state;
  static const struct {
    double freedom, tail, t, most;
  } known[] = {{4, 0.025, 2.776, 1.01},   {4, 0.0005, 8.610, 1.05}, {9, 0.0005, 4.781, 1.01},
               {30, 0.005, 2.750, 1.01},  {3, 0.005, 5.841, 1.05},  {2, 0.025, 4.303, 1.05},
               {2, 0.0005, 31.599, 1.35}, {1, 0.025, 12.706, 1.45}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    const double ratio = rounds_student(known[i].freedom, known[i].tail) / known[i].t;
    assert_true(ratio > 0.99 && ratio < known[i].most);
  }
}

/* Of 50 comparisons each has a tail of 0.0005: with five rounds 8.610/2.776 times as wide. */
static void test_widen(void **state) {
  (void)state;
  const paired_ratio five = {.median = 1.5, .low = 1.5 / 1.1, .high = 1.5 * 1.1, .count = 5};
  const double wider = log(rounds_widen(five, 50).high / 1.5) / log(1.1);
  assert_true(fabs(wider - 8.610 / 2.776) < 0.15);
  assert_true(fabs(rounds_widen(five, 50).low * rounds_widen(five, 50).high - 1.5 * 1.5) < 1e-9);
  assert_true(rounds_widen(five, 1).low == five.low && rounds_widen(five, 1).high == five.high);
  const paired_ratio one = {.median = 1.5, .low = 1.5, .high = 1.5, .count = 1};
  assert_true(rounds_widen(one, 50).low == 1.5); /* nothing is known of it */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_planned),      cmocka_unit_test(test_share),
      cmocka_unit_test(test_add),          cmocka_unit_test(test_compare),
      cmocka_unit_test(test_compare_runs), cmocka_unit_test(test_noise),
      cmocka_unit_test(test_student),      cmocka_unit_test(test_widen),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
