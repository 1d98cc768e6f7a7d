// SPDX-License-Identifier: MIT
#include "desc/format.h"
#include "base/base.h"

/* Plain ones first, in the order of moecl_dtype. */
const desc_format desc_formats[MOECL_FORMAT_COUNT] = {
    [MOECL_FORMAT_F32] = {"fp32", MOECL_F32, 32, 0, 0, 32},
    [MOECL_FORMAT_F16] = {"fp16", MOECL_F16, 16, 0, 0, 16},
    [MOECL_FORMAT_BF16] = {"bf16", MOECL_BF16, 16, 0, 0, 16},
};
_Static_assert(MOECL_FORMAT_F16 - MOECL_FORMAT_F32 == MOECL_F16 &&
                   MOECL_FORMAT_BF16 - MOECL_FORMAT_F32 == MOECL_BF16,
               "desc_format_of");

const desc_format desc_int32 = {"int32", MOECL_DTYPE_COUNT, 32, 0, 0, 32};

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

const char *moecl_format_name(moecl_format format) {
  if (format == MOECL_FORMAT_DTYPE) return "dtype";
  return is_format(format) ? desc_formats[format].name : "?";
}
