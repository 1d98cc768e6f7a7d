// SPDX-License-Identifier: MIT
/* Going on with an earlier run: what results.json and its journal bring back, whatever a
 * crash left of them. */
#include "results_fixture.h"
#include <float.h>

static void test_resume(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  add(all, make_point(f, 1, POINT_UNVERIFIED_OK));
  add(all, make_point(f, 2, POINT_VERIFY_FAILED));
  add(all, make_failed(3));
  finish(all);
  results_destroy(&all);
  json_t *before = read_json(f);
  char *error;
  all = resume(f, &error);
  assert_non_null(all);
  assert_true(results_has(all, 0));
  assert_true(results_has(all, 1));
  assert_false(results_has(all, 2));
  assert_false(results_has(all, 3));
  assert_false(results_has(all, 4));
  assert_true(isnan(all->points[0].time_ms[MOECL_STAGE_PERMUTE].median));
  assert_int_equal(results_worst(all), POINT_UNVERIFIED_OK);
  finish(all);
  json_t *same = read_json(f); /* it has measured nothing yet */
  assert_true(json_equal(json_object_get(before, "runs"), json_object_get(same, "runs")));
  json_decref(same);
  add(all, make_point(f, 2, POINT_OK));
  finish(all);
  json_t *after = read_json(f);
  /* What was taken over is written as it was. */
  for (size_t i = 0; i < 2; i++)
    assert_true(json_equal(json_array_get(json_object_get(before, "points"), i),
                           json_array_get(json_object_get(after, "points"), i)));
  check_value(after, "points.2.status", "\"ok\"");
  assert_int_equal(json_array_size(json_object_get(before, "runs")), 1); /* who measured */
  assert_int_equal(json_array_size(json_object_get(after, "runs")), 2);
  assert_int_equal(json_array_size(json_object_get(after, "points")), 3);
  json_decref(before);
  json_decref(after);
  results_destroy(&all);
}

/* Numbers that 15 digits do not bring back, the extremes too: results.json and
 * results.csv give the very same ones. */
static void test_digits(void **state) {
  fixture *f = *state;
  static const double hard[] = {0.1 + 0.2, 1.0 / 3,           0.1,         5e-324,
                                DBL_MIN,   DBL_MAX,           DBL_EPSILON, 123456789.123456789,
                                1e22,      4503599627370497.5};
  enum { COUNT = sizeof hard / sizeof *hard };
  for (size_t i = 0; i < COUNT; i += 4) {
    point_result point = make_point(f, i / 4, POINT_OK);
    point.tokens_per_s = hard[i];
    point.routing.statistics.coefficient_of_variation = hard[(i + 1) % COUNT];
    point.time_ms[MOECL_STAGE_DOWN].p90 = hard[(i + 2) % COUNT];
    point.verify.error = hard[(i + 3) % COUNT];
    results *all = i == 0 ? open_new(f) : NULL;
    char *error = NULL;
    if (!all) all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
    assert_non_null(all);
    add(all, point);
    results_destroy(&all);
    all = results_open(&f->plan, &f->device, &f->kernels, f->folder, true, &error);
    assert_non_null(all);
    const point_result *back = &all->points[i / 4];
    const double found[4] = {back->tokens_per_s, back->routing.statistics.coefficient_of_variation,
                             back->time_ms[MOECL_STAGE_DOWN].p90, back->verify.error};
    for (size_t j = 0; j < 4; j++)
      if (found[j] != hard[(i + j) % COUNT])
        fail_msg("%.17g came back as %.17g", hard[(i + j) % COUNT], found[j]);
    results_destroy(&all);
  }
  char *json = slurp(f, "results.json"), *csv = slurp(f, "results.csv");
  assert_non_null(strstr(json, "0.30000000000000004"));
  assert_non_null(strstr(csv, ",0.30000000000000004,"));
  assert_non_null(strstr(json, "\"jitter\": 0.01,")); /* no digits more than needed */
  free(json);
  free(csv);
}

static point_round make_round(const fixture *f, double layer_ms) {
  point_result point = make_point(f, 0, POINT_OK);
  point_round round = point.rounds[0];
  round.time_ms[MOECL_STAGE_LAYER] = (sample_summary){layer_ms, layer_ms / 2, layer_ms * 2};
  point_result_destroy(&point);
  return round;
}

static void add_round(const fixture *f, results *all, size_t index, double layer_ms) {
  char *error = NULL;
  const point_round round = make_round(f, layer_ms);
  if (!results_add_round(all, index, &round, NULL, &error)) fail_msg("%s", error);
}

/* Rounds are kept one by one, through the journal and through results.json, and a run
 * that goes on knows which are missing. */
static void test_rounds(void **state) {
  fixture *f = *state;
  char *error = NULL;
  results *all = open_new(f);
  assert_int_equal(results_rounds(all), 0);
  for (size_t i = 0; i < 4; i++) {
    point_result point = make_point(f, i, i == 3 ? POINT_VERIFY_FAILED : POINT_OK);
    assert_true(results_wants(all, i, 0));
    point.rounds_planned = i == 2 ? 1 : 3; /* point 2 is a long one */
    add(all, point);
  }
  assert_int_equal(results_rounds(all), 3);
  add_round(f, all, 1, 10);
  for (int interrupted = 0; interrupted < 2; interrupted++) {
    static const bool wanted[4][3] = {{false, true, false}, {false, false, true}, {false}, {true}};
    for (size_t i = 0; i < 4; i++)
      for (int64_t round = 0; round < 3; round++) {
        const bool again = i == 3 && round == 0 && interrupted; /* what failed runs again */
        const bool want = i == 3 ? again : wanted[i][round];
        if (results_wants(all, i, round) != want)
          fail_msg("point %zu, round %d, %s", i, (int)round, interrupted ? "resumed" : "at first");
      }
    results_destroy(&all);
    all = resume(f, &error);
    if (!all) fail_msg("%s", error);
  }
  add_round(f, all, 0, 12);
  add_round(f, all, 0, 6);
  assert_false(results_wants(all, 0, 3));
  assert_int_equal(all->points[0].iterations, 60);
  assert_true(all->points[0].time_ms[MOECL_STAGE_LAYER].median == 8.5); /* of 8.5, 12 and 6 */
  assert_true(all->points[0].time_ms[MOECL_STAGE_LAYER].min == 1.5);
  finish(all);
  json_t *root = read_json(f);
  check_value(root, "points.0.rounds.2.time_ms.layer", "{\"median\":6.0,\"min\":3.0,\"p90\":12.0}");
  check_value(root, "points.1.rounds.1.time_ms.layer.median", "10.0");
  json_decref(root);
  results_destroy(&all);
  all = resume(f, &error);
  assert_non_null(all);
  assert_int_equal(all->points[0].num_rounds, 3);
  assert_true(results_wants(all, 1, 2));
  /* One that no longer runs has failed, whatever it did before. */
  assert_true(results_add_round(all, 1, NULL, strdup("round 3 of 3: gone"), &error));
  assert_int_equal(results_worst(all), POINT_ERROR);
  assert_false(results_wants(all, 1, 2));
  results_destroy(&all);
}

/* Puts results.json with another experiment in it. */
static void put_plan(const fixture *f, json_t *root) {
  char *text = json_dumps(root, 0);
  put_file(f, "results.json", text);
  free(text);
}

/* Keys that an earlier version did not know had their defaults. */
static void test_resume_older(void **state) {
  fixture *f = *state;
  char *error;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  results_destroy(&all);
  json_t *root = read_json(f), *plan = json_object_get(root, "experiment");
  json_t *router = json_object_get(json_object_get(plan, "layer"), "router");
  json_object_del(json_object_get(plan, "measure"), "verify");
  json_object_del(router, "router_noise");
  json_object_del(router, "routed_scaling_factor");
  json_object_del(plan, "dtype");
  json_object_del(root, "runs");
  json_object_del(json_object_get(plan, "measure"), "rounds");
  json_t *point = json_array_get(json_object_get(root, "points"), 0);
  json_object_del(point, "rounds");
  json_object_del(point, "rounds_planned");
  put_plan(f, root);
  all = resume(f, &error);
  if (!all) fail_msg("%s", error);
  assert_true(results_has(all, 0));
  assert_int_equal(all->points[0].num_rounds, 1); /* it was measured once */
  assert_int_equal(results_rounds(all), 1);
  assert_true(all->points[0].rounds[0].time_ms[MOECL_STAGE_LAYER].median == 8.5);
  results_destroy(&all);
  json_object_del(router, "jitter"); /* 0.01 here, not the default */
  put_plan(f, root);
  expect_refused(f, "another experiment");
  json_object_set_new(router, "jitter", json_real(0.01));
  json_object_set_new(router, "new_rule", json_true()); /* of a later version */
  put_plan(f, root);
  expect_refused(f, "another experiment");
  json_decref(root);
}

/* A sweep of many points without a device: seeds. */
static void parse_many(fixture *f, size_t count) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  fputs("name: many\nlayer: {hidden_size: 64, intermediate_size: 32, num_experts: 4, top_k: 1}\n"
        "workload: {num_tokens: 6}\nseed: [0",
        file);
  for (size_t i = 1; i < count; i++) fprintf(file, ", %zu", i);
  fputs("]\n", file);
  fclose(file);
  experiment_destroy(&f->plan);
  parse(f, text);
  free(text);
  assert_int_equal(f->plan.num_points, count);
}

/* Whatever a crash leaves of the journal: the whole lines are taken over, the last
 * one if it was cut is not, and results.json has them all afterwards. */
static void test_journal(void **state) {
  fixture *f = *state;
  char *error;
  parse_many(f, 8);
  results *all = open_new(f);
  for (size_t i = 0; i < 7; i++) add(all, make_point(f, i, POINT_OK));
  results_destroy(&all); /* a crash: no report_finish */
  json_t *root = read_json(f);
  assert_int_equal(json_array_size(json_object_get(root, "points")), 4);
  json_decref(root);
  char *json = slurp(f, "results.json"), *journal = slurp(f, "results.jsonl");
  assert_non_null(journal);
  const size_t size = strlen(journal);
  for (size_t cut = 0; cut <= size; cut += cut + 1 < size ? 61 : 1) {
    size_t lines = 0;
    char *part = strndup(journal, cut);
    for (const char *c = part; *c; c++) lines += *c == '\n';
    put_file(f, "results.json", json);
    put_file(f, "results.jsonl", part);
    free(part);
    all = resume(f, &error);
    if (!all) fail_msg("cut at %zu of %zu: %s", cut, size, error);
    for (size_t i = 0; i < 8; i++)
      if (results_has(all, i) != (i < 4 + lines))
        fail_msg("cut at %zu of %zu: point %zu", cut, size, i);
    results_destroy(&all);
    root = read_json(f);
    assert_int_equal(json_array_size(json_object_get(root, "points")), 4 + lines);
    json_decref(root);
    assert_int_equal(files_in(f), 2); /* no journal any more */
  }
  /* A later line counts, one of a failed point too; one that is damaged is told. */
  char *changed = format_text("%s%s", journal, journal);
  char *status = strstr(changed + size, "\"ok\"");
  memcpy(status, "\"no\"", 4);
  put_file(f, "results.json", json);
  put_file(f, "results.jsonl", changed);
  all = resume(f, &error);
  assert_non_null(all);
  assert_false(results_has(all, 4));
  assert_true(results_has(all, 5));
  results_destroy(&all);
  memcpy(strstr(changed, "\"tflops\""), "\"tfl0ps\"", 8);
  put_file(f, "results.jsonl", changed);
  expect_refused(f, "results.jsonl cannot be resumed: it is damaged (line 1: tflops");
  free(changed);
  free(journal);
  free(json);
}

/* A line that no longer fits leaves no half of it behind; the next time all is written. */
static void test_journal_full(void **state) {
  fixture *f = *state;
  char *error = NULL;
  parse_many(f, 8);
  results *all = open_new(f);
  for (size_t i = 0; i < 5; i++) add(all, make_point(f, i, POINT_OK));
  char *before = slurp(f, "results.jsonl");
  point_result point = make_point(f, 5, POINT_OK);
  signal(SIGXFSZ, SIG_IGN);
  limit_files(strlen(before) + 100);
  const bool added = results_add(all, &point, &error);
  limit_files(RLIM_INFINITY);
  assert_false(added);
  assert_non_null(strstr(error, "results.jsonl could not be written: File too large"));
  free(error);
  char *after = slurp(f, "results.jsonl");
  assert_string_equal(after, before);
  free(before);
  free(after);
  add(all, make_point(f, 6, POINT_OK));
  results_destroy(&all);
  all = resume(f, &error);
  assert_non_null(all);
  for (size_t i = 0; i < 8; i++) assert_int_equal(results_has(all, i), i < 7);
  results_destroy(&all);
}

/* Bytes this process has written so far; 0 where the system doesn't tell. */
static unsigned long long bytes_written(void) {
  unsigned long long bytes = 0;
  char line[128];
  FILE *file = fopen("/proc/self/io", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "wchar: %llu", &bytes) == 1) break;
  if (file) fclose(file);
  return bytes;
}

/* What is written grows with the points, not with their square. */
static void test_journal_grows(void **state) {
  fixture *f = *state;
  enum { MANY = 300 };
  parse_many(f, MANY);
  const unsigned long long before = bytes_written();
  results *all = open_new(f);
  for (size_t i = 0; i < MANY; i++) add(all, make_point(f, i, POINT_OK));
  finish(all);
  const unsigned long long written = bytes_written() - before;
  results_destroy(&all);
  char *json = slurp(f, "results.json");
  if (before == 0) print_message("SKIP: no /proc/self/io\n");
  else if (written > 6 * strlen(json))
    fail_msg("%llu bytes for a results.json of %zu", written, strlen(json));
  free(json);
  assert_int_equal(files_in(f), 2);
}

static void test_resume_refused(void **state) {
  fixture *f = *state;
  expect_refused(f, "results.json: No such file");
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  results_destroy(&all);
  char *good = slurp(f, "results.json"), *error = NULL;
  /* results of an earlier run are not written over */
  assert_null(results_open(&f->plan, &f->device, &f->kernels, f->folder, false, &error));
  assert_non_null(strstr(error, "--resume"));
  free(error);
  strcpy(f->device.name, "Another device");
  expect_refused(f, "on Another device");
  strcpy(f->device.name, "A device \xff");
  f->kernels.dir = "edited \"cl\"";
  f->kernels.hash[0] = 'f';
  expect_refused(f, "other kernels (built in, sources 0123456789abcdef0123456789abcdef) than now "
                    "(edited \"cl\", sources f123456789abcdef0123456789abcdef)");
  f->kernels.hash[0] = '0'; /* a folder with the same sources is as good */
  all = resume(f, &error);
  assert_non_null(all);
  assert_true(results_has(all, 0));
  add(all, make_point(f, 0, POINT_OK));
  json_t *root = read_json(f);
  check_value(root, "kernels.dir", "\"edited \\\"cl\\\"\"");
  json_decref(root);
  results_destroy(&all);
  f->kernels.dir = NULL;
  for (size_t cut = 0; cut < strlen(good) - 2; cut += 97) { /* whatever part of it is there */
    char *part = strndup(good, cut);
    put_file(f, "results.json", part);
    expect_refused(f, "damaged");
    free(part);
  }
  put_file(f, "results.json", "{\"schema\": \"moecl-results/99\"}");
  expect_refused(f, "its schema is moecl-results/99");
  put_file(f, "results.json", "[]");
  expect_refused(f, "its schema is not given");
  char *capacity = strstr(good, "\"tflops\"");
  memcpy(capacity, "\"tfl0ps\"", 8);
  put_file(f, "results.json", good);
  expect_refused(f, "points[0].tflops");
  memcpy(capacity, "\"tflops\"", 8);
  put_file(f, "results.json", good);
  free(good);
  experiment_destroy(&f->plan);
  parse(f, "name: unit\nlayer: {hidden_size: 64, intermediate_size: 32, num_experts: 4, top_k: 1}\n"
           "workload: {num_tokens: 6}\n");
  expect_refused(f, "another experiment");
  char missing[600];
  snprintf(missing, sizeof missing, "%s/none", f->folder);
  assert_null(results_open(&f->plan, &f->device, &f->kernels, missing, true, &error));
  assert_non_null(strstr(error, "No such file"));
  free(error);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(test_resume),       CASE(test_digits),         CASE(test_resume_older),
      CASE(test_rounds),       CASE(test_journal),        CASE(test_journal_grows),
      CASE(test_journal_full), CASE(test_resume_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
