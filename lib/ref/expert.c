#include "base/base.h"
#include "moecl/reference.h"
#include <math.h>
#include <stdlib.h>

static double activate(moecl_activation activation, double x) {
  switch (activation) {
  case MOECL_SWIGLU:
  case MOECL_SILU:
    return x / (1 + exp(-x));
  case MOECL_GEGLU:
  case MOECL_GELU:
    return 0.5 * x * erfc(-x * 0.70710678118654752440); /* no cancellation below 0 */
  case MOECL_RELU:
    return x < 0 ? 0 : x; /* NaN stays NaN */
  default:
    return NAN;
  }
}

/* Row `row` of matrix [rows,width] times x, plus the bias. */
static double row_times(const double *matrix, const double *bias, int64_t row, int64_t width,
                        const double *x) {
  const double *weights = matrix + row * width;
  double sum = bias ? bias[row] : 0;
  for (int64_t i = 0; i < width; i++)
    sum += weights[i] * x[i];
  return sum;
}

moecl_status moecl_reference_expert(const moecl_layer_params *params, const double *hidden,
                                    const double *gate_up, const double *gate_up_bias,
                                    const double *down, const double *down_bias, double *output) {
  const int64_t width = params->hidden_size, rows = params->intermediate_size;
  const bool gated = moecl_activation_is_gated(params->activation);
  uint64_t bytes;
  if (!base_mul((uint64_t)rows, sizeof(double), &bytes) || bytes > SIZE_MAX)
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  double *inner = malloc((size_t)bytes);
  if (!inner) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; i < rows; i++) {
    inner[i] = activate(params->activation, row_times(gate_up, gate_up_bias, i, width, hidden));
    if (gated) inner[i] *= row_times(gate_up, gate_up_bias, rows + i, width, hidden);
  }
  for (int64_t h = 0; h < width; h++)
    output[h] = row_times(down, down_bias, h, rows, inner);
  free(inner);
  return MOECL_OK;
}
