#include "wrap.h"

#include <string.h>
#include <sys/ioctl.h>

void wrap_from(FILE *file, const char *text, int at, int column, int width) {
  if (at < column) {
    fprintf(file, "%*s", column - at, "");
    at = column;
  } else if (at > column) { /* what stands there reaches into the text's column */
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
    while (*text == ' ')
      text++;
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
