// SPDX-License-Identifier: MIT
/* What the programs that time something have in common: the clock, the median, and the log. */
#ifndef MOECL_BENCH_TIMING_H
#define MOECL_BENCH_TIMING_H

#include <moecl/context.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double timing_now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static inline int timing_by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Sorts the values; NaN where there are none. */
static inline double timing_median(double *values, int count) {
  if (count == 0) return NAN;
  qsort(values, (size_t)count, sizeof *values, timing_by_value);
  return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

/* A context's log: warnings and errors. */
static inline void timing_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "moecl: %s\n", message);
}

#endif
