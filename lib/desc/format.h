// SPDX-License-Identifier: MIT
/* Formats: how the elements of a tensor are stored. One row a format; operations name
 * a format for their weights and for each input and output. */
#ifndef MOECL_LIB_DESC_FORMAT_H
#define MOECL_LIB_DESC_FORMAT_H

#include "common/enums.h"
#include "moecl/types.h"

typedef struct desc_format {
  const char *name;    /* as in YAML and results: "bf16" */
  int element;         /* an ELEMENT_ of cl/common/enums.h, by which kernels know it */
  uint32_t bits;       /* of one element as it is stored, 4 for two in a byte */
  int scale;           /* an ELEMENT_ that scales are stored as; ELEMENT_NONE: there are none */
  uint32_t block;      /* neighbours in a row that share a scale; 0: the whole row */
  uint32_t scale_rows; /* rows that share them */
  bool zero_points;    /* one for each scale of each row */
  bool matrix_scale;   /* fp32, for all */
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
/* Codes with scales, instead of plain elements? */
static inline bool desc_is_quantized(const desc_format *format) {
  return format->scale != ELEMENT_NONE || format->matrix_scale;
}
/* The data type whose plain elements it has; MOECL_DTYPE_COUNT: none's. */
moecl_dtype desc_format_dtype(const desc_format *format);

/* Where the parts of a matrix are; false, and bytes UINT64_MAX, where it does not fit 64 bits. */
bool desc_format_layout(const desc_format *format, uint64_t rows, uint64_t columns,
                        moecl_format_layout *layout);
/* Bytes of a matrix, scales included; UINT64_MAX where they do not fit 64 bits. */
uint64_t desc_format_bytes(const desc_format *format, uint64_t rows, uint64_t columns);

/* What kernels count the matrices of a format in: bytes of one. Elements of plain formats; formats
 * with scales are bytes to them. */
static inline uint64_t desc_format_unit(const desc_format *format) {
  return desc_is_quantized(format) ? 1 : format->bits / 8;
}
/* A matrix begins at a multiple of so many bytes. */
static inline uint64_t desc_format_align(const desc_format *format) {
  return desc_is_quantized(format) ? 16 : format->bits / 8;
}

/* A matrix as numbers, and numbers as a matrix, each rounded once. */
void desc_decode(const desc_format *format, const void *matrix, uint64_t rows, uint64_t columns,
                 double *dst);
void desc_encode(const desc_format *format, const double *src, uint64_t rows, uint64_t columns,
                 void *matrix);
/* Some rows of a matrix of `rows`. */
void desc_decode_rows(const desc_format *format, const void *matrix, uint64_t rows,
                      uint64_t columns, uint64_t first, uint64_t count, double *dst);

#endif
