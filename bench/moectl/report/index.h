// SPDX-License-Identifier: MIT
/* index.html and index.md of a suite: what was run on which device, and each part in a sentence
 * with the way to its report. */
#ifndef MOECTL_INDEX_H
#define MOECTL_INDEX_H

#include "results/results.h"

/* A part of a suite, and what came of it. All texts are malloc'ed, or NULL. */
typedef struct index_part {
  char *name;     /* of its folder, below the suite's */
  char *question; /* what it is for, of its file's first line */
  char *device;   /* that it ran on; NULL: it did not run */
  char *count;    /* "24 points: 24 ran and verified." */
  char *finding;  /* Markdown */
  char *caution;  /* Markdown: why times are not to be trusted */
  double load;    /* the most that the machine had to do meanwhile */
  char *problem;  /* what went wrong, or why it did not run */
  bool has_report;
} index_part;
void index_part_release(index_part *part);
/* Takes over what the results of a part say. */
void index_part_set(index_part *part, const results *results);

/* The caution of the part with the highest load; NULL: none needs one. */
const char *index_caution(const index_part *parts, size_t count);

typedef struct report_index {
  const char *folder;
  const char *command; /* that runs it again */
  const char *resume;  /* the command that goes on with it; NULL: nothing is left to do */
  const index_part *parts;
  size_t count;
} report_index;
/* Writes both files, replaced whole; false with a malloc'ed message. */
bool report_index_write(const report_index *index, char **error);

/* A finding as plain text. Returns `text`, which it is written over. */
char *index_plain_text(char *markdown);

#endif
