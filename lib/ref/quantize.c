// SPDX-License-Identifier: MIT
#include "desc/quantized.h"
#include "ref/ref.h"
#include <float.h>
#include <math.h>

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
