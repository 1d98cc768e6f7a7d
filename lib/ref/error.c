#include "moecl/reference.h"
#include <math.h>

/* Keeps the largest magnitude so far; false if the value is not finite. */
static bool widen(double value, double *largest) {
  *largest = fmax(*largest, fabs(value));
  return isfinite(value);
}

double moecl_relative_error(const double *a, const double *b, size_t count) {
  double scale = 0, difference = 0, norm = 0;
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
  return norm == 0 ? INFINITY : sqrt(difference) / sqrt(norm);
}
