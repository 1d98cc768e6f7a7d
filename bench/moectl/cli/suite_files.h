// SPDX-License-Identifier: MIT
/* The experiments that a suite is made of: every .yaml file of a folder. */
#ifndef MOECTL_SUITE_FILES_H
#define MOECTL_SUITE_FILES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct suite_file {
  char *name;     /* "decode", of decode.yaml */
  char *path;     /* relative to the working directory where it lies below it */
  char *question; /* the file's first line, if that is a comment; else NULL */
  bool chosen;    /* false: `only` leaves it out, but it has results */
} suite_file;

typedef struct suite_files {
  suite_file *list; /* by name */
  size_t count;
} suite_files;

/* `from`: the folder; NULL: the one that is installed with moectl, or the sources' before it is.
 * `full`: its folder full/ instead. `only`: names with commas between, in any order; NULL: all;
 * `results`: a folder whose results' parts are there too, but not chosen, where `only` leaves them
 * out; or NULL. False, complained about, where there are none; released with suite_files_release in
 * either case. */
bool suite_files_find(const char *from, bool full, const char *only, const char *results,
                      suite_files *files);
/* Has the folder results, and are some of them of one of the files? False, complained about: it has
 * others' alone. */
bool suite_files_fit(const suite_files *files, const char *folder);
void suite_files_release(suite_files *files);

#endif
