// SPDX-License-Identifier: MIT
#include "model/encoded.h"

#include "base/base.h"
#include <string.h>

static const desc_format *format_of(const model_coded *coded) {
  return &desc_formats[coded->group->format];
}

const char *model_part_suffix(const model_coded *coded, coded_part part, size_t *size) {
  const model_scheme *scheme = coded->group->scheme;
  const char *suffixes[CODED_PARTS] = {
      [CODED_CODES] = scheme->codes,
      [CODED_SCALES] = scheme->scales,
      [CODED_ZERO_POINTS] = format_of(coded)->zero_points ? scheme->zero_points : NULL,
      [CODED_MATRIX_SCALE] = scheme->matrix_scale,
      [CODED_SHAPE] = scheme->shape};
  *size = suffixes[part] ? strcspn(suffixes[part], "|") : 0;
  return suffixes[part];
}

const char *model_part_type(const model_coded *coded, coded_part part) {
  const int scale = format_of(coded)->scale;
  switch (part) {
  case CODED_CODES: return model_code_types(coded->group->scheme, format_of(coded));
  case CODED_SCALES:
    return scale == ELEMENT_E8M0   ? "U8"
           : scale == ELEMENT_E4M3 ? "F8_E4M3"
           : scale == ELEMENT_F16  ? "F16"
                                   : "F32";
  case CODED_MATRIX_SCALE: return "F32";
  case CODED_SHAPE: return "I64";
  default: return "I32";
  }
}

int model_written_shape(const model_coded *coded, coded_part part, int64_t shape[3]) {
  const int rank = model_part_shape(coded, part, shape);
  return part == CODED_SCALES && format_of(coded)->scale == ELEMENT_NONE ? 1 : rank;
}

uint64_t model_part_bytes(const model_coded *coded, coded_part part) {
  int64_t shape[3];
  const char *type = model_part_type(coded, part);
  const int rank = model_written_shape(coded, part, shape);
  uint64_t bytes = strcmp(type, "I64") == 0   ? 8
                   : strcmp(type, "F16") == 0 ? 2
                   : strstr(type, "32")       ? 4
                                              : 1;
  for (int i = 0; i < rank; i++) bytes *= (uint64_t)shape[i];
  return bytes;
}

/* Rows of codes, each in whole units. */
static void put_codes(const model_coded *coded, const moecl_format_layout *at,
                      const uint8_t *matrix, uint8_t *bytes) {
  const uint64_t rows = (uint64_t)coded->want.file_rows;
  const uint64_t row_bytes = model_part_bytes(coded, CODED_CODES) / rows;
  const uint8_t change =
      coded->group->scheme->offset_binary && format_of(coded)->bits == 8 ? 0x80 : 0;
  for (uint64_t r = 0; r < rows; r++, bytes += row_bytes) {
    memset(bytes, 0, (size_t)row_bytes);
    for (uint64_t i = 0; i < at->row_bytes; i++) bytes[i] = matrix[r * at->row_bytes + i] ^ change;
  }
}

/* Neighbours of one column in each word, the first in the lowest bits. */
static void put_zero_points(const model_coded *coded, const moecl_format_layout *at,
                            const uint8_t *matrix, uint8_t *bytes) {
  const uint64_t columns = at->scale_columns, per_byte = 8 / format_of(coded)->bits;
  const uint64_t per = 4 * per_byte;
  memset(bytes, 0, (size_t)model_part_bytes(coded, CODED_ZERO_POINTS));
  for (uint64_t r = 0; r < (uint64_t)coded->want.file_rows; r++)
    for (uint64_t c = 0; c < columns; c++) {
      const uint64_t word = r / per * columns + c;
      bytes[4 * word + r % per / per_byte] |=
          (uint8_t)(matrix[at->zero_points + r * columns + c] << r % per_byte * 4);
    }
}

static void put_matrix_scale(const model_coded *coded, const uint8_t *stored, uint8_t *bytes) {
  float scale;
  memcpy(&scale, stored, sizeof scale);
  if (coded->group->scheme->reciprocal) scale = 1 / scale;
  memcpy(bytes, &scale, sizeof scale);
}

static void put_shape(const model_coded *coded, uint8_t *bytes) {
  const uint64_t shape[2] = {(uint64_t)coded->want.file_rows, (uint64_t)coded->want.columns};
  for (int i = 0; i < 16; i++) bytes[i] = (uint8_t)(shape[i / 8] >> i % 8 * 8);
}

void model_encode_part(const model_coded *coded, coded_part part, const void *matrix, void *bytes) {
  moecl_format_layout at;
  const uint8_t *from = matrix;
  desc_format_layout(format_of(coded), (uint64_t)coded->want.file_rows,
                     (uint64_t)coded->want.columns, &at);
  const bool one_scale = part == CODED_SCALES && format_of(coded)->scale == ELEMENT_NONE;
  if (part == CODED_CODES) put_codes(coded, &at, from, bytes);
  else if (part == CODED_MATRIX_SCALE || one_scale)
    put_matrix_scale(coded, from + at.matrix_scale, bytes);
  else if (part == CODED_SCALES)
    memcpy(bytes, from + at.scales, (size_t)model_part_bytes(coded, part));
  else if (part == CODED_ZERO_POINTS) put_zero_points(coded, &at, from, bytes);
  else if (part == CODED_SHAPE) put_shape(coded, bytes);
}
