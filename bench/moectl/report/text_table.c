// SPDX-License-Identifier: MIT
#include "report/text_table.h"
#include "base/utf8.h"
#include "report/report_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool text_table_make(text_table *table, size_t rows, size_t columns) {
  *table = (text_table){.rows = rows, .columns = columns};
  table->cells = calloc(rows * columns, sizeof *table->cells);
  table->widths = calloc(columns, sizeof *table->widths);
  if (table->cells && table->widths) return true;
  text_table_release(table);
  return false;
}

void text_table_release(text_table *table) {
  free(table->cells);
  free(table->widths);
  *table = (text_table){0};
}

char *text_table_cell(const text_table *table, size_t row, size_t column) {
  return table->cells[row * table->columns + column];
}

void text_table_number(char *cell, double number) {
  if (!isfinite(number)) snprintf(cell, CELL_SIZE, "-");
  else if (fabs(number) >= 1000 && fabs(number) < 1e15) snprintf(cell, CELL_SIZE, "%.0f", number);
  else snprintf(cell, CELL_SIZE, "%.4g", number);
}

void text_table_measure(const text_table *table) {
  for (size_t column = 0; column < table->columns; column++)
    for (size_t row = 0; row < table->rows; row++) {
      const int length = (int)strlen(utf8_drop_part(text_table_cell(table, row, column)));
      if (length > table->widths[column]) table->widths[column] = length;
    }
}

int text_table_width(const text_table *table) {
  int width = -2;
  for (size_t column = 0; column < table->columns; column++)
    if (table->widths[column] > 0) width += 2 + table->widths[column];
  return width;
}

/* Blanks before a cell are written with it, so that no line ends in them. */
void text_table_print(const text_table *table, FILE *file) {
  for (size_t row = 0; row < table->rows; row++) {
    int blanks = -2;
    for (size_t column = 0; column < table->columns; column++) {
      const char *cell = text_table_cell(table, row, column);
      const int length = (int)strlen(cell);
      if (table->widths[column] == 0) continue;
      blanks += 2 + table->widths[column] - length;
      if (length == 0) continue;
      fprintf(file, "%*s%s", blanks, "", cell);
      blanks = 0;
    }
    fputc('\n', file);
  }
}

void text_table_print_markdown(const text_table *table, FILE *file) {
  for (size_t row = 0; row < table->rows; row++) {
    for (size_t column = 0; column < table->columns; column++) {
      if (table->widths[column] == 0) continue;
      fputs("| ", file);
      report_text(file, text_table_cell(table, row, column));
      fputc(' ', file);
    }
    fputs("|\n", file);
    for (size_t column = 0; row == 0 && column < table->columns; column++)
      if (table->widths[column] > 0) fputs("| ---: ", file);
    if (row == 0) fputs("|\n", file);
  }
}

static void print_rule(const text_table *table, size_t left, FILE *file) {
  for (size_t column = 0; column < table->columns; column++) {
    if (table->widths[column] == 0) continue;
    fputs(column < left ? "| :" : "| ", file);
    for (int i = 1; i < table->widths[column]; i++) fputc('-', file);
    fputs(column < left ? " " : ": ", file);
  }
  fputs("|\n", file);
}

void text_table_print_padded(const text_table *table, size_t left, FILE *file) {
  for (size_t row = 0; row < table->rows; row++) {
    for (size_t column = 0; column < table->columns; column++) {
      const char *cell = text_table_cell(table, row, column);
      if (table->widths[column] == 0) continue;
      fprintf(file, column < left ? "| %-*s " : "| %*s ", table->widths[column], cell);
    }
    fputs("|\n", file);
    if (row == 0) print_rule(table, left, file);
  }
}
