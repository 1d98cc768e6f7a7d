// SPDX-License-Identifier: MIT
/* The line that a run redraws, and the time that it says is left. No device needed. */
#include "cli/progress.h"
#include "cli/time_left.h"
#include "unit.h"
#include <math.h>

static void test_line(void **state) {
  (void)state;
  static const char head[] = "[10/128] num_experts=64, top_k=8, capacity_factor=1.25",
                    rate[] = " | last 1234567 tokens/s", left[] = " | about 3 min 05 s left";
  char line[512];
  assert_string_equal(progress_line(head, rate, left, 200, line, sizeof line),
                      "[10/128] num_experts=64, top_k=8, capacity_factor=1.25 | last 1234567 "
                      "tokens/s | about 3 min 05 s left");
  assert_string_equal(progress_line(head, rate, left, 79, line, sizeof line),
                      "[10/128] num_experts=64, top_k=8, capacity_factor=1.25 | about 3 min 05 s "
                      "left");
  assert_string_equal(progress_line(head, rate, left, 59, line, sizeof line),
                      "[10/128] num_experts=64, top_k=8... | about 3 min 05 s left");
  assert_string_equal(progress_line(head, rate, left, 20, line, sizeof line),
                      "[10/128] num_experts");
  /* Whatever the width, never more; and the time left wherever there is room. */
  for (size_t columns = 1; columns < 150; columns++) {
    progress_line(head, rate, left, columns, line, sizeof line);
    assert_true(strlen(line) <= columns);
    if (columns >= strlen(left) + 8) assert_non_null(strstr(line, left));
  }
  char small[16]; /* no more than there is room for, either */
  assert_string_equal(progress_line(head, rate, left, 100, small, sizeof small), "[10/128] num_ex");
}

/* A sweep over tokens on a machine of the test's own: seconds by hand, from other rates
 * than the estimate's. Few tokens are bound by the weights that they reach, many by the
 * arithmetic. */
enum { H = 512, I = 1024, E = 16, K = 2, POINTS = 7, ITERATIONS = 20, WARMUP = 3 };
static const double weights_of_expert = 3.0 * H * I;

static double true_forward(double tokens) {
  const double flops = 2 * tokens * (K * weights_of_expert + (double)H * E);
  const double experts = tokens * K < E ? tokens * K : E;
  return fmax(flops / 1.3e10, 4 * experts * weights_of_expert / 3e9);
}

static double true_round(double tokens, bool makes_layer, int64_t iterations) {
  const double drawn = 4 * ((makes_layer ? E * weights_of_expert : 0) + 3 * tokens * H);
  return drawn / 1e8 + (2 * WARMUP + 1.5 * (double)iterations + 3) * true_forward(tokens);
}

static const char sweep[] =
    "layer: {hidden_size: 512, intermediate_size: 1024, num_experts: 16, top_k: 2}\n"
    "workload: {num_tokens: [1, 4, 16, 64, 256, 1024, 4096]}\n"
    "measure: {warmup: 3, iterations: 20, rounds: 1, verify: false}\n";

static void test_left(void **state) {
  (void)state;
  const moecl_device_info device = {.type = MOECL_DEVICE_CPU, .compute_units = 2};
  const device_rates rates = rates_guess(&device);
  experiment plan;
  char *error = NULL;
  assert_true(experiment_parse(sweep, sizeof sweep - 1, "t.yaml", NULL, 0, &plan, &error));
  assert_int_equal(plan.num_points, POINTS);
  time_left *left = time_left_open(&plan, &rates);
  for (size_t i = 0; i < POINTS; i++) time_left_expect(left, i, true, -1);
  assert_true(isnan(time_left_seconds(left)));
  double ended = 0;
  for (size_t i = 0; i < POINTS; i++) {
    const double tokens = (double)plan.points[i].num_tokens;
    const double took = true_round(tokens, i == 0, ITERATIONS);
    ended += took;
    time_left_ended(left, i, took, 1e3 * true_forward(tokens), 0);
    double rest = 0;
    for (size_t j = i + 1; j < POINTS; j++)
      rest += true_round((double)plan.points[j].num_tokens, false, ITERATIONS);
    const double told = time_left_seconds(left);
    print_message("after %zu points: %.2f s left, told %.2f, by the mean of points %.2f\n", i + 1,
                  rest, told, ended / (double)(i + 1) * (double)(POINTS - 1 - i));
    if (i < 2) continue; /* the first ones tell of weights alone */
    assert_true(told <= 2 * rest + 0.01 && told >= rest / 2);
  }
  assert_true(time_left_seconds(left) < 1e-6);
  time_left_close(&left);
  experiment_destroy(&plan);
}

/* Later rounds count, as soon as it is known how many they are; what was finished in an
 * earlier run does not. */
static void test_rounds_left(void **state) {
  (void)state;
  const moecl_device_info device = {.type = MOECL_DEVICE_GPU};
  const device_rates rates = rates_guess(&device);
  experiment plan;
  char *error = NULL;
  static const char yaml[] = "layer: {hidden_size: 64, intermediate_size: 64, num_experts: 4, "
                             "top_k: 1}\nworkload: {num_tokens: 64}\nseed: [1, 2, 3, 4]\n"
                             "measure: {rounds: 4, iterations: 40}\n";
  assert_true(experiment_parse(yaml, sizeof yaml - 1, "t.yaml", NULL, 0, &plan, &error));
  time_left *left = time_left_open(&plan, &rates);
  time_left_expect(left, 1, true, 3);
  time_left_expect(left, 2, true, -1);
  time_left_expect(left, 3, false, 1); /* resumed: its last round is left */
  time_left_ended(left, 1, 8, NAN, 0); /* one round of its own after all */
  const double two = time_left_seconds(left);
  time_left_ended(left, 3, 2, NAN, 0);
  const double one = time_left_seconds(left);
  assert_true(one > 0 && one < two);
  time_left_ended(left, 2, 8, NAN, 3);
  const double rounds = time_left_seconds(left);
  assert_true(rounds > 0 && rounds < one);
  for (int round = 3; round > 0; round--) {
    const double before = time_left_seconds(left);
    time_left_ended(left, 2, before / round, NAN, round - 1);
    assert_float_equal(time_left_seconds(left), before * (round - 1) / round, 0.2 * before);
  }
  assert_true(time_left_seconds(left) < 1e-6);
  time_left_close(&left);
  experiment_destroy(&plan);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_line), cmocka_unit_test(test_left),
                                     cmocka_unit_test(test_rounds_left)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
