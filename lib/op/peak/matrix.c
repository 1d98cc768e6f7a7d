// SPDX-License-Identifier: MIT
/* The rate of matrix instructions. A kernel multiplies the same two matrices of small integers
 * round after round, so that its sums are exact and tell whether all was done. */
#include "op/peak/peak.h"
#include "base/base.h"
#include <stdlib.h>

typedef struct matrix_kernel {
  uint32_t capability;
  const char *source; /* in it multiply_tiles(out, rounds), work-groups of `local` */
  uint32_t local;
  int32_t copies;               /* of the product that a work-group makes in a round */
  int32_t rows, columns, depth; /* of the product: [rows][columns], sums of `depth` */
} matrix_kernel;

#define MATRIX_KERNEL(...) {__VA_ARGS__},
static const matrix_kernel kernels[] = {
#include "peak/matrix.def"
};
enum {
  ROUNDS = 1000, /* no sum exceeds 2^22, below where fp32 has no more integers */
  GROUPS = 4     /* for each compute unit */
};

/* What the kernels have: A[row][k], and B[column][k]. */
static int a_at(int row, int k) { return row % 5 + k % 3 - 2; }
static int b_at(int column, int k) { return column % 4 + k % 2 - 1; }

/* All elements of a work-group's sums together. */
static double total_of(const matrix_kernel *kernel) {
  double total = 0;
  for (int k = 0; k < kernel->depth; k++) {
    double a = 0, b = 0;
    for (int row = 0; row < kernel->rows; row++) a += a_at(row, k);
    for (int column = 0; column < kernel->columns; column++) b += b_at(column, k);
    total += a * b;
  }
  return ROUNDS * kernel->copies * total;
}

/* Every work-group's. */
static moecl_status check_totals(const moecl_buffer *out, const matrix_kernel *kernel,
                                 uint64_t groups) {
  const uint64_t items = groups * kernel->local;
  int32_t *values = malloc(items * sizeof *values);
  if (!values)
    return log_error(&out->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  moecl_status status = moecl_buffer_read_wait(out, 0, items * sizeof *values, values);
  for (uint64_t g = 0; status == MOECL_OK && g < groups; g++) {
    double total = 0;
    for (uint32_t i = 0; i < kernel->local; i++) total += values[g * kernel->local + i];
    status = peak_check_sum(out->context, "matrix instructions", total, total_of(kernel));
  }
  free(values);
  return status;
}

static moecl_status measure(moecl_context *context, const matrix_kernel *kernel, double *flops) {
  peak_trial t = {.context = context,
                  .groups = (uint64_t)context->info.compute_units * GROUPS,
                  .local = kernel->local};
  moecl_buffer *out = NULL;
  double seconds = 0;
  moecl_status status =
      ocl_kernel_create(context, kernel->source, NULL, "multiply_tiles", &t.kernel);
  if (status == MOECL_OK)
    status = moecl_buffer_create(context, t.groups * t.local * sizeof(int32_t), &out);
  if (status == MOECL_OK) status = ocl_kernel_args(t.kernel, "bi", out, (int32_t)ROUNDS);
  if (status == MOECL_OK) status = peak_best_of(&t, &seconds);
  if (status == MOECL_OK) status = check_totals(out, kernel, t.groups);
  const double each = (double)kernel->copies * kernel->rows * kernel->columns * kernel->depth;
  if (status == MOECL_OK) *flops = 2 * each * ROUNDS * (double)t.groups / seconds;
  ocl_kernel_destroy(&t.kernel);
  moecl_buffer_destroy(&out);
  return status;
}

moecl_status peak_measure_matrix(moecl_context *context, double *flops) {
  *flops = 0;
  for (size_t i = 0; i < BASE_COUNT(kernels); i++)
    if (context->info.capabilities & kernels[i].capability)
      return measure(context, &kernels[i], flops);
  return MOECL_OK;
}
