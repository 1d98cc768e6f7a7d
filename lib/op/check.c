// SPDX-License-Identifier: MIT
#include "op/check.h"
#include "base/base.h"
#include <math.h>
#include <stdlib.h>

double check_value(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return ((int)(*state >> 24) % 17 - 8) / 8.0;
}

double *check_values(size_t count, uint32_t *state) {
  double *out = malloc(count * sizeof *out);
  for (size_t i = 0; out && i < count; i++) out[i] = check_value(state);
  return out;
}

moecl_status check_upload(moecl_context *context, const desc_format *format, const double *data,
                          uint64_t rows, uint64_t columns, moecl_buffer **buffer) {
  const uint64_t bytes = desc_format_bytes(format, rows, columns);
  void *raw = malloc(bytes);
  if (!raw) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  desc_encode(format, data, rows, columns, raw);
  moecl_status status = moecl_buffer_create(context, bytes, buffer);
  if (status == MOECL_OK) status = moecl_buffer_write_wait(*buffer, 0, bytes, raw);
  free(raw);
  return status;
}

moecl_status check_read(const moecl_buffer *buffer, const desc_format *format, uint64_t rows,
                        uint64_t columns, double *data) {
  const uint64_t bytes = desc_format_bytes(format, rows, columns);
  void *raw = malloc(bytes);
  if (!raw) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  const moecl_status status = moecl_buffer_read_wait(buffer, 0, bytes, raw);
  if (status == MOECL_OK) desc_decode(format, raw, rows, columns, data);
  free(raw);
  return status;
}

moecl_status check_upload_words(moecl_context *context, const void *data, size_t count,
                                moecl_buffer **buffer) {
  MOECL_TRY(moecl_buffer_create(context, count * 4, buffer));
  return moecl_buffer_write_wait(*buffer, 0, count * 4, data);
}

moecl_status check_wrong(moecl_context *context, const char *operation,
                         const kernel_variant *variant, const char *what, int64_t index, double got,
                         double want) {
  return log_error(&context->log, MOECL_ERROR_BUILD,
                   "%s variant '%s' fails its self-check on %s: %s[%lld] is %g, expected %g",
                   operation, variant->name, context->info.name, what, (long long)index, got, want);
}

void check_passed(const char *operation, const kernel_variant *variant, ocl_kernel *kernel) {
  log_write(&kernel->context->log, MOECL_LOG_DEBUG, "%s variant '%s' passes its self-check",
            operation, variant->name);
  ocl_kernel_set_checked(kernel);
}

/* ---- a self-check from its beginning to its end ---- */

moecl_status check_begin(check_run *run, const void *small, void *op) {
  const moecl_status status = run->kind->create(run->context, run->variant, small, op);
  if (status != MOECL_OK) run->kind->release(op);
  return status;
}

static bool all_passed(ocl_kernel *const *kernels, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (kernels[i] && !ocl_kernel_is_checked(kernels[i])) return false;
  return true;
}

/* Waits for its own work alone. */
static moecl_status run_aside(check_run *run, void *op,
                              moecl_status (*check)(check_run *run, void *op)) {
  ocl_aside aside;
  MOECL_TRY(ocl_aside_enter(run->context, &aside));
  const moecl_status status = check(run, op);
  ocl_aside_leave(run->context, &aside);
  return status;
}

moecl_status check_end(check_run *run, void *op, ocl_kernel *const *kernels, size_t count,
                       moecl_status (*check)(check_run *run, void *op)) {
  moecl_status status = MOECL_OK;
  if (!ocl_is_ahead(run->context) && !all_passed(kernels, count)) {
    status = run_aside(run, op, check);
    for (size_t i = 0; status == MOECL_OK && i < count; i++)
      if (kernels[i] && !ocl_kernel_is_checked(kernels[i]))
        check_passed(run->kind->table->operation, run->variant, kernels[i]);
  }
  for (size_t i = 0; i < CHECK_MOST_BUFFERS; i++) moecl_buffer_destroy(&run->buffer[i]);
  run->kind->release(op);
  return status;
}

moecl_status check_fail(const check_run *run, const char *what, int64_t index, double got,
                        double want) {
  return check_wrong(run->context, run->kind->table->operation, run->variant, what, index, got,
                     want);
}

/* Infinities are the same number or wrong: their difference is none. */
static bool is_near(double got, double want, check_tolerance tolerance) {
  if (isnan(want)) return isnan(got);
  return got == want || (isfinite(want) &&
                         fabs(got - want) <= tolerance.relative * fabs(want) + tolerance.absolute);
}

moecl_status check_numbers(const check_run *run, const char *what, const moecl_buffer *buffer,
                           const desc_format *format, uint64_t rows, uint64_t columns,
                           const double *want, check_tolerance tolerance) {
  const size_t count = (size_t)(rows * columns);
  double *got = malloc(count * sizeof *got);
  moecl_status status =
      got ? check_read(buffer, format, rows, columns, got) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; status == MOECL_OK && i < count; i++)
    if (!is_near(got[i], want[i], tolerance))
      status = check_fail(run, what, (int64_t)i, got[i], want[i]);
  free(got);
  return status;
}

moecl_status check_ints(const check_run *run, const char *what, const moecl_buffer *buffer,
                        const int32_t *want, size_t count) {
  int32_t *got = malloc(count * sizeof *got);
  moecl_status status = got ? moecl_buffer_read_wait(buffer, 0, count * sizeof *got, got)
                            : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (size_t i = 0; status == MOECL_OK && i < count; i++)
    if (got[i] != want[i]) status = check_fail(run, what, (int64_t)i, got[i], want[i]);
  free(got);
  return status;
}
