// SPDX-License-Identifier: MIT
#include "ref/ref.h"
#include <math.h>

void ref_norm(const desc_norm *norm, const double *x, const double *weight, const double *bias,
              double *y) {
  const double size = (double)norm->size;
  double mean = 0, variance = 0;
  for (int64_t i = 0; norm->kind == MOECL_NORM_LAYER && i < norm->size; i++) mean += x[i] / size;
  for (int64_t i = 0; i < norm->size; i++) variance += (x[i] - mean) * (x[i] - mean) / size;
  const double scale = 1 / sqrt(variance + norm->epsilon);
  for (int64_t i = 0; i < norm->size; i++) {
    const double factor = weight ? weight[i] + (norm->plus_one ? 1 : 0) : 1;
    y[i] = (x[i] - mean) * scale * factor + (norm->bias ? bias[i] : 0);
  }
}
