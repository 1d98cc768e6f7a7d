// SPDX-License-Identifier: MIT
/* report.md's tables of large sweeps: a row for each value of each swept parameter. */
#include "results/measures.h"
#include "report/report_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of a parameter with more values than this some have no rows, evenly: else they would be a table
 * of points again. */
enum { MAX_VALUES = 40 };

/* Has a parameter's value a row? */
static bool has_row(const experiment *plan, size_t axis, size_t digit) {
  const size_t count = plan->axes[axis].count, step = (count + MAX_VALUES - 1) / MAX_VALUES;
  return digit % step == 0 || digit == count - 1;
}

static void say_left_out(const experiment *plan, FILE *file) {
  bool any = false;
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    any = any || plan->axes[axis].count > MAX_VALUES;
  if (any) fprintf(file, " Of more than %d values some are left out, evenly.", MAX_VALUES);
}

/* Sums over points, of columns of which a point may have none (NaN). */
typedef struct sums {
  double *sum;
  size_t *count, points;
} sums;

/* Fills `values` with a point's columns. */
typedef void (*columns_of)(const results *all, size_t index, const int *which, size_t count,
                           double *values);

static void write_head(const char *const *columns, size_t count, FILE *file) {
  fputs("| parameter | value | points |", file);
  for (size_t i = 0; i < count; i++) fprintf(file, " %s |", columns[i]);
  fputs("\n| --- | ---: | ---: |", file);
  for (size_t i = 0; i < count; i++) fputs(" ---: |", file);
  fputc('\n', file);
}

static void add_point(const double *values, size_t count, sums *to) {
  to->points++;
  for (size_t i = 0; i < count; i++) {
    if (!isfinite(values[i])) continue;
    to->sum[i] += values[i];
    to->count[i]++;
  }
}

static double mean_of(const sums *from, size_t column) {
  return from->count[column] ? from->sum[column] / (double)from->count[column] : NAN;
}

static void write_row(const results *all, size_t axis, size_t digit, const sums *from, size_t count,
                      const char *const *percent, FILE *file) {
  const experiment *plan = all->experiment;
  char text[LABEL_SIZE], number[NUMBER_SIZE];
  fprintf(file, "| %s | ", plan->axes[axis].param);
  report_text(file,
              grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text));
  fprintf(file, " | %zu |", from->points);
  for (size_t i = 0; i < count; i++) {
    const double mean = mean_of(from, i);
    if (!isnan(mean) && percent[i]) fprintf(file, " %.1f%s |", mean, percent[i]);
    else fprintf(file, " %s |", number_text(mean, number, sizeof number));
  }
  fputc('\n', file);
}

/* The sums over the points that have a value; `values` is scratch. */
static void sum_points(const results *all, size_t axis, size_t digit, columns_of of,
                       const int *which, size_t count, double *values, sums *row) {
  memset(row->sum, 0, count * sizeof *row->sum);
  memset(row->count, 0, count * sizeof *row->count);
  row->points = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (grid_digit(all->experiment, axis, i) != digit || !point_ran(all, i)) continue;
    of(all, i, which, count, values);
    add_point(values, count, row);
  }
}

static void write_groups(const results *all, columns_of of, const int *which, size_t count,
                         const char *const *percent, FILE *file) {
  const experiment *plan = all->experiment;
  sums row = {calloc(count + 1, sizeof *row.sum), calloc(count + 1, sizeof *row.count), 0};
  double *values = calloc(count + 1, sizeof *values);
  for (size_t axis = 0; row.sum && row.count && values && axis < plan->num_axes; axis++) {
    const size_t rows = plan->axes[axis].count;
    for (size_t digit = 0; digit < rows; digit++) {
      if (!has_row(plan, axis, digit)) continue;
      sum_points(all, axis, digit, of, which, count, values, &row);
      if (row.points > 0) write_row(all, axis, digit, &row, count, percent, file);
    }
  }
  free(row.sum);
  free(row.count);
  free(values);
}

static void stage_columns(const results *all, size_t index, const int *stages, size_t count,
                          double *values) {
  const double sum = point_stages_ms(&all->points[index]);
  for (size_t i = 0; i < count; i++)
    values[i] = 100 * all->points[index].time_ms[stages[i]].median / sum;
}

size_t report_stage_means(const results *all, size_t axis, size_t digit, const int *stages,
                          size_t count, double *means) {
  double values[RESULTS_PARTS], sum[RESULTS_PARTS];
  size_t counts[RESULTS_PARTS];
  sums row = {sum, counts, 0};
  if (!has_row(all->experiment, axis, digit)) return 0;
  sum_points(all, axis, digit, stage_columns, stages, count, values, &row);
  for (size_t i = 0; i < count; i++) means[i] = mean_of(&row, i);
  return row.points;
}

void report_stage_groups(const results *all, const int *stages, size_t count, FILE *file) {
  const char *names[RESULTS_PARTS], *percent[RESULTS_PARTS];
  for (size_t i = 0; i < count; i++) {
    names[i] = moecl_stage_name((moecl_stage)stages[i]);
    percent[i] = "%";
  }
  write_head(names, count, file);
  write_groups(all, stage_columns, stages, count, percent, file);
  fputs(
      "\nMeans over the points with that value; a stage that a variant does inside another one, or "
      "that a point has\nnot, is left out of its mean. Each point's times are in "
      "`results.csv`.",
      file);
  say_left_out(all->experiment, file);
  fputs("\n\n", file);
}

static const char *const routing[] = {
    "load_balancing_loss",      "router_z_loss",    "entropy",       "max_mean_imbalance",
    "coefficient_of_variation", "dropped_fraction", "padding_waste", "identity_fraction"};
enum { ROUTING = sizeof routing / sizeof routing[0] };

static void routing_columns(const results *all, size_t index, const int *which, size_t count,
                            double *values) {
  (void)which;
  for (size_t i = 0; i < count; i++) {
    const measure *m = measure_find(routing[i]);
    values[i] = (m->kind == MEASURE_SHARE ? 100 : 1) * measure_get(m, &all->points[index]).real;
  }
}

void report_routing_groups(const results *all, bool identities, FILE *file) {
  const size_t count = identities ? ROUTING : ROUTING - 1;
  const char *names[ROUTING], *percent[ROUTING];
  for (size_t i = 0; i < count; i++) {
    const measure *m = measure_find(routing[i]);
    names[i] = m->heading;
    percent[i] = m->kind == MEASURE_SHARE ? "%" : NULL;
  }
  write_head(names, count, file);
  write_groups(all, routing_columns, NULL, count, percent, file);
  fputs("\nMeans over the points with that value; each point's are in `results.csv`.", file);
  say_left_out(all->experiment, file);
  fputc('\n', file);
}

static void memory_columns(const results *all, size_t index, const int *which, size_t count,
                           double *values) {
  (void)which, (void)count;
  values[0] = (double)all->points[index].memory_bytes / (1u << 20);
  values[1] = 100 * report_memory_share(all, index);
}

void report_memory_groups(const results *all, FILE *file) {
  static const char *const names[] = {"MiB", "share of the device's memory"};
  static const char *const percent[] = {NULL, "%"};
  write_head(names, 2, file);
  write_groups(all, memory_columns, NULL, 2, percent, file);
  fputs("\nMeans over the points with that value.", file);
  say_left_out(all->experiment, file);
  fputs("\n\n", file);
}
