// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "desc/quantized.h"
#include "op/check.h"
#include "op/encode/encode.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Two matrices of blocks and a part of one, in rows of more columns than a work-group has, each row
 * of its own kind. */
enum { MATRICES = 2, MOST_ROWS = 134, COLUMNS = 301 };
enum { COMMON, ZEROS, TIES, WITH_NAN, WITH_INFINITY, LARGEST, SMALL, WIDE, KINDS };

static double largest_of(const desc_format *format) {
  return format == desc_format_of(MOECL_F16) ? 65504 : 0x1.fep127;
}

/* Ties are quarters, in blocks whose largest number is the largest code. */
static double draw(const op_encode_desc *desc, int row, int column, uint32_t *state) {
  const int element = desc->codes->element;
  const double most = element == ELEMENT_INT4   ? 7
                      : element == ELEMENT_INT8 ? 127
                      : element == ELEMENT_E2M1 ? 6
                                                : 448;
  const double value = check_value(state) + check_value(state) / 16;
  if (row >= 128) return 0x1p12 * value; /* of a block of rows the next one */
  switch (row % KINDS) {
  case ZEROS: return column % 5 ? 0.0 : -0.0;
  case TIES: return column % 16 == 0 ? most : fmod((column * 7 % 509 - 254) / 4.0, most);
  case WITH_NAN: return column == 130 ? NAN : value;
  case WITH_INFINITY: return column == COLUMNS - 1 ? -INFINITY : value;
  case LARGEST: return column % 100 == 7 ? largest_of(desc->numbers) : 0x1p14 * value;
  case SMALL: return ldexp(value, desc->numbers == desc_format_of(MOECL_F16) ? -20 : -140);
  case WIDE: return ldexp(value, -(column % 18));
  default: return value;
  }
}

/* Rows enough for one of each kind; of blocks of many rows for one and a part of one. A scale of
 * the matrix needs numbers of one size: there the second has no others. */
static uint64_t rows_of(const desc_format *codes) { return codes->scale_rows > 1 ? MOST_ROWS : 9; }

static void draw_matrix(const op_encode_desc *desc, int matrix, double *numbers) {
  uint32_t state = 1;
  for (int r = 0; r < (int)rows_of(desc->codes); r++) {
    const bool plain = matrix && (desc->codes->matrix_scale || desc->codes->scale_rows > 1);
    for (int c = 0; c < COLUMNS; c++)
      *numbers++ = draw(desc, plain && r < 128 ? r % 3 : r, c, &state);
  }
}

/* What they are stored as, and what their codes are. */
static void expect(const op_encode_desc *desc, double *numbers, uint8_t *given, uint8_t *want) {
  const uint64_t rows = rows_of(desc->codes), count = rows * COLUMNS;
  for (int m = 0; m < MATRICES; m++) {
    draw_matrix(desc, m, numbers);
    desc_encode(desc->numbers, numbers, rows, COLUMNS, given);
    desc_decode(desc->numbers, given, rows, COLUMNS, numbers);
    desc_quantize(desc->codes, desc->search, numbers, rows, COLUMNS, want);
    given += count * (desc->numbers->bits / 8);
    want += desc_format_bytes(desc->codes, rows, COLUMNS);
  }
}

static moecl_status compare(check_run *run, op_encode *encode, uint8_t *given, uint8_t *want,
                            uint8_t *got) {
  const op_encode_desc *desc = &encode->desc;
  const uint64_t rows = rows_of(desc->codes);
  const uint64_t read = MATRICES * rows * COLUMNS * (desc->numbers->bits / 8);
  const uint64_t written = MATRICES * desc_format_bytes(desc->codes, rows, COLUMNS);
  const uint64_t errors = op_encode_errors_bytes(desc, MATRICES);
  moecl_buffer **b = run->buffer;
  ocl_chain chain = {.context = run->context};
  MOECL_TRY(moecl_buffer_create(run->context, read, &b[0]));
  MOECL_TRY(moecl_buffer_write_wait(b[0], 0, read, given));
  MOECL_TRY(moecl_buffer_create(run->context, written, &b[1]));
  MOECL_TRY(moecl_buffer_fill_byte(b[1], 0, written, 0xa5));
  MOECL_TRY(moecl_buffer_create(run->context, errors, &b[2]));
  const op_encode_io io = {.matrices = MATRICES,
                           .rows = rows,
                           .columns = COLUMNS,
                           .numbers = b[0],
                           .codes = b[1],
                           .errors = b[2]};
  MOECL_TRY(op_encode_enqueue(encode, &chain, &io));
  MOECL_TRY(moecl_buffer_read_wait(b[1], 0, written, got));
  for (uint64_t i = 0; i < written; i++)
    if (got[i] != want[i]) return check_fail(run, "byte", (int64_t)i, got[i], want[i]);
  return MOECL_OK;
}

static moecl_status check(check_run *run, void *op) {
  op_encode *encode = op;
  const op_encode_desc *desc = &encode->desc;
  const uint64_t rows = rows_of(desc->codes);
  const size_t count = (size_t)rows * COLUMNS;
  const size_t bytes = MATRICES * (size_t)desc_format_bytes(desc->codes, rows, COLUMNS);
  double *numbers = malloc(count * sizeof *numbers);
  uint8_t *given = malloc(MATRICES * count * sizeof(float)), *codes = malloc(2 * bytes);
  moecl_status status = numbers && given && codes ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) {
    expect(desc, numbers, given, codes);
    status = compare(run, encode, given, codes, codes + bytes);
  }
  free(numbers);
  free(given);
  free(codes);
  return status;
}

moecl_status op_encode_self_check(moecl_context *context, const kernel_variant *variant,
                                  const void *desc) {
  check_run run = {&op_encode_kind, context, variant, {NULL}};
  op_encode encode;
  MOECL_TRY(check_begin(&run, desc, &encode));
  return check_end(&run, &encode, &encode.encode, 1, check);
}
