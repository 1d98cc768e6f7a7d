// SPDX-License-Identifier: MIT
#include "report/report_parts.h"
#include <string.h>

void report_text(FILE *file, const char *text) {
  for (; *text; text++) {
    if (strchr("|<>*`[]\\", *text)) fputc('\\', file);
    fputc((unsigned char)*text < ' ' ? ' ' : *text, file);
  }
}

void report_cell(FILE *file, double number) {
  char text[NUMBER_SIZE];
  fprintf(file, " %s |", number_text(number, text, sizeof text));
}
