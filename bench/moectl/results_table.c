/* The closing table: what was swept, and what came of it. */
#include "results_private.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 48, NUM_MEASURES = 7 };

typedef char cell[CELL];

typedef struct grid {
  size_t rows, columns, num_axes; /* rows with the header's */
  cell *cells;                    /* [rows][columns] */
} grid;

static char *cell_at(const grid *grid, size_t row, size_t column) {
  return grid->cells[row * grid->columns + column];
}

/* Four digits, in full: 45210, 3.142, 0.00271. */
static void put_number(char *cell, double shown) {
  if (!isfinite(shown)) snprintf(cell, CELL, "-");
  else if (fabs(shown) >= 1000 && fabs(shown) < 1e15) snprintf(cell, CELL, "%.0f", shown);
  else snprintf(cell, CELL, "%.4g", shown);
}

static void put_verdict(char *cell, const point_result *result) {
  switch (result->status) {
  case POINT_OK: snprintf(cell, CELL, "%.1e", result->verify.error); break;
  case POINT_UNVERIFIED_OK: snprintf(cell, CELL, "not verified"); break;
  case POINT_VERIFY_FAILED: snprintf(cell, CELL, "FAILED"); break;
  case POINT_ERROR: snprintf(cell, CELL, "ERROR"); break;
  }
}

static void fill_header(const grid *grid, const experiment *experiment) {
  static const char *const measures[NUM_MEASURES] = {
      "layer ms", "tokens/s", "TFLOP/s", "GB/s", "dropped %", "imbalance", "verify error"};
  for (size_t i = 0; i < grid->num_axes; i++)
    snprintf(cell_at(grid, 0, i), CELL, "%s", experiment->axes[i].param);
  for (size_t i = 0; i < NUM_MEASURES; i++)
    snprintf(cell_at(grid, 0, grid->num_axes + i), CELL, "%s", measures[i]);
}

static void fill_row(const grid *grid, size_t row, const experiment *experiment,
                     const point_result *result) {
  const experiment_point *point = &experiment->points[result->index];
  const double median = result->time_ms[MOECL_STAGE_LAYER].median;
  const double timed = isfinite(median) ? 1 : NAN;
  const double routed = result->routing.tokens_per_expert ? 1 : NAN;
  const moecl_routing_statistics *statistics = &result->routing.statistics;
  for (size_t i = 0; i < grid->num_axes; i++)
    experiment_param_text(point, experiment->axes[i].param, cell_at(grid, row, i), CELL);
  const double values[NUM_MEASURES - 1] = {
      median,
      result->tokens_per_s * timed,
      result->tflops * timed,
      result->gbytes_per_s * timed,
      statistics->dropped_fraction * routed * 100,
      statistics->max_mean_imbalance * routed};
  for (size_t i = 0; i < NUM_MEASURES - 1; i++)
    put_number(cell_at(grid, row, grid->num_axes + i), values[i]);
  put_verdict(cell_at(grid, row, grid->columns - 1), result);
}

/* Everything to the right, so that digits stand under digits. */
static void print_grid(const grid *grid, FILE *file) {
  for (size_t row = 0; row < grid->rows; row++)
    for (size_t column = 0; column < grid->columns; column++) {
      size_t width = 0;
      for (size_t i = 0; i < grid->rows; i++) {
        const size_t length = strlen(cell_at(grid, i, column));
        if (length > width) width = length;
      }
      fprintf(file, "%s%*s%s", column ? "  " : "", (int)width, cell_at(grid, row, column),
              column + 1 == grid->columns ? "\n" : "");
    }
}

static void print_errors(const results *results, FILE *file) {
  const experiment *experiment = results->experiment;
  for (size_t i = 0; i < experiment->num_points; i++) {
    char label[256];
    if (!results->have[i] || results->points[i].status < POINT_VERIFY_FAILED) continue;
    experiment_point_label(experiment, i, label, sizeof label);
    fprintf(file, "point %zu%s%s%s: %s\n", i + 1, *label ? " (" : "", label, *label ? ")" : "",
            results->points[i].error ? results->points[i].error : "failed");
  }
}

void results_print_table(const results *results, void *stream) {
  const experiment *experiment = results->experiment;
  FILE *file = stream;
  grid grid = {.rows = 1, .num_axes = experiment->num_axes};
  grid.columns = grid.num_axes + NUM_MEASURES;
  for (size_t i = 0; i < experiment->num_points; i++) grid.rows += results->have[i];
  grid.cells = calloc(grid.rows * grid.columns, sizeof *grid.cells);
  if (!grid.cells) {
    fprintf(file, "no memory for the table; see %s\n", results->folder);
    return;
  }
  fill_header(&grid, experiment);
  for (size_t i = 0, row = 1; i < experiment->num_points; i++)
    if (results->have[i]) fill_row(&grid, row++, experiment, &results->points[i]);
  print_grid(&grid, file);
  free(grid.cells);
  print_errors(results, file);
}
