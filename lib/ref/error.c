// SPDX-License-Identifier: MIT
#include "moecl/reference.h"
#include <math.h>

/* Keeps the largest magnitude so far; false if the value is not finite. */
static bool widen(double value, double *largest) {
  *largest = fmax(*largest, fabs(value));
  return isfinite(value);
}

double moecl_relative_error(const double *a, const double *b, size_t count) {
  return moecl_relative_error_above(a, b, count, 0);
}

double moecl_relative_error_floor(moecl_dtype dtype) {
  /* What may be lost, over the type's roundoff. */
  if (dtype == MOECL_F16) return 0x1p-24 / 0x1p-11;
  return 0x1p-126 / (dtype == MOECL_BF16 ? 0x1p-8 : 0x1p-24);
}

double moecl_relative_error_above(const double *a, const double *b, size_t count, double floor) {
  double scale = 0, difference = 0, norm = 0;
  if (count > 0 && (!a || !b)) return INFINITY;
  for (size_t i = 0; i < count; i++)
    if (!widen(a[i], &scale) || !widen(b[i], &scale)) return INFINITY;
  if (scale == 0) return 0;
  /* Scaled, so that squares neither overflow nor all underflow. */
  for (size_t i = 0; i < count; i++) {
    double x = a[i] / scale, y = b[i] / scale;
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  if (difference == 0) return 0;
  const double least = floor / scale;
  norm = fmax(norm, (double)count * least * least);
  return norm == 0 ? INFINITY : sqrt(difference) / sqrt(norm);
}
