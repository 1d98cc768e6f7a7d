// SPDX-License-Identifier: MIT
/* Comparison of runs: which points are the same work, ratios and their means, what is left out
 * and why. The results are made up; the numbers that are expected were computed by hand. */
#define _GNU_SOURCE
#include "base/files.h"
#include "report/compare.h"
#include "unit.h"
#include <math.h>
#include <unistd.h>

/* A point of a made-up file: its number, what it adds to params, its three rounds' medians, and of
 * a group what was its transport. */
typedef struct made_point {
  int index;
  const char *params;
  double rounds[3];
  const char *transport;
} made_point;

static char folder[512];

static int make_folder(void **state) {
  (void)state;
  const char *where = getenv("MOECL_TEST_DIR");
  snprintf(folder, sizeof folder, "%s/compare-XXXXXX", where ? where : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  for (char name = 'a'; name <= 'z'; name++) {
    char *path = format_text("%s/%c.json", folder, name);
    unlink(path);
    free(path);
  }
  return rmdir(folder);
}

static double middle(const double *of) {
  return fmax(fmin(of[0], of[1]), fmin(fmax(of[0], of[1]), of[2]));
}

static void put_times(FILE *file, double median) {
  fputs("\"time_ms\": {", file);
  for (int stage = 0; stage < MOECL_STAGE_LAYER; stage++)
    fprintf(file, "\"%s\": null, ", moecl_stage_name((moecl_stage)stage));
  fprintf(file, "\"layer\": {\"median\": %.9g, \"min\": %.9g, \"p90\": %.9g}}", median,
          0.9 * median, 1.1 * median);
}

static void put_point(FILE *file, const made_point *point) {
  fprintf(file,
          "{\"index\": %d, \"status\": \"%s\", \"error\": %s, \"params\": {\"hidden_size\": 8, "
          "\"intermediate_size\": 4, \"num_experts\": 4, \"num_tokens\": 16%s}, \"variants\": "
          "{\"router\": \"generic\", \"permute\": null, \"grouped_gemm\": \"cpu\", \"combine\": "
          "null}, \"iterations\": 15, \"rounds_planned\": 3, ",
          point->index, point->rounds[0] > 0 ? "ok" : "verify_failed",
          point->rounds[0] > 0 ? "null" : "\"it is\\nwrong\"", point->params);
  put_times(file, middle(point->rounds));
  if (point->transport) fprintf(file, ", \"parallel\": {\"transport\": \"%s\"}", point->transport);
  fputs(", \"rounds\": [", file);
  for (int r = 0; r < 3; r++) {
    fprintf(file, "%s{\"iterations\": 5, \"load_average\": null, \"host_ms\": 0, ", r ? ", " : "");
    put_times(file, point->rounds[r]);
    fputc('}', file);
  }
  fputs("]}", file);
}

/* Writes <name>.json and reads it. `experiment` is what that object holds. */
static measured_run make_run(char name, const char *experiment, const made_point *points,
                             size_t count) {
  measured_run run;
  char *path = format_text("%s/%c.json", folder, name), *error = NULL;
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fprintf(file,
          "{\"schema\": \"moecl-results/1\", \"device\": {\"name\": \"device %c\"}, "
          "\"experiment\": {%s}, \"points\": [",
          name, experiment);
  for (size_t i = 0; i < count; i++) {
    if (i > 0) fputs(", ", file);
    put_point(file, &points[i]);
  }
  fputs("]}", file);
  fclose(file);
  if (!measured_load(path, &run, &error)) fail_msg("%s", error);
  free(path);
  return run;
}

#define MADE(name, experiment, points)                                                             \
  make_run(name, experiment, points, sizeof(points) / sizeof((points)[0]))

static void near(double found, double wanted) {
  if (!(fabs(found - wanted) < 1e-4 * fabs(wanted)))
    fail_msg("expected %g, found %g", wanted, found);
}

static void has_line(const other_run *other, const char *part) {
  for (size_t i = 0; i < other->num_left_out; i++)
    if (strstr(other->left_out[i], part)) return;
  for (size_t i = 0; i < other->num_left_out; i++) print_error("%s\n", other->left_out[i]);
  fail_msg("'%s' is not among what was left out", part);
}

/* Rounds of one length: intervals of no width. Twice as fast, twice as slow and, of the third, 1%
 * faster: speeds 2, 0.5, 1/0.99; the mean is the third's cube root. Points stand in another
 * order. */
static void test_known_ratios(void **state) {
  (void)state;
  static const made_point before[] = {{0, ", \"top_k\": 1", {4, 4, 4}},
                                      {1, ", \"top_k\": 2", {6, 6, 6}},
                                      {2, ", \"top_k\": 3", {1, 1, 1}}};
  static const made_point after[] = {{0, ", \"top_k\": 3", {0.99, 0.99, 0.99}},
                                     {1, ", \"top_k\": 2", {12, 12, 12}},
                                     {2, ", \"top_k\": 1", {2, 2, 2}}};
  measured_run runs[] = {MADE('a', "", before), MADE('b', "", after)};
  run_comparison all;
  assert_true(compare_runs(runs, 2, &all));
  const other_run *other = &all.others[0];
  assert_int_equal(other->num_matched, 3);
  assert_int_equal(other->num_left_out, 0);
  static const double wanted[] = {2, 0.5, 1 / 0.99};
  for (size_t i = 0; i < 3; i++) {
    assert_int_equal(other->matched[i].before, i);
    assert_int_equal(other->matched[i].after, 2 - i);
    near(other->matched[i].speed.ratio, wanted[i]);
    near(other->matched[i].speed.low, wanted[i]);
    near(other->matched[i].speed.high, wanted[i]);
  }
  near(other->mean.ratio, 1.0033557);
  assert_int_equal(other->faster, 1);
  assert_int_equal(other->slower, 1);
  assert_int_equal(other->unknown, 0);
  assert_string_equal(compare_verdict(&other->matched[0].speed), "faster");
  assert_string_equal(compare_verdict(&other->matched[1].speed), "slower");
  assert_string_equal(compare_verdict(&other->matched[2].speed), "within noise");
  compare_release(&all);
  measured_release(&runs[0]), measured_release(&runs[1]);
}

/* The mean's ends are the means of the ends. Logarithms -0.1, 0, 0.1 in all four: half is
 * 2.776 sqrt(0.02/3) = 0.226660 for each, and so for the mean of 2 and 8, which is 4. */
static void test_mean(void **state) {
  (void)state;
  static const made_point before[] = {{0, ", \"top_k\": 1", {4, 4.4206837, 3.6193497}},
                                      {1, ", \"top_k\": 2", {16, 17.682735, 14.477399}}};
  static const made_point after[] = {{0, ", \"top_k\": 1", {2, 2.2103418, 1.8096748}},
                                     {1, ", \"top_k\": 2", {2, 2.2103418, 1.8096748}}};
  measured_run runs[] = {MADE('a', "", before), MADE('b', "", after)};
  run_comparison all;
  assert_true(compare_runs(runs, 2, &all));
  near(all.others[0].mean.ratio, 4);
  near(all.others[0].mean.low, 4 * 0.797192);
  near(all.others[0].mean.high, 4 * 1.254403);
  compare_release(&all);
  measured_release(&runs[0]), measured_release(&runs[1]);
}

/* Of one work with two variants each has the one that asked for the same; one alone has whichever
 * is there. What is not the same work is left out, and says what differs. */
static void test_partners(void **state) {
  (void)state;
  static const made_point before[] = {
      {0, ", \"top_k\": 1, \"grouped_gemm_variant\": \"generic\"", {1, 1, 1}},
      {1, ", \"top_k\": 1, \"grouped_gemm_variant\": \"cpu\"", {1, 1, 1}},
      {2, ", \"top_k\": 2, \"grouped_gemm_variant\": \"generic\"", {1, 1, 1}},
      {3, ", \"top_k\": 3", {1, 1, 1}},
      {4, ", \"top_k\": 4, \"jitter\": 0.5", {1, 1, 1}}};
  static const made_point after[] = {
      {0, ", \"top_k\": 1, \"grouped_gemm_variant\": \"cpu\"", {1, 1, 1}},
      {1, ", \"top_k\": 1, \"grouped_gemm_variant\": \"generic\"", {1, 1, 1}},
      {2, ", \"top_k\": 2, \"grouped_gemm_variant\": \"cpu\"", {1, 1, 1}},
      {3, ", \"top_k\": 3, \"jitter\": 0.5", {1, 1, 1}},
      {4, ", \"top_k\": 4, \"jitter\": 0.25", {1, 1, 1}}};
  measured_run runs[] = {MADE('a', "", before), MADE('b', "", after)};
  run_comparison all;
  assert_true(compare_runs(runs, 2, &all));
  const other_run *other = &all.others[0];
  assert_int_equal(other->num_matched, 3);
  assert_int_equal(other->matched[0].after, 1);
  assert_int_equal(other->matched[1].after, 0);
  assert_int_equal(other->matched[2].after, 2);
  assert_int_equal(other->num_left_out, 4);
  has_line(other, "point 3 (top_k=3, grouped_gemm_variant=auto, jitter=0) is only in A: that "
                  "combination is not there");
  has_line(other, "point 4 (top_k=4, grouped_gemm_variant=auto, jitter=0.5) is only in A: that");
  has_line(other, "point 3 (top_k=3, grouped_gemm_variant=auto, jitter=0.5) is only in B: that");
  has_line(other, "jitter=0.25) is only in B: jitter is 0.25, not 0, 0.5");
  compare_release(&all);
  measured_release(&runs[0]), measured_release(&runs[1]);
}

/* Which of two variants a third is to be compared with can't be told. */
static void test_ambiguous(void **state) {
  (void)state;
  static const made_point before[] = {
      {0, ", \"top_k\": 1, \"grouped_gemm_variant\": \"generic\"", {1, 1, 1}},
      {1, ", \"top_k\": 1, \"grouped_gemm_variant\": \"cpu\"", {1, 1, 1}},
      {2, ", \"top_k\": 2", {1, 1, 1}}};
  static const made_point after[] = {{0, ", \"top_k\": 1", {1, 1, 1}},
                                     {1, ", \"top_k\": 2", {1, 1, 1}}};
  measured_run runs[] = {MADE('a', "", before), MADE('b', "", after)};
  run_comparison all;
  assert_true(compare_runs(runs, 2, &all));
  assert_int_equal(all.others[0].num_matched, 1);
  assert_int_equal(all.others[0].num_left_out, 3);
  has_line(&all.others[0], "point 0 (top_k=1) is only in B: the same work with other variants");
  compare_release(&all);
  measured_release(&runs[0]), measured_release(&runs[1]);
}

/* What did not verify has no ratio. Of three runs, the others are compared with the first. */
static void test_failed(void **state) {
  (void)state;
  static const made_point before[] = {{0, ", \"top_k\": 1", {1, 1, 1}},
                                      {1, ", \"top_k\": 2", {0, 0, 0}},
                                      {2, ", \"top_k\": 3", {3, 3, 3}}};
  static const made_point after[] = {{0, ", \"top_k\": 1", {0, 0, 0}},
                                     {1, ", \"top_k\": 2", {1, 1, 1}},
                                     {2, ", \"top_k\": 3", {1, 1, 1}}};
  static const made_point other[] = {{0, ", \"top_k\": 2", {0, 0, 0}}};
  measured_run runs[] = {MADE('a', "", before), MADE('b', "", after), MADE('c', "", other)};
  run_comparison all;
  assert_true(compare_runs(runs, 3, &all));
  assert_int_equal(all.others[0].num_matched, 1);
  near(all.others[0].mean.ratio, 3);
  assert_int_equal(all.others[0].failed, 1);
  has_line(&all.others[0], "point 0 (top_k=1) of B did not verify: it is wrong");
  has_line(&all.others[0], "point 1 (top_k=2) of A did not verify");
  assert_null(all.others[0].reason);
  assert_int_equal(all.others[1].num_matched, 0);
  assert_string_equal(all.others[1].reason,
                      "no point ran in both: point 0 of C did not verify: it is wrong");
  assert_int_equal(all.others[1].failed, 0); /* it failed in the baseline too */
  compare_release(&all);
  for (int i = 0; i < 3; i++) measured_release(&runs[i]);
}

static void expect_reason(const char *experiment_a, const char *params_a, const char *experiment_b,
                          const char *params_b, const char *wanted) {
  const made_point before[] = {{0, params_a, {1, 1, 1}}}, after[] = {{0, params_b, {1, 1, 1}}};
  measured_run runs[] = {MADE('a', experiment_a, before), MADE('b', experiment_b, after)};
  run_comparison all;
  assert_true(compare_runs(runs, 2, &all));
  const char *reason = all.others[0].reason;
  if (wanted && !reason) fail_msg("expected '%s', found a match", wanted);
  if (!wanted && reason) fail_msg("expected a match, found '%s'", reason);
  if (wanted && !strstr(reason, wanted)) fail_msg("expected '%s' in: %s", wanted, reason);
  compare_release(&all);
  measured_release(&runs[0]), measured_release(&runs[1]);
}

/* Each key that is work refuses alone; those that say how, and by what, do not. */
static void test_same_work(void **state) {
  (void)state;
  static const char k1[] = ", \"top_k\": 1";
  expect_reason("", ", \"top_k\": 1, \"seed\": 7", "", ", \"top_k\": 1, \"seed\": 8",
                "what differs is seed (7 beside 8)");
  expect_reason("", ", \"top_k\": 1, \"seed\": \"18446744073709551615\"", "",
                ", \"top_k\": 1, \"seed\": 0", "seed (18446744073709551615 beside 0)");
  expect_reason("", k1, "", ", \"top_k\": 2, \"dtype\": \"bf16\"",
                "top_k (1 beside 2), dtype (fp32 beside bf16)");
  /* A default that is not written, and numbers written in two ways, are the same. */
  expect_reason("", k1, "",
                ", \"top_k\": 1, \"seed\": 0, \"swiglu_limit\": 7, \"jitter\": 0.0, "
                "\"capacity_factor\": null, \"renormalize\": true",
                NULL);
  expect_reason("\"layer\": {\"checkpoint\": \"/here/models/OLMoE/\", \"layer\": 3}", k1,
                "\"layer\": {\"checkpoint\": \"/there/OLMoE\", \"layer\": 3}", k1, NULL);
  expect_reason("\"layer\": {\"checkpoint\": \"models/OLMoE\", \"layer\": 3}", k1,
                "\"layer\": {\"checkpoint\": \"models/Mixtral\", \"layer\": 4}", k1,
                "layer.checkpoint (OLMoE beside Mixtral), layer.layer (3 beside 4)");
  expect_reason("\"name\": \"a\", \"device\": \"cpu\", \"measure\": {\"iterations\": 5}",
                ", \"top_k\": 1, \"router_variant\": \"generic\"", "\"name\": \"b\"", k1, NULL);
}

/* What is compared is said. */
static void test_subject(void **state) {
  (void)state;
  static const made_point before[] = {{0, ", \"top_k\": 1", {1, 1, 1}}};
  static const made_point after[] = {
      {0, ", \"top_k\": 1, \"grouped_gemm_variant\": \"generic\"", {1, 1, 1}}};
  measured_run a = MADE('a', "\"measure\": {\"iterations\": 5}", before), b = MADE('b', "", after);
  char *text = compare_subject(&a, &b);
  assert_string_equal(text, "device (device a, device b); grouped_gemm_variant (auto beside "
                            "generic); measure.iterations (5, 20)");
  free(text);
  text = compare_subject(&a, &a);
  assert_string_equal(text, "");
  free(text);
  measured_release(&a), measured_release(&b);
}

/* Transports that served `a` and `b`, which ask for the same: "" where the same ones did. */
static void expect_transports(const made_point *a, const made_point *b, size_t count,
                              const char *wanted) {
  static const char name[] = "\"name\": \"same\"";
  measured_run runs[] = {make_run('a', name, a, count), make_run('b', name, b, count)};
  char *text = compare_subject(&runs[0], &runs[1]);
  static const char devices[] = "device (device a, device b)"; /* make_run's */
  assert_memory_equal(text, devices, strlen(devices));
  assert_string_equal(text + strlen(devices), wanted);
  free(text);
  measured_release(&runs[0]), measured_release(&runs[1]);
}

static void test_transports(void **state) {
  static const char k1[] = ", \"top_k\": 1", k2[] = ", \"top_k\": 2";
  const made_point alone[] = {{0, k1, {1, 1, 1}, NULL}, {1, k2, {1, 1, 1}, NULL}};
  const made_point one[] = {{0, k1, {1, 1, 1}, "host"}, {1, k2, {1, 1, 1}, "host"}};
  const made_point swapped[] = {{1, k2, {1, 1, 1}, "host"}, {0, k1, {1, 1, 1}, "host"}};
  const made_point two[] = {{0, k1, {1, 1, 1}, "mpi+\\u001bhost"},
                            {1, k2, {1, 1, 1}, "mpi+\\u001bhost"}};
  const made_point some[] = {{0, k1, {1, 1, 1}, "host"}, {1, k2, {1, 1, 1}, "mpi"}};
  const made_point failed[] = {{0, k1, {1, 1, 1}, "host"}, {1, k2, {0, 0, 0}, NULL}};
  const made_point all_failed[] = {{0, k1, {0, 0, 0}, NULL}, {1, k2, {0, 0, 0}, NULL}};
  (void)state;
  expect_transports(alone, alone, 2, "");
  expect_transports(one, swapped, 2, "");
  expect_transports(one, failed, 2, "");
  expect_transports(one, all_failed, 2, "");
  expect_transports(alone, one, 2, "; transport that served (none beside host)");
  expect_transports(one, some, 2, "; transport that served (host beside host, mpi)");
  expect_transports(some, one, 2, "; transport that served (host, mpi beside host)");
  /* Others wrote the file: no control character reaches a terminal. */
  expect_transports(one, two, 2, "; transport that served (host beside mpi+ host)");
}

static void expect_unread(const char *text, const char *part) {
  measured_run run;
  char *path = format_text("%s/z.json", folder), *error = NULL;
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
  if (measured_load(path, &run, &error)) fail_msg("it was read: %s", text);
  if (!error || !strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
  free(error);
  free(path);
}

static void test_damaged(void **state) {
  (void)state;
  measured_run run;
  char *error = NULL;
  assert_false(measured_load("/nowhere", &run, &error));
  assert_non_null(strstr(error, "/nowhere cannot be read: No such file"));
  free(error);
  expect_unread("{", "is not JSON (line 1");
  expect_unread("[]", "its schema is not given, expected moecl-results/1");
  expect_unread("{\"schema\": \"other/2\"}", "its schema is other/2");
  expect_unread("{\"schema\": \"moecl-results/1\"}", "has no list of points");
  expect_unread("{\"schema\": \"moecl-results/1\", \"points\": [{\"index\": 0}]}",
                "points[0].status is missing");
  expect_unread("{\"schema\": \"moecl-results/1\", \"points\": [{\"index\": 0, \"status\": "
                "\"ok\", \"error\": null, \"variants\": {}}]}",
                "points[0].router is missing");
  static const char failed[] = "{\"schema\": \"moecl-results/1\", \"points\": [{\"index\": 0, "
                               "\"status\": \"error\", \"error\": null, \"params\": {%s}}]}";
  char text[512];
  snprintf(text, sizeof text, failed, "\"novelty\": 1");
  expect_unread(text, "point 0: the parameter novelty is unknown to this version");
  snprintf(text, sizeof text, failed, "\"top_k\": 1");
  expect_unread(text, "point 0: hidden_size is missing");
  snprintf(text, sizeof text, failed, "\"hidden_size\": [1, 2]");
  expect_unread(text, "layer.hidden_size is not one value");
}

/* The gate: below, and not by noise. */
static void test_below(void **state) {
  (void)state;
  assert_true(compare_is_below(&(run_ratio){0.9, 0.85, 0.97}, 0.95));   /* slower beyond noise */
  assert_true(compare_is_below(&(run_ratio){1.05, 1.04, 1.06}, 1.1));   /* faster, not enough */
  assert_false(compare_is_below(&(run_ratio){0.9, 0.7, 1.1}, 0.95));    /* noise */
  assert_false(compare_is_below(&(run_ratio){0.96, 0.95, 0.97}, 0.95)); /* slower, but enough */
  assert_false(compare_is_below(&(run_ratio){1.05, 0.9, 1.2}, 1.1));    /* noise */
  assert_false(compare_is_below(&(run_ratio){0.5, NAN, NAN}, 0.95));    /* unknown */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_known_ratios, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_mean, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_partners, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_ambiguous, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_failed, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_same_work, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_subject, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_transports, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_damaged, make_folder, remove_folder),
      cmocka_unit_test(test_below),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
