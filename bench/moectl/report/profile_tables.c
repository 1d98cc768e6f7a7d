// SPDX-License-Identifier: MIT
#include "base/wrap.h"
#include "report/grid.h"
#include "report/profile_reports.h"
#include "report/text_table.h"
#include <math.h>

const char *profile_count_text(double count, char text[PROFILE_TEXT_SIZE]) {
  static const char prefixes[] = " kMGTP";
  char number[NUMBER_SIZE];
  int i = 0;
  while (fabs(count) >= 999.5 && i < 5) count /= 1000, i++;
  number_text(count, number, sizeof number);
  if (i == 0) snprintf(text, PROFILE_TEXT_SIZE, "%.0f", count);
  else snprintf(text, PROFILE_TEXT_SIZE, "%s %c", number, prefixes[i]);
  return text;
}

const char *profile_time_text(double us, char text[PROFILE_TEXT_SIZE]) {
  char number[NUMBER_SIZE];
  const bool ms = us >= 1000;
  if (!isfinite(us)) snprintf(text, PROFILE_TEXT_SIZE, "-");
  else
    snprintf(text, PROFILE_TEXT_SIZE, "%s %s",
             number_text(ms ? us / 1000 : us, number, sizeof number), ms ? "ms" : "us");
  return text;
}

void profile_put_load(double least, double most, FILE *file) {
  if (isfinite(least) && isfinite(most)) fprintf(file, "; load average %.2f to %.2f", least, most);
}

static void put_header(const text_table *table, const char *const *names) {
  for (size_t i = 0; i < table->columns; i++)
    snprintf(text_table_cell(table, 0, i), CELL_SIZE, "%s", names[i]);
}

static void put_share(char *cell, double share) {
  if (!isfinite(share)) snprintf(cell, CELL_SIZE, "-");
  else snprintf(cell, CELL_SIZE, share < 0.0995 ? "%.1f%%" : "%.0f%%", 100 * share);
}

static void put_time(char *cell, double us) {
  char text[PROFILE_TEXT_SIZE];
  snprintf(cell, CELL_SIZE, "%s", profile_time_text(us, text));
}

/* Prints and releases. */
static void print_table(text_table *table, size_t left, FILE *file) {
  text_table_measure(table);
  text_table_print_padded(table, left, file);
  fputc('\n', file);
  text_table_release(table);
}

/* ---- stages ---- */

enum { NAME, KERNELS, TIME, OF_ALL, FLOPS, BYTES, OF_FLOPS, OF_BYTES, LEAST, LIMIT, COLUMNS };

static void stage_row(const text_table *table, size_t row, const profile_facts *facts,
                      moecl_stage stage) {
  const stage_facts *one = &facts->stages[stage];
  char text[PROFILE_TEXT_SIZE];
  snprintf(text_table_cell(table, row, NAME), CELL_SIZE, "%s", moecl_stage_name(stage));
  snprintf(text_table_cell(table, row, KERNELS), CELL_SIZE, "%zu", one->kernels);
  put_time(text_table_cell(table, row, TIME), one->us);
  put_share(text_table_cell(table, row, OF_ALL), one->us / facts->total_us);
  snprintf(text_table_cell(table, row, FLOPS), CELL_SIZE, "%s",
           profile_count_text(one->flops, text));
  snprintf(text_table_cell(table, row, BYTES), CELL_SIZE, "%s",
           profile_count_text(one->bytes, text));
  put_share(text_table_cell(table, row, OF_FLOPS), profile_flops_share(facts, stage));
  put_share(text_table_cell(table, row, OF_BYTES), profile_bytes_share(facts, stage));
  put_time(text_table_cell(table, row, LEAST), profile_least_us(facts, stage));
  snprintf(text_table_cell(table, row, LIMIT), CELL_SIZE, "%s",
           profile_limit_names[profile_limit_of(facts, stage)]);
}

static void sum_rows(const text_table *table, size_t row, const profile_facts *facts) {
  double flops = 0, bytes = 0, least = 0, at_peak = 0;
  char text[PROFILE_TEXT_SIZE];
  for (int i = 0; i < MOECL_STAGE_COUNT; i++) {
    if (facts->stages[i].kernels == 0) continue;
    flops += facts->stages[i].flops;
    bytes += facts->stages[i].bytes;
    least += profile_least_us(facts, (moecl_stage)i);
    at_peak += facts->stages[i].flops / profile_flops_peak(facts, (moecl_stage)i);
  }
  snprintf(text_table_cell(table, row, NAME), CELL_SIZE, "gaps");
  put_time(text_table_cell(table, row, TIME), facts->gaps_us);
  put_share(text_table_cell(table, row, OF_ALL), facts->gaps_us / facts->total_us);
  snprintf(text_table_cell(table, row + 1, NAME), CELL_SIZE, "all");
  snprintf(text_table_cell(table, row + 1, KERNELS), CELL_SIZE, "%zu", facts->kernels);
  put_time(text_table_cell(table, row + 1, TIME), facts->total_us);
  put_share(text_table_cell(table, row + 1, OF_ALL), facts->total_us / facts->total_us);
  snprintf(text_table_cell(table, row + 1, FLOPS), CELL_SIZE, "%s",
           profile_count_text(flops, text));
  snprintf(text_table_cell(table, row + 1, BYTES), CELL_SIZE, "%s",
           profile_count_text(bytes, text));
  put_share(text_table_cell(table, row + 1, OF_FLOPS), at_peak / (facts->total_us * 1e-6));
  put_share(text_table_cell(table, row + 1, OF_BYTES),
            bytes / (facts->total_us * 1e-6) / facts->peaks.read_bytes);
  put_time(text_table_cell(table, row + 1, LEAST), least);
}

void profile_stage_table(const profile_facts *facts, FILE *file) {
  static const char *const names[COLUMNS] = {"stage",        "kernels", "time",       "of all",
                                             "operations",   "bytes",   "arithmetic", "memory rate",
                                             "at the peaks", "limit"};
  size_t rows = 3, row = 1;
  text_table table;
  for (int i = 0; i < MOECL_STAGE_COUNT; i++) rows += facts->stages[i].kernels > 0;
  if (!text_table_make(&table, rows, COLUMNS)) return;
  put_header(&table, names);
  for (int i = MOECL_STAGE_ATTENTION_NORM; i < MOECL_STAGE_RESIDUAL; i++)
    if (facts->stages[i].kernels > 0) stage_row(&table, row++, facts, (moecl_stage)i);
  for (int i = 0; i < MOECL_STAGE_LAYER; i++)
    if (facts->stages[i].kernels > 0) stage_row(&table, row++, facts, (moecl_stage)i);
  if (facts->stages[MOECL_STAGE_RESIDUAL].kernels > 0)
    stage_row(&table, row++, facts, MOECL_STAGE_RESIDUAL);
  sum_rows(&table, row, facts);
  print_table(&table, 1, file);
}

/* ---- kernels ---- */

void profile_kernel_table(const profile_part *part, FILE *file) {
  enum { COUNT = 6, MOST = 48 };
  static const char *const names[COUNT] = {"step",       "kernel", "enqueued",
                                           "gap before", "time",   "of all"};
  const size_t count = part->num_kernels < MOST ? part->num_kernels : MOST;
  text_table table;
  if (!text_table_make(&table, count + 1, COUNT)) return;
  put_header(&table, names);
  for (size_t i = 0; i < count; i++) {
    const profile_kernel *kernel = &part->kernels[i];
    snprintf(text_table_cell(&table, i + 1, 0), CELL_SIZE, "%s", kernel->step);
    snprintf(text_table_cell(&table, i + 1, 1), CELL_SIZE, "%s", kernel->name);
    put_time(text_table_cell(&table, i + 1, 2), kernel->enqueued_us);
    put_time(text_table_cell(&table, i + 1, 3), part->timed ? kernel->gap_us : NAN);
    put_time(text_table_cell(&table, i + 1, 4), kernel->us);
    put_share(text_table_cell(&table, i + 1, 5), kernel->us / part->total_us);
  }
  print_table(&table, 2, file);
  if (count < part->num_kernels)
    fprintf(file, "And %zu more, which profile.json has.\n\n", part->num_kernels - count);
}

/* ---- memory ---- */

typedef struct memory_row {
  const char *name;
  uint64_t bytes;
} memory_row;

void profile_memory_table(const profile_part *part, FILE *file) {
  const profile_memory *m = &part->memory;
  const memory_row rows[] = {{"weights", m->weights},
                             {"workspace", m->workspace},
                             {"activations, were no memory shared", m->activations},
                             {"inputs and context", m->inputs},
                             {"output", m->hidden},
                             {"key/value cache", m->cache},
                             {"peak, predicted", m->predicted},
                             {"peak, seen", m->seen}};
  enum { ROWS = sizeof rows / sizeof rows[0] };
  text_table table;
  char text[32];
  size_t row = 1;
  if (!text_table_make(&table, ROWS + 1, 2)) return;
  snprintf(text_table_cell(&table, 0, 0), CELL_SIZE, "memory");
  snprintf(text_table_cell(&table, 0, 1), CELL_SIZE, "bytes");
  for (size_t i = 0; i < ROWS; i++) {
    if (rows[i].bytes == 0) continue;
    snprintf(text_table_cell(&table, row, 0), CELL_SIZE, "%s", rows[i].name);
    snprintf(text_table_cell(&table, row++, 1), CELL_SIZE, "%s", bytes_text(rows[i].bytes, text));
  }
  table.rows = row;
  print_table(&table, 1, file);
}
