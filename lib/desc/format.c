// SPDX-License-Identifier: MIT
#include "desc/format.h"
#include "base/base.h"
#include "common/enums.h"

/* Plain elements of a data type. */
#define PLAIN(name, dtype)                                                                         \
  static void name##_decode(const void *src, uint64_t rows, uint64_t columns, double *dst) {       \
    moecl_to_double(dtype, src, (size_t)(rows * columns), dst);                                    \
  }                                                                                                \
  static void name##_encode(const double *src, uint64_t rows, uint64_t columns, void *dst) {       \
    moecl_from_double(dtype, src, (size_t)(rows * columns), dst);                                  \
  }
PLAIN(f32, MOECL_F32)
PLAIN(f16, MOECL_F16)
PLAIN(bf16, MOECL_BF16)

/* Those of moecl_dtype in its order. */
const desc_format desc_formats[MOECL_FORMAT_COUNT] = {
    [MOECL_FORMAT_F32] = {"fp32", ELEMENT_F32, 32, 0, 0, 32, f32_decode, f32_encode},
    [MOECL_FORMAT_F16] = {"fp16", ELEMENT_F16, 16, 0, 0, 16, f16_decode, f16_encode},
    [MOECL_FORMAT_BF16] = {"bf16", ELEMENT_BF16, 16, 0, 0, 16, bf16_decode, bf16_encode},
};
_Static_assert(MOECL_FORMAT_F16 - MOECL_FORMAT_F32 == MOECL_F16 &&
                   MOECL_FORMAT_BF16 - MOECL_FORMAT_F32 == MOECL_BF16,
               "desc_format_of");

const desc_format desc_int32 = {.name = "int32", .element = -1, .bits = 32, .packed_bits = 32};

moecl_dtype desc_format_dtype(const desc_format *format) {
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
    if (format == desc_format_of((moecl_dtype)dtype)) return (moecl_dtype)dtype;
  return MOECL_DTYPE_COUNT;
}

uint64_t desc_format_bytes(const desc_format *format, uint64_t rows, uint64_t columns) {
  const uint64_t scales = format->block ? base_div_up(columns, format->block) : 0;
  uint64_t bits, scale_bits, bytes;
  if (!base_mul(columns, format->bits, &bits) || bits > UINT64_MAX / 4 ||
      !base_mul(scales, format->scale_bits, &scale_bits) || scale_bits > UINT64_MAX / 4)
    return UINT64_MAX;
  const uint64_t row = base_round_up(bits, format->packed_bits) + scale_bits;
  return base_mul(base_div_up(row, 8), rows, &bytes) ? bytes : UINT64_MAX;
}

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

void moecl_format_to_double(moecl_format format, const void *src, uint64_t rows, uint64_t columns,
                            double *dst) {
  if (is_format(format) && src && dst) desc_formats[format].decode(src, rows, columns, dst);
}

void moecl_format_from_double(moecl_format format, const double *src, uint64_t rows,
                              uint64_t columns, void *dst) {
  if (is_format(format) && src && dst) desc_formats[format].encode(src, rows, columns, dst);
}

const char *moecl_format_name(moecl_format format) {
  if (format == MOECL_FORMAT_DTYPE) return "dtype";
  return is_format(format) ? desc_formats[format].name : "?";
}
