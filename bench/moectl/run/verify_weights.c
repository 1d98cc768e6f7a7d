// SPDX-License-Identifier: MIT
/* What formats of the experts' weights and of the rows that they read cost: the sampled tokens'
 * outputs, exact, with both as they are and with those that the same draw has in dtype. */
#include "moecl/reference.h"
#include "run/verify_parts.h"
#include "run/workload.h"
#include <math.h>
#include <stdlib.h>

/* Of the experts' matrices, as they are given: scales are bits, too. */
static double bits_of(const moecl_layer_params *layer) {
  const double bytes = (double)moecl_layer_tensor_bytes(layer, MOECL_GATE_UP_PROJ) +
                       (double)moecl_layer_tensor_bytes(layer, MOECL_DOWN_PROJ);
  const double elements = (double)moecl_layer_tensor_size(layer, MOECL_GATE_UP_PROJ) +
                          (double)moecl_layer_tensor_size(layer, MOECL_DOWN_PROJ);
  return 8 * bytes / elements;
}

/* NaN: one of them is nothing. Scaled, so that squares neither overflow nor underflow. */
static double cosine(const double *a, const double *b, size_t count) {
  double largest_a = 0, largest_b = 0, ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < count; i++) {
    largest_a = fmax(largest_a, fabs(a[i]));
    largest_b = fmax(largest_b, fabs(b[i]));
  }
  if (!(largest_a > 0 && largest_b > 0)) return NAN;
  for (size_t i = 0; i < count; i++) {
    const double x = a[i] / largest_a, y = b[i] / largest_b;
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return ab / sqrt(aa * bb);
}

moecl_status verify_weight_format(const verify_input *input, const sample *sample,
                                  verify_result *result) {
  experiment_point plain = *input->point;
  verify_input unquantized = *input;
  struct sample exact = *sample; /* the same tokens */
  weights weights = {0};
  int64_t reached = 0;
  if (!workload_has_other_formats(input->point)) return MOECL_OK;
  const size_t count = (size_t)(sample->count * input->point->layer.hidden_size);
  plain.layer.weight_format = plain.layer.activation_format = MOECL_FORMAT_DTYPE;
  plain.parallel.dispatch_format = MOECL_FORMAT_DTYPE;
  unquantized.point = &plain;
  exact.expected = calloc(count + 1, sizeof *exact.expected);
  moecl_status status = exact.expected ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = verify_weights_make(&unquantized, &exact, &weights);
  if (status == MOECL_OK) status = verify_experts(&unquantized, &exact, &weights, NULL, &reached);
  if (status == MOECL_OK) {
    result->weight_error = moecl_relative_error(sample->expected, exact.expected, count);
    result->weight_cosine = cosine(sample->expected, exact.expected, count);
    result->weight_bits = bits_of(&input->point->layer);
  }
  verify_weights_release(&weights);
  free(exact.expected);
  return status;
}
