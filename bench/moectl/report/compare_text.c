// SPDX-License-Identifier: MIT
/* A comparison as people read it, on a terminal and in Markdown. */
#include "report/compare.h"
#include "report/grid.h"
#include "report/report_parts.h"
#include "report/text_table.h"
#include "results/measures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The same text for both. */
typedef struct writer {
  FILE *file;
  bool markdown;
} writer;

static void put(const writer *to, const char *text) {
  if (to->markdown) report_text(to->file, text);
  else fputs(text, to->file);
}

static void heading(const writer *to, const char *text) {
  fprintf(to->file, to->markdown ? "\n## %s\n\n" : "\n%s\n", text);
}

/* An entry of a list. */
static void item(const writer *to, const char *text) {
  fputs(to->markdown ? "- " : "  ", to->file);
  put(to, text);
  fputc('\n', to->file);
}

static void run_line(const writer *to, const measured_run *run, char letter) {
  fprintf(to->file, to->markdown ? "- **%c**: " : "%c  ", letter);
  put(to, run->path);
  fputs(": ", to->file);
  put(to, run->device);
  fputs(" (", to->file);
  put(to, run->platform);
  fputs("), ", to->file);
  put(to, run->system);
  fputs(" ", to->file);
  put(to, run->version);
  fputs(", commit ", to->file);
  put(to, run->commit);
  if (run->has_journal)
    fputs("; not finished: it has a results.jsonl, whose points are not here", to->file);
  else if (measured_is_unfinished(run))
    fprintf(to->file, "; not finished: it has %zu of %zu points", run->num_points,
            run->num_planned);
  fputc('\n', to->file);
}

/* ---- the table ---- */

/* "grouped_gemm generic, cpu": the operations whose variants are not the same. */
static void variants_text(const point_result *a, const point_result *b, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (int i = 0; i < NUM_OPERATIONS && used < size; i++) {
    const char *before = a->variants[i] ? a->variants[i] : "-";
    const char *after = b->variants[i] ? b->variants[i] : "-";
    if (strcmp(before, after) == 0) continue;
    used += (size_t)snprintf(text + used, size - used, "%s%s %s, %s", used ? "; " : "",
                             measure_operations[i], before, after);
  }
}

static void put_speed(char *cell, double speed) {
  char number[NUMBER_SIZE];
  snprintf(cell, CELL_SIZE, "%sx", number_text(speed, number, sizeof number));
}

static void put_interval(char *cell, const run_ratio *speed) {
  char low[NUMBER_SIZE], high[NUMBER_SIZE];
  if (!isfinite(speed->low)) snprintf(cell, CELL_SIZE, "unknown");
  else
    snprintf(cell, CELL_SIZE, "%s to %s", number_text(speed->low, low, sizeof low),
             number_text(speed->high, high, sizeof high));
}

/* Behind the point's number and what tells it apart. */
enum {
  COLUMN_BEFORE = 0,
  COLUMN_AFTER,
  COLUMN_SPEED,
  COLUMN_INTERVAL,
  COLUMN_VERDICT,
  COLUMN_VARIANTS,
  NUM_COLUMNS
};

static void fill_header(const text_table *table, const schema_id *keys, size_t count, char letter) {
  snprintf(text_table_cell(table, 0, 0), CELL_SIZE, "point");
  for (size_t i = 0; i < count; i++)
    snprintf(text_table_cell(table, 0, 1 + i), CELL_SIZE, "%s", schema_param(schema_get(keys[i])));
  snprintf(text_table_cell(table, 0, 1 + count + COLUMN_BEFORE), CELL_SIZE, "A ms");
  snprintf(text_table_cell(table, 0, 1 + count + COLUMN_AFTER), CELL_SIZE, "%c ms", letter);
  snprintf(text_table_cell(table, 0, 1 + count + COLUMN_SPEED), CELL_SIZE, "speed");
  snprintf(text_table_cell(table, 0, 1 + count + COLUMN_INTERVAL), CELL_SIZE, "interval");
  snprintf(text_table_cell(table, 0, 1 + count + COLUMN_VERDICT), CELL_SIZE, "%c is", letter);
}

static void fill_row(const text_table *table, size_t row, const measured_run *first,
                     const other_run *other, const schema_id *keys, size_t count) {
  const matched_points *match = &other->matched[row - 1];
  const point_result *a = &first->points[match->before].result;
  const point_result *b = &other->run->points[match->after].result;
  snprintf(text_table_cell(table, row, 0), CELL_SIZE, "%zu", a->index);
  for (size_t i = 0; i < count; i++)
    snprintf(text_table_cell(table, row, 1 + i), CELL_SIZE, "%s",
             measured_value(first, match->before, keys[i]));
  text_table_number(text_table_cell(table, row, 1 + count + COLUMN_BEFORE),
                    a->time_ms[MOECL_STAGE_LAYER].median);
  text_table_number(text_table_cell(table, row, 1 + count + COLUMN_AFTER),
                    b->time_ms[MOECL_STAGE_LAYER].median);
  put_speed(text_table_cell(table, row, 1 + count + COLUMN_SPEED), match->speed.ratio);
  put_interval(text_table_cell(table, row, 1 + count + COLUMN_INTERVAL), &match->speed);
  snprintf(text_table_cell(table, row, 1 + count + COLUMN_VERDICT), CELL_SIZE, "%s",
           compare_verdict(&match->speed));
  variants_text(a, b, text_table_cell(table, row, 1 + count + COLUMN_VARIANTS), CELL_SIZE);
}

/* A heading where a point has other variants, else the column has no width. */
static void head_variants(const text_table *table, size_t column) {
  for (size_t row = 1; row + 1 < table->rows; row++)
    if (*text_table_cell(table, row, column))
      snprintf(text_table_cell(table, 0, column), CELL_SIZE, "variants");
}

static void put_table(const writer *to, const measured_run *first, const other_run *other,
                      char letter) {
  schema_id keys[KEY_COUNT];
  const size_t count = compare_varying(first, keys), last = other->num_matched + 1;
  text_table table;
  if (!text_table_make(&table, last + 1, 1 + count + NUM_COLUMNS)) {
    fputs("no memory for the table\n", to->file);
    return;
  }
  fill_header(&table, keys, count, letter);
  for (size_t row = 1; row < last; row++) fill_row(&table, row, first, other, keys, count);
  snprintf(text_table_cell(&table, last, 0), CELL_SIZE, "mean");
  put_speed(text_table_cell(&table, last, 1 + count + COLUMN_SPEED), other->mean.ratio);
  put_interval(text_table_cell(&table, last, 1 + count + COLUMN_INTERVAL), &other->mean);
  snprintf(text_table_cell(&table, last, 1 + count + COLUMN_VERDICT), CELL_SIZE, "%s",
           compare_verdict(&other->mean));
  head_variants(&table, 1 + count + COLUMN_VARIANTS);
  text_table_measure(&table);
  if (to->markdown) text_table_print_markdown(&table, to->file);
  else text_table_print(&table, to->file);
  text_table_release(&table);
}

/* ---- the whole ---- */

static void put_subject(const writer *to, const measured_run *first, const other_run *other) {
  char *subject = compare_subject(first, other->run);
  fputs("Compared: ", to->file);
  if (!subject) put(to, "no memory");
  else if (*subject) put(to, subject);
  else
    put(to, "nothing that is recorded differs: device, version, kernels and what was asked "
            "for are the same");
  fputs(to->markdown ? "\n\n" : "\n", to->file);
  free(subject);
  if (strcmp(first->system, other->run->system) == 0) return;
  put(to, "Times: moecl's are of the device's events; those of other systems of their own clocks, "
          "which on a CPU hold what the host does too (docs/comparing.md).");
  fputs(to->markdown ? "\n\n" : "\n", to->file);
}

static void put_summary(const writer *to, const other_run *other, char letter) {
  const size_t noise = other->num_matched - other->faster - other->slower - other->unknown;
  fprintf(to->file, "%s%c is faster in %zu of %zu points, slower in %zu, within noise in %zu",
          to->markdown ? "\n" : "", letter, other->faster, other->num_matched, other->slower,
          noise);
  if (other->unknown > 0)
    fprintf(to->file, "; of %zu too few forwards were timed (%d at least)", other->unknown,
            ENOUGH_FORWARDS);
  fputs(".\n", to->file);
}

static void put_other(const writer *to, const measured_run *first, const other_run *other,
                      char letter) {
  char title[64];
  snprintf(title, sizeof title, "%c beside A: %zu point%s of the same work", letter,
           other->num_matched, other->num_matched == 1 ? "" : "s");
  heading(to, title);
  put_subject(to, first, other);
  if (other->reason) {
    put(to, other->reason);
    fputc('\n', to->file);
  } else {
    put_table(to, first, other, letter);
    put_summary(to, other, letter);
  }
  if (other->num_left_out == 0) return;
  fputs(to->markdown ? "\nLeft out:\n\n" : "Left out:\n", to->file);
  for (size_t i = 0; i < other->num_left_out; i++) item(to, other->left_out[i]);
}

static void put_all(const writer *to, const run_comparison *all) {
  for (size_t i = 0; i < all->num_runs; i++) run_line(to, &all->runs[i], compare_letter(i));
  for (size_t i = 0; i + 1 < all->num_runs; i++)
    put_other(to, &all->runs[0], &all->others[i], compare_letter(i + 1));
}

void compare_print(const run_comparison *all, FILE *file) {
  const writer to = {file, false};
  put_all(&to, all);
}

void compare_print_markdown(const run_comparison *all, bool picture, FILE *file) {
  const writer to = {file, true};
  fputs("# Comparison\n\n", file);
  put_all(&to, all);
  if (picture) fputs("\n![Speed of each point beside A, with its interval](compare.png)\n", file);
  fprintf(file,
          "\n## How to read this\n\n"
          "Speed is A's median time over the other run's, of the whole layer: above 1 the other "
          "run is faster. Where both were measured in rounds, the interval is Welch's, at 95%%, of "
          "the logarithms of the rounds' medians. Where one of them has a single round, it is from "
          "A's least time over the other's 90th percentile to A's 90th percentile over the "
          "other's least time, and unknown below %d forwards. A difference exceeds noise if all of "
          "the interval lies more than %.0f%% from 1. The mean is geometric, its interval from "
          "the mean of the lower ends to that of the upper ends.\n",
          ENOUGH_FORWARDS, 100 * (LEAST_DIFFERENCE - 1));
}
