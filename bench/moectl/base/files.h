// SPDX-License-Identifier: MIT
/* Files that are replaced whole or not at all, and messages about them. */
#ifndef MOECTL_FILES_H
#define MOECTL_FILES_H

#include "moecl/context.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* A malloc'ed formatted text; NULL without memory. */
__attribute__((format(printf, 1, 2))) char *format_text(const char *format, ...);
/* Sets *error (freeing what it held) and returns false. */
__attribute__((format(printf, 2, 3))) bool fail_text(char **error, const char *format, ...);

/* A moecl_log_fn that keeps the latest error; `error` is a char **, as fail_text's. */
void keep_error(void *error, moecl_log_level level, const char *message);

/* mkdir -p. */
bool make_directories(const char *path, char **error);
/* The whole file, malloc'ed with a NUL after its *size bytes; NULL with the
 * reason in errno. */
char *read_whole_file(const char *path, size_t *size);

/* A file written beside `path` under a name of its own, then renamed over it:
 * a reader, a crash or a full disk never meets a part of it. */
typedef struct pending_file {
  char *path, *temporary;
  FILE *file;
} pending_file;
bool pending_open(pending_file *pending, const char *path, char **error);
bool pending_write(pending_file *pending, const void *data, size_t bytes, char **error);
/* Brings what was written to the disk; the old file is still there. */
bool pending_sync(pending_file *pending, char **error);
/* Renames into place, or (anything before failed) removes. Both release. */
bool pending_commit(pending_file *pending, char **error);
void pending_discard(pending_file *pending);

/* All of that at once, of what is in memory. */
bool replace_file(const char *path, const void *data, size_t bytes, char **error);

/* Brings to the disk that the file of this path is there; not every file system can. */
void sync_folder(const char *path);

#endif
