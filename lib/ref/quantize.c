// SPDX-License-Identifier: MIT
#include "desc/quantized.h"
#include "moecl/reference.h"
#include "ref/ref.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

/* As moecl_format_from_double has them, but for what is not finite: there the least harm to
 * weights, here all of the block is NaN, so that nobody takes it for numbers. */
static void quantize_block(int element, uint64_t count, double *x) {
  const double most = desc_element_decode(element, desc_element_encode(element, DBL_MAX));
  double largest = 0;
  bool finite = true;
  for (uint64_t i = 0; i < count; i++) {
    finite = finite && isfinite(x[i]);
    largest = fmax(largest, fabs(x[i]));
  }
  const double scale = largest > 0 ? fmax((double)(float)(largest / most), (double)FLT_MIN) : 1;
  for (uint64_t i = 0; i < count; i++)
    x[i] = finite ? desc_element_decode(element, desc_element_encode(element, x[i] / scale)) * scale
                  : NAN;
}

void ref_quantize(const desc_format *format, uint64_t columns, double *row) {
  const uint64_t block = format->block ? format->block : columns;
  for (uint64_t c = 0; c < columns; c += block)
    quantize_block(format->element, columns - c < block ? columns - c : block, row + c);
}

/* To the nearest numbers of the type and back. */
static void round_to(const desc_format *dtype, uint64_t count, double *values, void *elements) {
  desc_encode(dtype, values, 1, count, elements);
  desc_decode(dtype, elements, 1, count, values);
}

moecl_status moecl_reference_round_rows(moecl_dtype dtype, moecl_format format, int64_t rows,
                                        int64_t columns, double *values) {
  if ((unsigned)dtype >= MOECL_DTYPE_COUNT || !moecl_format_is_for_activations(format) ||
      rows < 0 || columns < 1 || columns > MOECL_MAX_SIZE || !values)
    return MOECL_ERROR_INVALID_ARGUMENT;
  void *elements = malloc((size_t)columns * sizeof(double));
  if (!elements) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t i = 0; i < rows; i++, values += columns) {
    round_to(desc_format_of(dtype), (uint64_t)columns, values, elements);
    if (format == MOECL_FORMAT_DTYPE) continue;
    ref_quantize(&desc_formats[format], (uint64_t)columns, values);
    for (int64_t c = 0; c < columns; c++) values[c] = (float)values[c]; /* codes times scales */
    round_to(desc_format_of(dtype), (uint64_t)columns, values, elements);
  }
  free(elements);
  return MOECL_OK;
}
