// SPDX-License-Identifier: MIT
/* The pictures: which there are, what their scripts say, and that gnuplot draws them. */
#include "made_up.h"

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
  assert_true(pictures_view(&fixture.results, PICTURE_TIME,
                            grid_find(&fixture.experiment, "num_tokens"), &view));
  assert_int_equal(view.num_panels, 1);
  assert_int_equal(view.num_lines, 6);
  tear_down(&fixture);
  set_up(&fixture,
         LAYER "num_experts: 16, top_k: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]}\n"
               "workload: {num_tokens: [16, 32]}\n");
  assert_true(pictures_view(&fixture.results, PICTURE_TIME,
                            grid_find(&fixture.experiment, "num_tokens"), &view));
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
  set_up(&fixture,
         LAYER "num_experts: 16, top_k: [1, 2, 16], router: {jitter: [0.1, 0, 0.001]},\n"
               "  capacity: {capacity_factor: [null, 1.0, 2.0]}}\nworkload: {num_tokens: 256}\n");
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
  text = read_text(&fixture, "throughput_vs_jitter.gp"); /* no bars: where the values are */
  has(text, "using ($1+0):($2/");
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

/* Bars of several lines stand side by side, about their values and nearer to them than to
 * the neighbours'. */
static void test_side_by_side(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 16, top_k: [1, 2, 4]}\n"
                         "workload: {num_tokens: [100, 101, 300]}\n");
  free(plots_with_path(&fixture, ""));
  char *text = read_text(&fixture, "time_vs_num_tokens.gp");
  has(text, "lines set a little apart");
  double aside[3], marker;
  for (int line = 0; line < 3; line++) {
    char start[64];
    snprintf(start, sizeof start, "'time_vs_num_tokens.dat' index %d using ($1+", line);
    const char *bars = strstr(text, start);
    assert_non_null(bars);
    aside[line] = strtod(bars + strlen(start), NULL);
    has(bars + strlen(start), "with yerrorbars");
    const char *points = strstr(bars + 1, start); /* each with its bars */
    assert_non_null(points);
    marker = strtod(points + strlen(start), NULL);
    assert_true(marker == aside[line]);
  }
  assert_true(aside[1] == 0 && aside[0] == -aside[2]);
  assert_true(aside[2] > 0.1 && aside[2] < 0.5); /* 101 is 1 away, the axis 200 long */
  free(text);
  tear_down(&fixture);
}

/* Of a small sweep a bar for each point that ran: what each stage takes, in milliseconds or,
 * where those of one would not be seen beside another's, in percent. */
static void test_stages(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture, LAYER "num_experts: 8, top_k: [3, 6]}\nworkload: {num_tokens: [256, 512]}\n");
  fixture.results.have[2] = false; /* top_k=6, num_tokens=256 */
  free(plots_with_path(&fixture, ""));
  char *text = read_text(&fixture, "stages.dat");
  assert_string_equal(
      text, "# row sum_ms router_ms permute_ms gate_up_ms down_ms shared_ms combine_ms sum\n"
            "# top_k=3, num_tokens=256\n0 3 0.5 0.5 1.5 0.5 0 0 \"3.00 ms\"\n"
            "# top_k=3, num_tokens=512\n1 6 1 1 3 1 0 0 \"6.00 ms\"\n"
            "# top_k=6, num_tokens=512\n2 12 2 2 6 2 0 0 \"12.0 ms\"\n");
  free(text);
  text = read_text(&fixture, "stages.gp");
  has(text, "set ytics ('top_k=3, num_tokens=256' 0, 'top_k=3, num_tokens=512' 1, 'top_k=6, "
            "num_tokens=512' 2)");
  has(text, "set xlabel 'time (ms)'");
  has(text, "(1*sum [c=3:4] column(c)):(1*sum [c=3:5] column(c)):($1-0.36):($1+0.36) with "
            "boxxyerror linecolor '#009E73' title 'gate_up'");
  has_not(text, "title 'combine'"); /* within another one */
  free(text);
  tear_down(&fixture);
  set_up(&fixture, LAYER "num_experts: 8, top_k: 2}\nworkload: {num_tokens: [1, 512]}\n");
  free(plots_with_path(&fixture, ""));
  text = read_text(&fixture, "stages.gp");
  has(text, "set xlabel 'share of all stages (%)'");
  has(text, "(100/$2*sum [c=3:2] column(c))");
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
  char *text =
      read_text(&fixture, "expert_utilization_k2_cfdropless_seed4_jitter0.1_distributionskewed.gp");
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
    size_t loads = 0, single = 0, stages = 0;
    fixture.results.pictures = all ? PICTURES_ALL : PICTURES_FEW;
    assert_true(pictures_plan(&fixture.results, &pictures));
    for (size_t i = 0; i < pictures.count; i++) {
      loads += strcmp(pictures.list[i].name, "expert_utilization") == 0;
      single += pictures.list[i].kind == PICTURE_UTILIZATION;
      stages += pictures.list[i].kind == PICTURE_STAGES;
    }
    assert_int_equal(loads, 1);
    assert_int_equal(stages, 0);
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
  set_up(&fixture, "seed: [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]\n" LAYER
                   "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n"
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
                                      "expert_utilization_k1_cfdropless",
                                      "expert_utilization_k4_cf1",
                                      "expert_utilization_k4_cfdropless"};
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
  set_up(&fixture, LAYER "num_experts: [8, 16], top_k: 2, capacity: {capacity_factor: 1.25}}\n"
                         "workload: {num_tokens: [256, 1024]}\n");
  assert_true(pictures_plan(&fixture.results, &pictures));
  bool found = false;
  for (size_t i = 0; i < pictures.count; i++)
    found = found || strcmp(pictures.list[i].name,
                            "expert_utilization_k2_cf1.25_num_experts16_num_tokens1024") == 0;
  assert_true(found);
  assert_int_equal(pictures.count, 4 + 1 + 1 + 1 + 4); /* imbalance, stages, all loads */
  pictures_release(&pictures);
  tear_down(&fixture);
  set_up(&fixture,
         LAYER "num_experts: 8, top_k: 2, capacity: {capacity_factor: [100, 1000000, 1.0]}}\n"
               "workload: {num_tokens: 256}\n");
  assert_true(pictures_plan(&fixture.results, &pictures));
  assert_string_equal(pictures.list[2].name, "dropped_vs_capacity_factor");
  assert_string_equal(pictures.list[3].name, "stages");
  assert_string_equal(pictures.list[4].name, "expert_utilization_k2_cf100");
  assert_string_equal(pictures.list[5].name, "expert_utilization_k2_cf1000000");
  assert_string_equal(pictures.list[6].name, "expert_utilization_k2_cf1");
  pictures_release(&pictures);
  tear_down(&fixture);
}

/* What the router did is drawn against the axes that make a difference to it. */
static void test_routing_pictures(void **state) {
  (void)state;
  made_up fixture;
  set_up(&fixture,
         LAYER "num_experts: [8, 16], top_k: 2, router: {jitter: [0, 0.25]},\n"
               "  capacity: {capacity_factor: [1.0, null]}}\nworkload: {num_tokens: 256}\n");
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
    snprintf(link, sizeof link, "](%s.png)", pictures.list[i].name); /* shown, or linked to */
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
  draw_all(LAYER "num_experts: 1024, top_k: 8, capacity: {capacity_factor: 100}}\n"
                 "workload: {num_tokens: [64, 65536]}\n");
  draw_all(LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n" /* panels */
                 "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n");
  draw_some(LAYER "num_experts: [8, 16, 32], top_k: [1, 2, 4, 8]}\n" /* a panel without lines */
                  "workload: {num_tokens: [16, 32, 64]}\ndtype: [fp32, bf16]\n",
            32);
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
      cmocka_unit_test(test_without_gnuplot),  cmocka_unit_test(test_picture_names),
      cmocka_unit_test(test_routing_pictures), cmocka_unit_test(test_picture_views),
      cmocka_unit_test(test_scales),           cmocka_unit_test(test_utilization_titles),
      cmocka_unit_test(test_side_by_side),     cmocka_unit_test(test_stages),
      cmocka_unit_test(test_few_pictures),     cmocka_unit_test(test_many_loads),
      cmocka_unit_test(test_draw_sweep),       cmocka_unit_test(test_draw_extremes),
      cmocka_unit_test(test_gnuplot_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
