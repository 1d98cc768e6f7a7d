// SPDX-License-Identifier: MIT
/* Running gnuplot on one script. */
#ifndef MOECTL_GNUPLOT_H
#define MOECTL_GNUPLOT_H

#include <stdbool.h>
#include <stdio.h>

typedef enum gnuplot_outcome { GNUPLOT_OK = 0, GNUPLOT_MISSING, GNUPLOT_FAILED } gnuplot_outcome;

/* Waits: runs `gnuplot script` inside `folder`, killing it after `seconds`.
 * GNUPLOT_FAILED comes with one line in *why (malloc'ed; NULL without memory). */
gnuplot_outcome gnuplot_run(const char *folder, const char *script, double seconds, char **why);

/* Waits likewise: what gnuplot writes to its standard output for the text of a script, malloc'ed;
 * NULL where it is missing or fails. */
char *gnuplot_draw(const char *script, double seconds);

/* Writes a text as a gnuplot string: in single quotes nothing in it is
 * substituted or run. Control characters become blanks. */
void gnuplot_quote(FILE *file, const char *text);

#endif
