// SPDX-License-Identifier: MIT
/* A table for a terminal or Markdown: cells first, then widths, then print. */
#ifndef MOECTL_TEXT_TABLE_H
#define MOECTL_TEXT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { CELL_SIZE = 96 };
typedef char text_cell[CELL_SIZE];

typedef struct text_table {
  size_t rows, columns; /* rows with the header's */
  text_cell *cells;     /* [rows][columns] */
  int *widths;          /* [columns]; of those left out 0 */
} text_table;

/* Empty cells; false: no memory, and nothing to release. */
bool text_table_make(text_table *table, size_t rows, size_t columns);
void text_table_release(text_table *table);

char *text_table_cell(const text_table *table, size_t row, size_t column);
/* Four digits, in full: 45210, 3.142, 0.00271; "-" for what is not finite. */
void text_table_number(char *cell, double number);

/* Each column as wide as its longest cell; a cell whose text was cut ends in a whole character. */
void text_table_measure(const text_table *table);
/* Of a line, with two blanks between columns. */
int text_table_width(const text_table *table);

/* Columns of a width above 0, to the right, so that digits stand under digits. Markdown's cells
 * are escaped. */
void text_table_print(const text_table *table, FILE *file);
void text_table_print_markdown(const text_table *table, FILE *file);
/* Markdown that reads as it is: cells are padded, those of the first `left` columns on their right.
 * For cells without anything that Markdown takes for its own. */
void text_table_print_padded(const text_table *table, size_t left, FILE *file);

#endif
