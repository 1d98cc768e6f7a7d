// SPDX-License-Identifier: MIT
/* Rows of numbers beside recorded ones. */
#include "model/recorded.h"
#include <math.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double median_of(double *values, int64_t count) {
  qsort(values, (size_t)count, sizeof *values, by_size);
  return values[count / 2];
}

double row_distance(const double *a, const double *b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) {
    const double difference = b ? a[i] - b[i] : a[i];
    sum += difference * difference;
  }
  return sqrt(sum);
}

static double usual_length(int64_t num_tokens, int64_t columns, const double *rows) {
  double *lengths = malloc((size_t)num_tokens * sizeof *lengths);
  if (!lengths) return NAN;
  for (int64_t t = 0; t < num_tokens; t++)
    lengths[t] = row_distance(rows + t * columns, NULL, columns);
  const double usual = median_of(lengths, num_tokens);
  free(lengths);
  return usual;
}

bool compare_rows(const row_rule *rule, int64_t num_tokens, int64_t columns, const double *ours,
                  const double *theirs, comparison *result) {
  const double usual = usual_length(num_tokens, columns, theirs);
  double off = 0, all = 0, furthest = -1;
  int64_t worst = -1;
  *result = (comparison){.first = -1};
  for (int64_t t = 0; t < num_tokens; t++) {
    if (rule->skip && rule->skip[t]) continue;
    const double distance = row_distance(ours + t * columns, theirs + t * columns, columns);
    const double length = row_distance(theirs + t * columns, NULL, columns);
    off += distance * distance;
    all += length * length;
    if (distance > furthest) furthest = distance, worst = t;
    /* Written so that NaN differs. */
    if (isfinite(distance) && distance <= rule->token_tolerance * fmax(length, usual)) continue;
    if (result->differ++ == 0) result->first = t;
  }
  result->error = all > 0 ? sqrt(off / all) : off > 0 ? INFINITY : 0;
  if (result->differ == 0 && !(result->error <= rule->tolerance))
    *result = (comparison){result->error, 1, worst};
  return !isnan(usual);
}
