// SPDX-License-Identifier: MIT
/* Matrices of codes with scales: to numbers and back, in double precision. */
#ifndef MOECL_LIB_DESC_QUANTIZED_H
#define MOECL_LIB_DESC_QUANTIZED_H

#include "desc/format.h"

/* Of one ELEMENT_ as it is stored. */
uint32_t desc_element_bits(int element);
/* The number that a code is. INT4's are 0 to 15. */
double desc_element_decode(int element, uint32_t code);
/* The code of the nearest number, of two the even one; what is beyond the largest is that. NaN
 * is the element's, or 0. */
uint32_t desc_element_encode(int element, double value);

/* A search of scales tries a block's, as round to nearest has it, times 1 - i / 32 for i from 0 to
 * 16, each rounded as it is stored; of scales of 8 bits neighbouring codes. The first of those with
 * the smallest error serves. cl/encode/ does the same. */
enum { DESC_SEARCH_STEPS = 32 };

/* desc_decode_rows and desc_encode of formats with scales. */
void desc_dequantize(const desc_format *format, const void *matrix, uint64_t rows, uint64_t columns,
                     uint64_t first, uint64_t count, double *dst);
void desc_quantize(const desc_format *format, moecl_scale_search search, const double *src,
                   uint64_t rows, uint64_t columns, void *matrix);

#endif
