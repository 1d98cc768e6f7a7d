// SPDX-License-Identifier: MIT
/* Command lines that a person may paste into a shell. */
#ifndef MOECTL_SHELL_H
#define MOECTL_SHELL_H

#include <stdint.h>
#include <stdio.h>

/* Writes the text so that a shell takes it for one word, on one line: as it is where
 * nothing in it means anything to a shell, else quoted; control characters as $'\n'. */
void shell_word(FILE *file, const char *text);
/* The same, quoted in any case. */
void shell_quote(FILE *file, const char *text);
/* shell_word as a malloc'ed text; NULL without memory. */
char *shell_text(const char *text);
/* All the words of a command line as one, malloc'ed; NULL for none or without memory. */
char *shell_command(char *const *words, int count);
/* What stands before a command line that so many processes ran: "mpirun -n 2 "; "" for one. */
enum { SHELL_LAUNCHER_SIZE = 40 };
const char *shell_launcher(int64_t processes, char text[SHELL_LAUNCHER_SIZE]);

#endif
