// SPDX-License-Identifier: MIT
#include "desc/format.h"
#include "base/base.h"
#include "desc/quantized.h"
#include <string.h>

/* Plain elements; codes with scales that columns of one row share; with more. */
#define PLAIN(name, element, bits)                                                                 \
  { name, element, bits, ELEMENT_NONE, 0, 1, false, false }
#define SCALED(name, element, bits, scale, block)                                                  \
  { name, element, bits, scale, block, 1, false, false }
#define WITH_ZERO_POINTS(name, element, bits, scale, block)                                        \
  { name, element, bits, scale, block, 1, true, false }

/* Those of moecl_dtype in its order. */
const desc_format desc_formats[MOECL_FORMAT_COUNT] = {
    [MOECL_FORMAT_F32] = PLAIN("fp32", ELEMENT_F32, 32),
    [MOECL_FORMAT_F16] = PLAIN("fp16", ELEMENT_F16, 16),
    [MOECL_FORMAT_BF16] = PLAIN("bf16", ELEMENT_BF16, 16),
    [MOECL_FORMAT_INT8] = SCALED("int8", ELEMENT_INT8, 8, ELEMENT_F32, 0),
    [MOECL_FORMAT_INT8_G128] = SCALED("int8-g128", ELEMENT_INT8, 8, ELEMENT_F32, 128),
    [MOECL_FORMAT_INT4_G32] = SCALED("int4-g32", ELEMENT_INT4, 4, ELEMENT_F16, 32),
    [MOECL_FORMAT_INT4_G64] = SCALED("int4-g64", ELEMENT_INT4, 4, ELEMENT_F16, 64),
    [MOECL_FORMAT_INT4_G128] = SCALED("int4-g128", ELEMENT_INT4, 4, ELEMENT_F16, 128),
    [MOECL_FORMAT_INT4_G32_ZP] = WITH_ZERO_POINTS("int4-g32-zp", ELEMENT_INT4, 4, ELEMENT_F16, 32),
    [MOECL_FORMAT_INT4_G64_ZP] = WITH_ZERO_POINTS("int4-g64-zp", ELEMENT_INT4, 4, ELEMENT_F16, 64),
    [MOECL_FORMAT_INT4_G128_ZP] =
        WITH_ZERO_POINTS("int4-g128-zp", ELEMENT_INT4, 4, ELEMENT_F16, 128),
    [MOECL_FORMAT_MXFP4] = SCALED("mxfp4", ELEMENT_E2M1, 4, ELEMENT_E8M0, 32),
    [MOECL_FORMAT_NVFP4] = {"nvfp4", ELEMENT_E2M1, 4, ELEMENT_E4M3, 16, 1, false, true},
    [MOECL_FORMAT_FP8] = {"fp8", ELEMENT_E4M3, 8, ELEMENT_NONE, 0, 1, false, true},
    [MOECL_FORMAT_FP8_ROW] = SCALED("fp8-row", ELEMENT_E4M3, 8, ELEMENT_F32, 0),
    [MOECL_FORMAT_FP8_BLOCK] = {"fp8-block", ELEMENT_E4M3, 8, ELEMENT_F32, 128, 128, false, false},
    [MOECL_FORMAT_FP8_G128] = SCALED("fp8-g128", ELEMENT_E4M3, 8, ELEMENT_F32, 128),
};
_Static_assert(MOECL_FORMAT_F16 - MOECL_FORMAT_F32 == MOECL_F16 &&
                   MOECL_FORMAT_BF16 - MOECL_FORMAT_F32 == MOECL_BF16,
               "desc_format_of");

const desc_format desc_int32 = PLAIN("int32", ELEMENT_NONE, 32);

moecl_dtype desc_format_dtype(const desc_format *format) {
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
    if (format == desc_format_of((moecl_dtype)dtype)) return (moecl_dtype)dtype;
  return MOECL_DTYPE_COUNT;
}

/* ---- sizes ---- */

enum { PART_ALIGN = 16 };

/* A part of count x size bytes begins at the next multiple of PART_ALIGN; false: beyond what
 * 64 bits hold. */
static bool add_part(moecl_format_layout *layout, uint64_t rows, uint64_t row_bytes,
                     uint64_t *begin) {
  uint64_t bytes;
  *begin = base_round_up(layout->bytes, PART_ALIGN);
  if (!base_mul(rows, row_bytes, &bytes) || *begin > UINT64_MAX / 4 ||
      bytes > UINT64_MAX / 4 - *begin)
    return false;
  layout->bytes = *begin + bytes;
  return true;
}

static bool add_scales(const desc_format *format, uint64_t rows, uint64_t columns,
                       moecl_format_layout *layout) {
  bool fits = true;
  layout->scale_rows = base_div_up(rows, format->scale_rows);
  layout->scale_columns = format->block ? base_div_up(columns, format->block) : columns > 0;
  const uint64_t row_bytes = layout->scale_columns * (desc_element_bits(format->scale) / 8);
  fits = add_part(layout, layout->scale_rows, row_bytes, &layout->scales);
  if (fits && format->zero_points)
    fits = add_part(layout, rows, layout->scale_columns, &layout->zero_points);
  return fits;
}

bool desc_format_layout(const desc_format *format, uint64_t rows, uint64_t columns,
                        moecl_format_layout *layout) {
  uint64_t bits, begin;
  *layout = (moecl_format_layout){0};
  bool fits = base_mul(columns, format->bits, &bits) && bits < UINT64_MAX - 7;
  layout->row_bytes = fits ? base_div_up(bits, 8) : 0;
  if (!desc_is_quantized(format)) fits = fits && base_mul(rows, layout->row_bytes, &layout->bytes);
  else {
    fits = fits && add_part(layout, rows, layout->row_bytes, &begin);
    if (fits && format->scale != ELEMENT_NONE) fits = add_scales(format, rows, columns, layout);
    if (fits && format->matrix_scale)
      fits = add_part(layout, 1, rows && columns ? sizeof(float) : 0, &layout->matrix_scale);
    layout->bytes = base_round_up(layout->bytes, PART_ALIGN);
  }
  if (!fits) *layout = (moecl_format_layout){.bytes = UINT64_MAX};
  return fits;
}

uint64_t desc_format_bytes(const desc_format *format, uint64_t rows, uint64_t columns) {
  moecl_format_layout layout;
  desc_format_layout(format, rows, columns, &layout);
  return layout.bytes;
}

/* ---- numbers ---- */

void desc_decode_rows(const desc_format *format, const void *matrix, uint64_t rows,
                      uint64_t columns, uint64_t first, uint64_t count, double *dst) {
  if (desc_is_quantized(format)) desc_dequantize(format, matrix, rows, columns, first, count, dst);
  else
    moecl_to_double(desc_format_dtype(format),
                    (const char *)matrix + first * columns * (format->bits / 8),
                    (size_t)(count * columns), dst);
}

void desc_decode(const desc_format *format, const void *matrix, uint64_t rows, uint64_t columns,
                 double *dst) {
  desc_decode_rows(format, matrix, rows, columns, 0, rows, dst);
}

void desc_encode(const desc_format *format, const double *src, uint64_t rows, uint64_t columns,
                 void *matrix) {
  if (desc_is_quantized(format))
    desc_quantize(format, MOECL_SCALE_SEARCH_NONE, src, rows, columns, matrix);
  else moecl_from_double(desc_format_dtype(format), src, (size_t)(rows * columns), matrix);
}

/* ---- the public calls ---- */

size_t moecl_dtype_size(moecl_dtype dtype) {
  return (unsigned)dtype < MOECL_DTYPE_COUNT ? desc_format_of(dtype)->bits / 8 : 0;
}

const char *moecl_dtype_name(moecl_dtype dtype) {
  return (unsigned)dtype < MOECL_DTYPE_COUNT ? desc_format_of(dtype)->name : "?";
}

static bool is_format(moecl_format format) {
  return (int)format > MOECL_FORMAT_DTYPE && format < MOECL_FORMAT_COUNT;
}

uint64_t moecl_format_bytes(moecl_format format, uint64_t rows, uint64_t columns) {
  return is_format(format) ? desc_format_bytes(&desc_formats[format], rows, columns) : 0;
}

moecl_status moecl_format_get_layout(moecl_format format, uint64_t rows, uint64_t columns,
                                     moecl_format_layout *layout) {
  if (!layout) return MOECL_ERROR_INVALID_ARGUMENT;
  const bool fits =
      is_format(format) && desc_format_layout(&desc_formats[format], rows, columns, layout);
  if (!fits) *layout = (moecl_format_layout){0};
  return fits ? MOECL_OK : MOECL_ERROR_INVALID_ARGUMENT;
}

void moecl_format_to_double(moecl_format format, const void *src, uint64_t rows, uint64_t columns,
                            double *dst) {
  if (is_format(format) && src && dst) desc_decode(&desc_formats[format], src, rows, columns, dst);
}

void moecl_format_from_double(moecl_format format, const double *src, uint64_t rows,
                              uint64_t columns, void *dst) {
  if (is_format(format) && src && dst) desc_encode(&desc_formats[format], src, rows, columns, dst);
}

const char *moecl_format_name(moecl_format format) {
  if (format == MOECL_FORMAT_DTYPE) return "dtype";
  return is_format(format) ? desc_formats[format].name : "?";
}

bool moecl_format_is_for_activations(moecl_format format) {
  if (!is_format(format)) return format == MOECL_FORMAT_DTYPE;
  const desc_format *row = &desc_formats[format];
  return row->bits == 8 && row->scale == ELEMENT_F32 && row->scale_rows == 1;
}
