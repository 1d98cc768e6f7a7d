// SPDX-License-Identifier: MIT
#include "desc/quantized.h"
#include "base/base.h"
#include "base/parallel.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* ---- one code ---- */

/* What there is to know of an element: bits, its largest and its least positive number, and of
 * binary formats of 8 bits and fewer the fraction's bits and the exponent's bias. */
typedef struct element {
  uint32_t bits;
  double largest, least;
  int mantissa, bias;
} element;

/* The least fp32 is the least normal one: devices may flush those below. */
static const element elements[] = {
    [ELEMENT_F32] = {32, (double)FLT_MAX, (double)FLT_MIN, 0, 0},
    [ELEMENT_F16] = {16, 65504, 0x1p-24, 0, 0},
    [ELEMENT_INT8] = {8, 127, 1, 0, 0},
    [ELEMENT_INT4] = {4, 15, 1, 0, 0},
    [ELEMENT_E2M1] = {4, 6, 0.5, 1, 1},
    [ELEMENT_E4M3] = {8, 448, 0x1p-9, 3, 7},
    [ELEMENT_E8M0] = {8, 0x1p127, 0x1p-127, 0, 0},
};
enum { E4M3_NAN = 0x7f, E8M0_NAN = 0xff };

uint32_t desc_element_bits(int element) { return elements[element].bits; }

/* A sign before the exponent and the fraction, exponent 0 of subnormals. */
static double decode_float(const element *element, uint32_t code) {
  const uint32_t one = 1u << element->mantissa, sign = code >> (element->bits - 1);
  const uint32_t magnitude = code & ((1u << (element->bits - 1)) - 1);
  const int exponent = (int)(magnitude >> element->mantissa);
  const uint32_t fraction = (magnitude & (one - 1)) + (exponent ? one : 0);
  const double value =
      ldexp(fraction, (exponent ? exponent : 1) - element->bias - element->mantissa);
  return sign ? -value : value;
}

/* Finite: counted in units of its exponent's last place, which a carry moves on. */
static uint32_t encode_float(const element *element, double value) {
  const double magnitude = fmin(fabs(value), element->largest);
  int exponent;
  frexp(magnitude, &exponent);
  exponent += element->bias - 1;
  if (exponent < 1 || magnitude == 0) exponent = 1;
  const double units = rint(ldexp(magnitude, element->mantissa + element->bias - exponent));
  const uint32_t code = ((uint32_t)(exponent - 1) << element->mantissa) + (uint32_t)units;
  return code | (signbit(value) ? 1u << (element->bits - 1) : 0);
}

double desc_element_decode(int element, uint32_t code) {
  switch (element) {
  case ELEMENT_INT8: return (int8_t)code;
  case ELEMENT_E4M3:
    if ((code & E4M3_NAN) == E4M3_NAN) return NAN;
    return decode_float(&elements[element], code);
  case ELEMENT_E2M1: return decode_float(&elements[element], code);
  case ELEMENT_E8M0: return code == E8M0_NAN ? NAN : ldexp(1, (int)code - 127);
  default: return code;
  }
}

uint32_t desc_element_encode(int element, double value) {
  int exponent;
  switch (element) {
  case ELEMENT_INT8:
    return (uint8_t)(int8_t)(isnan(value) ? 0 : fmin(fmax(rint(value), -128), 127));
  case ELEMENT_E4M3: return isnan(value) ? E4M3_NAN : encode_float(&elements[element], value);
  case ELEMENT_E2M1: return encode_float(&elements[element], isnan(value) ? 0 : value);
  case ELEMENT_E8M0: /* of powers of two */
    frexp(fmin(fmax(value, 0x1p-127), 0x1p127), &exponent);
    return isnan(value) ? E8M0_NAN : (uint32_t)(exponent - 1 + 127);
  default: return isnan(value) ? 0 : (uint32_t)fmin(fmax(rint(value), 0), 15);
  }
}

/* ---- a matrix in memory ---- */

static uint32_t get_code(const desc_format *format, const uint8_t *row, uint64_t column) {
  return format->bits == 8 ? row[column] : row[column / 2] >> column % 2 * 4 & 0xf;
}

/* Over zeros. */
static void put_code(const desc_format *format, uint8_t *row, uint64_t column, uint32_t code) {
  if (format->bits == 8) row[column] = (uint8_t)code;
  else row[column / 2] |= (uint8_t)(code << column % 2 * 4);
}

static double get_scale(int element, const uint8_t *scales, uint64_t i) {
  double value;
  if (element != ELEMENT_F32 && element != ELEMENT_F16)
    return desc_element_decode(element, scales[i]);
  const moecl_dtype dtype = element == ELEMENT_F32 ? MOECL_F32 : MOECL_F16;
  moecl_to_double(dtype, scales + i * (elements[element].bits / 8), 1, &value);
  return value;
}

/* 1 for zeros; else as it is stored, which is never 0 or infinite. */
static double put_scale(int element, double value, uint8_t *scales, uint64_t i) {
  const double kept =
      value > 0 ? fmin(fmax(value, elements[element].least), elements[element].largest) : 1;
  const moecl_dtype dtype = element == ELEMENT_F32 ? MOECL_F32 : MOECL_F16;
  if (element == ELEMENT_F32 || element == ELEMENT_F16)
    moecl_from_double(dtype, &kept, 1, scales + i * (elements[element].bits / 8));
  else scales[i] = (uint8_t)desc_element_encode(element, kept);
  return get_scale(element, scales, i);
}

/* Columns of a block. */
static uint64_t width_of(const desc_format *format, uint64_t columns) {
  return format->block ? format->block : columns;
}

/* What codes are less, where there are no zero points. */
static double middle_of(const desc_format *format) {
  return format->element == ELEMENT_INT4 ? 8 : 0;
}

void desc_dequantize(const desc_format *format, const void *matrix, uint64_t rows, uint64_t columns,
                     uint64_t first, uint64_t count, double *dst) {
  moecl_format_layout at;
  const uint8_t *bytes = matrix;
  const uint64_t width = width_of(format, columns);
  if (count * columns == 0 || !desc_format_layout(format, rows, columns, &at)) return;
  const double all = format->matrix_scale ? get_scale(ELEMENT_F32, bytes + at.matrix_scale, 0) : 1;
  for (uint64_t r = first; r < first + count; r++) {
    const uint8_t *row = bytes + r * at.row_bytes;
    double scale = all, zero = middle_of(format);
    for (uint64_t c = 0; c < columns; c++) {
      if (c % width == 0 && format->scale != ELEMENT_NONE)
        scale = all * get_scale(format->scale, bytes + at.scales,
                                r / format->scale_rows * at.scale_columns + c / width);
      if (c % width == 0 && format->zero_points)
        zero = bytes[at.zero_points + r * at.scale_columns + c / width];
      *dst++ = (desc_element_decode(format->element, get_code(format, row, c)) - zero) * scale;
    }
  }
}

/* ---- scales of numbers ---- */

/* Part of a matrix: rows [row,row+rows), columns [column,column+columns). */
typedef struct block {
  uint64_t row, rows, column, columns;
} block;

/* Of its numbers and 0; NaN has none, and infinity is the largest fp32. */
typedef struct range {
  double least, most;
} range;

static double limited(double value) {
  return isnan(value) ? 0 : fmin(fmax(value, -(double)FLT_MAX), (double)FLT_MAX);
}

static range range_of(const double *src, uint64_t columns, block block) {
  range range = {0, 0};
  for (uint64_t r = block.row; r < block.row + block.rows; r++)
    for (uint64_t c = block.column; c < block.column + block.columns; c++) {
      const double value = limited(src[r * columns + c]);
      range.least = fmin(range.least, value);
      range.most = fmax(range.most, value);
    }
  return range;
}

static double magnitude_of(range range) { return fmax(-range.least, range.most); }

/* The largest code that a block's largest magnitude becomes: of int4 7. */
static double largest_code(const desc_format *format) {
  return format->element == ELEMENT_INT4 ? 7 : elements[format->element].largest;
}

/* The scale that a block wants, before it is stored. OCP's microscaling: the largest number's
 * exponent, less that of the largest code, 6. */
static double wanted_scale(const desc_format *format, range range, double all) {
  const double magnitude = magnitude_of(range);
  int exponent;
  if (format->scale == ELEMENT_E8M0) {
    frexp(magnitude, &exponent);
    return magnitude > 0 ? ldexp(1, exponent - 1 - 2) : 0;
  }
  if (format->zero_points) return (range.most - range.least) / 15;
  return magnitude / largest_code(format) / all;
}

/* The matrix' own scale: with block scales, that their largest is the largest there is. */
static double wanted_matrix_scale(const desc_format *format, range range) {
  const double blocks = format->scale == ELEMENT_NONE ? 1 : elements[format->scale].largest;
  return magnitude_of(range) / (largest_code(format) * blocks);
}

/* ---- numbers to a matrix ---- */

typedef struct target {
  const desc_format *format;
  const double *src;
  uint64_t rows, columns;
  uint8_t *bytes;
  moecl_format_layout at;
  double all; /* the matrix' scale */
} target;

static void put_codes(const target *to, block block, double scale, double zero) {
  const int element = to->format->element;
  for (uint64_t r = block.row; r < block.row + block.rows; r++)
    for (uint64_t c = block.column; c < block.column + block.columns; c++) {
      const double value = to->src[r * to->columns + c];
      double number = isnan(value) ? value : limited(value) / scale;
      if (element == ELEMENT_INT4) /* rounded before: ties go by the number without zero point */
        number = isnan(value) ? zero : rint(number) + zero;
      put_code(to->format, to->bytes + r * to->at.row_bytes, c,
               desc_element_encode(element, number));
    }
}

/* One row's zero point: the code that 0 is. */
static double put_zero_point(const target *to, block block, range range, double scale) {
  if (!to->format->zero_points) return middle_of(to->format);
  const double zero = desc_element_encode(ELEMENT_INT4, -range.least / scale);
  to->bytes[to->at.zero_points + block.row * to->at.scale_columns +
            block.column / width_of(to->format, to->columns)] = (uint8_t)zero;
  return zero;
}

static void put_block(const target *to, block block) {
  const desc_format *format = to->format;
  const range range = range_of(to->src, to->columns, block);
  double scale = to->all;
  if (format->scale != ELEMENT_NONE)
    scale *=
        put_scale(format->scale, wanted_scale(format, range, to->all), to->bytes + to->at.scales,
                  block.row / format->scale_rows * to->at.scale_columns +
                      block.column / width_of(format, to->columns));
  put_codes(to, block, scale, put_zero_point(to, block, range, scale));
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Blocks of rows `first` to `end` - 1, of as many rows as share a scale. */
static void put_rows(void *user, int part, int64_t first, int64_t end) {
  const target *to = user;
  const uint64_t height = least(to->format->scale_rows, to->rows);
  const uint64_t width = width_of(to->format, to->columns);
  (void)part;
  for (uint64_t r = (uint64_t)first * height; r < least((uint64_t)end * height, to->rows);
       r += height)
    for (uint64_t c = 0; c < to->columns; c += width)
      put_block(to, (block){r, least(height, to->rows - r), c, least(width, to->columns - c)});
}

void desc_quantize(const desc_format *format, const double *src, uint64_t rows, uint64_t columns,
                   void *matrix) {
  enum { WORTH_THREADS = 1 << 18 }; /* numbers */
  target to = {format, src, rows, columns, matrix, .all = 1};
  if (rows * columns == 0 || !desc_format_layout(format, rows, columns, &to.at)) return;
  memset(matrix, 0, (size_t)to.at.bytes);
  if (format->matrix_scale)
    to.all =
        put_scale(ELEMENT_F32,
                  wanted_matrix_scale(format, range_of(src, columns, (block){0, rows, 0, columns})),
                  to.bytes + to.at.matrix_scale, 0);
  const uint64_t blocks = base_div_up(rows, least(format->scale_rows, rows));
  base_parallel(rows * columns < WORTH_THREADS ? 1 : base_threads(0), (int64_t)blocks, put_rows,
                &to);
}
