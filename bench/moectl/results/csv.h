// SPDX-License-Identifier: MIT
/* Tables as CSV (RFC 4180): texts quoted where they must be, quotes doubled, rows end in CRLF. */
#ifndef MOECTL_CSV_H
#define MOECTL_CSV_H

#include <stdint.h>
#include <stdio.h>

typedef struct csv_stream {
  FILE *file;
  int column; /* of the next cell: whether a comma is due */
} csv_stream;

/* A cell; NULL: an empty one. */
void csv_text(csv_stream *csv, const char *value);
/* Of two or three parts: "variants_", "router", "". */
void csv_name(csv_stream *csv, const char *first, const char *second, const char *third);
void csv_integer(csv_stream *csv, int64_t value);
/* With the digits that read back the same; empty where it is not finite, as results.json has
 * null. */
void csv_real(csv_stream *csv, double value);
void csv_end_row(csv_stream *csv);

#endif
