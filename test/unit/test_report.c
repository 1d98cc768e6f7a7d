// SPDX-License-Identifier: MIT
/* report.md, from points made up here, and what a resumed run makes of its files. */
#include "made_up.h"

static void test_report(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = report(&fixture);
  has(text, "# made-up\n");
  has(text, "4 points: 4 ran and verified.");
  has(text, "| **top_k** (swept) | 1, 4 |");
  has(text, "| **capacity_factor** (swept) | 1, dropless |");
  has(text, "| num_experts | 8 |");
  has(text, "20 timed, at each point, in 3 rounds in which all points take turns.\n");
  has(text, "A device's name");
  has(text, "| router | generic | 4 | serves \\| everywhere |");
  has(text, "| # | top_k | capacity_factor | median ms |");
  has(text, "| 3 | 4 | dropless | 4.00 | 3.84 | 4.40 | 64000 | 0.100 | 10.0 | 0.0% |");
  has(text, " fused |");
  has(text, "The points took turns in 3 rounds.");
  has(text, "\n**top_k**\n\n- top_k 1 to 4 (capacity_factor=1): 4.00x (4.00 to 4.00) the layer's "
            "time, 1.00 ms to 4.00 ms, mostly gate_up (+1.50 ms).\n- top_k 1 to 4 "
            "(capacity_factor=dropless): 4.00x (4.00 to 4.00) the layer's time, ");
  has(text,
      "\n**capacity_factor**\n\n- capacity_factor 1 drops 12."); /* times are alike: no word */
  has(text, "Load average of the host as points were measured (moectl's own work counts in it): "
            "0.500 to 0.500.");
  has(text, "- capacity_factor 1 drops 12.");
  has(text, "; dropless drops 0.0% (top_k=1).");
  has(text, "Closest to its tolerance is point 0: error 2.00e-07 of 1e-05.");
  has_not(text, "| tokens checked |"); /* report.html has every point */
  has(text, "In 4 points the output was checked on a sample");
  has(text, "A Mixture-of-Experts layer was timed on A device's name: num_experts 8, top_k 1 or 4, "
            "hidden_size 64, intermediate_size 128, capacity_factor 1 or dropless, dtype fp32, "
            "num_tokens 256.\n");
  has(text, "input and output together: 1.50 MiB (point 0) to 4.50 MiB (point 3).");
  has(text, "| 3 | 4 | dropless | 4.50 | 28.1% |");
  has(text, "\nmoectl run 'configs/made up.yaml'");
  has(text, "Kernel sources: built in, hash `0123456789abcdef0123456789abcdef`.");
  has_not(text, "MOECL_KERNEL_DIR");
  has_not(text, "## Failed points");
  has_not(text, "## Pictures");
  free(text);
  tear_down(&fixture);
}

/* What was chosen stands there; what is as it always is, in report.html alone. */
static void test_parameters(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture,
         "seed: 3\n" LAYER "num_experts: 8, top_k: [1, 2], router: {renormalize: false}}\n"
         "workload: {num_tokens: 16}\ndtype: bf16\n");
  char *text = report(&fixture);
  has(text, "| **top_k** (swept) | 1, 2 |\n| seed | 3 |\n| hidden_size | 64 |\n"
            "| intermediate_size | 128 |\n| num_experts | 8 |\n| renormalize | false |\n"
            "| dtype | bf16 |\n| num_tokens | 16 |\n\n## Device");
  has_not(text, "| activation |");
  free(text);
  tear_down(&fixture);
}

/* Identity experts have a share of the assignments: the last column, of grouped tables too. */
static void test_identities(void **state) {
  (void)state;
  for (int grouped = 0; grouped < 2; grouped++) {
    made_up fixture;
    set_up(&fixture, grouped ? LAYER "num_experts: 8, top_k: [1, 2, 3, 4, 5]}\n"
                                     "workload: {num_tokens: [16, 32, 64, 128, 256]}\n"
                             : LAYER
                         "num_experts: 8, top_k: [1, 2]}\nworkload: {num_tokens: 16}\n");
    char *text = report(&fixture);
    has_not(text, "identities");
    has_not(text, "the last column");
    free(text);
    for (size_t i = 0; i < fixture.experiment.num_points; i++) {
      fixture.results.points[i].routing.num_identity_experts = 2;
      fixture.results.points[i].routing.statistics.identity_fraction = 0.375;
    }
    text = report(&fixture);
    has(text, " | padding waste | identities |\n");
    has(text, grouped ? "| top_k | 5 | 5 | 5.62 | 0 | 1.50 |" : "| 1 | 2 | 2.25 | 0 | 1.50 |");
    has(text, "% | 37.5% |\n");
    has(text, "is the last column.");
    free(text);
    tear_down(&fixture);
  }
}

/* What a reader must know before the numbers: what ran, how much of it, beside what. */
static void test_warnings(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = report(&fixture);
  has_not(text, "interrupted");
  has_not(text, "Other programs");
  has_not(text, "checkpoint");
  free(text);
  checkpoint_source source = {.layer = 3};
  fixture.experiment.checkpoint = (char *)"models/a|b";
  fixture.experiment.source = &source;
  fixture.results.points[2].num_rounds = 1; /* of three */
  fixture.results.points[1].rounds[1].load_average = 8.5;
  fixture.results.runs = json_pack("[{s:i}]", "processors", 2);
  text = report(&fixture);
  has(text, "The layer is of the checkpoint models/a\\|b, layer 3.");
  has(text, "**The run was interrupted: 10 of 12 rounds of the points that ran are here.**");
  has(text, "## Findings\n\n**Other programs were at work: the load average was up to 8.5 on 2 "
            "processors.");
  free(text);
  fixture.results.points[1].rounds[1].load_average = 312; /* a large machine's, or a stuck one's */
  text = report(&fixture);
  has(text, "the load average was up to 312.0 on 2 processors.");
  free(text);
  fixture.results.points[1].rounds[1].load_average = 2.4; /* the device is the CPU */
  text = report(&fixture);
  has_not(text, "Other programs");
  free(text);
  json_decref(fixture.results.runs);
  fixture.results.runs = NULL;
  fixture.experiment.checkpoint = NULL;
  fixture.experiment.source = NULL;
  tear_down(&fixture);
}

static void test_failed_points(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  point_result *points = fixture.results.points;
  points[1].status = POINT_ERROR;
  points[1].error = format_text("out of <memory> | on\nthe device");
  points[2].status = POINT_VERIFY_FAILED;
  points[2].verify.ok = false;
  points[2].verify.error = NAN;
  points[2].error = format_text("error nan exceeds 1e-05");
  fixture.results.have[3] = false;
  char *text = report(&fixture);
  has(text, "4 points: 1 ran and verified, 1 **did not verify**, 1 **failed**, 1 not run.");
  has(text, "## Failed points\n\n- Point 1 (top_k=1, capacity_factor=dropless) failed: out of "
            "\\<memory\\> \\| on the device\n");
  has(text, "- Point 2 (top_k=4, capacity_factor=1) did not verify: error nan exceeds 1e-05");
  has(text, "**error** |\n");
  has(text, "not run |\n");
  has(text, "Closest to its tolerance is point 2");
  has(text, "--resume ");
  free(text);

  for (size_t i = 0; i < 4; i++) fixture.results.have[i] = false;
  text = report(&fixture);
  has_not(text, "## Findings"); /* nothing to say */
  has(text, "4 points: 4 not run.");
  free(text);
  tear_down(&fixture);
}

static void test_other_kernels(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  fixture.results.kernels.dir = "my <cl>";
  fixture.results.have[3] = false;
  char *text = report(&fixture);
  has(text, "**The kernels were read from the folder my \\<cl\\> (MOECL_KERNEL_DIR), not those "
            "built in.**\n");
  has(text, "Kernel sources: my \\<cl\\>, hash `0123");
  has(text, "\nMOECL_KERNEL_DIR='my <cl>' moectl run 'configs/made up.yaml' --resume ");
  has(text, "\nMOECL_KERNEL_DIR='my <cl>' moectl run 'configs/made up.yaml'\n");
  free(text);
  tear_down(&fixture);
}

static void test_single_point(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 1, top_k: 1}\nworkload: {num_tokens: 1}\n");
  char *text = report(&fixture);
  has(text, "1 point: 1 ran and verified.");
  has(text, "- gate_up is the slowest stage, with 50% of the stages' time.");
  free(text);
  tear_down(&fixture);
}

/* The stage of a shared expert is shown where there is one, and no other calls it
 * fused. */
static void test_shared_stage(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = report(&fixture);
  has_not(text, "| shared |");
  free(text);
  fixture.experiment.points[2].layer.shared_intermediate_size = 24;
  free_point(&fixture.results.points[2]);
  make_point(&fixture, 2);
  text = report(&fixture);
  has(text, "| down | shared | combine |");
  has(text, "| none | fused |"); /* its neighbours' combine is fused */
  has(text, "% | fused |");      /* its own */
  has_not(text, "| none | none |");
  free(text);
  tear_down(&fixture);
}

/* A point whose event times are none has no fused stages: it has no times. */
static void test_no_times(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *text = report(&fixture);
  has_not(text, "not credible");
  free(text);
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    fixture.results.points[2].time_ms[stage] = (sample_summary){NAN, NAN, NAN};
  text = report(&fixture);
  has(text, "| n/a | n/a | n/a | n/a | n/a | n/a | n/a |");
  has(text, "*n/a*: the driver's event times are not credible");
  has_not(text, "| n/a | fused |");
  free(text);
  tear_down(&fixture);
}

static void test_many_lines(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: [8, 16, 32, 64], top_k: [1, 2, 4, 8]}\n"
                         "workload: {num_tokens: [16, 32]}\ndtype: [fp32, bf16]\n");
  char *text = report(&fixture);
  has(text, "- top_k 1 to 8, over 16 combinations of the others: from 8.00x (8.00 to 8.00) the "
            "layer's time (");
  has(text, "; gate_up changes most in 16 of them.\n");
  has_not(text, "\n**dtype**\n"); /* as fast: nothing to say */
  free(text);
  tear_down(&fixture);
}

static size_t count_lines(const char *text, const char *start) {
  size_t count = 0;
  for (const char *line = text; *line; line = strchr(line, '\n') + 1)
    count += strncmp(line, start, strlen(start)) == 0;
  return count;
}

/* The report of a large sweep does not grow with every table by its points. */
static void test_large_report(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n"
                         "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n");
  fixture.results.points[5].verify.ok = false;
  fixture.results.points[5].status = POINT_VERIFY_FAILED;
  for (size_t i = 0; i < 72; i += 2) { /* fp32 */
    fixture.results.points[i].routing.statistics.entropy = 2;
    fixture.results.points[i].time_ms[MOECL_STAGE_GATE_UP].median *= 2; /* 1/2, and 3/6: now 2/3 */
  }
  char *text = report(&fixture);
  assert_int_equal(count_lines(text, "| 7 |"), 1); /* the table of points, no other */
  assert_int_equal(count_lines(text, "| 5 |"), 2); /* it did not verify */
  has(text, "| dtype | fp32 | 36 | 11.1% | 11.1% | 66.7% | 11.1% | n/a |\n");
  has(text, "| dtype | bf16 | 36 | 16.7% | 16.7% | 50.0% | 16.7% | n/a |\n");
  has(text, "| dtype | fp32 | 36 | 4.22 | 0 | 2.00 |"); /* 1.125 k of the mean k 3.75 */
  has(text, "| num_tokens | 16 | 24 | 4.22 | 0 | 1.75 |");
  free(text);
  tear_down(&fixture);
  char seeds[2048] = "seed: [0", *end = seeds + strlen(seeds);
  for (int i = 1; i < 250; i++) end += sprintf(end, ", %d", i);
  sprintf(end, "]\n%s", LAYER "num_experts: 8, top_k: 1}\nworkload: {num_tokens: 16}\n");
  set_up(&fixture, seeds);
  for (size_t i = 0; i < 250; i++)
    fixture.results.points[i].tokens_per_s = 1000 + (double)(i * 7 % 250);
  fixture.results.points[100].status = POINT_VERIFY_FAILED; /* 700 % 250 = 200: neither end */
  text = report(&fixture);
  has(text,
      "Of 250 points the 20 with the highest and the 20 with the lowest throughput, and those that "
      "failed; all are in\n`results.csv`.\n");
  assert_int_equal(count_lines(text, "| 0 |"), 1);   /* the slowest */
  assert_int_equal(count_lines(text, "| 107 |"), 1); /* 749 % 250 = 249: the fastest */
  assert_int_equal(count_lines(text, "| 50 |"), 0);  /* 100 */
  assert_int_equal(count_lines(text, "| 100 |"), 1);
  free(text);
  tear_down(&fixture);
}

/* A point's rounds, and what is made of them. */
static void set_rounds(made_up *fixture, size_t index, const double *ms, size_t count) {
  set_times(fixture, index, 1, 0.9, 1.1);
  make_rounds(&fixture->results.points[index], ms, count);
  set_times(fixture, index, ms[1], 0.9 * ms[1], 1.1 * ms[1]);
}

/* Two points are compared round by round: a drift that both have is no difference, one that
 * the rounds do not agree on is not told. The intervals are those of Python's statistics. */
/* 81 values of one parameter: every third has a row, and the last. */
static void test_many_values(void **state) {
  (void)state;
  made_up fixture;
  char yaml[1024] = LAYER "num_experts: 8, top_k: 1}\nworkload: {num_tokens: [1";
  for (int i = 2; i <= 81; i++)
    snprintf(yaml + strlen(yaml), sizeof yaml - strlen(yaml), ", %d", i);
  strcat(yaml, "]}\n");
  set_up(&fixture, yaml);
  char *text = report(&fixture);
  has(text, "| num_tokens | 1 | 1 | ");
  has(text, "| num_tokens | 4 | 1 | ");
  has(text, "| num_tokens | 81 | 1 | ");
  has_not(text, "| num_tokens | 2 | 1 | ");
  has(text, "Of more than 40 values some are left out, evenly.");
  free(text);
  tear_down(&fixture);
}

static void test_comparisons(void **state) {
  (void)state;
  static const double base[] = {1, 2, 4}, half[] = {1.5, 3.2, 6}, alike[] = {1.01, 2, 4.04};
  static const double mixed[] = {2, 2.2, 3.8}, quick[] = {0.5, 1, 2};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: [8, 16], top_k: [1, 2, 4]}\nworkload: {num_tokens: 256}\n");
  for (size_t i = 0; i < 6; i++) set_rounds(&fixture, i, base, 3);
  char *text = report(&fixture);
  has(text, "## Findings");
  has_not(text, "\n**top_k**\n"); /* nothing differs: no heading */
  has_not(text, "top_k 1 to 4");
  free(text);
  set_rounds(&fixture, 1, alike, 3); /* num_experts 8, top_k 2 */
  set_rounds(&fixture, 2, half, 3);  /* num_experts 8, top_k 4 */
  set_rounds(&fixture, 4, mixed, 3); /* num_experts 16, top_k 2 */
  set_rounds(&fixture, 5, mixed, 3);
  text = report(&fixture);
  has(text, "- top_k 1 to 4 (num_experts=8): 1.50x (1.40 to 1.68) the layer's time, ");
  has(text, ". Step by step: 2 to 4 1.49x (1.37 to 1.69), no other step is certain.\n");
  has_not(text, "(num_experts=16)"); /* 2x, 1.1x and 0.95x: no */
  free(text);
  set_rounds(&fixture, 1, quick, 3); /* up, down: the ends are alike, the middle is not */
  set_rounds(&fixture, 2, base, 3);
  text = report(&fixture);
  has(text, "- top_k 1 to 4 (num_experts=8): the ends' difference is not certain, ");
  has(text, ". Step by step: 1 to 2 0.500x (0.500 to 0.500), 2 to 4 2.00x (2.00 to 2.00).\n");
  free(text);
  tear_down(&fixture);
}

/* Measured once: told only where iterations do not overlap, of which there are enough. */
static void test_measured_once(void **state) {
  (void)state;
  static const double once[] = {1};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: [1, 2]}\nworkload: {num_tokens: 256}\n"
                         "dtype: [fp32, bf16]\n");
  for (size_t i = 0; i < 4; i++) set_times(&fixture, i, 1, 0.9, 1.2);
  set_times(&fixture, 1, 1.5, 1.1, 2); /* top_k 1, bf16: overlaps */
  set_times(&fixture, 3, 1.5, 1.3, 2); /* top_k 2, bf16: does not */
  for (size_t i = 0; i < 4; i++) make_rounds(&fixture.results.points[i], once, 1);
  char *text = report(&fixture);
  has(text, "\n4 points were measured once, one after another, so that ");
  has_not(text, "took turns");
  has(text, "- dtype (top_k=2): fp32 is fastest with 1.00 ms; bf16 takes 1.50x");
  has_not(text, "dtype (top_k=1)");
  free(text);
  fixture.results.points[3].iterations = 4;
  text = report(&fixture);
  has_not(text, "is fastest");
  free(text);
  tear_down(&fixture);
}

/* Tokens are compared by what one costs. */
static void test_token_findings(void **state) {
  (void)state;
  static const double base[] = {1, 2, 4}, same[] = {4, 8, 16}, cheap[] = {2, 4, 8};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 1}\nworkload: {num_tokens: [16, 64]}\n"
                         "dtype: [fp32, bf16]\n");
  for (size_t i = 0; i < 2; i++) set_rounds(&fixture, i, base, 3);
  set_rounds(&fixture, 2, same, 3);  /* 64 tokens, fp32: four times the time of 16 */
  set_rounds(&fixture, 3, cheap, 3); /* bf16: twice */
  char *text = report(&fixture);
  /* No stage is named: the largest change of one is 0.0938 ms. */
  has(text, "- num_tokens 16 to 64 (dtype=bf16): layer time 2.00 ms to 4.00 ms; for each token "
            "0.500x (0.500 to 0.500) the time.\n");
  has_not(text, "num_tokens 16 to 64 (dtype=fp32)");
  has(text,
      "- dtype (num_tokens=64): bf16 is fastest with 4.00 ms; fp32 takes 2.00x (2.00 to 2.00)");
  free(text);
  tear_down(&fixture);
}

/* Seeds are repetitions: their spread is told, no trend. */
static void test_seeds(void **state) {
  (void)state;
  made_up fixture;
  picture_list pictures;
  set_up(&fixture, "seed: [9, 1, 5]\n" LAYER
                   "num_experts: 8, top_k: [1, 2], capacity: {capacity_factor: 1}}\n"
                   "workload: {num_tokens: 256}\n");
  fixture.results.points[2].time_ms[MOECL_STAGE_LAYER].median = 1.25; /* seed 1, top_k 1 */
  fixture.results.points[4].routing.statistics.max_mean_imbalance = 1.75;
  char *text = report(&fixture);
  has(text, "**seed** (repetitions with other random numbers)\n\n"
            "- Over 3 seeds (top_k=1) the layer takes 1.00 to 1.25 ms, the busiest expert has "
            "1.44 to 1.75 times the mean load, and 12.5% of assignments are dropped.\n"
            "- Over 3 seeds (top_k=2) the layer takes 2.00 ms, ");
  has_not(text, "Raising seed");
  has_not(text, "at seed=");
  has(text, "- top_k 1 to 2");
  free(text);
  assert_true(pictures_plan(&fixture.results, &pictures));
  for (size_t i = 0; i < pictures.count; i++) has_not(pictures.list[i].name, "_vs_seed");
  has(pictures.list[0].name, "time_vs_top_k");
  pictures_release(&pictures);
  tear_down(&fixture);
  set_up(&fixture, "seed: [1, 2]\n" LAYER "num_experts: [8, 16, 32, 64], top_k: [1, 2]}\n"
                   "workload: {num_tokens: 256}\n");
  fixture.results.points[3].time_ms[MOECL_STAGE_LAYER].median *= 1.5;
  fixture.results.points[5].routing.statistics.dropped_fraction += 0.25;
  text = report(&fixture);
  has(text, "- Over the 2 seeds of one combination of the others (of 8), layer times differ by up "
            "to 1.50x,\nthe busiest expert's load over the mean by up to 0, the dropped share by "
            "up to 25.0 percentage points.");
  has_not(text, "Raising seed");
  free(text);
  tear_down(&fixture);
}

static void test_report_unwritable(void **state) {
  (void)state;
  made_up fixture;
  char *error = NULL, *note = NULL;
  set_up(&fixture, sweep);
  char *folder = fixture.results.folder;
  fixture.results.folder = format_text("%s/missing", folder);
  assert_false(report_write(&fixture.results, &error));
  has(error, "/missing/report.md could not be written: No such file");
  free(error);
  error = NULL;
  assert_false(plots_write(&fixture.results, &note, &error));
  assert_non_null(error);
  assert_null(note);
  free(error);
  free(fixture.results.folder);
  fixture.results.folder = folder;
  tear_down(&fixture);
}

/* Takes a made-up point's first round to the results, or a later one. */
static void give(made_up *fixture, results *all, size_t index, size_t round) {
  char *error = NULL;
  make_point(fixture, index);
  point_result *point = &fixture->results.points[index];
  for (int stage = 0; stage < RESULTS_STAGES; stage++) { /* numbers of 17 digits */
    point->time_ms[stage].median *= 1 + (double)(index + 1) / 3;
    point->time_ms[stage].min /= 7;
    point->time_ms[stage].p90 *= 1 + (double)(index + 1) / 3;
  }
  point->routing.statistics.coefficient_of_variation = sqrt(2 + (double)(index % 3));
  point->verify.error = 1e-7 / 3;
  const double drift[] = {1, 1 + sqrt(0.01), 1.0 / 3};
  make_rounds(point, drift, 3);
  bool ok;
  if (round == 0) {
    point->num_rounds = 1;
    ok = results_add(all, point, &error);
  } else {
    ok = results_add_round(all, index, &point->rounds[round], NULL, &error);
    free_point(point);
  }
  *point = (point_result){0};
  if (!ok) fail_msg("%s", error);
}

static results *open_results(const made_up *fixture, const char *folder, bool resume) {
  char *error = NULL;
  results *all = results_open(&fixture->experiment, &fixture->results.device,
                              &fixture->results.kernels, folder, resume, &error);
  if (!all) fail_msg("%s", error);
  return all;
}

/* Without what is of one run: when, by which command. */
static char *read_comparable(const char *folder, const char *name) {
  size_t size = 0;
  char *path = format_text("%s/%s", folder, name);
  char *text = read_whole_file(path, &size), *kept = NULL;
  assert_non_null(text);
  free(path);
  FILE *out = open_memstream(&kept, &size);
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
    if (!strstr(line, "Written ") && !strstr(line, "Started ") && !strstr(line, "Resumed ") &&
        strncmp(line, "# ", 2) != 0)
      fprintf(out, "%s\n", line);
  fclose(out);
  free(text);
  return kept;
}

/* results.json without the runs. */
static char *read_points(const char *folder) {
  char *path = format_text("%s/results.json", folder);
  json_t *root = json_load_file(path, 0, NULL);
  free(path);
  assert_non_null(root);
  json_object_del(root, "runs");
  char *text = json_dumps(root, JSON_REAL_PRECISION(17));
  json_decref(root);
  return text;
}

static void same_files(const char *a, const char *b) {
  size_t compared = 0;
  DIR *files = opendir(a);
  assert_non_null(files);
  for (const struct dirent *file; (file = readdir(files));) {
    const char *name = file->d_name;
    if (name[0] == '.' || strstr(name, ".png") || strcmp(name, "results.json") == 0) continue;
    char *one = read_comparable(a, name), *other = read_comparable(b, name);
    if (strcmp(one, other) != 0) fail_msg("%s differs:\n%s\n---\n%s", name, one, other);
    free(one);
    free(other);
    compared++;
  }
  closedir(files);
  assert_true(compared > 20);
  char *one = read_points(a), *other = read_points(b);
  assert_string_equal(one, other);
  free(one);
  free(other);
}

static size_t count_files(const char *folder) {
  size_t count = 0;
  DIR *files = opendir(folder);
  while (files && readdir(files)) count++;
  if (files) closedir(files);
  return count;
}

/* A run that was cut off twice and gone on with leaves the files of one that wasn't. */
static void test_resumed_run(void **state) {
  (void)state;
  made_up fixture;
  char *note = NULL, *error = NULL, *was = format_text("%s", getenv("PATH"));
  set_up(&fixture,
         LAYER "num_experts: [8, 16], top_k: [1, 4], capacity: {capacity_factor: [1.1, null]}}\n"
               "workload: {num_tokens: [16, 256]}\n");
  const size_t count = fixture.experiment.num_points;
  char *folders[2] = {format_text("%s/whole", fixture.results.folder),
                      format_text("%s/parts", fixture.results.folder)};
  for (size_t i = 0; i < count; i++) free_point(&fixture.results.points[i]);
  for (int parts = 0; parts < 2; parts++) {
    results *all = open_results(&fixture, folders[parts], false);
    for (size_t round = 0; round < 3; round++)
      for (size_t i = 0; i < count; i++) {
        if (parts && ((round == 0 && i == 7) || (round == 1 && i == 3))) {
          results_destroy(&all); /* a crash */
          all = open_results(&fixture, folders[parts], true);
        }
        assert_true(results_wants(all, i, (int64_t)round));
        give(&fixture, all, i, round);
      }
    setenv("PATH", "", 1); /* the pictures' scripts say it all */
    if (!report_finish(all, &note, &error)) fail_msg("%s", error);
    setenv("PATH", was, 1);
    free(note);
    results_destroy(&all);
  }
  same_files(folders[0], folders[1]);
  assert_int_equal(count_files(folders[0]), count_files(folders[1]));
  for (int parts = 0; parts < 2; parts++) {
    remove_folder(folders[parts]);
    free(folders[parts]);
  }
  free(was);
  tear_down(&fixture);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_report),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_identities),
      cmocka_unit_test(test_warnings),
      cmocka_unit_test(test_failed_points),
      cmocka_unit_test(test_other_kernels),
      cmocka_unit_test(test_single_point),
      cmocka_unit_test(test_shared_stage),
      cmocka_unit_test(test_no_times),
      cmocka_unit_test(test_many_lines),
      cmocka_unit_test(test_report_unwritable),
      cmocka_unit_test(test_seeds),
      cmocka_unit_test(test_resumed_run),
      cmocka_unit_test(test_large_report),
      cmocka_unit_test(test_many_values),
      cmocka_unit_test(test_comparisons),
      cmocka_unit_test(test_measured_once),
      cmocka_unit_test(test_token_findings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
