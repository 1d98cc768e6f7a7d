/* One expert on one token, and the error measure. */
#include "moecl/reference.h"
#include <math.h>
#include <stdlib.h>

static double activate(moecl_activation activation, double x) {
  switch (activation) {
  case MOECL_SWIGLU:
  case MOECL_SILU: return x / (1.0 + exp(-x));
  case MOECL_GEGLU:
  case MOECL_GELU: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
  default: return x > 0.0 ? x : 0.0;
  }
}

static double dot(const double *a, const double *b, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

moecl_status moecl_reference_expert(const moecl_layer_params *params, const double *hidden,
                                    const double *gate_up, const double *gate_up_bias,
                                    const double *down, const double *down_bias, double *output) {
  const int64_t hidden_size = params->hidden_size, inner = params->intermediate_size;
  const bool gated = moecl_activation_is_gated(params->activation);
  double *activated = malloc((size_t)inner * sizeof *activated);
  if (!activated) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; i < inner; i++) {
    const double first = dot(hidden, gate_up + i * hidden_size, hidden_size);
    activated[i] = activate(params->activation, first + (gate_up_bias ? gate_up_bias[i] : 0.0));
    if (!gated) continue;
    const double up = dot(hidden, gate_up + (inner + i) * hidden_size, hidden_size);
    activated[i] *= up + (gate_up_bias ? gate_up_bias[inner + i] : 0.0);
  }
  for (int64_t h = 0; h < hidden_size; h++)
    output[h] = dot(activated, down + h * inner, inner) + (down_bias ? down_bias[h] : 0.0);
  free(activated);
  return MOECL_OK;
}

double moecl_relative_error(const double *a, const double *b, size_t count) {
  double difference = 0.0, size = 0.0;
  for (size_t i = 0; i < count; i++) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  if (!isfinite(difference) || !isfinite(size)) return INFINITY;
  if (size == 0.0) return difference == 0.0 ? 0.0 : INFINITY;
  return sqrt(difference / size);
}
