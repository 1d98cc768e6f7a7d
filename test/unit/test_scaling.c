// SPDX-License-Identifier: MIT
/* What is said and drawn of points on several devices, from points made up here. Every number that
 * is expected is computed by hand. */
#include "made_up.h"
#include "report/plot_axis.h"
#include "report/prediction.h"
#include "report/report_parts.h"

#define TWO "num_experts: 16, top_k: 2}\nworkload: {num_tokens: 8}\n"

static char *written(const made_up *fixture, bool (*of)(const results *all, FILE *file)) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  assert_non_null(file);
  const bool any = of(&fixture->results, file);
  fclose(file);
  assert_true(any == (size > 0));
  return text;
}

static void says(const made_up *fixture, bool (*of)(const results *all, FILE *file),
                 const char *expected) {
  char *text = written(fixture, of);
  assert_string_equal(text, expected);
  free(text);
}

/* Members with these rows; what they send and take is the first's. */
static void spread(made_up *fixture, size_t index, size_t members, const int64_t *rows) {
  point_parallel *parallel = &fixture->results.points[index].parallel;
  double sum = 0, most = 0;
  *parallel = (point_parallel){.num_members = members,
                               .members = calloc(members, sizeof *parallel->members),
                               .transport = "host",
                               .row_bytes = 64,
                               .output_row_bytes = 128,
                               .hidden_share = 0.5};
  assert_non_null(parallel->members);
  for (size_t m = 0; m < members; m++) {
    parallel->members[m] = (point_member){.num_tokens = 4, .rows = rows[m], .kernels_ms = 2};
    sum += (double)rows[m];
    most = fmax(most, (double)rows[m]);
  }
  parallel->members[0].bytes_sent = 700;
  parallel->members[0].bytes_received = 1300;
  parallel->members[0].copied_bytes = 2000;
  parallel->members[0].transfer_ms = 1;
  parallel->member_imbalance = most * (double)members / sum;
}

/* ---- scaling ---- */

static void test_speed(void **state) {
  static const int64_t one[] = {16}, two[] = {4, 12}, four[] = {6, 4, 4, 2};
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER TWO "parallel: {experts: [1, 2, 4]}\n");
  spread(&fixture, 0, 1, one);
  spread(&fixture, 1, 2, two);
  spread(&fixture, 2, 4, four);
  static const double rates[] = {100, 150, 300};
  for (size_t i = 0; i < 3; i++) fixture.results.points[i].tokens_per_s = rates[i];
  says(&fixture, report_scaling,
       "4 members do 3.00x the tokens per second of one (75.0% of the ideal), all on one device, "
       "which they share; the busiest has 1.50x the mean rows, and 50.0% of the copying is "
       "hidden.");
  char *text = written(&fixture, report_headline);
  has(text, "4 members do 3.00x");
  free(text);
  snprintf(fixture.results.points[2].parallel.transport, 64,
           "mpi+host"); /* from machine to machine? */
  text = written(&fixture, report_scaling);
  has(text, "(75.0% of the ideal); the busiest");
  free(text);
  fixture.results.have[0] = false; /* the fewest that ran then stand for as many */
  assert_true(picture_value(&fixture.results, PICTURE_SCALING, 1) == 2);
  assert_true(picture_value(&fixture.results, PICTURE_SCALING, 2) == 4);
  text = written(&fixture, report_scaling);
  has(text, "4 members do 4.00x the tokens per second of one (100% of the ideal), if 2 do 2x: one "
            "was not measured; the busiest");
  free(text);
  fixture.results.have[1] = false; /* nothing is compared with anything */
  says(&fixture, report_scaling, "");
  tear_down(&fixture);
  /* One device alone, and a line of more tokens. */
  set_up(&fixture, LAYER "num_experts: 16, top_k: 2}\nworkload: {num_tokens: [8, 16]}\n"
                         "devices: [0:0, 0:1]\nparallel: {experts: [2, 1, null]}\n");
  static const double lines[] = {180, 90, 100, 240, 150, 160};
  for (size_t i = 0; i < 6; i++) fixture.results.points[i].tokens_per_s = lines[i];
  spread(&fixture, 0, 2, two);
  spread(&fixture, 3, 2, two);
  says(&fixture, report_scaling,
       "2 members do 1.50x to 1.80x the tokens per second of one (75.0% to 90.0% of the ideal); "
       "the busiest has 1.50x the mean rows, and 50.0% of the copying is hidden.");
  tear_down(&fixture);
  set_up(&fixture, LAYER TWO);
  says(&fixture, report_scaling, "");
  tear_down(&fixture);
}

/* One device without a group is before any group. */
static void test_order(void **state) {
  static const char *const labels[] = {"null", "1", "2", "4"};
  made_up fixture;
  axis_scale scale;
  (void)state;
  set_up(&fixture, LAYER TWO "parallel: {experts: [4, 2, null, 1]}\n");
  tick *ticks = plot_ticks(fixture.results.experiment,
                           grid_find(fixture.results.experiment, "experts"), &scale);
  assert_non_null(ticks);
  assert_int_equal(scale, SCALE_EVEN);
  for (int i = 0; i < 4; i++) {
    assert_string_equal(ticks[i].label, labels[i]);
    assert_true(ticks[i].position == i);
  }
  free(ticks);
  tear_down(&fixture);
}

/* Members by turns on what a list names: one device, were it named twice. */
static void test_one_device(void **state) {
  static const int64_t one[] = {16}, two[] = {4, 12};
  static const struct {
    const char *devices;
    bool shared;
  } cases[] = {{"auto", true},         {"0:0", true},
               {"[0:0, '0:0']", true}, {"[0:0, 0:1]", false},
               {"all", false},         {"[0:1, 0:11]", false},
               {"'0:0, 0:0'", true},   {"cpu, all", false},
               {"one name", true},     {"[one name, one]", false}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    made_up fixture;
    char yaml[512];
    snprintf(yaml, sizeof yaml, "%sdevices: %s\n", LAYER TWO "parallel: {experts: [1, 2]}\n",
             cases[i].devices);
    set_up(&fixture, yaml);
    spread(&fixture, 0, 1, one);
    spread(&fixture, 1, 2, two);
    for (size_t p = 0; p < 2; p++) fixture.results.points[p].tokens_per_s = 100;
    char *text = written(&fixture, report_scaling);
    if ((strstr(text, "all on one device") != NULL) != cases[i].shared)
      fail_msg("devices: %s: %s", cases[i].devices, text);
    free(text);
    tear_down(&fixture);
  }
}

/* Members take devices in turns. */
static void test_few_devices(void **state) {
  static const int64_t rows[] = {4, 4, 4, 4};
  static const char *const words[] = {", on 2 devices, which they share;", "ideal); the busiest"};
  (void)state;
  for (int apart = 0; apart < 2; apart++) {
    made_up fixture;
    set_up(&fixture, LAYER TWO "devices: [0:0, 0:1]\nparallel: {experts: [1, 4]}\n");
    spread(&fixture, 0, 1, rows);
    spread(&fixture, 1, 4, rows);
    for (size_t p = 0; p < 2; p++) fixture.results.points[p].tokens_per_s = 100;
    for (int m = 0; m < 4; m++)
      snprintf(fixture.results.points[1].parallel.members[m].device, 128, "A GPU (0:%d%s)", m % 2,
               apart ? ", rank 0" : "");
    char *text = written(&fixture, report_scaling);
    has(text, words[apart]);
    free(text);
    tear_down(&fixture);
  }
}

static void test_placements(void **state) {
  static const int64_t uneven[] = {4, 12}, even[] = {9, 7};
  (void)state;
  made_up fixture;
  set_up(&fixture,
         LAYER TWO "parallel: {experts: 2, placement: [even, capacity], replicas: [0, 3]}\n");
  for (size_t i = 0; i < 4; i++) spread(&fixture, i, 2, i % 2 ? even : uneven);
  says(
      &fixture, report_placements,
      "The busiest member has 1.12x to 1.50x the mean rows with placement=even, 1.12x to 1.50x the "
      "mean rows with placement=capacity. The busiest member has 1.50x the mean rows with "
      "replicas=0, 1.12x the mean rows with replicas=3.");
  tear_down(&fixture);
}

/* ---- pictures ---- */

static void test_pictures(void **state) {
  static const int64_t two[] = {4, 12}, three[] = {8, 8, 2};
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER TWO "parallel: {experts: [1, 2, 3]}\n");
  spread(&fixture, 1, 2, two);
  spread(&fixture, 2, 3, three);
  for (size_t i = 0; i < 3; i++) fixture.results.points[i].tokens_per_s = 100 + 50 * (double)i;
  free(plots_with_path(&fixture, ""));
  char *text = read_text(&fixture, "device_load.dat");
  has(text, "\n0.5 1.5 -1 \n1.33333 1.33333 0.333333 \n");
  free(text);
  text = read_text(&fixture, "device_load.gp");
  has(text, "set ytics ('experts=2' 0, 'experts=3' 1)");
  free(text);
  text = read_text(&fixture, "scaling_vs_experts.dat");
  has(text, "\n1 1\n2 1.5\n3 2\n\n\n# ideal\n1 1\n2 2\n3 3\n");
  free(text);
  text = read_text(&fixture, "scaling_vs_experts.gp");
  has(text, "'scaling_vs_experts.dat' index 1 with lines linewidth 1.5 dashtype 2");
  free(text);
  if (system("command -v gnuplot >/dev/null") == 0) {
    char *note = plots_with_path(&fixture, getenv("PATH"));
    if (note) fail_msg("%s", note);
    assert_file(&fixture, "device_load.png");
    assert_file(&fixture, "scaling_vs_experts.png");
  }
  tear_down(&fixture);
  set_up(&fixture, LAYER TWO "parallel: {experts: 1, chunks: [1, 2]}\n");
  free(plots_with_path(&fixture, ""));
  assert_false(exists(&fixture, "device_load.gp"));
  assert_false(exists(&fixture, "scaling_vs_chunks.gp"));
  tear_down(&fixture);
}

/* ---- the prediction ---- */

static void near(double got, double want) {
  if (!(fabs(got - want) <= 1e-12 * fabs(want))) fail_msg("%.17g, expected %.17g", got, want);
}

static void set_loads(made_up *fixture, size_t index, const int64_t *loads) {
  moecl_routing *routing = &fixture->results.points[index].routing;
  memcpy(routing->tokens_per_expert_after_capacity, loads,
         (size_t)routing->num_experts * sizeof *loads);
}

/* Two devices with 4 tokens each and 2 choices a token: 16 rows in 4 ms, 2000 bytes in 1 ms. */
static void test_prediction(void **state) {
  static const int64_t two[] = {8, 8};
  static const int64_t even[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  (void)state;
  made_up fixture;
  prediction_basis basis;
  prediction made;
  set_up(&fixture, LAYER TWO "parallel: {experts: 2}\n");
  assert_false(prediction_find_basis(&fixture.results, &basis));
  spread(&fixture, 0, 2, two);
  set_loads(&fixture, 0, even);
  assert_true(prediction_find_basis(&fixture.results, &basis));
  near(basis.tokens, 4);
  near(basis.choices, 2);
  near(basis.row_ms, 0.25);
  near(basis.bytes_per_ms, 2000);
  near(basis.received, 1);
  near(basis.choice_bytes, 0);
  /* A token reaches 8 (1 - (7/8)^2) = 1.875 devices: 4 * 1.875 * 7/8 * 64 bytes there, and
   * 8 * 7/8 * 128 back. Half of 1316 * 2 / 2000 ms is not hidden. */
  assert_true(prediction_make(&fixture.results, &basis, 8, &made));
  near(made.imbalance, 1);
  near(made.bytes, 420 + 896);
  near(made.compute_ms, 2);
  near(made.transfer_ms, 1.316);
  near(made.layer_ms, 2.658);
  near(made.speed, 16 / 2.658);
  assert_true(prediction_make(&fixture.results, &basis, 16, &made));
  near(made.bytes, 465 + 960);
  assert_false(prediction_make(&fixture.results, &basis, 32, &made));
  char *text = report(&fixture);
  has(text, "\n## Prediction\n\n**PREDICTION: nothing in this table was measured.**");
  has(text, "\nThe members were contexts of one device");
  has(text, "\n| 8 | 1.00 | 0.0013 | 2.00 | 0.658 | 2.66 | 12039 | 6.02 | 75.2 |\n");
  has_not(text, "\n| 32 |");
  has(text, "the lists of all choices.");
  free(text);
  snprintf(fixture.results.points[0].parallel.transport, 64, "mpi+host");
  text = report(&fixture);
  has(text, "the lists of all choices, and how processes gather their ids and weights.");
  free(text);
  fixture.results.points[0].parallel.members[0].copied_bytes = 0; /* of an earlier version */
  assert_true(prediction_find_basis(&fixture.results, &basis));
  near(basis.bytes_per_ms, 2000);
  near(basis.received, 1);
  fixture.results.points[0].parallel.members[1].kernels_ms = NAN;
  assert_false(prediction_find_basis(&fixture.results, &basis));
  tear_down(&fixture);
}

/* Members' kernels may differ: each has its own in its row. */
static void test_devices(void **state) {
  static const int64_t two[] = {20, 12};
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER TWO "parallel: {experts: 2}\n");
  spread(&fixture, 0, 2, two);
  point_member *members = fixture.results.points[0].parallel.members;
  snprintf(members[0].device, sizeof members[0].device, "a GPU");
  snprintf(members[0].grouped_gemm_variant, sizeof members[0].grouped_gemm_variant, "nvidia_sm90");
  snprintf(members[1].device, sizeof members[1].device, "a CPU");
  members[0].memory_bytes = 5 << 19;
  char *text = report(&fixture);
  has(text, "\n| # | member, device | variant | by |");
  has(text, "\n| 0 | 0, a GPU | nvidia_sm90 | ");
  has(text, "` | 2.50 | ");
  has(text, "\n| 0 | 1, a CPU | n/a | "); /* of an earlier version */
  has(text, "` | n/a | ");
  free(text);
  tear_down(&fixture);
}

/* The peaks and the memory are one device's: what several do together has no share of them. Both
 * points do 100 GFLOP/s, which is half of the peak, and take 1.5 and 2.5 of 16 MiB. */
static void test_share_of_one_device(void **state) {
  static const int64_t two[] = {20, 12};
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER TWO "devices: [0:0, 0:1]\nparallel: {experts: [null, 2]}\n");
  spread(&fixture, 1, 2, two);
  snprintf(fixture.results.peaks.measured, sizeof fixture.results.peaks.measured, "2026");
  fixture.results.peaks.rates = (moecl_peaks){.flops_f32 = 0.2e12, .read_bytes = 30e9};
  char *text = report(&fixture);
  has(text, "\n| 0 | null | 50.0% | 33.3% | arithmetic |\n");
  has_not(text, "\n| 1 | 2 | 50.0%");
  has(text,
      "\n\n1 point is on several devices, whose rates are of all together, or on another one: "
      "no share of this device's peaks.\n");
  has(text, " was timed on A device's name and members' devices: ");
  has(text, "ran there (each member's is in the table of devices)");
  assert_int_equal(report_bound_of(&fixture.results, 0), BOUND_ARITHMETIC);
  assert_int_equal(report_bound_of(&fixture.results, 1), BOUND_UNKNOWN);
  has(text, "input and output together (of a group what its members have by then, ");
  has(text, "\n| 0 | null | 1.50 | 9.4% |\n");
  has(text, "\n| 1 | 2 | 2.50 | n/a |\n");
  free(text);
  spread(&fixture, 0, 2, two); /* no table, but why there is none */
  text = report(&fixture);
  has_not(text, "of memory's rate |");
  has(text, "\n\n2 points are on several devices, whose rates");
  has(text, " was timed on its members' devices: ");
  has_not(text, "9.4%");
  free(text);
  tear_down(&fixture);
  /* All on the results' own device, unless other processes have some. */
  set_up(&fixture, LAYER TWO "parallel: {experts: [1, 2]}\n");
  spread(&fixture, 1, 2, two);
  assert_false(point_is_elsewhere(&fixture.results, 1));
  snprintf(fixture.results.points[1].parallel.transport, 64, "mpi+host");
  assert_true(point_is_elsewhere(&fixture.results, 1));
  tear_down(&fixture);
}

/* 64 bytes of choices to each of two others, and from them: 3 times 128 each way beside the rows'
 * 2000 bytes. Both sides copy, or the sender alone, in the same millisecond. */
static void test_choices_in_prediction(void **state) {
  static const int64_t three[] = {8, 8, 8};
  static const int64_t even[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  (void)state;
  for (int one_sided = 0; one_sided < 2; one_sided++) {
    made_up fixture;
    prediction_basis basis;
    prediction made;
    set_up(&fixture, LAYER TWO "parallel: {experts: 3}\n");
    spread(&fixture, 0, 3, three);
    set_loads(&fixture, 0, even);
    point_member *members = fixture.results.points[0].parallel.members;
    for (int m = 0; m < 3; m++) {
      members[m].choice_bytes_sent = members[m].choice_bytes_received = 128;
      members[m].copied_bytes = one_sided ? 128 : 256;
    }
    members[0].copied_bytes += one_sided ? 700 : 2000;
    assert_true(prediction_find_basis(&fixture.results, &basis));
    near(basis.choice_bytes, 64);
    near(basis.bytes_per_ms, one_sided ? 700 + 384 : 2000 + 768);
    near(basis.received, one_sided ? 0 : 1);
    /* As above, 1316 bytes of rows and 7 * 64 of choices to others, and as many from them, of which
     * half is hidden. */
    assert_true(prediction_make(&fixture.results, &basis, 8, &made));
    near(made.bytes, 1316);
    near(made.transfer_ms, one_sided ? 1764.0 / 1084 : 3528.0 / 2768);
    near(made.layer_ms, made.compute_ms + (one_sided ? 882.0 / 1084 : 1764.0 / 2768));
    char *text = report(&fixture);
    has(text, one_sided
                  ? "r = 1.08 MB/s of a device's copies, by the transport `host`; f = 0% of"
                  : "r = 2.77 MB/s of a device's copies, by the transport `host`; f = 100% of");
    has(text, "; C = 64 bytes of choices");
    has(text, "the lists of all choices.");
    free(text);
    tear_down(&fixture);
  }
}

/* 500 of 700 bytes that are sent are outputs that down stores; the sender alone copies the rest. */
static void test_stored_prediction(void **state) {
  static const int64_t two[] = {8, 8};
  static const int64_t even[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  (void)state;
  made_up fixture;
  prediction_basis basis;
  prediction made;
  set_up(&fixture, LAYER TWO "parallel: {experts: 2}\n");
  spread(&fixture, 0, 2, two);
  set_loads(&fixture, 0, even);
  point_member *member = fixture.results.points[0].parallel.members;
  member->stored_bytes = 500;
  member->copied_bytes = 200;
  double *down = &fixture.results.points[0].time_ms[MOECL_STAGE_DOWN].median;
  *down = NAN;
  assert_false(prediction_find_basis(&fixture.results, &basis));
  *down = 0.8;
  assert_true(prediction_find_basis(&fixture.results, &basis));
  near(basis.bytes_per_ms, 200);
  near(basis.received, 0);
  near(basis.down_row_ms, 0.1);
  /* 420 bytes there, of which half is hidden; 896 back take 4.48 ms, down 0.8 of them. */
  assert_true(prediction_make(&fixture.results, &basis, 8, &made));
  near(made.bytes, 420 + 896);
  near(made.transfer_ms, 2.1);
  near(made.late_ms, 3.68);
  near(made.layer_ms, 2 + 1.05 + 3.68);
  near(made.speed, 16 / 6.73);
  char *text = report(&fixture);
  has(text, "(max(A, D + f A) + (1 + f) (N - 1) C) / r + I max(0, R / r - d k T), and one device");
  has(text, "that, d = 100 us a row. From the point");
  free(text);
  *down = 40; /* which hides them */
  assert_true(prediction_find_basis(&fixture.results, &basis));
  assert_true(prediction_make(&fixture.results, &basis, 8, &made));
  near(made.layer_ms, 2 + 1.05);
  tear_down(&fixture);
}

/* One expert with 9 of 16 rows, and the point with more tokens counts. */
static void test_uneven_prediction(void **state) {
  static const int64_t two[] = {12, 4};
  static const int64_t uneven[] = {9, 1, 1, 1, 1, 1, 1, 1};
  (void)state;
  made_up fixture;
  prediction_basis basis;
  prediction made;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2}\nworkload: {num_tokens: [4, 8]}\n"
                         "parallel: {experts: 2}\n");
  spread(&fixture, 0, 2, two);
  spread(&fixture, 1, 2, two);
  set_loads(&fixture, 1, uneven);
  for (size_t m = 0; m < 2; m++) fixture.results.points[0].parallel.members[m].num_tokens = 2;
  assert_true(prediction_find_basis(&fixture.results, &basis));
  assert_int_equal(basis.index, 1);
  /* I = 8 * 9/16; a token reaches 1 - (7/16)^2 + 7 (1 - (15/16)^2) = 1.65625 devices: D = 371, and
   * R = 896. To the busiest come 207/256 of 28 others' tokens: A = 1449. It copies all of that. */
  assert_true(prediction_make(&fixture.results, &basis, 8, &made));
  near(made.imbalance, 4.5);
  near(made.bytes, 371 + 896);
  near(made.compute_ms, 9);
  near(made.transfer_ms, (371 + 1449 + 4.5 * 896 + 896) / 2000);
  near(made.layer_ms, 9 + 0.5 * 6748 / 2000);
  /* The sender alone copies: the busiest waits for what comes to it, and copies what it gives. */
  fixture.results.points[1].parallel.members[0].copied_bytes = 700;
  assert_true(prediction_find_basis(&fixture.results, &basis));
  near(basis.bytes_per_ms, 700);
  assert_true(prediction_make(&fixture.results, &basis, 8, &made));
  near(made.transfer_ms, (1449 + 4.5 * 896) / 700);
  /* Half of what comes. */
  fixture.results.points[1].parallel.members[0].copied_bytes = 700 + 650;
  assert_true(prediction_find_basis(&fixture.results, &basis));
  assert_true(prediction_make(&fixture.results, &basis, 8, &made));
  near(made.transfer_ms, (1449 + 4.5 * 896 + 896 / 2.0) / 1350);
  assert_false(prediction_make(&fixture.results, &basis, 16, &made));
  tear_down(&fixture);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_speed),
                                     cmocka_unit_test(test_share_of_one_device),
                                     cmocka_unit_test(test_placements),
                                     cmocka_unit_test(test_pictures),
                                     cmocka_unit_test(test_prediction),
                                     cmocka_unit_test(test_devices),
                                     cmocka_unit_test(test_one_device),
                                     cmocka_unit_test(test_few_devices),
                                     cmocka_unit_test(test_order),
                                     cmocka_unit_test(test_choices_in_prediction),
                                     cmocka_unit_test(test_stored_prediction),
                                     cmocka_unit_test(test_uneven_prediction)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
