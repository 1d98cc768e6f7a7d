// SPDX-License-Identifier: MIT
/* Does a variant give the right answer on this device?
 *
 * Each operation's self_check.c runs the program that would be used on a small problem
 * with the edges in it (nothing, a partial block or tile, more than one, odd sizes,
 * ties) and compares with plain C. A wrong answer is MOECL_ERROR_BUILD, logged: the
 * caller goes on as if the variant had not built. A program that passed once in its
 * context is not run again. All wait. Here is what they share: numbers, their way to the
 * device, the verdict. */
#ifndef MOECL_LIB_OP_CHECK_H
#define MOECL_LIB_OP_CHECK_H

#include "kernel/variant.h"
#include "ocl/ocl.h"

/* The next of a fixed sequence of multiples of 1/8 in [-1, 1], which are exact in
 * every storage type. */
double check_value(uint32_t *state);
double *check_values(size_t count, uint32_t *state); /* the caller frees; NULL: no memory */

/* New device buffers: numbers as a matrix of a format, and 4-byte elements. */
moecl_status check_upload(moecl_context *context, const desc_format *format, const double *data,
                          uint64_t rows, uint64_t columns, moecl_buffer **buffer);
moecl_status check_upload_words(moecl_context *context, const void *data, size_t count,
                                moecl_buffer **buffer);

/* The beginning of a buffer as numbers. */
moecl_status check_read(const moecl_buffer *buffer, const desc_format *format, uint64_t rows,
                        uint64_t columns, double *data);

void check_release(moecl_buffer **buffers, size_t count);

/* Logs a wrong element; returns MOECL_ERROR_BUILD. */
moecl_status check_wrong(moecl_context *context, const char *operation,
                         const kernel_variant *variant, const char *what, int64_t index, double got,
                         double want);
/* Remembers that the program of `kernel` is right. */
void check_passed(const char *operation, const kernel_variant *variant, ocl_kernel *kernel);

#endif
