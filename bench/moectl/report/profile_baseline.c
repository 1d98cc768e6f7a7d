// SPDX-License-Identifier: MIT
/* docs/baseline_profiling.md: what later profiles are compared with, and this one beside it. */
#include "report/grid.h"
#include "report/profile_reports.h"
#include "report/report_parts.h"
#include "report/text_table.h"
#include "results/rounds.h"
#include <math.h>

enum { POINT, PART, STAGE, BEFORE, NOW, RATIO, NOISE, COLUMNS };

/* A time, then and now. */
typedef struct baseline_row {
  size_t point;
  const char *part, *stage, *verdict;
  double before, now;
} baseline_row;

/* As rounds.h compares runs. */
static point_result as_run(double median_us, const double *round_us, size_t num_rounds,
                           point_round rounds[PROFILE_ROUNDS]) {
  point_result run = {.rounds = rounds, .num_rounds = num_rounds};
  run.time_ms[MOECL_STAGE_LAYER].median = median_us / 1e3;
  for (size_t i = 0; i < num_rounds; i++)
    rounds[i].time_ms[MOECL_STAGE_LAYER].median = round_us[i] / 1e3;
  return run;
}

/* Of whole parts alone, by what their rounds lie apart; among so many comparisons some lie far out
 * by chance. */
static const char *verdict(const profile_record *record, int kind, const profile_part *part,
                           size_t comparisons) {
  point_round of_before[PROFILE_ROUNDS] = {0}, of_now[PROFILE_ROUNDS] = {0};
  const size_t before_rounds = record->parts[kind].num_rounds, now_rounds = part->num_rounds;
  const point_result before = as_run(record->parts[kind].whole_us.median,
                                     record->parts[kind].round_us, before_rounds, of_before);
  const point_result now = as_run(profile_whole(part)->median, part->round_us, now_rounds, of_now);
  if (before_rounds < 2 || now_rounds < 2) return "-";
  const run_ratio faster = rounds_compare_runs(&before, &now);
  if (!isfinite(faster.low) || !isfinite(faster.high)) return "-";
  const paired_ratio slower = {1 / faster.ratio, 1 / faster.high, 1 / faster.low,
                               before_rounds < now_rounds ? before_rounds : now_rounds};
  const paired_ratio all = rounds_widen(slower, comparisons);
  if (all.low > LEAST_DIFFERENCE) return "slower";
  return all.high < 1 / LEAST_DIFFERENCE ? "faster" : "noise";
}

static void put_row(const text_table *table, size_t at, const baseline_row *row) {
  char text[PROFILE_TEXT_SIZE];
  const double ratio = row->now / row->before;
  snprintf(text_table_cell(table, at, POINT), CELL_SIZE, "%zu", row->point);
  snprintf(text_table_cell(table, at, PART), CELL_SIZE, "%s", row->part);
  snprintf(text_table_cell(table, at, STAGE), CELL_SIZE, "%s", row->stage);
  snprintf(text_table_cell(table, at, BEFORE), CELL_SIZE, "%s",
           profile_time_text(row->before, text));
  snprintf(text_table_cell(table, at, NOW), CELL_SIZE, "%s", profile_time_text(row->now, text));
  if (isfinite(ratio)) snprintf(text_table_cell(table, at, RATIO), CELL_SIZE, "%.2f", ratio);
  else snprintf(text_table_cell(table, at, RATIO), CELL_SIZE, "-");
  snprintf(text_table_cell(table, at, NOISE), CELL_SIZE, "%s", row->verdict);
}

/* The record's rows beside the point's, or, without a record, the point's own twice. */
static size_t put_point(const text_table *table, size_t at, const profile_point *point,
                        const profile_record *record, size_t comparisons) {
  for (int kind = 0; kind < PROFILE_PARTS; kind++) {
    const profile_part *part = &point->parts[kind];
    if (!part->ran || (record && !record->parts[kind].ran)) continue;
    baseline_row row = {.point = point->index,
                        .part = profile_part_names[kind],
                        .stage = "all",
                        .verdict = record ? verdict(record, kind, part, comparisons) : "",
                        .now = profile_whole(part)->median};
    row.before = record ? record->parts[kind].whole_us.median : row.now;
    put_row(table, at++, &row);
    row.verdict = "";
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
      if (part->stages[stage].kernels == 0 || (record && !record->parts[kind].stages[stage].there))
        continue;
      row.stage = moecl_stage_name((moecl_stage)stage);
      row.now = part->stages[stage].over.median;
      row.before = record ? record->parts[kind].stages[stage].us.median : row.now;
      put_row(table, at++, &row);
    }
  }
  return at;
}

static void put_source(const profile *all, const profile_baseline *baseline, FILE *file) {
  fputs("# Baseline: ", file);
  report_text(file, all->experiment->name);
  if (!baseline && !all->whole) {
    fputs("\n\nThis profile was interrupted or failed in a part, so it is no baseline.\n\n", file);
    return;
  }
  if (!baseline) {
    fprintf(file, "\n\nThis profile, %s on ", all->measured);
    report_text(file, all->device.name);
    fprintf(file,
            " with moecl %s, is the baseline: later profiles into this folder, or with "
            "`--baseline` of it, are compared with it.\n\n",
            moecl_version());
    return;
  }
  fputs("\n\nThe baseline was measured ", file);
  report_text(file, baseline->measured);
  fputs(" on ", file);
  report_text(file, baseline->device);
  fputs(" with moecl ", file);
  report_text(file, baseline->version);
  fputs(" (", file);
  report_text(file, baseline->commit);
  fputs(")", file);
  profile_put_load(baseline->least_load, baseline->most_load, file);
  fprintf(file, ". This profile %s", all->measured);
  profile_put_load(all->least_load, all->most_load, file);
  fputs(".\n\nMedians. Faster or slower is said of a whole part alone, where by what the rounds of "
        "either profile lie apart its ratio is more than 2% off 1, with the confidence that in 95 "
        "of 100 profiles no part is called so by chance; - where one of them has a single round. "
        "That a machine is slower for hours the rounds do not know: compare the loads.\n\n",
        file);
}

void profile_baseline_report(const profile *all, const profile_baseline *baseline, FILE *file) {
  static const char *const names[COLUMNS] = {"point", "part",         "stage", "baseline",
                                             "now",   "now/baseline", ""};
  size_t row = 1, missing = 0;
  const size_t comparisons = all->num_points * (size_t)PROFILE_PARTS;
  text_table table;
  put_source(all, baseline, file);
  if (!text_table_make(
          &table, 1 + all->num_points * (size_t)PROFILE_PARTS * (MOECL_STAGE_COUNT + 1), COLUMNS))
    return;
  for (size_t i = 0; i < COLUMNS; i++)
    snprintf(text_table_cell(&table, 0, i), CELL_SIZE, "%s", names[i]);
  for (size_t i = 0; i < all->num_points; i++) {
    if (!all->points[i].ran) continue;
    const profile_record *record =
        baseline ? profile_baseline_find(baseline, all->experiment, i) : NULL;
    missing += baseline && !record;
    if (!baseline || record) row = put_point(&table, row, &all->points[i], record, comparisons);
  }
  table.rows = row;
  for (size_t i = 0; !baseline && i < row; i++)
    for (size_t column = NOW; column < COLUMNS; column++)
      *text_table_cell(&table, i, column) = '\0';
  text_table_measure(&table);
  if (row > 1) text_table_print_padded(&table, 3, file);
  if (missing > 0)
    fprintf(file, "\n%zu of %zu points have no counterpart of the same work in the baseline.\n",
            missing, all->num_points);
  text_table_release(&table);
}
