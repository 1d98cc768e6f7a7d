// SPDX-License-Identifier: MIT
/* The share of the device's measured peaks, of arithmetic and of memory, that each point reaches,
 * and which of the two bounds it. */
#include "report/report_parts.h"
#include "results/measures.h"
#include "results/peaks.h"
#include "results/results_private.h"
#include <math.h>
#include <string.h>

enum { GROUPED_GEMM = 2 }; /* of measure_operations */
/* Of more points only those with the largest and the smallest shares have a row. */
enum { MOST_ROWS = 40 };
/* A point that reaches less than this share of both peaks is bound by something else. */
static const double least_share = 0.25;

static const char *variant_of(const point_result *point, const char *operation) {
  for (int i = 0; operation && i < NUM_OPERATIONS; i++)
    if (strcmp(measure_operations[i], operation) == 0) return point->variants[i];
  return NULL;
}

double report_arithmetic_peak(const results *all, size_t index, int stage) {
  const moecl_peaks *peaks = &all->peaks.rates;
  const char *operation = measure_arithmetic_operation((moecl_stage)stage);
  const bool matrix =
      peaks->flops_matrix > 0 &&
      moecl_variant_uses_matrix_units(operation, variant_of(&all->points[index], operation));
  return matrix ? peaks->flops_matrix : peaks->flops_f32;
}

static double flops_share(const results *all, size_t index) {
  return all->points[index].tflops * 1e12 / report_arithmetic_peak(all, index, MOECL_STAGE_LAYER);
}
static double bytes_share(const results *all, size_t index) {
  return all->points[index].gbytes_per_s * 1e9 / all->peaks.rates.read_bytes;
}

/* The peaks are the results' own device's. */
static bool has_share(const results *all, size_t index) {
  return point_ran(all, index) && !point_is_elsewhere(all, index);
}

report_bound report_bound_of(const results *all, size_t index) {
  if (!all->peaks.measured[0] || !has_share(all, index)) return BOUND_UNKNOWN;
  const double flops = flops_share(all, index), bytes = bytes_share(all, index);
  if (!isfinite(flops) || !isfinite(bytes)) return BOUND_UNKNOWN;
  if (flops > 1) return BOUND_BEYOND;
  if (fmax(flops, bytes) < least_share) return BOUND_NEITHER;
  return flops >= bytes ? BOUND_ARITHMETIC : BOUND_MEMORY;
}

static const char *bound_text(report_bound bound) {
  switch (bound) {
  case BOUND_BEYOND: return "more than the peak of its arithmetic";
  case BOUND_NEITHER: return "neither: launches, imbalance, small tiles";
  case BOUND_ARITHMETIC: return "arithmetic";
  case BOUND_MEMORY: return "memory";
  case BOUND_UNKNOWN: break;
  }
  return "n/a";
}

static void peaks_line(const device_peaks *peaks, FILE *file) {
  const moecl_peaks *p = &peaks->rates;
  fprintf(file,
          "Measured %s by `moectl peak`: %.4g GFLOP/s of fp32 multiply-adds, %.4g GB/s read from "
          "memory, %.4g GB/s copied, %.4g us a launch.",
          peaks->measured, p->flops_f32 / 1e9, p->read_bytes / 1e9, p->copy_bytes / 1e9,
          p->launch_seconds * 1e6);
  if (p->flops_matrix > 0)
    fprintf(file,
            " Matrix units do %.4g GFLOP/s, which is the peak where the grouped GEMM's variant "
            "uses them.",
            p->flops_matrix / 1e9);
}

/* Is the point's larger share among the largest or the smallest of all? With MOST_ROWS points at
 * most each has a row. */
static bool has_row(const results *all, size_t index, size_t points) {
  size_t larger = 0, smaller = 0;
  const double own = fmax(flops_share(all, index), bytes_share(all, index));
  for (size_t i = 0; points > MOST_ROWS && i < all->experiment->num_points; i++) {
    if (!has_share(all, i)) continue;
    const double other = fmax(flops_share(all, i), bytes_share(all, i));
    larger += other > own;
    smaller += other < own;
  }
  return points <= MOST_ROWS || larger < MOST_ROWS / 4 || smaller < MOST_ROWS / 4;
}

static void row(const results *all, size_t index, FILE *file) {
  const experiment *plan = all->experiment;
  const double flops = flops_share(all, index), bytes = bytes_share(all, index);
  char text[LABEL_SIZE];
  fprintf(file, "| %zu |", index);
  for (size_t i = 0; i < plan->num_axes; i++) {
    fputc(' ', file);
    report_text(file, grid_value_text(plan, i, index, text, sizeof text));
    fputs(" |", file);
  }
  fprintf(file, " %.1f%% | %.1f%% | %s |\n", 100 * flops, 100 * bytes,
          bound_text(report_bound_of(all, index)));
}

/* Where variants' instructions have no peak that is measured. */
static bool beyond_fp32(const results *all, size_t index) {
  return has_share(all, index) && report_bound_of(all, index) == BOUND_BEYOND &&
         report_arithmetic_peak(all, index, MOECL_STAGE_LAYER) == all->peaks.rates.flops_f32;
}

static void table(const results *all, size_t points, FILE *file) {
  const experiment *plan = all->experiment;
  fprintf(file,
          " A share is the %s's rate over the peak: operations and bytes are counted from the "
          "sizes, each weight of an expert that was reached once, so what caches save or what is "
          "read again is not in it.",
          experiment_measured(plan));
  if (points > MOST_ROWS)
    fprintf(file, " Of %zu points, those with the largest and the smallest shares.", points);
  fputs("\n\n| # |", file);
  for (size_t i = 0; i < plan->num_axes; i++) fprintf(file, " %s |", plan->axes[i].param);
  fputs(" of arithmetic | of memory's rate | bound by |\n|", file);
  for (size_t i = 0; i < 4 + plan->num_axes; i++) fputs(" ---: |", file);
  fputc('\n', file);
  for (size_t i = 0; i < plan->num_points; i++)
    if (has_share(all, i) && has_row(all, i, points)) row(all, i, file);
  bool beyond = false;
  for (size_t i = 0; i < plan->num_points; i++) beyond = beyond || beyond_fp32(all, i);
  if (beyond)
    fputs("\nMore than 100% of arithmetic: the peak is of fp32 multiply-adds, and instructions for "
          "narrower numbers, as `cpu_bf16` and `cpu_int8` have them, do more.\n",
          file);
}

void report_peaks(const results *all, FILE *file) {
  size_t points = 0, elsewhere = 0;
  if (!all->peaks.measured[0]) return;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    points += has_share(all, i);
    elsewhere += point_ran(all, i) && point_is_elsewhere(all, i);
  }
  if (points + elsewhere == 0) return;
  fputs("## Share of the device's peaks\n\n", file);
  peaks_line(&all->peaks, file);
  if (points > 0) table(all, points, file);
  if (elsewhere > 0)
    fprintf(file,
            "%s%zu point%s on several devices, whose rates are of all together, or on another one: "
            "no share of this device's peaks.\n",
            points > 0 ? "\n" : "\n\n", elsewhere, elsewhere == 1 ? " is" : "s are");
  fputc('\n', file);
}
