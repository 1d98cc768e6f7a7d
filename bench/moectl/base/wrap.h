// SPDX-License-Identifier: MIT
/* Text for people in lines of a terminal's width. */
#ifndef MOECTL_WRAP_H
#define MOECTL_WRAP_H

#include <stdint.h>
#include <stdio.h>

/* What help and tables keep to, wherever they go. */
enum { TEXT_WIDTH = 80 };

/* Prints words from `column` on, broken before `width`; the first line begins where
 * the stream is, `at` columns from the left. A word alone may be longer. Ends the line. */
void wrap_from(FILE *file, const char *text, int at, int column, int width);
/* The same from a new line's beginning. */
void wrap_text(FILE *file, const char *text, int column, int width);

/* Columns of the terminal that a stream goes to; TEXT_WIDTH where it is none. */
int terminal_width(int descriptor);

/* "12.46 GiB"; "3 min 05 s". Return `text`. */
const char *bytes_text(uint64_t bytes, char text[32]);
const char *duration_text(double seconds, char text[32]);

#endif
