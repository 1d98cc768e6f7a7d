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
} suite_file;

typedef struct suite_files {
  suite_file *list; /* by name */
  size_t count;
} suite_files;

/* `from`: the folder; NULL: the one that is installed with moectl, or the sources' before it is.
 * `full`: its folder full/ instead. `only`: names with commas between, in any order; NULL: all.
 * False, complained about, where there are none; released with suite_files_release in either
 * case. */
bool suite_files_find(const char *from, bool full, const char *only, suite_files *files);
void suite_files_release(suite_files *files);

#endif
