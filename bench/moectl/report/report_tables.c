// SPDX-License-Identifier: MIT
/* report.md's tables, a row for each point that ran. */
#include "results/measures.h"
#include "report/report_parts.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of more points than MAX_ROWS the first and last EXTREMES by throughput have a row. */
enum { MAX_ROWS = 200, EXTREMES = 20 };

static void percent_cell(FILE *file, double fraction) {
  if (isfinite(fraction)) fprintf(file, " %.1f%% |", 100 * fraction);
  else fputs(" n/a |", file);
}

static void measure_cells(const char *const *names, size_t count, const point_result *point,
                          FILE *file) {
  for (size_t i = 0; i < count; i++) {
    const measure *m = measure_find(names[i]);
    const measure_value value = measure_get(m, point);
    if (m->kind == MEASURE_SHARE) percent_cell(file, value.real);
    else if (m->kind == MEASURE_REAL || (!value.present && m->kind == MEASURE_COUNT))
      report_cell(file, value.real);
    else if (value.present) fprintf(file, " %" PRId64 " |", value.whole);
    else fputs(measure_group_present(m->group, point) ? " dropless |" : " n/a |", file);
  }
}

/* The headings of measures, at `columns`. */
static void measure_headings(const char *const *names, size_t count, const char **columns) {
  for (size_t i = 0; i < count; i++) columns[i] = measure_find(names[i])->heading;
}

/* "| # | num_experts | top_k |" and what follows it, then the rule below. */
static void head(const results *all, const char *const *columns, size_t count, FILE *file) {
  const experiment *plan = all->experiment;
  fputs("| # |", file);
  for (size_t i = 0; i < plan->num_axes; i++) fprintf(file, " %s |", plan->axes[i].param);
  for (size_t i = 0; i < count; i++) fprintf(file, " %s |", columns[i]);
  fputs("\n|", file);
  for (size_t i = 0; i < 1 + plan->num_axes + count; i++) fputs(" ---: |", file);
  fputc('\n', file);
}

static void row_begin(const results *all, size_t index, FILE *file) {
  char text[LABEL_SIZE];
  fprintf(file, "| %zu |", index);
  for (size_t i = 0; i < all->experiment->num_axes; i++) {
    fputc(' ', file);
    report_text(file, grid_value_text(all->experiment, i, index, text, sizeof text));
    fputs(" |", file);
  }
}

static void verify_cell(const point_result *point, FILE *file) {
  switch (point->status) {
  case POINT_OK: fprintf(file, " ok (%.1e) |", point->verify.error); break;
  case POINT_UNVERIFIED_OK: fputs(" not asked for |", file); break;
  case POINT_VERIFY_FAILED: fprintf(file, " **FAILED** (%.1e) |", point->verify.error); break;
  case POINT_ERROR: fputs(" **error** |", file); break;
  }
}

typedef struct ranked {
  double rate;
  size_t index;
} ranked;

static int by_rate(const void *a, const void *b) {
  const double x = ((const ranked *)a)->rate, y = ((const ranked *)b)->rate;
  return (x > y) - (x < y);
}

/* Which points have a row, malloc'ed; NULL without memory. */
static bool *choose_points(const results *all) {
  const size_t points = all->experiment->num_points;
  bool *listed = calloc(points + 1, sizeof *listed);
  ranked *order = calloc(points + 1, sizeof *order);
  size_t count = 0;
  for (size_t i = 0; listed && order && i < points; i++) {
    const bool ran = point_ran(all, i) && isfinite(all->points[i].tokens_per_s);
    if (ran) order[count++] = (ranked){all->points[i].tokens_per_s, i};
    listed[i] =
        points <= MAX_ROWS || (all->have[i] && all->points[i].status >= POINT_VERIFY_FAILED);
  }
  if (order) qsort(order, count, sizeof *order, by_rate);
  for (size_t i = 0; listed && order && i < count; i++)
    if (i < EXTREMES || i + EXTREMES >= count) listed[order[i].index] = true;
  const bool ok = listed && order;
  free(order);
  if (ok) return listed;
  free(listed);
  return NULL;
}

void report_points(const results *all, FILE *file) {
  static const char *const names[] = {"tokens_per_s", "tflops", "gbytes_per_s", "dropped_fraction",
                                      "max_mean_imbalance"};
  enum { NAMES = sizeof names / sizeof names[0], count = NUM_SUMMARIES + NAMES + 1 };
  const char *columns[count] = {"median ms", "min ms", "p90 ms"};
  measure_headings(names, NAMES, columns + NUM_SUMMARIES);
  columns[count - 1] = "verify (error)";
  bool *listed = choose_points(all);
  fputs("## Points\n\n", file);
  if (!listed) return;
  if (all->experiment->num_points > MAX_ROWS)
    fprintf(
        file,
        "Of %zu points the %d with the highest and the %d with the lowest throughput, and those "
        "that failed; all are in\n`results.csv`.\n\n",
        all->experiment->num_points, EXTREMES, EXTREMES);
  head(all, columns, count, file);
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const point_result *point = &all->points[i];
    if (!listed[i]) continue;
    row_begin(all, i, file);
    if (!point_ran(all, i)) {
      for (size_t column = 0; column + 1 < count; column++) fputs(" |", file);
      fputs(all->have[i] ? " **error** |\n" : " not run |\n", file);
      continue;
    }
    sample_summary time = point->time_ms[MOECL_STAGE_LAYER];
    for (size_t j = 0; j < NUM_SUMMARIES; j++) report_cell(file, *measure_summary(&time, j));
    measure_cells(names, NAMES, point, file);
    verify_cell(point, file);
    fputc('\n', file);
  }
  free(listed);
  fprintf(file, "\nTimes are device times of the whole %s over the timed iterations. ",
          experiment_measured(all->experiment));
  fputs("TFLOP/s counts what the surviving\nassignments need; GB/s the least that must be moved: "
        "the weights of the experts that were reached,\ninput and output once. ",
        file);
  fputs(experiment_has_blocks(all->experiment)
            ? "A block's have its projections too, queries times the keys that they look at, and "
              "the cached keys and values that any does.\n"
            : "",
        file);
  fputs("*dropped* is the share of "
        "assignments (token-expert pairs) over capacity;\n*imbalance* the busiest expert's load "
        "over the mean (1 is even).\n\n",
        file);
}

/* A variant fuses some stages, never all. */
static bool has_times(const point_result *point) {
  bool any = false;
  for (int part = 0; part < RESULTS_PARTS; part++)
    any = any || isfinite(point->time_ms[results_parts[part]].median);
  return any;
}

static bool has_stage(const experiment_point *point, int stage) {
  if (stage > MOECL_STAGE_LAYER) return point->what == WHAT_BLOCK;
  return stage != MOECL_STAGE_SHARED || point->layer.shared_intermediate_size > 0;
}

size_t report_stages_of(const results *all, int stages[RESULTS_PARTS]) {
  size_t count = 0;
  for (int part = 0; part < RESULTS_PARTS; part++) {
    const int stage = (int)results_parts[part];
    bool any = false;
    for (size_t i = 0; i < all->experiment->num_points; i++)
      any = any || has_stage(&all->experiment->points[i], stage);
    if (any) stages[count++] = stage;
  }
  return count;
}

/* Is there a point whose rows or experts come from elsewhere? */
static bool any_travels(const results *all) {
  bool any = false;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const experiment_parallel *parallel = &all->experiment->points[i].parallel;
    any = any || parallel->experts > 0 || parallel->placement == PARALLEL_OFFLOAD;
  }
  return any;
}

void report_stages(const results *all, FILE *file) {
  const char *columns[RESULTS_PARTS + 2];
  char whole[16];
  int stages[RESULTS_PARTS];
  const size_t count = report_stages_of(all, stages);
  for (size_t j = 0; j < count; j++) columns[j] = moecl_stage_name((moecl_stage)stages[j]);
  columns[count] = "stages ms";
  snprintf(whole, sizeof whole, "%s ms", experiment_measured(all->experiment));
  columns[count + 1] = whole;
  fputs("## Where the time goes\n\nEach stage's share of the sum of all stages' median times. "
        "*router* "
        "scores the experts and chooses a token's k,\n*permute* sorts the chosen tokens by expert, "
        "*gate_up* and *down* are the experts' matrix products, *combine* adds\nup what a token's "
        "experts gave. ",
        file);
  if (experiment_has_blocks(all->experiment))
    fputs("Of a block, *qkv_proj* and *o_proj* are the projections to queries, keys and values and "
          "back,\n*rotary* turns queries and keys (with their norms) and writes keys and values "
          "where *attention* reads them; the norms\nand *residual* add what came before. ",
          file);
  if (any_travels(all))
    fputs("With experts on several devices or in the host's memory, a stage's time has its waits "
          "for rows or experts in\nit. ",
          file);
  fprintf(file,
          "Stages are timed in forward passes of their own, with an event for every kernel,\nso "
          "that their sum may differ from the %s's time.\n\n",
          experiment_measured(all->experiment));
  if (all->experiment->num_points > SMALL_SWEEP) {
    report_stage_groups(all, stages, count, file);
    return;
  }
  head(all, columns, count + 2, file);
  bool fused = false, no_times = false;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i)) continue;
    const double sum = point_stages_ms(&all->points[i]);
    const bool timed = has_times(&all->points[i]);
    row_begin(all, i, file);
    for (size_t j = 0; j < count; j++) {
      const double time = all->points[i].time_ms[stages[j]].median;
      const bool there = has_stage(&all->experiment->points[i], stages[j]);
      if (isfinite(time)) percent_cell(file, time / sum);
      else fputs(!there ? " none |" : timed ? " fused |" : " n/a |", file);
      fused = fused || (there && timed && !isfinite(time));
    }
    no_times = no_times || !timed || !isfinite(point_ms(all, i));
    report_cell(file, timed ? sum : NAN);
    report_cell(file, point_ms(all, i));
    fputc('\n', file);
  }
  if (fused) fputs("\n*fused*: the variant does this stage's work inside another one.\n", file);
  if (no_times)
    fputs(
        "\n*n/a*: the driver's event times are not credible (none were written, an end lies before "
        "its start,\nor more time passed than on the host), or the queue records none.\n",
        file);
  fputc('\n', file);
}

/* Tokens that the routed experts add nothing to, and why. */
static void report_odd_tokens(const moecl_routing_statistics *statistics, size_t point,
                              FILE *file) {
  const struct {
    int64_t count, first;
    const char *what;
  } all[] = {{statistics->nonfinite_tokens, statistics->first_nonfinite_token,
              "router logits that are not finite: they were routed nowhere"},
             {statistics->nonfinite_score_tokens, statistics->first_nonfinite_score_token,
              "choice scores that are not finite: they were routed nowhere"},
             {statistics->zero_weight_tokens, statistics->first_zero_weight_token,
              "route weights that are all 0, as their scores underflow"}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    if (all[i].count == 0) continue;
    fprintf(file, "Point %zu: %" PRId64 " tokens", point, all[i].count);
    if (all[i].first >= 0) fprintf(file, " (the first is token %" PRId64 ")", all[i].first);
    fprintf(file, " have %s.\n\n", all[i].what);
  }
}

static bool has_identities(const results *all) {
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (point_ran(all, i) && all->points[i].routing.num_identity_experts > 0) return true;
  return false;
}

void report_routing(const results *all, FILE *file) {
  static const char *const names[] = {
      "load_balancing_loss",      "router_z_loss", "entropy",          "max_mean_imbalance",
      "coefficient_of_variation", "capacity",      "dropped_fraction", "padding_waste",
      "identity_fraction"};
  enum { NAMES = sizeof names / sizeof names[0] };
  const char *columns[NAMES];
  const size_t count = has_identities(all) ? NAMES : NAMES - 1;
  measure_headings(names, count, columns);
  const bool grouped = all->experiment->num_points > SMALL_SWEEP;
  fputs("## Routing balance\n\n", file);
  if (grouped) report_routing_groups(all, count == NAMES, file);
  else head(all, columns, count, file);
  for (size_t i = 0; i < all->experiment->num_points && !grouped; i++) {
    if (!point_ran(all, i)) continue;
    row_begin(all, i, file);
    measure_cells(names, count, &all->points[i], file);
    fputc('\n', file);
  }
  fputs(
      "\nThe load balancing loss is E * sum over experts of (share of tokens * mean probability), "
      "as `transformers`\ndefines it: top_k where the load is even. The router z-loss is the mean "
      "square of the logits' "
      "log-sum-exp. Entropy is of the router's "
      "softmax, ln(num_experts) where\nit has no preference. CV is the standard deviation over "
      "the mean of the experts' loads before\ncapacity. Padding waste is the share of rows that "
      "would be "
      "padding, were every expert padded to the busiest one\n(after capacity); moecl does not "
      "pad.\n",
      file);
  if (count == NAMES)
    fputs("Imbalance, CV and padding waste leave identity experts out; their share of the "
          "assignments is the last column.\n",
          file);
  fputc('\n', file);
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (point_ran(all, i)) report_odd_tokens(&all->points[i].routing.statistics, i, file);
}

/* The points with the least and the most memory. */
static bool memory_range(const results *all, size_t *least, size_t *most) {
  bool any = false;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i)) continue;
    if (!any) *least = *most = i;
    if (all->points[i].memory_bytes < all->points[*least].memory_bytes) *least = i;
    if (all->points[i].memory_bytes > all->points[*most].memory_bytes) *most = i;
    any = true;
  }
  return any;
}

double report_memory_share(const results *all, size_t index) {
  if (point_is_elsewhere(all, index)) return NAN;
  return (double)all->points[index].memory_bytes / (double)all->device.global_memory_bytes;
}

static void memory_rows(const results *all, FILE *file) {
  static const char *const columns[] = {"MiB", "share of the device's memory"};
  head(all, columns, 2, file);
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i)) continue;
    const double bytes = (double)all->points[i].memory_bytes;
    row_begin(all, i, file);
    report_cell(file, bytes / (1u << 20));
    percent_cell(file, report_memory_share(all, i));
    fputc('\n', file);
  }
  fputc('\n', file);
}

static bool any_groups(const results *all) {
  bool any = false;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    any = any || (point_ran(all, i) && all->points[i].parallel.num_members > 0);
  return any;
}

void report_memory(const results *all, FILE *file) {
  size_t least, most;
  char low[NUMBER_SIZE], high[NUMBER_SIZE];
  if (!memory_range(all, &least, &most)) return;
  number_text((double)all->points[least].memory_bytes / (1u << 20), low, sizeof low);
  number_text((double)all->points[most].memory_bytes / (1u << 20), high, sizeof high);
  fprintf(
      file,
      "## Memory\n\nWhat a point takes on the device, its weights, workspace, %sinput and output "
      "together%s: ",
      experiment_has_blocks(all->experiment) ? "cache, " : "",
      any_groups(all)
          ? " (of a group what its members have by then, with the rows between them, in "
            "buffers that earlier points with more tokens left larger; each member's "
            "is in the table of devices)"
          : "");
  if (strcmp(low, high) == 0) fprintf(file, "%s MiB.\n\n", low);
  else fprintf(file, "%s MiB (point %zu) to %s MiB (point %zu).\n\n", low, least, high, most);
  if (least == most && all->experiment->num_points > 1) return;
  if (all->experiment->num_points > SMALL_SWEEP) report_memory_groups(all, file);
  else memory_rows(all, file);
}
