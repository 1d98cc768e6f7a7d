// SPDX-License-Identifier: MIT
/* The closing table: what was swept, and what came of it. */
#include "measures.h"
#include "results_private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const shown[] = {"tokens_per_s", "tflops", "gbytes_per_s", "dropped_fraction",
                                    "max_mean_imbalance"};
/* Besides these the layer's time and the verdict. */
enum { CELL = 48, NUM_SHOWN = sizeof shown / sizeof shown[0], NUM_MEASURES = NUM_SHOWN + 2 };

typedef char cell[CELL];

typedef struct grid {
  size_t rows, columns, num_axes; /* rows with the header's */
  cell *cells;                    /* [rows][columns] */
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
  for (size_t i = 0; i < g->num_axes; i++)
    snprintf(cell_at(g, 0, i), CELL, "%s", plan->axes[i].param);
  snprintf(cell_at(g, 0, g->num_axes), CELL, "layer ms");
  for (size_t i = 0; i < NUM_SHOWN; i++) {
    const measure *m = measure_find(shown[i]);
    snprintf(cell_at(g, 0, g->num_axes + 1 + i), CELL, "%s%s", m->heading,
             m->kind == MEASURE_SHARE ? " %" : "");
  }
  snprintf(cell_at(g, 0, g->columns - 1), CELL, "verify error");
}

static void fill_row(const grid *g, size_t row, const experiment *plan,
                     const point_result *result) {
  const experiment_point *point = &plan->points[result->index];
  for (size_t i = 0; i < g->num_axes; i++)
    experiment_param_text(point, plan->axes[i].param, cell_at(g, row, i), CELL);
  put_number(cell_at(g, row, g->num_axes), result->time_ms[MOECL_STAGE_LAYER].median);
  for (size_t i = 0; i < NUM_SHOWN; i++) {
    const measure *m = measure_find(shown[i]);
    const double value = measure_get(m, result).real;
    put_number(cell_at(g, row, g->num_axes + 1 + i),
               m->kind == MEASURE_SHARE ? 100 * value : value);
  }
  put_verdict(cell_at(g, row, g->columns - 1), result);
}

/* Everything to the right, so that digits stand under digits. */
static void print_grid(const grid *g, FILE *file) {
  for (size_t row = 0; row < g->rows; row++)
    for (size_t column = 0; column < g->columns; column++) {
      size_t width = 0;
      for (size_t i = 0; i < g->rows; i++) {
        const size_t length = strlen(cell_at(g, i, column));
        if (length > width) width = length;
      }
      fprintf(file, "%s%*s%s", column ? "  " : "", (int)width, cell_at(g, row, column),
              column + 1 == g->columns ? "\n" : "");
    }
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

void results_print_table(const results *all, void *stream) {
  const experiment *plan = all->experiment;
  FILE *file = stream;
  grid g = {.rows = 1, .num_axes = plan->num_axes};
  g.columns = g.num_axes + NUM_MEASURES;
  for (size_t i = 0; i < plan->num_points; i++) g.rows += all->have[i];
  g.cells = calloc(g.rows * g.columns, sizeof *g.cells);
  if (!g.cells) {
    fprintf(file, "no memory for the table; see %s\n", all->folder);
    return;
  }
  fill_header(&g, plan);
  for (size_t i = 0, row = 1; i < plan->num_points; i++)
    if (all->have[i]) fill_row(&g, row++, plan, &all->points[i]);
  print_grid(&g, file);
  free(g.cells);
  print_errors(all, file);
}
