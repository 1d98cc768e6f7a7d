// SPDX-License-Identifier: MIT
/* What is reported of results: report.md, report.html, pictures, the closing table. */
#ifndef MOECTL_REPORT_H
#define MOECTL_REPORT_H

#include "results/results.h"
#include <stdio.h>

/* Writes results.json and results.csv, then the gnuplot scripts and data, (if gnuplot is there)
 * the pictures, report.md and report.html. `note` (may be NULL, malloc'ed) receives a line for the
 * user, e.g. that gnuplot is missing. */
bool report_finish(results *results, char **note, char **error);

/* report.c, report_html.c, plots.c: the parts of it, into the results' folder; false with a
 * malloc'ed message. */
bool report_write(const results *results, char **error);
bool report_html_write(const results *results, char **error);
bool plots_write(const results *results, char **note, char **error);

/* About how many pictures report_finish will draw when all points are there. */
size_t report_pictures_expected(const results *results);

/* How results are printed to a stream: as the closing table, or as the whole of results.csv or
 * results.json, or as the table in Markdown. */
typedef enum report_format {
  FORMAT_TABLE = 0,
  FORMAT_CSV,
  FORMAT_JSON,
  FORMAT_MARKDOWN
} report_format;

/* The table is so many columns wide if it can be (0: all there is); what has no room is named.
 * False: no memory. */
bool report_print(const results *results, report_format format, FILE *file, int width);

#endif
