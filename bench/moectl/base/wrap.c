// SPDX-License-Identifier: MIT
#include "base/wrap.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>

void wrap_from(FILE *file, const char *text, int at, int column, int width) {
  if (at < column) {
    fprintf(file, "%*s", column - at, "");
    at = column;
  } else if (at > 0) { /* what stands there reaches to the text's column */
    fprintf(file, "\n%*s", column, "");
    at = column;
  }
  while (*text != '\0') {
    const int length = (int)strcspn(text, " ");
    if (at > column && at + 1 + length > width) {
      fprintf(file, "\n%*s", column, "");
      at = column;
    }
    at += fprintf(file, "%s%.*s", at > column ? " " : "", length, text);
    text += length;
    while (*text == ' ') text++;
  }
  fputc('\n', file);
}

void wrap_text(FILE *file, const char *text, int column, int width) {
  wrap_from(file, text, 0, column, width);
}

int terminal_width(int descriptor) {
  struct winsize window;
  return ioctl(descriptor, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col
                                                                          : TEXT_WIDTH;
}

const char *bytes_text(uint64_t bytes, char text[32]) {
  static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = (double)bytes;
  int unit = 0;
  for (; value >= 1023.5 && unit < 4; unit++) value /= 1024;
  snprintf(text, 32, "%.4g %s", value, units[unit]);
  return text;
}

const char *duration_text(double seconds, char text[32]) {
  const int64_t whole = (int64_t)fmin(ceil(seconds), 1e15);
  if (whole < 60) snprintf(text, 32, "%" PRId64 " s", whole);
  else if (whole < 3600)
    snprintf(text, 32, "%" PRId64 " min %02" PRId64 " s", whole / 60, whole % 60);
  else snprintf(text, 32, "%" PRId64 " h %02" PRId64 " min", whole / 3600, whole / 60 % 60);
  return text;
}
