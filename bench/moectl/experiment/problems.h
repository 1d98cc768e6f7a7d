// SPDX-License-Identifier: MIT
/* The messages about one experiment file, collected so that several mistakes
 * are reported at once. */
#ifndef MOECTL_PROBLEMS_H
#define MOECTL_PROBLEMS_H

#include "experiment/yaml_tree.h"

/* More than this many messages help nobody. */
enum { PROBLEMS_SHOWN = 20 };

typedef struct problem {
  tree_mark mark;
  char *text; /* malloc'ed */
} problem;

typedef struct problems {
  const char *path;
  problem list[PROBLEMS_SHOWN]; /* the first that were found */
  size_t count;                 /* all of them, the ones too many to show included */
  bool out_of_memory;           /* what is here is then incomplete */
} problems;

/* Adds "path:line:column: message", or "--set assignment: message". */
__attribute__((format(printf, 3, 4))) void problem_add(problems *problems, tree_mark mark,
                                                       const char *format, ...);
/* Adds "path: message", for what concerns the file as a whole. */
__attribute__((format(printf, 2, 3))) void problem_add_file(problems *problems, const char *format,
                                                            ...);
void problem_out_of_memory(problems *problems);

/* Whether anything went wrong. */
bool problems_any(const problems *problems);
/* Whether further messages are only counted: costly hints can be spared. */
bool problems_full(const problems *problems);
/* Hands over the messages, malloc'ed (NULL only when memory ran out): one a line, without a
 * final newline, in the order of the file's lines, those about --set last. */
char *problems_take(problems *problems);

/* Text as it may stand in a message: control characters escaped, cut when
 * long. `size` of 64 is enough. Returns buffer. */
const char *printable(const char *text, size_t length, char *buffer, size_t size);

#endif
