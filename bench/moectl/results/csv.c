// SPDX-License-Identifier: MIT
#include "results/csv.h"
#include "experiment/schema.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

void csv_text(csv_stream *csv, const char *value) {
  if (csv->column++) fputc(',', csv->file);
  if (!value) return;
  const bool quote = strpbrk(value, ",\"\r\n") != NULL;
  if (quote) fputc('"', csv->file);
  for (; *value; value++) {
    if (*value == '"') fputc('"', csv->file);
    fputc(*value, csv->file);
  }
  if (quote) fputc('"', csv->file);
}

void csv_name(csv_stream *csv, const char *first, const char *second, const char *third) {
  char name[96];
  snprintf(name, sizeof name, "%s%s%s", first, second, third);
  csv_text(csv, name);
}

void csv_integer(csv_stream *csv, int64_t value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%" PRId64, value);
  csv_text(csv, digits);
}

void csv_real(csv_stream *csv, double value) {
  char digits[40];
  csv_text(csv, isfinite(value) ? schema_real_text(value, digits, sizeof digits) : NULL);
}

void csv_end_row(csv_stream *csv) {
  fputs("\r\n", csv->file);
  csv->column = 0;
}
