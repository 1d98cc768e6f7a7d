// SPDX-License-Identifier: MIT
/* Numbers to the codes and scales of a format (types.h), on the device or on the host, the same
 * bits. */
#ifndef MOECL_QUANTIZE_H
#define MOECL_QUANTIZE_H

#include "moecl/buffer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_quantize_params {
  moecl_dtype dtype;   /* of the numbers */
  moecl_format format; /* of what is made of them: one with scales */
  moecl_scale_search scale_search;
  uint64_t matrices;      /* one after the other, on both sides: a gated expert's gate and up are
                             two, an expert's down is one */
  uint64_t rows, columns; /* of each; 0 of any: nothing is done */
  uint64_t reserved[8];   /* zeros: see moecl.h */
} moecl_quantize_params;

/* Enqueues quantizing row-major matrices [rows][columns] of dtype, from byte `src_offset` of `src`
 * on, a multiple of an element, into `dst` from byte `dst_offset` on, a multiple of 16: each
 * moecl_format_bytes of it, laid out as moecl_format_get_layout says, zeros between its parts.
 * moecl_format_from_double of the same numbers gives the same bits where nothing is searched. NaN
 * becomes E4M3's or 0, infinity what the largest fp32 becomes. What the two buffers hold is the
 * caller's; they may be destroyed right after the call. A context's first call of a dtype, format
 * and search builds the kernels and checks them on a small problem, waiting for nothing that
 * its queue has. Errors: MOECL_ERROR_INVALID_ARGUMENT (a parameter, a NULL, a range outside its
 * buffer, an offset, ranges that overlap, buffers of two contexts), MOECL_ERROR_BUILD (the
 * kernels, or their answer is wrong), MOECL_ERROR_DEVICE, a lack of memory. Thread: the
 * context's. */
MOECL_API moecl_status moecl_quantize(const moecl_quantize_params *params, const moecl_buffer *src,
                                      uint64_t src_offset, moecl_buffer *dst, uint64_t dst_offset);

/* The same on the host, of numbers in double precision, whatever dtype is: those that dtype has
 * give the bits that moecl_quantize gives. Several threads take part in large matrices,
 * one in what is of a whole matrix: its largest number, and the search of its only scale (fp8). src
 * and dst must not overlap, and may be NULL where there is nothing to do. Errors:
 * MOECL_ERROR_INVALID_ARGUMENT, which writes nothing. Thread-safe. */
MOECL_API moecl_status moecl_quantize_host(const moecl_quantize_params *params, const double *src,
                                           void *dst);

#ifdef __cplusplus
}
#endif
#endif
