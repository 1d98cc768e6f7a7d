// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include "base/complain.h"
#include "base/utf8.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void put_message(const char *start, const char *message) {
  fflush(stdout); /* where both are one file, what was said before stands before */
  fputs(start, stderr);
  for (const char *at = message; *at;) {
    size_t control = *at == '\n' ? 0 : utf8_control(at);
    if (control == 0) fputc(*at++, stderr);
    for (; control > 0; control--) fprintf(stderr, "\\x%02x", (unsigned)(unsigned char)*at++);
  }
  fputc('\n', stderr);
}

void complain(const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *message = NULL;
  if (vasprintf(&message, format, args) < 0) message = NULL;
  va_end(args);
  put_message("moectl: ", message ? message : "no memory for a message");
  free(message);
}

bool flush_output(const char *folder) {
  static bool complained;
  errno = 0;
  const bool failed = fflush(stdout) != 0;
  const int reason = errno;
  if (!failed && !ferror(stdout)) return true;
  if (complained) return false;
  complained = true;
  complain("not all output could be written%s%s%s%s", reason ? ": " : "",
           reason ? strerror(reason) : "", folder ? "; the results are in " : "",
           folder ? folder : "");
  return false;
}
