// SPDX-License-Identifier: MIT
/* Files of the results folder that are made in memory and then put in place whole. */
#ifndef MOECTL_REPORT_FILE_H
#define MOECTL_REPORT_FILE_H

#include "results/results.h"
#include <stdio.h>

typedef struct report_file {
  FILE *stream; /* to write to; NULL: no memory */
  char *text;
  size_t size;
} report_file;

void report_file_open(report_file *file);
/* Closes the stream and puts what it collected in place of the folder's file of this name.
 * With `ok` false nothing is written: the content is incomplete. Releases. */
bool report_file_put(report_file *file, const results *results, const char *name, bool ok,
                     char **error);

#endif
