// SPDX-License-Identifier: MIT
/* opencl_router_benchmark_results.txt: every variant of the router, correct or not and how fast. */
#include "report/grid.h"
#include "report/profile_reports.h"
#include "report/text_table.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { NAME, CORRECT, MEDIAN, LEAST, MOST, PER_TOKEN, OF_GENERIC, OF_REFERENCE, COLUMNS };

static const profile_variant *find_variant(const profile_point *point, const char *name) {
  for (size_t i = 0; i < point->num_variants; i++)
    if (strcmp(point->variants[i].name, name) == 0) return &point->variants[i];
  return NULL;
}

static void put_ratio(char *cell, double ratio) {
  char text[NUMBER_SIZE];
  snprintf(cell, CELL_SIZE, "%s%s", isfinite(ratio) ? number_text(ratio, text, sizeof text) : "-",
           isfinite(ratio) ? "x" : "");
}

static void put_us(char *cell, double us) {
  char text[NUMBER_SIZE];
  snprintf(cell, CELL_SIZE, "%s", isfinite(us) ? number_text(us, text, sizeof text) : "-");
}

static void put_correct(const profile_variant *variant, char *cell) {
  if (!variant->ran) snprintf(cell, CELL_SIZE, "did not run");
  else if (variant->verify.ok) snprintf(cell, CELL_SIZE, "yes");
  else snprintf(cell, CELL_SIZE, "NO: %" PRId64 " mismatches", variant->verify.topk_mismatches);
}

static void put_times(const text_table *table, size_t row, sample_summary us, double tokens,
                      double generic, double reference) {
  put_us(text_table_cell(table, row, MEDIAN), us.median);
  put_us(text_table_cell(table, row, LEAST), us.min);
  put_us(text_table_cell(table, row, MOST), us.p90);
  put_us(text_table_cell(table, row, PER_TOKEN), us.median / tokens);
  put_ratio(text_table_cell(table, row, OF_GENERIC), generic / us.median);
  put_ratio(text_table_cell(table, row, OF_REFERENCE), reference / us.median);
}

static void put_notes(const profile_point *point, int64_t num_tokens, FILE *file) {
  for (size_t i = 0; i < point->num_variants; i++)
    if (point->variants[i].why)
      fprintf(file, "%s did not run: %s\n", point->variants[i].name, point->variants[i].why);
  if (point->num_variants > 0 && point->variants[0].ran)
    fprintf(file, "Compared: %" PRId64 " of %" PRId64 " tokens with the reference\n",
            point->variants[0].verify.tokens_checked, num_tokens);
}

static void put_point(const profile *all, const profile_point *point, FILE *file) {
  static const char *const names[COLUMNS] = {"variant", "correct",  "time us",    "least",
                                             "p90",     "us/token", "vs generic", "vs plain C"};
  const double tokens = (double)all->experiment->points[point->index].num_tokens;
  const profile_variant *generic = find_variant(point, "generic");
  const double generic_us = generic && generic->ran ? generic->us.median : NAN;
  const sample_summary reference = {point->reference_us, NAN, NAN};
  text_table table;
  if (!text_table_make(&table, point->num_variants + 2, COLUMNS)) return;
  for (size_t i = 0; i < COLUMNS; i++)
    snprintf(text_table_cell(&table, 0, i), CELL_SIZE, "%s", names[i]);
  snprintf(text_table_cell(&table, 1, NAME), CELL_SIZE, "plain C");
  snprintf(text_table_cell(&table, 1, CORRECT), CELL_SIZE, "the reference");
  put_times(&table, 1, reference, tokens, generic_us, point->reference_us);
  for (size_t i = 0; i < point->num_variants; i++) {
    const profile_variant *variant = &point->variants[i];
    const sample_summary none = {NAN, NAN, NAN};
    snprintf(text_table_cell(&table, i + 2, NAME), CELL_SIZE, "%s%s", variant->name,
             variant->chosen ? " (chosen)" : "");
    put_correct(variant, text_table_cell(&table, i + 2, CORRECT));
    put_times(&table, i + 2, variant->ran ? variant->us : none, tokens, generic_us,
              point->reference_us);
  }
  text_table_measure(&table);
  text_table_print(&table, file);
  text_table_release(&table);
  put_notes(point, all->experiment->points[point->index].num_tokens, file);
}

void profile_variants_text(const profile *all, FILE *file) {
  char label[LABEL_SIZE];
  fprintf(file, "Router variants: %s\n%s, driver %s, %s, moecl %s\n", all->experiment->name,
          all->device.name, all->device.driver, all->measured, moecl_version());
  fputs("Times are the router stage's, logits included, from device events; plain C is the\n"
        "reference in double precision on one thread of the host, measured on some of the tokens.\n"
        "A speed of 2x takes half the time.\n",
        file);
  for (size_t i = 0; i < all->num_points; i++) {
    const profile_point *point = &all->points[i];
    const experiment_point *of = &all->experiment->points[i];
    if (!point->ran) continue;
    experiment_point_label(all->experiment, i, label, sizeof label);
    fprintf(file,
            "\nPoint %zu%s%s: %" PRId64 " tokens of %" PRId64 ", %" PRId64 " of %" PRId64
            " experts, %s\n",
            i, *label ? ", " : "", label, of->num_tokens, of->layer.hidden_size, of->layer.top_k,
            of->layer.num_experts, moecl_dtype_name(of->layer.dtype));
    put_point(all, point, file);
  }
}
