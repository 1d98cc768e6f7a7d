// SPDX-License-Identifier: MIT
/* Does a variant give the right answer on this device?
 *
 * Each operation's self_check.c runs the program that would be used on a small problem
 * with the edges in it (nothing, a partial block or tile, more than one, odd sizes,
 * ties) and compares with plain C, that of lib/ref or its own. A wrong answer is
 * MOECL_ERROR_BUILD, logged: the caller goes on as if the variant had not built. A program
 * that passed once in its context is not run again. All wait, for nothing that the
 * context's queue has. Here is what they share:
 * numbers, their way to the device, the verdict. */
#ifndef MOECL_LIB_OP_CHECK_H
#define MOECL_LIB_OP_CHECK_H

#include "op/op.h"

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

/* Logs a wrong element; returns MOECL_ERROR_BUILD. */
moecl_status check_wrong(moecl_context *context, const char *operation,
                         const kernel_variant *variant, const char *what, int64_t index, double got,
                         double want);
/* Remembers that the program of `kernel` is right. */
void check_passed(const char *operation, const kernel_variant *variant, ocl_kernel *kernel);

/* ---- a self-check from its beginning to its end ---- */

enum { CHECK_MOST_BUFFERS = 20 };
typedef struct check_run {
  const op_kind *kind;
  moecl_context *context;
  const kernel_variant *variant;
  moecl_buffer *buffer[CHECK_MOST_BUFFERS]; /* the check's own, released at the end */
} check_run;

/* Creates the operation, of a size for the check. After a failure there is nothing to
 * release. */
moecl_status check_begin(check_run *run, const void *small, void *op);
/* Runs the check, unless all of these kernels' programs passed before, and remembers
 * that they did; then releases the operation. A kernel may be NULL. */
moecl_status check_end(check_run *run, void *op, ocl_kernel *const *kernels, size_t count,
                       moecl_status (*check)(check_run *run, void *op));

/* check_wrong of a run. */
moecl_status check_fail(const check_run *run, const char *what, int64_t index, double got,
                        double want);
/* How far an element may be from what it should be; both 0: the same number. */
typedef struct check_tolerance {
  double relative, absolute;
} check_tolerance;
/* Reads a buffer's beginning and compares it with what it should be. A NaN is as good as
 * another one. */
moecl_status check_numbers(const check_run *run, const char *what, const moecl_buffer *buffer,
                           const desc_format *format, uint64_t rows, uint64_t columns,
                           const double *want, check_tolerance tolerance);
/* The same of int32. */
moecl_status check_ints(const check_run *run, const char *what, const moecl_buffer *buffer,
                        const int32_t *want, size_t count);

#endif
