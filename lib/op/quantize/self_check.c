// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "op/check.h"
#include "op/quantize/quantize.h"
#include "ref/ref.h"
#include <math.h>
#include <stdlib.h>

/* Rows of some blocks and a part of one, and of more columns than a work-group has. */
enum { COLUMNS = 300, COLUMNS_OF_EIGHTS = 2120 };
enum { COMMON, ZEROS, TIES, WITH_NAN, WITH_INFINITY, LARGEST, SMALL, WIDE, ROWS };

static double largest_of(const desc_format *format) {
  return format == desc_format_of(MOECL_F16) ? 65504 : 0x1.fep127;
}

/* Ties are halves and odd numbers in blocks of scale 1, where fp16 and bf16 have them. */
static double draw(const op_quantize_desc *desc, int row, int column, uint32_t *state) {
  const double value = check_value(state) + check_value(state) / 16;
  switch (row) {
  case ZEROS: return 0;
  case TIES:
    if (column % 128 == 0) return desc->codes->element == ELEMENT_INT8 ? 127 : 448;
    return (column * 7 % 509 - 254) / 2.0;
  case WITH_NAN: return column == 130 ? NAN : value;
  case WITH_INFINITY: return column == desc->columns - 1 ? -INFINITY : value;
  case LARGEST: return column % 100 == 7 ? largest_of(desc->rows) : 0x1p14 * value;
  case SMALL: return 0x1p-12 * value;
  case WIDE: return ldexp(value, -(column % 18));
  default: return value;
  }
}

/* A number as a format of plain elements has it. */
static double rounded(const desc_format *format, double value) {
  float bits; /* holds any */
  desc_encode(format, &value, 1, 1, &bits);
  desc_decode(format, &bits, 1, 1, &value);
  return value;
}

static void expect(const op_quantize_desc *desc, double *numbers, double *want) {
  uint32_t state = 1;
  const int columns = (int)desc->columns;
  for (int i = 0; i < ROWS * columns; i++)
    want[i] = numbers[i] = rounded(desc->rows, draw(desc, i / columns, i % columns, &state));
  for (int row = 0; row < ROWS; row++)
    ref_quantize(desc->codes, (uint64_t)columns, want + row * columns);
  if (desc->output == desc->codes) return;
  for (int i = 0; i < ROWS * columns; i++) want[i] = rounded(desc->output, (double)(float)want[i]);
}

static moecl_status compare(check_run *run, op_quantize *quantize, double *numbers, double *want) {
  const op_quantize_desc *desc = &quantize->desc;
  const uint64_t columns = (uint64_t)desc->columns;
  const uint64_t bytes = desc_format_bytes(desc->output, ROWS, columns);
  const check_tolerance exact = {0, 0};
  moecl_buffer **b = run->buffer;
  ocl_chain chain = {.context = run->context};
  expect(desc, numbers, want);
  MOECL_TRY(check_upload(run->context, desc->rows, numbers, ROWS, columns, &b[0]));
  MOECL_TRY(moecl_buffer_create(run->context, bytes, &b[1]));
  MOECL_TRY(moecl_buffer_fill_byte(b[1], 0, bytes, 0xff));
  const op_quantize_io io = {.rows = ROWS, .input = b[0], .output = b[1]};
  MOECL_TRY(op_quantize_enqueue(quantize, &chain, &io));
  return check_numbers(run, "quantized", b[1], desc->output, ROWS, columns, want, exact);
}

static moecl_status check(check_run *run, void *op) {
  const size_t count = ROWS * (size_t)((op_quantize *)op)->desc.columns;
  double *numbers = malloc(2 * count * sizeof *numbers);
  const moecl_status status =
      numbers ? compare(run, op, numbers, numbers + count) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  free(numbers);
  return status;
}

moecl_status op_quantize_self_check(moecl_context *context, const kernel_variant *variant,
                                    const void *desc) {
  check_run run = {&op_quantize_kind, context, variant, {NULL}};
  op_quantize_desc small = *(const op_quantize_desc *)desc;
  op_quantize quantize;
  small.columns = COLUMNS;
  if (!kernel_variant_accepts(variant, &small)) small.columns = COLUMNS_OF_EIGHTS;
  MOECL_TRY(check_begin(&run, &small, &quantize));
  return check_end(&run, &quantize, &quantize.kernel, 1, check);
}
