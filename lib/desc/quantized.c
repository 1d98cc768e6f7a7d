// SPDX-License-Identifier: MIT
#include "desc/quantized.h"
#include "base/base.h"
#include "base/parallel.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* ---- one code ---- */

/* What there is to know of an element: bits, its largest and its least positive number, of
 * binary formats of 8 bits and fewer the fraction's bits and the exponent's bias, and of codes how
 * finely a search of scales counts their errors (squared_error). */
typedef struct element {
  uint32_t bits;
  double largest, least;
  int mantissa, bias;
  int error_bits;
} element;

/* The least fp32 is the least normal one: devices may flush those below. */
static const element elements[] = {
    [ELEMENT_F32] = {32, (double)FLT_MAX, (double)FLT_MIN, 0, 0},
    [ELEMENT_F16] = {16, 65504, 0x1p-24, 0, 0},
    [ELEMENT_INT8] = {8, 127, 1, 0, 0, 16},
    [ELEMENT_INT4] = {4, 15, 1, 0, 0, 20},
    [ELEMENT_E2M1] = {4, 6, 0.5, 1, 1, 24},
    [ELEMENT_E4M3] = {8, 448, 0x1p-9, 3, 7, 12},
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
  if (format->zero_points) return (double)(float)(range.most - range.least) / 15;
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
  moecl_scale_search search;
  const double *src;
  uint64_t rows, columns;
  uint8_t *bytes;
  moecl_format_layout at;
  double all; /* the matrix' scale */
} target;

static uint32_t code_of(int element, double value, double scale, double zero) {
  if (element != ELEMENT_INT4)
    return desc_element_encode(element, isnan(value) ? value : limited(value) / scale);
  /* rounded before: ties go by the number without zero point */
  return desc_element_encode(element, rint(limited(value) / scale) + zero);
}

static void put_codes(const target *to, block block, double scale, double zero) {
  for (uint64_t r = block.row; r < block.row + block.rows; r++)
    for (uint64_t c = block.column; c < block.column + block.columns; c++)
      put_code(to->format, to->bytes + r * to->at.row_bytes, c,
               code_of(to->format->element, to->src[r * to->columns + c], scale, zero));
}

/* One row's zero point: the code that 0 is. */
static double zero_point(const desc_format *format, range range, double scale) {
  return format->zero_points ? desc_element_encode(ELEMENT_INT4, -range.least / scale)
                             : middle_of(format);
}

/* ---- a search of scales ---- */

/* A scale that is tried, and what is counted in: the power of two in the scale that is searched
 * from. */
typedef struct trial {
  double scale, zero, unit;
} trial;

/* The numbers' squared errors, each rounded to a multiple of 2^-error_bits: a sum of integers is
 * the same in any order. In fp32, as devices compute them; the difference is exact before. */
static uint64_t squared_error(const target *to, block block, trial trial) {
  const int element = to->format->element;
  const float one = (float)ldexp(1, elements[element].error_bits);
  uint64_t sum = 0;
  for (uint64_t r = block.row; r < block.row + block.rows; r++)
    for (uint64_t c = block.column; c < block.column + block.columns; c++) {
      const double value = limited(to->src[r * to->columns + c]);
      const double zero = element == ELEMENT_INT4 ? trial.zero : 0;
      const double number =
          desc_element_decode(element, code_of(element, value, trial.scale, trial.zero)) - zero;
      const double off = fabs(value - number * trial.scale) / trial.unit;
      const float error = (float)fmin(off, 0x1p60);
      sum += (uint64_t)lrintf(fminf(error * error * one, 0x1p30f));
    }
  return sum;
}

/* Trial number i of those from the largest to the smallest, of a scale that is stored: its
 * 32nds from 32 down to 16; of scales of 8 bits their neighbours, one above, and below one of
 * E8M0's, eight, an octave, of E4M3's. */
static double tried_scale(int element, double scale, int i) {
  if (element == ELEMENT_F32 || element == ELEMENT_F16)
    return scale * (DESC_SEARCH_STEPS - i) / DESC_SEARCH_STEPS;
  const int least = element == ELEMENT_E4M3 ? 1 : 0, most = element == ELEMENT_E4M3 ? 0x7e : 0xfe;
  const int code = (int)desc_element_encode(element, scale) + 1 - i;
  return desc_element_decode(element, (uint32_t)(code < least ? least : code > most ? most : code));
}

static int trials_of(int element) {
  return element == ELEMENT_E8M0 ? 3 : element == ELEMENT_E4M3 ? 10 : DESC_SEARCH_STEPS / 2 + 1;
}

/* Stores the first of those with the least error in place of a block's scale, or with
 * `element` ELEMENT_F32 the matrix', which is stored at `i`; returns it. */
static double search_scale(const target *to, block block, int element, uint8_t *scales, uint64_t i,
                           double all) {
  const range range = range_of(to->src, to->columns, block);
  const double from = get_scale(element, scales, i);
  double best = from;
  uint64_t least_error = UINT64_MAX;
  int unit;
  if (to->search == MOECL_SCALE_SEARCH_NONE || magnitude_of(range) == 0) return from;
  const double part_of_all = 2 * frexp(all, &unit), part = 2 * frexp(from, &(int){0});
  const double base = all * from / (part_of_all * part);
  for (int t = 0; t < trials_of(element); t++) {
    const double scale = put_scale(element, tried_scale(element, from, t), scales, i);
    const trial trial = {all * scale, zero_point(to->format, range, all * scale), base};
    const uint64_t error = squared_error(to, block, trial);
    if (error < least_error) best = scale, least_error = error;
  }
  return put_scale(element, best, scales, i);
}

/* ---- blocks ---- */

static void put_block(const target *to, block block) {
  const desc_format *format = to->format;
  const range range = range_of(to->src, to->columns, block);
  const uint64_t column = block.column / width_of(format, to->columns);
  const uint64_t i = block.row / format->scale_rows * to->at.scale_columns + column;
  double scale = to->all;
  if (format->scale != ELEMENT_NONE) {
    put_scale(format->scale, wanted_scale(format, range, to->all), to->bytes + to->at.scales, i);
    scale *= search_scale(to, block, format->scale, to->bytes + to->at.scales, i, to->all);
  }
  const double zero = zero_point(format, range, scale);
  if (format->zero_points)
    to->bytes[to->at.zero_points + block.row * to->at.scale_columns + column] = (uint8_t)zero;
  put_codes(to, block, scale, zero);
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

static double put_matrix_scale(const target *to) {
  const desc_format *format = to->format;
  const block matrix = {0, to->rows, 0, to->columns};
  uint8_t *scale = to->bytes + to->at.matrix_scale;
  if (!format->matrix_scale) return 1;
  const double all = put_scale(
      ELEMENT_F32, wanted_matrix_scale(format, range_of(to->src, to->columns, matrix)), scale, 0);
  return format->scale == ELEMENT_NONE ? search_scale(to, matrix, ELEMENT_F32, scale, 0, 1) : all;
}

void desc_quantize(const desc_format *format, moecl_scale_search search, const double *src,
                   uint64_t rows, uint64_t columns, void *matrix) {
  enum { WORTH_THREADS = 1 << 18 }; /* numbers */
  target to = {format, search, src, rows, columns, matrix};
  if (rows * columns == 0 || !desc_format_layout(format, rows, columns, &to.at)) return;
  memset(matrix, 0, (size_t)to.at.bytes);
  to.all = put_matrix_scale(&to);
  const uint64_t blocks = base_div_up(rows, least(format->scale_rows, rows));
  base_parallel(rows * columns < WORTH_THREADS ? 1 : base_threads(0), (int64_t)blocks, put_rows,
                &to);
}
