#include "base/base.h"
#include "base/log.h"
#include <stdlib.h>

static void write_message(const moecl_log *log, moecl_log_level level, const char *format,
                          va_list args) {
  if (!log || !log->fn) return;
  char small[512];
  va_list again;
  va_copy(again, args);
  int size = base_vformat(small, sizeof small, format, args);
  if (size >= 0 && (size_t)size < sizeof small) {
    log->fn(log->user, level, small);
  } else if (size >= 0) {
    char *large = malloc((size_t)size + 1);
    if (large) base_vformat(large, (size_t)size + 1, format, again);
    /* Without memory the first 511 characters are better than nothing. */
    log->fn(log->user, level, large ? large : small);
    free(large);
  }
  va_end(again);
}

void log_write(const moecl_log *log, moecl_log_level level, const char *format, ...) {
  va_list args;
  va_start(args, format);
  write_message(log, level, format, args);
  va_end(args);
}

moecl_status log_error(const moecl_log *log, moecl_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  write_message(log, MOECL_LOG_ERROR, format, args);
  va_end(args);
  return status;
}
