/* report.md and the pictures, from points made up here. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "files.h"
#include "gnuplot.h"
#include "grid.h"
#include "pictures.h"
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYER "layer: {hidden_size: 64, intermediate_size: 128, "

/* A results folder as results.c makes one, and its experiment. */
typedef struct made_up {
  experiment experiment;
  struct results results;
} made_up;

static void free_point(point_result *point) {
  free(point->error);
  free(point->rounds);
  for (int j = 0; j < 4; j++) {
    free(point->variants[j]);
    free(point->variant_reasons[j]);
  }
  free(point->routing.tokens_per_expert);
  free(point->routing.tokens_per_expert_after_capacity);
}

/* Rounds of so much the point's times: the machine drifts, for all points alike. */
static void make_rounds(point_result *to, const double *factors, size_t count) {
  free(to->rounds);
  to->rounds = calloc(count, sizeof *to->rounds);
  assert_non_null(to->rounds);
  to->num_rounds = count;
  to->rounds_planned = (int64_t)count;
  for (size_t r = 0; r < count; r++) {
    to->rounds[r] = (point_round){.iterations = to->iterations / (int64_t)count, .load_average = 0.5};
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
      const sample_summary *all = &to->time_ms[stage];
      to->rounds[r].time_ms[stage] = (sample_summary){
          factors[r] * all->median, factors[r] * all->min, factors[r] * all->p90};
    }
  }
}

/* Each point takes 1 ms for 256 assignments; expert 0 is the busiest. */
static void make_point(made_up *fixture, size_t index) {
  const experiment_point *from = &fixture->experiment.points[index];
  point_result *to = &fixture->results.points[index];
  moecl_routing *routing = &to->routing;
  const int64_t experts = from->layer.num_experts, k = from->layer.top_k;
  *to = (point_result){.index = index, .status = POINT_OK, .iterations = 20};
  *routing = (moecl_routing){.num_tokens = from->num_tokens, .num_experts = experts, .top_k = k};
  const double ms = (double)(from->num_tokens * k) / 256;
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    to->time_ms[stage] = (sample_summary){ms / 6, ms / 7, ms / 5};
  to->time_ms[MOECL_STAGE_LAYER] = (sample_summary){ms, 0.96 * ms, 1.1 * ms};
  to->time_ms[MOECL_STAGE_GATE_UP] = (sample_summary){ms / 2, ms / 2, ms / 2};
  to->time_ms[MOECL_STAGE_COMBINE] = (sample_summary){NAN, NAN, NAN};
  if (from->layer.shared_intermediate_size == 0)
    to->time_ms[MOECL_STAGE_SHARED] = (sample_summary){NAN, NAN, NAN};
  static const double drift[] = {1, 0.9, 1.5};
  make_rounds(to, drift, 3);
  to->tokens_per_s = 1e3 * (double)from->num_tokens / ms;
  to->tflops = 0.1;
  to->gbytes_per_s = 10;
  to->verify = (verify_result){.ran = true,
                               .ok = true,
                               .error = 2e-7,
                               .tolerance = 1e-5,
                               .tokens_checked = 16,
                               .experts_checked = experts,
                               .capacity_ok = true};
  for (int i = 0; i < 4; i++) {
    to->variants[i] = format_text("generic");
    to->variant_reasons[i] = format_text("serves | everywhere");
  }
  routing->tokens_per_expert = calloc((size_t)experts, sizeof(int64_t));
  routing->tokens_per_expert_after_capacity = calloc((size_t)experts, sizeof(int64_t));
  assert_true(routing->tokens_per_expert && routing->tokens_per_expert_after_capacity);
  routing->capacity = moecl_expert_capacity(&from->layer, from->num_tokens);
  int64_t total = from->num_tokens * k, kept = 0;
  for (int64_t e = 0; e < experts; e++) {
    const int64_t even = from->num_tokens * k / experts;
    const int64_t load =
        e + 1 == experts ? total : even + even * (experts - 1 - 2 * e) / (2 * experts);
    routing->tokens_per_expert[e] = load;
    routing->tokens_per_expert_after_capacity[e] =
        routing->capacity >= 0 && load > routing->capacity ? routing->capacity : load;
    kept += routing->tokens_per_expert_after_capacity[e];
    total -= load;
  }
  routing->statistics.dropped_fraction = 1 - (double)kept / (double)(from->num_tokens * k);
  routing->statistics.max_mean_imbalance =
      (double)routing->tokens_per_expert[0] / ((double)(from->num_tokens * k) / (double)experts);
  routing->statistics.load_balancing_loss = 1.125 * (double)k;
  routing->statistics.entropy = 1.5;
}

static void set_up(made_up *fixture, const char *yaml) {
  char *error = NULL;
  memset(fixture, 0, sizeof *fixture);
  if (!experiment_parse(yaml, strlen(yaml), "configs/made up.yaml", NULL, 0, &fixture->experiment,
                        &error))
    fail_msg("%s", error);
  struct results *all = &fixture->results;
  const char *where = getenv("MOECL_TEST_DIR");
  all->folder = format_text("%s/report-it's \"$(a)\" `b`-XXXXXX", where ? where : "/tmp");
  assert_non_null(all->folder);
  assert_non_null(mkdtemp(all->folder));
  all->experiment = &fixture->experiment;
  snprintf(all->device.name, sizeof all->device.name, "A device's name");
  all->kernels = (kernel_origin){NULL, "0123456789abcdef0123456789abcdef"};
  all->points = calloc(fixture->experiment.num_points, sizeof *all->points);
  all->have = calloc(fixture->experiment.num_points, sizeof *all->have);
  assert_true(all->points && all->have);
  for (size_t i = 0; i < fixture->experiment.num_points; i++) {
    make_point(fixture, i);
    all->have[i] = true;
  }
}

static void remove_folder(const char *folder) {
  if (getenv("MOECL_TEST_KEEP")) return; /* to look at the pictures */
  DIR *files = opendir(folder);
  for (const struct dirent *file; files && (file = readdir(files));) {
    char *path = format_text("%s/%s", folder, file->d_name);
    if (path && file->d_name[0] != '.') unlink(path);
    free(path);
  }
  if (files) closedir(files);
  rmdir(folder);
}

static void tear_down(made_up *fixture) {
  remove_folder(fixture->results.folder);
  for (size_t i = 0; i < fixture->experiment.num_points; i++)
    free_point(&fixture->results.points[i]);
  free(fixture->results.points);
  free(fixture->results.have);
  free(fixture->results.folder);
  experiment_destroy(&fixture->experiment);
}

static char *read_text(const made_up *fixture, const char *name) {
  size_t size = 0;
  char *path = format_text("%s/%s", fixture->results.folder, name);
  char *text = read_whole_file(path, &size);
  free(path);
  return text;
}

static char *report(const made_up *fixture) {
  char *error = NULL;
  if (!report_write(&fixture->results, &error)) fail_msg("%s", error);
  char *text = read_text(fixture, "report.md");
  assert_non_null(text);
  return text;
}

static void has(const char *text, const char *part) {
  assert_non_null(text);
  if (text && !strstr(text, part)) fail_msg("\"%s\" is not in:\n%s", part, text);
}
static void has_not(const char *text, const char *part) {
  assert_non_null(text);
  if (text && strstr(text, part)) fail_msg("\"%s\" is in:\n%s", part, text);
}

static bool exists(const made_up *fixture, const char *name) {
  char *path = format_text("%s/%s", fixture->results.folder, name);
  const bool found = access(path, R_OK) == 0;
  free(path);
  return found;
}
static void assert_file(const made_up *fixture, const char *name) {
  if (!exists(fixture, name)) fail_msg("there is no %s", name);
}

static const char sweep[] =
    LAYER "num_experts: 8, top_k: [1, 4], capacity: {factor: [1.0, null]}}\n"
          "workload: {num_tokens: 256}\nname: made-up\n";

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
  has(text, "20 timed, at each point, in 3 rounds over all points.\n");
  has(text, "A device's name");
  has(text, "| router | generic | 4 | serves \\| everywhere |");
  has(text, "| # | top_k | capacity_factor | median ms |");
  has(text, "| 3 | 4 | dropless | 4.00 | 3.84 | 4.40 | 64000 | 0.100 | 10.0 | 0.0% |");
  has(text, " fused |");
  has(text, "Points were measured in 3 rounds, all in turn.");
  has(text, "\n**top_k**\n\n- top_k 1 to 4 (capacity_factor=1): 4.00x (4.00 to 4.00) the time, 1.00 ms to "
            "4.00 ms, mostly gate_up (+1.50 ms).\n- top_k 1 to 4 (capacity_factor=dropless): 4.00x "
            "(4.00 to 4.00) the time, ");
  has(text, "\n**capacity_factor**\n\n- capacity_factor 1 drops 12."); /* times are alike: no word */
  has(text, "Load average of the host as points were measured (moectl's own work counts in it): "
            "0.500 to 0.500.");
  has(text, "- capacity_factor 1 drops 12.");
  has(text, "; dropless drops 0.0% (top_k=1).");
  has(text, "| 16 of 256 | 8 | 2.00e-07 | 1e-05 |");
  has(text, "In 4 points the output was checked on a sample");
  has(text, "\nmoectl run 'configs/made up.yaml'");
  has(text, "Kernel sources: built in, hash `0123456789abcdef0123456789abcdef`.");
  has_not(text, "MOECL_KERNEL_DIR");
  has_not(text, "## Failed points");
  has_not(text, "## Pictures");
  free(text);
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
  has(text, "Closest to its limit is point 2");
  has(text, "--resume ");
  free(text);

  for (size_t i = 0; i < 4; i++)
    fixture.results.have[i] = false;
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
  has(text, "- gate_up takes the largest part of the stages' time: 50%.");
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
  has(text, "| none | fused |");     /* its neighbours' combine is fused */
  has(text, "% | fused |");          /* its own */
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
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
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
  has(text, "- top_k 1 to 8, over 16 combinations of the others: from 8.00x (8.00 to 8.00) the time (");
  has(text, "; gate_up changes most in 16 of them.\n");
  has_not(text, "\n**dtype**\n"); /* as fast: nothing to say */
  free(text);
  tear_down(&fixture);
}

/* Runs plots_write with another PATH; returns its note. */
static char *plots_with_path(const made_up *fixture, const char *path) {
  const char *was = getenv("PATH");
  char *old = format_text("%s", was ? was : ""), *note = NULL, *error = NULL;
  assert_non_null(old);
  setenv("PATH", path, 1);
  const bool ok = plots_write(&fixture->results, &note, &error);
  setenv("PATH", old, 1);
  free(old);
  if (!ok) fail_msg("%s", error);
  return note;
}

/* What lines of a view differ in, and panels: everything else is the same in all of them. */
static void check_view(const made_up *fixture, size_t axis, const picture_view *view) {
  const experiment *plan = &fixture->experiment;
  for (size_t p = 0; p < view->num_panels; p++)
    for (size_t l = 0; l < view->num_lines; l++)
      for (size_t i = 0; i < plan->num_axes; i++) {
        const size_t digit = grid_digit(plan, i, view->starts[p][l]);
        const size_t first = grid_digit(plan, i, view->starts[0][0]);
        if (i == axis) assert_int_equal(digit, 0);
        else if (i == view->series) assert_int_equal(digit, l);
        else if (i == view->panels) assert_int_equal(digit, p);
        else assert_int_equal(digit, first);
      }
}

/* Of more lines than fit, those that differ in one parameter; none else varies unseen. */
static void test_picture_views(void **state) {
  (void)state;
  made_up fixture;
  picture_view view;
  char held[LABEL_SIZE];
  set_up(&fixture, "seed: [1, 2]\n" LAYER "num_experts: [8, 16, 32, 64], top_k: [1, 2, 4, 8]}\n"
                   "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n");
  const experiment *plan = &fixture.experiment;
  const size_t tokens = grid_find(plan, "num_tokens"), k = grid_find(plan, "top_k");
  const size_t dtype = grid_find(plan, "dtype"), experts = grid_find(plan, "num_experts");
  /* Times are in proportion to tokens and k here, and bf16 is half of fp32. */
  for (size_t i = 0; i < plan->num_points; i++)
    if (grid_digit(plan, dtype, i) == 1)
      fixture.results.points[i].time_ms[MOECL_STAGE_LAYER].median /= 2;
  assert_true(pictures_view(&fixture.results, PICTURE_TIME, experts, &view));
  assert_int_equal(view.series, k); /* 8 times, then tokens 4 times, dtype 2 */
  assert_int_equal(view.panels, tokens);
  assert_int_equal(view.num_lines, 4);
  assert_int_equal(view.num_panels, 3);
  check_view(&fixture, experts, &view);
  assert_string_equal(pictures_held(&fixture.results, experts, &view, held, sizeof held),
                      "seed=1, dtype=fp32");
  assert_true(pictures_view(&fixture.results, PICTURE_TIME, tokens, &view));
  assert_int_equal(view.series, k);
  assert_int_equal(view.panels, dtype);
  check_view(&fixture, tokens, &view);
  /* What is held is held where there is something to see. */
  for (size_t i = 0; i < plan->num_points / 2; i++) fixture.results.have[i] = false; /* seed 1 */
  assert_true(pictures_view(&fixture.results, PICTURE_TIME, tokens, &view));
  check_view(&fixture, tokens, &view);
  assert_string_equal(pictures_held(&fixture.results, tokens, &view, held, sizeof held),
                      "seed=2, num_experts=8");
  for (size_t i = 0; i < plan->num_points; i++) fixture.results.have[i] = false;
  assert_false(pictures_view(&fixture.results, PICTURE_TIME, tokens, &view));
  tear_down(&fixture);
  /* Few lines are all there; many values of one parameter are spread, the ends included. */
  set_up(&fixture, LAYER "num_experts: 16, top_k: [1, 2, 4]}\nworkload: {num_tokens: [16, 32]}\n"
                   "dtype: [fp32, bf16]\n");
  assert_true(pictures_view(&fixture.results, PICTURE_TIME, grid_find(&fixture.experiment, "num_tokens"), &view));
  assert_int_equal(view.num_panels, 1);
  assert_int_equal(view.num_lines, 6);
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: 16, top_k: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]}\n"
                   "workload: {num_tokens: [16, 32]}\n");
  assert_true(pictures_view(&fixture.results, PICTURE_TIME, grid_find(&fixture.experiment, "num_tokens"), &view));
  assert_int_equal(view.num_lines, 12);
  assert_int_equal(view.num_series, 14);
  assert_int_equal(grid_digit(&fixture.experiment, 0, view.starts[0][0]), 0);
  assert_int_equal(grid_digit(&fixture.experiment, 0, view.starts[0][11]), 13);
  tear_down(&fixture);
}

/* What a script says of its axes, and where the ticks of an axis lie. */
static void test_scales(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 16, top_k: [1, 2, 16], router: {jitter: [0.1, 0, 0.001]},\n"
                   "  capacity: {factor: [null, 1.0, 2.0]}}\nworkload: {num_tokens: 256}\n");
  for (size_t i = 0; i < fixture.experiment.num_points; i++)
    fixture.results.points[i].time_ms[MOECL_STAGE_LAYER].min /= 100; /* a bar far down */
  free(plots_with_path(&fixture, ""));
  char *text = read_text(&fixture, "time_vs_top_k.gp");
  has(text, "'1' 0, '2' 1, '16' 4)");
  has(text, "set xlabel 'top_k (log scale)'");
  has(text, "set ylabel 'layer time (ms) (log scale)'");
  free(text);
  text = read_text(&fixture, "time_vs_jitter.gp"); /* 0 has no place on a logarithmic axis */
  has(text, "'0' 0, '0.001' 1, '0.1' 2)");
  has(text, "set xlabel 'jitter (values evenly spaced)'");
  free(text);
  text = read_text(&fixture, "dropped_vs_capacity_factor.gp");
  has(text, "'1' 0, '2' 1, 'dropless' 2)");
  has(text, "set ylabel 'dropped assignments (%)'");
  free(text);
  tear_down(&fixture);
  /* The bars fit in: 1 to 4 ms, the fastest 0.96 of that over 100, the slowest 1.1. */
  set_up(&fixture, LAYER "num_experts: 8, top_k: [1, 4]}\nworkload: {num_tokens: 256}\n");
  for (size_t i = 0; i < 2; i++) fixture.results.points[i].time_ms[MOECL_STAGE_LAYER].min /= 100;
  free(plots_with_path(&fixture, ""));
  text = read_text(&fixture, "time_vs_top_k.gp");
  double low = 0, high = 0;
  assert_int_equal(sscanf(strstr(text, "set yrange"), "set yrange [%lf:%lf]", &low, &high), 2);
  assert_true(low > 0 && low <= 0.0096 && high >= 4.4);
  free(text);
  tear_down(&fixture);
}

/* What tells points apart stands in the title of each one's picture. */
static void test_utilization_titles(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, "seed: [3, 4]\n" LAYER "num_experts: 8, top_k: 2, router: {jitter: [0, 0.1]}}\n"
                   "workload: {num_tokens: 256, distribution: [normal, skewed]}\n");
  free(plots_with_path(&fixture, ""));
  char *text = read_text(&fixture,
                         "expert_utilization_k2_cfnone_seed4_jitter0.1_distributionskewed.gp");
  has(text, "'num_experts 8, num_tokens 256, seed 4, jitter 0.1, distribution skewed'");
  free(text);
  tear_down(&fixture);
}

/* A sweep has one picture of its loads; each point has its own in a small one, or if asked. */
static void test_few_pictures(void **state) {
  (void)state;
  made_up fixture;
  picture_list pictures;
  set_up(&fixture, LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n"
                   "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n");
  assert_int_equal(fixture.experiment.num_points, 72);
  for (int all = 0; all < 2; all++) {
    size_t loads = 0, single = 0;
    fixture.results.pictures = all ? PICTURES_ALL : PICTURES_FEW;
    assert_true(pictures_plan(&fixture.results, &pictures));
    for (size_t i = 0; i < pictures.count; i++) {
      loads += strcmp(pictures.list[i].name, "expert_utilization") == 0;
      single += pictures.list[i].kind == PICTURE_UTILIZATION;
    }
    assert_int_equal(loads, 1);
    assert_int_equal(single, all ? 72 : 0);
    pictures_release(&pictures);
  }
  fixture.results.pictures = PICTURES_NONE;
  assert_true(pictures_plan(&fixture.results, &pictures));
  assert_int_equal(pictures.count, 0);
  pictures_release(&pictures);
  fixture.results.pictures = PICTURES_FEW;
  free(plots_with_path(&fixture, ""));
  /* A row for each combination of what matters: dtype and its like do not. */
  char *text = read_text(&fixture, "expert_utilization.dat");
  size_t rows = 0;
  for (const char *line = text; line && *line; line = strchr(line, '\n') + 1) rows += *line != '#';
  assert_int_equal(rows, 36);
  has(text, "# num_experts=8, top_k=1, num_tokens=16, dtype=fp32\n");
  has_not(text, "bf16");
  free(text);
  text = read_text(&fixture, "expert_utilization.gp");
  has(text, "set label 'num_experts, top_k, num_tokens'");
  free(text);
  tear_down(&fixture);
}

/* Of more rows than can be seen, parameters are held and named: seeds first. */
static void test_many_loads(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, "seed: [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]\n"
                   LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n"
                   "workload: {num_tokens: [16, 32, 64, 128]}\n");
  assert_int_equal(fixture.experiment.num_points, 576);
  for (size_t i = 0; i < 576; i++) /* so that seeds make a difference */
    fixture.results.points[i].routing.tokens_per_expert[0] += (int64_t)(i / 48);
  fixture.results.have[0] = false; /* the first that is there has what is held */
  free(plots_with_path(&fixture, ""));
  char *text = read_text(&fixture, "expert_utilization.dat");
  size_t rows = 0;
  for (const char *line = text; line && *line; line = strchr(line, '\n') + 1) rows += *line != '#';
  assert_int_equal(rows, 47);
  has(text, "# seed=5, num_experts=8, top_k=1, num_tokens=32\n");
  has_not(text, "seed=6");
  free(text);
  text = read_text(&fixture, "expert_utilization.gp");
  has(text, "held: \" . 'seed=5'\n");
  free(text);
  tear_down(&fixture);
}

static void set_times(made_up *fixture, size_t index, double median, double min, double p90) {
  fixture->results.points[index].time_ms[MOECL_STAGE_LAYER] = (sample_summary){median, min, p90};
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
  for (size_t i = 0; i < 250; i++) fixture.results.points[i].tokens_per_s = 1000 + (double)(i * 7 % 250);
  fixture.results.points[100].status = POINT_VERIFY_FAILED; /* 700 % 250 = 200: neither end */
  text = report(&fixture);
  has(text, "Of 250 points the 20 with the highest and the 20 with the lowest throughput, and those that "
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
  has(text, "- top_k 1 to 4 (num_experts=8): 1.50x (1.40 to 1.68) the time, ");
  has(text, ". Step by step: 2 to 4 1.49x (1.37 to 1.69), the rest alike.\n");
  has_not(text, "(num_experts=16)"); /* 2x, 1.1x and 0.95x: no */
  free(text);
  set_rounds(&fixture, 1, quick, 3); /* up, down: the ends are alike, the middle is not */
  set_rounds(&fixture, 2, base, 3);
  text = report(&fixture);
  has(text, "- top_k 1 to 4 (num_experts=8): the ends do not differ beyond doubt, ");
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
  has(text, "\n4 points were measured once, one after another: ");
  has_not(text, "rounds, all in turn");
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
  has(text, "- num_tokens 16 to 64 (dtype=bf16): 0.500x (0.500 to 0.500) the time a token, ");
  has_not(text, "num_tokens 16 to 64 (dtype=fp32)");
  has(text, "- dtype (num_tokens=64): bf16 is fastest with 4.00 ms; fp32 takes 2.00x (2.00 to 2.00)");
  free(text);
  tear_down(&fixture);
}

/* Seeds are repetitions: their spread is told, no trend. */
static void test_seeds(void **state) {
  (void)state;
  made_up fixture;
  picture_list pictures;
  set_up(&fixture,
         "seed: [9, 1, 5]\n" LAYER "num_experts: 8, top_k: [1, 2], capacity: {factor: 1}}\n"
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
  for (size_t i = 0; i < pictures.count; i++)
    has_not(pictures.list[i].name, "_vs_seed");
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

static void test_without_gnuplot(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, sweep);
  char *stale = format_text("%s/time_vs_top_k.png", fixture.results.folder);
  FILE *file = fopen(stale, "w"); /* of an earlier run */
  assert_non_null(file);
  fclose(file);
  free(stale);
  char *note = plots_with_path(&fixture, "");
  char *expected =
      format_text("gnuplot was not found: the pictures are left out; their scripts are "
                  "in %s (apt install gnuplot-nox, then: gnuplot *.gp)",
                  fixture.results.folder);
  assert_string_equal(note, expected);
  free(expected);
  free(note);
  static const char *const names[] = {"time_vs_top_k",
                                      "throughput_vs_top_k",
                                      "time_vs_capacity_factor",
                                      "throughput_vs_capacity_factor",
                                      "expert_utilization_k1_cf1",
                                      "expert_utilization_k1_cfnone",
                                      "expert_utilization_k4_cf1",
                                      "expert_utilization_k4_cfnone"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char name[128];
    snprintf(name, sizeof name, "%s.gp", names[i]);
    assert_file(&fixture, name);
    snprintf(name, sizeof name, "%s.dat", names[i]);
    assert_file(&fixture, name);
    snprintf(name, sizeof name, "%s.png", names[i]);
    assert_false(exists(&fixture, name));
  }
  char *text = report(&fixture);
  has_not(text, ".png");
  free(text);
  text = read_text(&fixture, "expert_utilization_k1_cf1.gp");
  has(text, "title 'capacity 32'");
  has(text, "title 'even share 32.0'");
  free(text);
  text = read_text(&fixture, "time_vs_capacity_factor.gp");
  has(text, "'dropless' ");
  free(text);
  tear_down(&fixture);
}

static void test_picture_names(void **state) {
  (void)state;
  made_up fixture;
  picture_list pictures;
  set_up(&fixture, LAYER "num_experts: [8, 16], top_k: 2, capacity: {factor: 1.25}}\n"
                         "workload: {num_tokens: [256, 1024]}\n");
  assert_true(pictures_plan(&fixture.results, &pictures));
  bool found = false;
  for (size_t i = 0; i < pictures.count; i++)
    found = found || strcmp(pictures.list[i].name,
                            "expert_utilization_k2_cf1.25_num_experts16_num_tokens1024") == 0;
  assert_true(found);
  assert_int_equal(pictures.count, 4 + 1 + 1 + 4); /* imbalance_vs_num_experts, all loads */
  pictures_release(&pictures);
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2, capacity: {factor: [100, 1000000, 1.0]}}\n"
                         "workload: {num_tokens: 256}\n");
  assert_true(pictures_plan(&fixture.results, &pictures));
  assert_string_equal(pictures.list[2].name, "dropped_vs_capacity_factor");
  assert_string_equal(pictures.list[3].name, "expert_utilization_k2_cf100");
  assert_string_equal(pictures.list[4].name, "expert_utilization_k2_cf1000000");
  assert_string_equal(pictures.list[5].name, "expert_utilization_k2_cf1");
  pictures_release(&pictures);
  tear_down(&fixture);
}

/* What the router did is drawn against the axes that make a difference to it. */
static void test_routing_pictures(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: [8, 16], top_k: 2, router: {jitter: [0, 0.25]},\n"
                         "  capacity: {factor: [1.0, null]}}\nworkload: {num_tokens: 256}\n");
  for (size_t i = 0; i < 8; i++)
    fixture.results.points[i].routing.statistics.coefficient_of_variation = i / 2 % 2 ? 0.75 : 0.5;
  free(plots_with_path(&fixture, ""));
  static const char *const drawn[] = {"imbalance_vs_num_experts", "variation_vs_jitter",
                                      "dropped_vs_capacity_factor"};
  for (size_t i = 0; i < sizeof drawn / sizeof drawn[0]; i++) {
    char name[128];
    snprintf(name, sizeof name, "%s.gp", drawn[i]);
    assert_file(&fixture, name);
    snprintf(name, sizeof name, "%s.dat", drawn[i]);
    assert_file(&fixture, name);
  }
  static const char *const flat[] = {"imbalance_vs_jitter", "imbalance_vs_capacity_factor",
                                     "variation_vs_num_experts", "variation_vs_capacity_factor",
                                     "dropped_vs_jitter"};
  for (size_t i = 0; i < sizeof flat / sizeof flat[0]; i++) {
    char name[128];
    snprintf(name, sizeof name, "%s.gp", flat[i]);
    if (exists(&fixture, name)) fail_msg("there is a %s", name);
  }
  char *text = read_text(&fixture, "variation_vs_jitter.dat");
  has(text, "# place_on_axis coefficient_of_variation\n# num_experts=8, capacity_factor=1\n"
            "0 0.5\n0.25 0.75\n\n\n");
  free(text);
  text = read_text(&fixture, "dropped_vs_capacity_factor.dat");
  has(text, "# place_on_axis dropped_percent\n# num_experts=8, jitter=0\n0 12.5\n1 0\n");
  free(text);
  text = read_text(&fixture, "imbalance_vs_num_experts.gp");
  has(text, "set title 'made-up: load imbalance against num_experts'");
  has(text, "set ylabel 'load imbalance (max/mean)'");
  has_not(text, "yerrorbars");
  free(text);
  /* A point whose routing was not read has no place in them. */
  free(fixture.results.points[0].routing.tokens_per_expert);
  fixture.results.points[0].routing.tokens_per_expert = NULL;
  assert_true(isnan(picture_value(&fixture.results, PICTURE_IMBALANCE, 0)));
  assert_true(picture_value(&fixture.results, PICTURE_TIME, 0) > 0);
  tear_down(&fixture);
}

/* Takes a made-up point's first round to the results, or a later one. */
static void give(made_up *fixture, results *all, size_t index, size_t round) {
  char *error = NULL;
  make_point(fixture, index);
  point_result *point = &fixture->results.points[index];
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) { /* numbers of 17 digits */
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
    if (!strstr(line, "Written ") && !strstr(line, "Begun ") && !strstr(line, "Gone on with ") &&
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
  set_up(&fixture, LAYER "num_experts: [8, 16], top_k: [1, 4], capacity: {factor: [1.1, null]}}\n"
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
    if (!results_finish(all, &note, &error)) fail_msg("%s", error);
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

static bool is_png(const made_up *fixture, const char *name) {
  char *path = format_text("%s/%s.png", fixture->results.folder, name);
  char start[8] = "";
  FILE *file = fopen(path, "rb");
  const bool good =
      file && fread(start, 1, 8, file) == 8 && memcmp(start, "\x89PNG\r\n\x1a\n", 8) == 0;
  if (file) fclose(file);
  free(path);
  return good;
}

static void skip_without_gnuplot(void) {
  if (system("gnuplot --version >/dev/null 2>&1") == 0) return;
  print_message("SKIP: no gnuplot: pictures are not drawn here\n");
  skip();
}

/* `tokens`: points with so many did not run, nor every fifth one. 0: all did. */
static void draw_some(const char *yaml, int64_t tokens) {
  made_up fixture;
  picture_list pictures;
  char *note = NULL, *error = NULL;
  set_up(&fixture, yaml);
  for (size_t i = 0; i < fixture.experiment.num_points && tokens > 0; i++)
    fixture.results.have[i] = fixture.experiment.points[i].num_tokens != tokens && i % 5;
  assert_true(plots_write(&fixture.results, &note, &error));
  if (note) fail_msg("%s", note);
  assert_true(pictures_plan(&fixture.results, &pictures));
  char *text = report(&fixture), link[256];
  for (size_t i = 0; i < pictures.count; i++) {
    if (!is_png(&fixture, pictures.list[i].name)) fail_msg("no PNG: %s", pictures.list[i].name);
    snprintf(link, sizeof link, "](%s.png)", pictures.list[i].name);
    has(text, link);
  }
  free(text);
  pictures_release(&pictures);
  tear_down(&fixture);
}

static void draw_all(const char *yaml) { draw_some(yaml, 0); }

static void test_draw_sweep(void **state) {
  (void)state;
  skip_without_gnuplot();
  draw_all(sweep);
}

static void test_draw_extremes(void **state) {
  (void)state;
  skip_without_gnuplot();
  draw_all(LAYER "num_experts: 1, top_k: 1, router: {jitter: [0, 0.001, 0.1]}}\n"
                 "workload: {num_tokens: 1}\n");
  draw_all(LAYER "num_experts: 1024, top_k: 8, capacity: {factor: 100}}\n"
                 "workload: {num_tokens: [64, 65536]}\n");
  draw_all(LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n" /* panels */
                 "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n");
  draw_some(LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n" /* a panel without lines */
                  "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n", 32);
}

/* What gnuplot says about a script that is wrong becomes a note. */
static void test_gnuplot_fails(void **state) {
  (void)state;
  skip_without_gnuplot();
  made_up fixture;
  char *why = NULL;
  set_up(&fixture, sweep);
  char *path = format_text("%s/bad.gp", fixture.results.folder);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs("plot 'missing.dat'\n", file);
  fclose(file);
  assert_int_equal(gnuplot_run(fixture.results.folder, "bad.gp", 20, &why), GNUPLOT_FAILED);
  assert_non_null(why);
  assert_true(strlen(why) > 0);
  free(why);
  file = fopen(path, "w");
  assert_non_null(file);
  fputs("pause 60\n", file);
  fclose(file);
  free(path);
  assert_int_equal(gnuplot_run(fixture.results.folder, "bad.gp", 0.5, &why), GNUPLOT_FAILED);
  has(why, "stopped after");
  free(why);
  tear_down(&fixture);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_report),
      cmocka_unit_test(test_failed_points),
      cmocka_unit_test(test_other_kernels),
      cmocka_unit_test(test_single_point),
      cmocka_unit_test(test_shared_stage),
      cmocka_unit_test(test_no_times),
      cmocka_unit_test(test_many_lines),
      cmocka_unit_test(test_report_unwritable),
      cmocka_unit_test(test_without_gnuplot),
      cmocka_unit_test(test_picture_names),
      cmocka_unit_test(test_routing_pictures),
      cmocka_unit_test(test_picture_views),
      cmocka_unit_test(test_scales),
      cmocka_unit_test(test_utilization_titles),
      cmocka_unit_test(test_few_pictures),
      cmocka_unit_test(test_many_loads),
      cmocka_unit_test(test_seeds),
      cmocka_unit_test(test_resumed_run),
      cmocka_unit_test(test_large_report),
      cmocka_unit_test(test_comparisons),
      cmocka_unit_test(test_measured_once),
      cmocka_unit_test(test_token_findings),
      cmocka_unit_test(test_draw_sweep),
      cmocka_unit_test(test_draw_extremes),
      cmocka_unit_test(test_gnuplot_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
