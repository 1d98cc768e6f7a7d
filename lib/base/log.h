// SPDX-License-Identifier: MIT
/* The context's log: detail for people, formatted here and handed to the callback; the library
 * prints nothing. */
#ifndef MOECL_LIB_BASE_LOG_H
#define MOECL_LIB_BASE_LOG_H

#include "moecl/context.h"
#include <stdarg.h>

/* Errors that were logged, the beginning of each, a line or more, oldest first; those
 * there is no room for push the oldest lines out. All zeros is empty. */
typedef struct log_errors {
  char text[2048]; /* NUL-terminated */
  size_t size;     /* without the NUL */
} log_errors;

typedef struct moecl_log {
  moecl_log_fn fn;
  void *user;
  log_errors *errors; /* where errors are kept as well; NULL: nowhere */
} moecl_log;

/* Formats and hands on one message; any length; does nothing where neither a
 * callback nor errors want it. */
__attribute__((format(printf, 3, 4))) void log_write(const moecl_log *log, moecl_log_level level,
                                                     const char *format, ...);

/* Logs an error and returns `status`, so that a failure is one line:
 *   return log_error(&context->log, MOECL_ERROR_IO, "cannot read %s", path); */
__attribute__((format(printf, 3, 4))) moecl_status
log_error(const moecl_log *log, moecl_status status, const char *format, ...);

/* Messages that are kept in place of being handed on, oldest first. All zeros is empty. */
typedef struct log_kept {
  struct log_message *first, *last;
} log_kept;
/* A log that keeps what it is told; what there is no memory for is lost. */
moecl_log log_keeping(log_kept *kept);
/* To that log, and there are none any more. */
void log_hand_on(log_kept *kept, const moecl_log *to);

/* The `reserved` of a struct that the caller filled has to be zeros (moecl.h). */
moecl_status log_check_reserved(const moecl_log *log, const char *type, const uint64_t *reserved,
                                size_t count);
/* Its message, of type, index and version. */
#define LOG_RESERVED                                                                               \
  "%s.reserved[%zu] is not 0, expected zeros: the program sets a member that moecl %s does not "   \
  "have, or never set the struct to zeros"

#endif
