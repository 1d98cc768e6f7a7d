// SPDX-License-Identifier: MIT
/* docs/baseline_profiling.md: what later profiles are compared with, and this one beside it. */
#include "report/grid.h"
#include "report/profile_reports.h"
#include "report/report_parts.h"
#include "report/text_table.h"
#include <math.h>

enum { POINT, PART, STAGE, BEFORE, NOW, RATIO, NOISE, COLUMNS };

/* A time and its spread, then and now. */
typedef struct baseline_row {
  size_t point;
  const char *part, *stage;
  sample_summary before, now;
} baseline_row;

/* Do the spreads, from the least to nine of ten, lie apart? */
static const char *verdict(const baseline_row *row) {
  if (!isfinite(row->before.median) || !isfinite(row->now.median)) return "-";
  if (row->now.min > row->before.p90) return "slower";
  return row->now.p90 < row->before.min ? "faster" : "noise";
}

static void put_row(const text_table *table, size_t at, const baseline_row *row) {
  char text[PROFILE_TEXT_SIZE];
  const double ratio = row->now.median / row->before.median;
  snprintf(text_table_cell(table, at, POINT), CELL_SIZE, "%zu", row->point);
  snprintf(text_table_cell(table, at, PART), CELL_SIZE, "%s", row->part);
  snprintf(text_table_cell(table, at, STAGE), CELL_SIZE, "%s", row->stage);
  snprintf(text_table_cell(table, at, BEFORE), CELL_SIZE, "%s",
           profile_time_text(row->before.median, text));
  snprintf(text_table_cell(table, at, NOW), CELL_SIZE, "%s",
           profile_time_text(row->now.median, text));
  if (isfinite(ratio)) snprintf(text_table_cell(table, at, RATIO), CELL_SIZE, "%.2f", ratio);
  else snprintf(text_table_cell(table, at, RATIO), CELL_SIZE, "-");
  snprintf(text_table_cell(table, at, NOISE), CELL_SIZE, "%s", verdict(row));
}

/* The record's rows beside the point's, or, without a record, the point's own twice. */
static size_t put_point(const text_table *table, size_t at, const profile_point *point,
                        const profile_record *record) {
  for (int kind = 0; kind < PROFILE_PARTS; kind++) {
    const profile_part *part = &point->parts[kind];
    if (!part->ran || (record && !record->parts[kind].ran)) continue;
    baseline_row row = {.point = point->index,
                        .part = profile_part_names[kind],
                        .stage = "all",
                        .before = record ? record->parts[kind].span_us : part->span_us,
                        .now = part->span_us};
    put_row(table, at++, &row);
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
      if (part->stages[stage].kernels == 0 || (record && !record->parts[kind].stages[stage].there))
        continue;
      row.stage = moecl_stage_name((moecl_stage)stage);
      row.now = part->stages[stage].over;
      row.before = record ? record->parts[kind].stages[stage].us : row.now;
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
  fprintf(file,
          "), this profile %s. Medians; a difference is noise where the ranges from the "
          "fastest forward to the ninth of ten overlap.\n\n",
          all->measured);
}

void profile_baseline_report(const profile *all, const profile_baseline *baseline, FILE *file) {
  static const char *const names[COLUMNS] = {"point", "part",         "stage", "baseline",
                                             "now",   "now/baseline", ""};
  size_t row = 1, missing = 0;
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
    if (!baseline || record) row = put_point(&table, row, &all->points[i], record);
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
