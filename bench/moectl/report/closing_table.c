// SPDX-License-Identifier: MIT
/* What is printed of results: the closing table (what was swept, and what came of it), or the
 * whole as a file has it. */
#include "base/files.h"
#include "report/report.h"
#include "report/report_parts.h"
#include "report/text_table.h"
#include "results/measures.h"
#include "results/results_private.h"
#include <stdlib.h>
#include <string.h>

/* The last one only where a point has it. */
static const char *const shown[] = {"tokens_per_s",       "tflops",
                                    "gbytes_per_s",       "dropped_fraction",
                                    "max_mean_imbalance", "weight_error"};
enum { NUM_SHOWN = sizeof shown / sizeof shown[0] };

/* Besides these the point's number, the swept values, the layer's time and the verdict. */
static size_t columns_beside(const experiment *plan) { return 1 + plan->num_axes + 2; }
static size_t num_shown(const text_table *t, const experiment *plan) {
  return t->columns - columns_beside(plan);
}

static bool has_last(const results *all) {
  const measure *last = measure_find(shown[NUM_SHOWN - 1]);
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (all->have[i] && measure_get(last, &all->points[i]).present) return true;
  return false;
}

static void put_verdict(char *to, const point_result *result) {
  switch (result->status) {
  case POINT_OK: snprintf(to, CELL_SIZE, "%.1e", result->verify.error); break;
  case POINT_UNVERIFIED_OK: snprintf(to, CELL_SIZE, "off"); break;
  case POINT_VERIFY_FAILED: snprintf(to, CELL_SIZE, "FAILED"); break;
  case POINT_ERROR: snprintf(to, CELL_SIZE, "ERROR"); break;
  }
}

static void fill_header(const text_table *t, const experiment *plan) {
  const size_t num_axes = plan->num_axes;
  snprintf(text_table_cell(t, 0, 0), CELL_SIZE, "point");
  for (size_t i = 0; i < num_axes; i++)
    snprintf(text_table_cell(t, 0, 1 + i), CELL_SIZE, "%s", plan->axes[i].param);
  snprintf(text_table_cell(t, 0, num_axes + 1), CELL_SIZE, "%s ms", experiment_measured(plan));
  for (size_t i = 0; i < num_shown(t, plan); i++) {
    const measure *m = measure_find(shown[i]);
    snprintf(text_table_cell(t, 0, num_axes + 2 + i), CELL_SIZE, "%s%s", m->heading,
             m->kind == MEASURE_SHARE ? " %" : "");
  }
  snprintf(text_table_cell(t, 0, t->columns - 1), CELL_SIZE, "verify error");
}

static void fill_row(const text_table *t, size_t row, const experiment *plan,
                     const point_result *result) {
  const experiment_point *point = &plan->points[result->index];
  const size_t num_axes = plan->num_axes;
  snprintf(text_table_cell(t, row, 0), CELL_SIZE, "%zu", result->index);
  for (size_t i = 0; i < num_axes; i++)
    experiment_param_text(point, plan->axes[i].param, text_table_cell(t, row, 1 + i), CELL_SIZE);
  text_table_number(text_table_cell(t, row, num_axes + 1),
                    result->time_ms[MOECL_STAGE_LAYER].median);
  for (size_t i = 0; i < num_shown(t, plan); i++) {
    const measure *m = measure_find(shown[i]);
    const double value = measure_get(m, result).real;
    text_table_number(text_table_cell(t, row, num_axes + 2 + i),
                      m->kind == MEASURE_SHARE ? 100 * value : value);
  }
  put_verdict(text_table_cell(t, row, t->columns - 1), result);
}

/* Leaves columns out until the others fit, the least important first: what was swept, the
 * layer's time and verdict stay. Where even they do not fit, the point's number stands for
 * what was swept. */
static void fit(const text_table *t, size_t num_axes, int width) {
  static const char *const order[] = {"gbytes_per_s", "tflops", "max_mean_imbalance",
                                      "dropped_fraction", "tokens_per_s"};
  enum { ORDERED = sizeof order / sizeof order[0] };
  const int number = t->widths[0];
  t->widths[0] = 0;
  for (size_t i = 0; i < ORDERED && width > 0 && text_table_width(t) > width; i++)
    for (size_t j = 0; j < ORDERED; j++)
      if (strcmp(shown[j], order[i]) == 0) t->widths[num_axes + 2 + j] = 0;
  if (width == 0 || text_table_width(t) <= width || num_axes == 0) return;
  t->widths[0] = number;
  for (size_t i = 0; i < num_axes; i++) t->widths[1 + i] = 0;
}

static void print_left_out(const text_table *t, FILE *file) {
  size_t count = 0;
  for (size_t column = 1; column < t->columns; column++)
    if (t->widths[column] == 0)
      fprintf(file, "%s%s", count++ ? ", " : "no room for: ", text_table_cell(t, 0, column));
  if (count > 0) fputs(" (results.csv)\n", file);
}

static void print_errors(const results *all, bool markdown, FILE *file) {
  const experiment *plan = all->experiment;
  const char *before = markdown ? "\n- " : "";
  for (size_t i = 0; i < plan->num_points; i++) {
    char label[256];
    if (!all->have[i] || all->points[i].status < POINT_VERIFY_FAILED) continue;
    experiment_point_label(plan, i, label, sizeof label);
    char *text = format_text("point %zu%s%s%s: %s", i, *label ? " (" : "", label, *label ? ")" : "",
                             all->points[i].error ? all->points[i].error : "failed");
    fputs(before, file);
    if (markdown) report_text(file, text ? text : "no memory");
    else fputs(text ? text : "no memory", file);
    fputc('\n', file);
    if (markdown) before = "- ";
    free(text);
  }
}

static void print_table(const results *all, bool markdown, FILE *file, int width) {
  const experiment *plan = all->experiment;
  text_table table;
  size_t rows = 1;
  for (size_t i = 0; i < plan->num_points; i++) rows += all->have[i];
  if (!text_table_make(&table, rows, columns_beside(plan) + NUM_SHOWN - !has_last(all))) {
    fprintf(file, "no memory for the table; see %s\n", all->folder);
    return;
  }
  fill_header(&table, plan);
  for (size_t i = 0, row = 1; i < plan->num_points; i++)
    if (all->have[i]) fill_row(&table, row++, plan, &all->points[i]);
  text_table_measure(&table);
  fit(&table, plan->num_axes, markdown ? 0 : width);
  if (markdown) text_table_print_markdown(&table, file);
  else text_table_print(&table, file);
  print_left_out(&table, file);
  text_table_release(&table);
  print_errors(all, markdown, file);
}

bool report_print(const results *all, report_format format, FILE *file, int width) {
  if (format == FORMAT_TABLE || format == FORMAT_MARKDOWN) {
    print_table(all, format == FORMAT_MARKDOWN, file, width);
    return true;
  }
  char *text = format == FORMAT_CSV ? results_csv(all) : results_json(all);
  if (text) fputs(text, file);
  const bool ok = text != NULL;
  free(text);
  return ok;
}
