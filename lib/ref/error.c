#include "moecl/reference.h"
#include <math.h>

double moecl_relative_error(const double *a, const double *b, size_t count) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < count; i++) {
    if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  if (difference == 0) return 0;
  if (norm == 0 || !isfinite(difference) || !isfinite(norm)) return INFINITY;
  return sqrt(difference) / sqrt(norm);
}
