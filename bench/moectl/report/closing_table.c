// SPDX-License-Identifier: MIT
/* The closing table: what was swept, and what came of it. */
#include "report/report.h"
#include "results/measures.h"
#include "results/results_private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const shown[] = {"tokens_per_s", "tflops", "gbytes_per_s", "dropped_fraction",
                                    "max_mean_imbalance"};
/* Besides these the layer's time and the verdict. */
enum { CELL = 48, NUM_SHOWN = sizeof shown / sizeof shown[0], NUM_MEASURES = NUM_SHOWN + 2 };

typedef char cell[CELL];

/* Columns: the point's number, the swept values, the layer's time, what is `shown`, the verdict. */
typedef struct grid {
  size_t rows, columns, num_axes; /* rows with the header's */
  cell *cells;                    /* [rows][columns] */
  int *widths;                    /* [columns]; of those left out 0 */
} grid;

static char *cell_at(const grid *g, size_t row, size_t column) {
  return g->cells[row * g->columns + column];
}

/* Four digits, in full: 45210, 3.142, 0.00271. */
static void put_number(char *to, double shown) {
  if (!isfinite(shown)) snprintf(to, CELL, "-");
  else if (fabs(shown) >= 1000 && fabs(shown) < 1e15) snprintf(to, CELL, "%.0f", shown);
  else snprintf(to, CELL, "%.4g", shown);
}

static void put_verdict(char *to, const point_result *result) {
  switch (result->status) {
  case POINT_OK: snprintf(to, CELL, "%.1e", result->verify.error); break;
  case POINT_UNVERIFIED_OK: snprintf(to, CELL, "off"); break;
  case POINT_VERIFY_FAILED: snprintf(to, CELL, "FAILED"); break;
  case POINT_ERROR: snprintf(to, CELL, "ERROR"); break;
  }
}

static void fill_header(const grid *g, const experiment *plan) {
  snprintf(cell_at(g, 0, 0), CELL, "point");
  for (size_t i = 0; i < g->num_axes; i++)
    snprintf(cell_at(g, 0, 1 + i), CELL, "%s", plan->axes[i].param);
  snprintf(cell_at(g, 0, g->num_axes + 1), CELL, "layer ms");
  for (size_t i = 0; i < NUM_SHOWN; i++) {
    const measure *m = measure_find(shown[i]);
    snprintf(cell_at(g, 0, g->num_axes + 2 + i), CELL, "%s%s", m->heading,
             m->kind == MEASURE_SHARE ? " %" : "");
  }
  snprintf(cell_at(g, 0, g->columns - 1), CELL, "verify error");
}

static void fill_row(const grid *g, size_t row, const experiment *plan,
                     const point_result *result) {
  const experiment_point *point = &plan->points[result->index];
  snprintf(cell_at(g, row, 0), CELL, "%zu", result->index);
  for (size_t i = 0; i < g->num_axes; i++)
    experiment_param_text(point, plan->axes[i].param, cell_at(g, row, 1 + i), CELL);
  put_number(cell_at(g, row, g->num_axes + 1), result->time_ms[MOECL_STAGE_LAYER].median);
  for (size_t i = 0; i < NUM_SHOWN; i++) {
    const measure *m = measure_find(shown[i]);
    const double value = measure_get(m, result).real;
    put_number(cell_at(g, row, g->num_axes + 2 + i),
               m->kind == MEASURE_SHARE ? 100 * value : value);
  }
  put_verdict(cell_at(g, row, g->columns - 1), result);
}

static void measure_columns(const grid *g) {
  for (size_t column = 0; column < g->columns; column++)
    for (size_t row = 0; row < g->rows; row++) {
      const int length = (int)strlen(cell_at(g, row, column));
      if (length > g->widths[column]) g->widths[column] = length;
    }
}

/* With two blanks between columns. */
static int whole_width(const grid *g) {
  int width = -2;
  for (size_t column = 0; column < g->columns; column++)
    if (g->widths[column] > 0) width += 2 + g->widths[column];
  return width;
}

/* Leaves columns out until the others fit, the least important first: what was swept, the
 * layer's time and verdict stay. Where even they do not fit, the point's number stands for
 * what was swept. */
static void fit(const grid *g, int width) {
  static const char *const order[] = {"gbytes_per_s", "tflops", "max_mean_imbalance",
                                      "dropped_fraction", "tokens_per_s"};
  const int number = g->widths[0];
  g->widths[0] = 0;
  for (size_t i = 0; i < NUM_SHOWN && width > 0 && whole_width(g) > width; i++)
    for (size_t j = 0; j < NUM_SHOWN; j++)
      if (strcmp(shown[j], order[i]) == 0) g->widths[g->num_axes + 2 + j] = 0;
  if (width == 0 || whole_width(g) <= width || g->num_axes == 0) return;
  g->widths[0] = number;
  for (size_t i = 0; i < g->num_axes; i++) g->widths[1 + i] = 0;
}

/* Everything to the right, so that digits stand under digits. */
static void print_grid(const grid *g, FILE *file) {
  for (size_t row = 0; row < g->rows; row++) {
    const char *between = "";
    for (size_t column = 0; column < g->columns; column++) {
      if (g->widths[column] == 0) continue;
      fprintf(file, "%s%*s", between, g->widths[column], cell_at(g, row, column));
      between = "  ";
    }
    fputc('\n', file);
  }
}

static void print_left_out(const grid *g, FILE *file) {
  size_t count = 0;
  for (size_t column = 1; column < g->columns; column++)
    if (g->widths[column] == 0)
      fprintf(file, "%s%s", count++ ? ", " : "no room for: ", cell_at(g, 0, column));
  if (count > 0) fputs(" (results.csv)\n", file);
}

static void print_errors(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  for (size_t i = 0; i < plan->num_points; i++) {
    char label[256];
    if (!all->have[i] || all->points[i].status < POINT_VERIFY_FAILED) continue;
    experiment_point_label(plan, i, label, sizeof label);
    fprintf(file, "point %zu%s%s%s: %s\n", i, *label ? " (" : "", label, *label ? ")" : "",
            all->points[i].error ? all->points[i].error : "failed");
  }
}

void report_print_table(const results *all, FILE *file, int width) {
  const experiment *plan = all->experiment;
  grid g = {.rows = 1, .num_axes = plan->num_axes};
  g.columns = 1 + g.num_axes + NUM_MEASURES;
  for (size_t i = 0; i < plan->num_points; i++) g.rows += all->have[i];
  g.cells = calloc(g.rows * g.columns, sizeof *g.cells);
  g.widths = calloc(g.columns, sizeof *g.widths);
  if (!g.cells || !g.widths) {
    fprintf(file, "no memory for the table; see %s\n", all->folder);
    free(g.cells);
    free(g.widths);
    return;
  }
  fill_header(&g, plan);
  for (size_t i = 0, row = 1; i < plan->num_points; i++)
    if (all->have[i]) fill_row(&g, row++, plan, &all->points[i]);
  measure_columns(&g);
  fit(&g, width);
  print_grid(&g, file);
  print_left_out(&g, file);
  free(g.cells);
  free(g.widths);
  print_errors(all, file);
}
