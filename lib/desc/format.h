// SPDX-License-Identifier: MIT
/* Formats: how the elements of a tensor are stored. One row a format; operations name
 * a format for their weights and for each input and output. */
#ifndef MOECL_LIB_DESC_FORMAT_H
#define MOECL_LIB_DESC_FORMAT_H

#include "moecl/types.h"

typedef struct desc_format {
  const char *name;     /* as in YAML and results: "bf16" */
  moecl_dtype element;  /* what an element is; kernels know it by this number */
  uint32_t bits;        /* of one element as it is stored, 4 for two in a byte */
  uint32_t block;       /* neighbours in a row that share a scale; 0: there are no scales */
  uint32_t scale_bits;  /* of one scale */
  uint32_t packed_bits; /* a row's elements come in words of so many bits, the last one padded */
} desc_format;

extern const desc_format desc_formats[MOECL_FORMAT_COUNT]; /* the first row is none */

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

static inline bool desc_is_f32(const desc_format *format) { return format->element == MOECL_F32; }

/* Bytes of a row-major matrix, scales included; UINT64_MAX where they do not fit 64 bits. */
uint64_t desc_format_bytes(const desc_format *format, uint64_t rows, uint64_t columns);

/* Elements of a format without scales in so many bytes. */
static inline uint64_t desc_format_elements(const desc_format *format, uint64_t bytes) {
  return format->bits % 8 == 0 ? bytes / (format->bits / 8) : bytes * 8 / format->bits;
}

#endif
