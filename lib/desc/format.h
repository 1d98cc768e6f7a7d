// SPDX-License-Identifier: MIT
/* Formats: how the elements of a tensor are stored. One row a format; operations name
 * a format for their weights and for each input and output. */
#ifndef MOECL_LIB_DESC_FORMAT_H
#define MOECL_LIB_DESC_FORMAT_H

#include "moecl/types.h"

typedef struct desc_format {
  const char *name;     /* as in YAML and results: "bf16" */
  int element;          /* an ELEMENT_ of cl/common/enums.h, by which kernels know it */
  uint32_t bits;        /* of one element as it is stored, 4 for two in a byte */
  uint32_t block;       /* neighbours in a row that share a scale; 0: there are no scales */
  uint32_t scale_bits;  /* of one scale */
  uint32_t packed_bits; /* a row's elements come in words of so many bits, the last one padded */
  /* A row-major matrix as numbers, and numbers as a matrix, each rounded once. A row is
   * desc_format_bytes of one row behind the other. */
  void (*decode)(const void *src, uint64_t rows, uint64_t columns, double *dst);
  void (*encode)(const double *src, uint64_t rows, uint64_t columns, void *dst);
} desc_format;

/* By moecl_format; the first row is none. Those that are a moecl_dtype's come first. */
extern const desc_format desc_formats[MOECL_FORMAT_COUNT];

/* Of lists of numbers on the device, which no arithmetic is done in. */
extern const desc_format desc_int32;

/* The format of plain elements of a type. */
static inline const desc_format *desc_format_of(moecl_dtype dtype) {
  return &desc_formats[MOECL_FORMAT_F32 + (int)dtype];
}
/* A format, or where it is MOECL_FORMAT_DTYPE that of `dtype`. */
static inline const desc_format *desc_format_or(moecl_format format, moecl_dtype dtype) {
  return format == MOECL_FORMAT_DTYPE ? desc_format_of(dtype) : &desc_formats[format];
}

static inline bool desc_is_f32(const desc_format *format) {
  return format == desc_format_of(MOECL_F32);
}
/* The data type whose plain elements it has; MOECL_DTYPE_COUNT: none's. */
moecl_dtype desc_format_dtype(const desc_format *format);

/* Bytes of a row-major matrix, scales included; UINT64_MAX where they do not fit 64 bits. */
uint64_t desc_format_bytes(const desc_format *format, uint64_t rows, uint64_t columns);

/* Elements of a format without scales in so many bytes. */
static inline uint64_t desc_format_elements(const desc_format *format, uint64_t bytes) {
  return format->bits % 8 == 0 ? bytes / (format->bits / 8) : bytes * 8 / format->bits;
}

#endif
