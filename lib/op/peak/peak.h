// SPDX-License-Identifier: MIT
/* What the measurements of the device's peaks share. */
#ifndef MOECL_LIB_OP_PEAK_H
#define MOECL_LIB_OP_PEAK_H

#include "ocl/ocl.h"

/* What is timed: launches of a kernel whose arguments are set. */
typedef struct peak_trial {
  moecl_context *context;
  ocl_kernel *kernel;
  uint64_t groups;
  uint32_t local;
} peak_trial;

/* Seconds of one launch: the best of some tries, each of so many that it is long enough. */
moecl_status peak_best_of(const peak_trial *trial, double *best);

/* A rate of work that a compiler has left out would be none: an error where the sums differ. */
moecl_status peak_check_sum(moecl_context *context, const char *what, double got, double want);

/* matrix.c: multiply-adds per second, each counted as two, of the device's matrix instruction, by
 * the best of cl/peak/ that its capabilities allow; 0 where there is none. */
moecl_status peak_measure_matrix(moecl_context *context, double *flops);

#endif
