// SPDX-License-Identifier: MIT
/* The findings that a suite's index has, and the index, from points made up here. Every number
 * that is expected follows from the made-up times and loads by hand. */
#include "made_up.h"
#include "report/index.h"
#include "report/report_parts.h"

static char *finding(const made_up *fixture, bool (*of)(const results *all, FILE *file)) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  assert_non_null(file);
  const bool any = of(&fixture->results, file);
  fclose(file);
  if (!any) assert_string_equal(text, "");
  return text;
}

static void says(const made_up *fixture, bool (*of)(const results *all, FILE *file),
                 const char *expected) {
  char *text = finding(fixture, of);
  assert_string_equal(text, expected);
  free(text);
}

/* The point takes so many times what it took, for the same work, in each of three rounds. */
static void slow_down(made_up *fixture, size_t index, double times) {
  point_result *point = &fixture->results.points[index];
  static const double even[] = {1, 1, 1};
  for (int stage = 0; stage < RESULTS_STAGES; stage++) {
    sample_summary *time = &point->time_ms[stage];
    *time = (sample_summary){times * time->median, times * time->min, times * time->p90};
  }
  point->tflops /= times;
  point->gbytes_per_s /= times;
  make_rounds(point, even, 3);
}

static const char batches[] = LAYER "num_experts: 8, top_k: 2}\n"
                                    "workload: {num_tokens: [4, 5, 6, 7, 8]}\n";

/* Each token takes 2/256 ms: a step takes its share, whatever the batch. */
static void test_no_cliff(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, batches);
  for (size_t i = 0; i < 5; i++) slow_down(&fixture, i, 1);
  says(&fixture, report_cliffs,
       "No cliff: none of 4 steps to one token more takes over 10% more than its share of "
       "the work, or that much less time; the largest is num_tokens 4 to 5 1.00x (1.00 to 1.00).");
  slow_down(&fixture, 3, 1.08); /* 6 to 7: not enough to be one; 7 to 8: 8/7 / 1.08 */
  char *text = finding(&fixture, report_headline);
  has(text, "; the largest is num_tokens 6 to 7 1.08x (1.08 to 1.08).");
  free(text);
  text = report(&fixture);
  has(text, "\n- No cliff: none of 4 steps");
  free(text);
  tear_down(&fixture);
}

/* A planted one, up and down again: 7 tokens take 1.5 times as long as they should, and 8 take
 * 8/7 / 1.5 = 0.762 of that. */
static void test_cliff(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, batches);
  for (size_t i = 0; i < 5; i++) slow_down(&fixture, i, i == 3 ? 1.5 : 1);
  char *text = finding(&fixture, report_headline);
  has(text, "2 of 4 steps to one token more are cliffs: num_tokens 6 to 7 1.50x (1.50 to 1.50) "
            "beyond the work, mostly gate_up (+");
  has(text, "; 7 to 8 0.762x (0.762 to 0.762) the time, mostly gate_up (-");
  free(text);
  /* Rounds that do not agree prove nothing. */
  static const double mixed[] = {0.6, 1, 1.4};
  make_rounds(&fixture.results.points[3], mixed, 3);
  text = finding(&fixture, report_headline);
  has(text, "No cliff was found, but of 2 of 4 steps to one token more it cannot be told: ");
  free(text);
  tear_down(&fixture);
}

/* A token that is the first to reach experts brings their bytes along: that is no cliff. */
static void test_new_experts(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, batches);
  for (size_t i = 0; i < 5; i++) slow_down(&fixture, i, i < 3 ? 1 : 1.5);
  fixture.results.points[3].gbytes_per_s *= 1.5;
  fixture.results.points[4].gbytes_per_s *= 1.5;
  char *text = finding(&fixture, report_cliffs);
  has(text, "No cliff: ");
  free(text);
  tear_down(&fixture);
}

/* Decode: the same weights are read whatever the batch, and a token more should be carried along.
 * Of 1 to 4 tokens each takes its own time, as where a kernel goes through them one by one. */
static void test_decode(void **state) {
  (void)state;
  static const double ms[] = {0.05, 0.10, 0.15, 0.20, 0.20, 0.20}, even[] = {1, 1, 1};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 2, top_k: 2}\n"
                         "workload: {num_tokens: [1, 2, 3, 4, 5, 6]}\n");
  struct results *all = &fixture.results;
  for (size_t i = 0; i < 6; i++) {
    all->points[i].time_ms[MOECL_STAGE_LAYER] = (sample_summary){ms[i], ms[i], ms[i]};
    make_rounds(&all->points[i], even, 3);
    all->points[i].gbytes_per_s = 1 / ms[i];                  /* 1 MB */
    all->points[i].tflops = 0.5e-3 * (double)(i + 1) / ms[i]; /* 0.5 MFLOP a token */
  }
  const char *cliffs =
      "3 of 5 steps to one token more are cliffs: num_tokens 1 to 2 2.00x (2.00 to "
      "2.00) beyond the work";
  char *text = finding(&fixture, report_cliffs);
  has(text, cliffs);
  has(text, "; 2 to 3 1.50x (1.50 to 1.50) beyond the work");
  has(text, "; 3 to 4 1.33x (1.33 to 1.33) beyond the work");
  free(text);
  /* Twenty times the operations: 20 to 60 for each byte. Without peaks that may be what takes the
   * time, and 5 to 6 tokens took no longer than 4. */
  for (size_t i = 0; i < 6; i++) all->points[i].tflops *= 20;
  text = finding(&fixture, report_cliffs);
  has(text, "No cliff: none of 5 steps");
  free(text);
  /* A device that does 100 in the time of one byte waits for memory; one that does 5 does not. */
  snprintf(all->peaks.measured, sizeof all->peaks.measured, "2026-11-29");
  all->peaks.rates = (moecl_peaks){.flops_f32 = 100e12, .read_bytes = 1e12};
  text = finding(&fixture, report_cliffs);
  has(text, cliffs);
  free(text);
  all->peaks.rates.flops_f32 = 5e12;
  text = finding(&fixture, report_cliffs);
  has(text, "No cliff: none of 5 steps");
  free(text);
  tear_down(&fixture);
}

/* Steps of more than one token are no neighbours. */
static void test_no_neighbours(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2}\nworkload: {num_tokens: [4, 6, 8]}\n");
  says(&fixture, report_cliffs, "");
  tear_down(&fixture);
  set_up(&fixture, sweep); /* num_tokens is not swept */
  says(&fixture, report_cliffs, "");
  says(&fixture, report_jitter, "");
  says(&fixture, report_distributions, "");
  tear_down(&fixture);
}

static void test_jitter(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture,
         "seed: [1, 2]\n" LAYER "num_experts: 8, top_k: 2, router: {jitter: [0, 0.1, 0.5]}}\n"
         "workload: {num_tokens: 64}\n");
  static const double changed[] = {NAN, 0.01, 0.125, NAN, 0.03, 0.375};
  for (size_t i = 0; i < 6; i++) {
    slow_down(&fixture, i, i == 5 ? 1.25 : i == 2 ? 1.2 : 1);
    fixture.results.points[i].changed_choices = changed[i];
  }
  says(&fixture, report_headline,
       "Jitter changes 2.00% of the choices at 0.1, 25.0% at 0.5; the layer takes 1.20x "
       "to "
       "1.25x the time without it, certain in 2 of 4 comparisons.");
  for (size_t i = 2; i < 6; i += 3) slow_down(&fixture, i, i == 2 ? 1 / 1.2 : 1 / 1.25);
  says(&fixture, report_jitter,
       "Jitter changes 2.00% of the choices at 0.1, 25.0% at 0.5; what it takes is too "
       "little to be certain in any of 4 comparisons.");
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: 8, top_k: [1, 2], router: {jitter: 0.1}}\n"
                         "workload: {num_tokens: 64}\n");
  fixture.results.points[0].changed_choices = 0.25;
  fixture.results.points[1].changed_choices = 0.75;
  says(&fixture, report_jitter, "Jitter changes 50.0% of the choices.");
  for (size_t i = 0; i < 2; i++) fixture.results.points[i].changed_choices = 0.998;
  says(&fixture, report_jitter, "Jitter changes 99.8% of the choices.");
  tear_down(&fixture);
}

static void test_distributions(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture,
         LAYER "num_experts: 8, top_k: 2, capacity: {capacity_factor: [1.0, 2.0, null]}}\n"
               "workload: {num_tokens: 64, distribution: [normal, skewed]}\n");
  for (size_t i = 0; i < 6; i++) { /* capacity, then distribution */
    moecl_routing_statistics *statistics = &fixture.results.points[i].routing.statistics;
    statistics->max_mean_imbalance = i % 2 ? 4 : 1.5;
    statistics->dropped_fraction = i == 0 ? 0.03125 : i == 1 ? 0.5 : 0.125;
  }
  says(&fixture, report_headline,
       "The busiest expert's load over the mean is 1.50 with normal, 4.00 with skewed; "
       "capacity_factor 1.00 drops 3.12% with normal, 50.0% with skewed.");
  for (size_t i = 0; i < 6; i++) fixture.results.have[i] = false;
  says(&fixture, report_headline, "");
  tear_down(&fixture);
}

/* Formats side by side, at the first number of tokens; the time of each and its error. */
static void test_formats(void **state) {
  static const double ms[] = {8, 6, 4, 2}, errors[] = {NAN, 0.011, 0.05, 0.2};
  static const double bits[] = {NAN, 8.03, 8.25, 4.25};
  (void)state;
  made_up fixture;
  set_up(&fixture,
         LAYER "num_experts: 8, top_k: 2, weight_format: [dtype, int8, fp8-g128, mxfp4]}\n"
               "workload: {num_tokens: [16, 256]}\n");
  const size_t stride = 2; /* tokens vary fastest */
  for (size_t i = 0; i < 8; i++) {
    point_result *point = &fixture.results.points[i];
    point->time_ms[MOECL_STAGE_LAYER].median = i % stride ? 1 : ms[i / stride];
    point->verify.weight_error = errors[i / stride];
    point->verify.weight_bits = bits[i / stride];
  }
  says(&fixture, report_headline,
       "At num_tokens=16 the fastest format within 5% error is fp8-g128: 4.00 ms, 5.00% error, "
       "8.25 bits a weight; dtype takes 8.00 ms.");
  fixture.results.points[2 * stride].verify.weight_error = 0.0501;
  char *text = finding(&fixture, report_formats);
  has(text, "within 5% error is int8: 6.00 ms, 1.10% error, 8.03 bits");
  free(text);
  fixture.results.have[stride] = false; /* none is within it */
  text = finding(&fixture, report_formats);
  has(text, "the format with the least error is fp8-g128: 4.00 ms, 5.01% error");
  free(text);
  for (size_t i = 0; i < 8; i++) fixture.results.points[i].verify.weight_error = NAN;
  says(&fixture, report_formats, "");
  tear_down(&fixture);
  /* A search beside them has its name in the label; without a sweep nothing is said. */
  set_up(&fixture, LAYER
         "num_experts: 8, top_k: 2, weight_format: [int8, mxfp4], scale_search: [none, mse]}\n"
         "workload: {num_tokens: 16}\n");
  for (size_t i = 0; i < 4; i++) {
    fixture.results.points[i].time_ms[MOECL_STAGE_LAYER].median = 4 - (double)i;
    fixture.results.points[i].verify.weight_error = 0.04;
    fixture.results.points[i].verify.weight_bits = 4.25;
  }
  says(&fixture, report_formats,
       "The fastest format within 5% error is mxfp4, mse: 1.00 ms, 4.00% error, 4.25 bits a "
       "weight.");
  tear_down(&fixture);
  set_up(&fixture,
         LAYER "num_experts: 8, top_k: 2, weight_format: int8}\nworkload: {num_tokens: [4, 8]}\n");
  fixture.results.points[0].verify.weight_error = 0.01;
  says(&fixture, report_formats, "");
  tear_down(&fixture);
}

/* 1/256 ms for each of k choices of a token: k alone matters. */
static void test_slowest(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: [1, 4]}\nworkload: {num_tokens: [16, 256]}\n");
  char *text = finding(&fixture, report_headline);
  has(text,
      "A token takes 3.91 us at least, and 15.6 us at most, with top_k=4, num_tokens=16: 50% of "
      "that is gate_up's, where all weights of an expert are read for 8.00 rows on average. "
      "top_k has the largest effect that is certain: 4 takes 4.00x what 1 does.");
  free(text);
  fixture.results.have[2] = false; /* then with 256 tokens: 128 rows, and the first has 1.44 even */
  text = finding(&fixture, report_headline);
  has(text, "with top_k=4, num_tokens=256: 50% of that is gate_up's. top_k has");
  free(text);
  fixture.results.points[3].routing.tokens_per_expert_after_capacity[0] += 384;
  text = finding(&fixture, report_headline);
  has(text, " gate_up's, where the busiest expert has 3.23 times the mean load. ");
  free(text);
  fixture.results.points[3].time_ms[MOECL_STAGE_ROUTER].median = 40;
  text = finding(&fixture, report_headline);
  has(text, " router's, which scores 8 experts for every token. ");
  free(text);
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: [8, 16], top_k: 1}\nworkload: {num_tokens: 16}\n");
  text = finding(&fixture, report_headline);
  has(text, "A token takes 3.91 us: 50% of that is gate_up's, ");
  free(text);
  slow_down(&fixture, 1, 1.09); /* certain, but too little to speak of */
  says(&fixture, report_headline,
       "A token takes 3.91 us at least, and 4.26 us at most; no setting stands out.");
  tear_down(&fixture);
}

/* Whether that is arithmetic the measured peaks say, as in the table of the same page. */
static void test_arithmetic(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: [1, 4]}\nworkload: {num_tokens: 256}\n");
  struct results *all = &fixture.results;
  static const struct {
    double tflops, peak; /* measured: operations a second */
    const char *says, *bound;
  } cases[] = {
      {0.1, 0.2e12, "gate_up's, which is arithmetic, 100 GFLOP/s of the layer. ", "arithmetic"},
      {312, 600e12, "gate_up's, which is arithmetic, 312000 GFLOP/s of the layer. ", "arithmetic"},
      {0.1, 10e12, "gate_up's. top_k has", "memory"},
      {0.1, 0.05e12, "gate_up's. top_k has", "more than the peak of its arithmetic"}};
  snprintf(all->peaks.measured, sizeof all->peaks.measured, "2026-11-29");
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    all->peaks.rates = (moecl_peaks){.flops_f32 = cases[i].peak, .read_bytes = 30e9};
    all->points[1].tflops = cases[i].tflops; /* and 10 GB/s */
    char *text = finding(&fixture, report_slowest), *table = report(&fixture);
    has(text, cases[i].says);
    char *row = format_text("%% | %s |\n", cases[i].bound);
    has(table, row);
    assert_int_equal(strstr(table, "More than 100% of arithmetic") != NULL, i == 3);
    free(row);
    free(text);
    free(table);
  }
  tear_down(&fixture);
}

static const char block[] =
    LAYER "num_experts: 8, top_k: 2}\nblock: {attention: {num_heads: 4%s}}\n"
          "workload: {num_tokens: 44, context: 256}\nmeasure: {what: block}\n";

/* A token looks at those before it: at no more than the window has. */
static void test_window(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    made_up fixture;
    char *yaml = format_text(block, i == 0   ? ""
                                    : i == 1 ? ", sliding_window: 4"
                                             : ", sliding_window: 1000");
    set_up(&fixture, yaml);
    fixture.results.points[0].time_ms[MOECL_STAGE_ATTENTION].median = 10;
    char *text = finding(&fixture, report_slowest);
    has(text, i == 1 ? "attention's, where a token looks at up to 4." : "looks at up to 300.");
    free(text);
    free(yaml);
    tear_down(&fixture);
  }
}

/* Rounds of so many times what the point takes, one of which is their median. */
static void take_rounds(made_up *fixture, size_t index, const double rounds[3], double median) {
  make_rounds(&fixture->results.points[index], rounds, 3);
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    fixture->results.points[index].time_ms[stage].median *= median;
}

/* A parameter that does nothing, on a machine that other programs use: 2 ms for 256 tokens, and in
 * some rounds half as much again. */
static void test_noise(void **state) {
  (void)state;
  static const double noise[4][3] = {{1, 1.32, 1.5}, {1.05, 1, 1.6}, {1.49, 1, 1.55}, {1, 1, 1.2}};
  static const double medians[] = {1.32, 1.05, 1.49, 1};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2, router: {routed_scaling_factor: "
                         "[1, 1.5, 2, 2.5]}}\nworkload: {num_tokens: 256}\n");
  for (size_t i = 0; i < 4; i++) take_rounds(&fixture, i, noise[i], medians[i]);
  says(&fixture, report_headline,
       "A token takes 7.81 us at least, and 11.6 us at most; no setting stands out.");
  /* What is large beside the noise does: 8 times as much. */
  for (size_t r = 0; r < 3; r++)
    fixture.results.points[2].rounds[r].time_ms[MOECL_STAGE_LAYER].median *= 8;
  fixture.results.points[2].time_ms[MOECL_STAGE_LAYER].median *= 8;
  char *text = finding(&fixture, report_headline);
  has(text, "A token takes 7.81 us at least, and 93.1 us at most, with routed_scaling_factor=2: ");
  has(text, " routed_scaling_factor has the largest effect that is certain: 2 takes 10.3x what 2.5 "
            "does.");
  free(text);
  tear_down(&fixture);
}

/* Four settings of another parameter, each slower by 1.2 with the second value, but for a round's
 * noise that goes the other way in two of them: no point is certain, the four together are. */
static void test_noise_together(void **state) {
  (void)state;
  static const double even[] = {1, 1, 1}, up[] = {1.08, 1.2, 1.33}, down[] = {1.33, 1.2, 1.08};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2, router: {routed_scaling_factor: [1, 2]}}\n"
                         "workload: {num_tokens: [64, 128, 256, 512]}\n");
  for (size_t i = 0; i < 8; i++)
    take_rounds(&fixture, i, i < 4 ? even : i % 2 ? up : down, i < 4 ? 1 : 1.2);
  says(&fixture, report_slowest,
       "A token takes 7.81 us at least, and 9.38 us at most. routed_scaling_factor has the largest "
       "effect that is certain: 2 takes 1.20x what 1 does; in the slowest such point 50% is "
       "gate_up's.");
  tear_down(&fixture);
}

/* Measured once: 5 forwards or more, of which none overlap. */
static void test_measured_once(void **state) {
  (void)state;
  static const double once[] = {1};
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: [1, 4]}\nworkload: {num_tokens: [16, 256]}\n");
  for (size_t i = 0; i < 4; i++) make_rounds(&fixture.results.points[i], once, 1);
  char *text = finding(&fixture, report_slowest);
  has(text, " us at most, with top_k=4, num_tokens=16: ");
  has(text, " top_k has the largest effect that is certain: 4 takes 4.00x what 1 does.");
  free(text);
  for (size_t i = 0; i < 4; i++) fixture.results.points[i].iterations = 4;
  says(&fixture, report_slowest,
       "A token takes 3.91 us at least, and 15.6 us at most; no setting stands out.");
  tear_down(&fixture);
}

/* 600 tokens take 5/3 of what 300 do: less for each. */
static void test_tokens(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: 1}\nworkload: {num_tokens: [300, 600]}\n");
  slow_down(&fixture, 0, 1);
  slow_down(&fixture, 1, 5. / 6);
  char *text = finding(&fixture, report_slowest);
  has(text, "A token takes 3.26 us at least, and 3.91 us at most, with num_tokens=300: ");
  has(text, " num_tokens has the largest effect that is certain: for each token, 300 takes 1.20x "
            "what 600 does.");
  free(text);
  tear_down(&fixture);
}

/* ---- the index ---- */

static void test_index(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  index_part parts[3] = {{.name = format_text("a b"), .question = format_text("Is <it> *slow*?")},
                         {.name = format_text("broken")},
                         {.name = format_text("left"), .problem = format_text("no such variant")}};
  index_part_set(&parts[0], &fixture.results);
  fixture.results.points[1].status = POINT_ERROR;
  fixture.results.points[1].error = format_text("out of <memory>");
  fixture.results.points[2].rounds[1].load_average = 8.5;
  fixture.results.runs = json_pack("[{s:i}]", "processors", 2);
  index_part_set(&parts[1], &fixture.results);
  json_decref(fixture.results.runs);
  fixture.results.runs = NULL;
  const report_index index = {.folder = fixture.results.folder,
                              .command = "moectl suite --from 'x<y>'",
                              .resume = "moectl suite --resume here",
                              .parts = parts,
                              .count = 3};
  char *error = NULL;
  if (!report_index_write(&index, &error)) fail_msg("%s", error);
  char *text = read_text(&fixture, "index.md");
  has(text,
      "# Benchmark suite\n\nA benchmark suite of 3 parts, of which 2 ran, on A device's name");
  has(text, "\n\n**Other programs were at work: the load average was up to 8.5 on 2 processors.");
  has(text, "**2 parts did not end well:** broken, left.\n");
  has(text, "## a b\n\nIs \\<it\\> \\*slow\\*?\n\nA token takes ");
  has(text, "\n\n4 points: 4 ran and verified. [report.md](a%20b/report.md), "
            "[report.html](a%20b/report.html)\n");
  has(text, "**Problem:** point 1 (top_k=1, capacity_factor=dropless): out of \\<memory\\>\n");
  has(text, "4 points: 3 ran and verified, 1 **failed**. [report.md]");
  has(text, "## left\n\n**Problem:** no such variant\n\n## How to repeat\n\n```sh\nmoectl suite "
            "--from 'x<y>'\nmoectl suite --resume here ");
  free(text);
  text = read_text(&fixture, "index.html");
  has(text, "<section id=\"a%20b\">\n<h2><a href=\"a%20b/report.html\">a b</a></h2>\n"
            "<p>Is &lt;it&gt; *slow*?</p>\n<p>A token takes ");
  has(text, "<section class=\"fail\" id=\"left\">\n<h2>left</h2>\n");
  has_not(text, "<memory>");
  free(text);
  for (size_t i = 0; i < 3; i++) index_part_release(&parts[i]);
  tear_down(&fixture);
}

static void test_plain_text(void **state) {
  (void)state;
  char text[] = "a **b** \\<c\\> \\*d\\\\";
  assert_string_equal(index_plain_text(text), "a b <c> *d\\");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_cliff),       cmocka_unit_test(test_cliff),
      cmocka_unit_test(test_new_experts),    cmocka_unit_test(test_decode),
      cmocka_unit_test(test_no_neighbours),  cmocka_unit_test(test_jitter),
      cmocka_unit_test(test_distributions),  cmocka_unit_test(test_formats),
      cmocka_unit_test(test_slowest),        cmocka_unit_test(test_arithmetic),
      cmocka_unit_test(test_window),         cmocka_unit_test(test_noise),
      cmocka_unit_test(test_noise_together), cmocka_unit_test(test_measured_once),
      cmocka_unit_test(test_tokens),         cmocka_unit_test(test_index),
      cmocka_unit_test(test_plain_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
