// SPDX-License-Identifier: MIT
#include "op/check.h"
#include "base/base.h"
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
  format->encode(data, rows, columns, raw);
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
  if (status == MOECL_OK) format->decode(raw, rows, columns, data);
  free(raw);
  return status;
}

moecl_status check_upload_words(moecl_context *context, const void *data, size_t count,
                                moecl_buffer **buffer) {
  MOECL_TRY(moecl_buffer_create(context, count * 4, buffer));
  return moecl_buffer_write_wait(*buffer, 0, count * 4, data);
}

void check_release(moecl_buffer **buffers, size_t count) {
  for (size_t i = 0; i < count; i++) moecl_buffer_destroy(&buffers[i]);
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
