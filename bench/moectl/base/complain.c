// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include "base/complain.h"
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void put_message(const char *start, const char *message) {
  fflush(stdout); /* where both are one file, what was said before stands before */
  fputs(start, stderr);
  for (const char *at = message; *at; at++)
    if (iscntrl((unsigned char)*at) && *at != '\n') fprintf(stderr, "\\x%02x", (unsigned)*at);
    else fputc(*at, stderr);
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
  static bool told;
  errno = 0;
  const bool failed = fflush(stdout) != 0;
  const int reason = errno;
  if (!failed && !ferror(stdout)) return true;
  if (told) return false;
  told = true;
  complain("not all output could be written%s%s%s%s", reason ? ": " : "",
           reason ? strerror(reason) : "", folder ? "; the results are in " : "",
           folder ? folder : "");
  return false;
}
