// SPDX-License-Identifier: MIT
/* results.csv: one row a point, everything of results.json that is one value.
 * The lists (tokens per expert) are in results.json only. */
#include "results/measures.h"
#include "results/results_private.h"
#include "experiment/schema.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows go to a stream in memory; `column` says whether a comma is due. */
typedef struct table {
  FILE *file;
  int column;
} table;

/* RFC 4180: quoted where it must be, quotes doubled, rows end in CRLF. */
static void put_text(table *csv, const char *value) {
  if (csv->column++) fputc(',', csv->file);
  if (!value) return;
  const bool quote = strpbrk(value, ",\"\r\n") != NULL;
  if (quote) fputc('"', csv->file);
  for (; *value; value++) {
    if (*value == '"') fputc('"', csv->file);
    fputc(*value, csv->file);
  }
  if (quote) fputc('"', csv->file);
}

static void put_integer(table *csv, int64_t value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%" PRId64, value);
  put_text(csv, digits);
}

/* As in results.json, with the digits that read back the same; what it has as
 * null is empty here. */
static void put_real(table *csv, double value) {
  char digits[40];
  put_text(csv, isfinite(value) ? schema_real_text(value, digits, sizeof digits) : NULL);
}

static void end_row(table *csv) {
  fputs("\r\n", csv->file);
  csv->column = 0;
}

static void put_name(table *csv, const char *first, const char *second, const char *third) {
  char name[96];
  snprintf(name, sizeof name, "%s%s%s", first, second, third);
  put_text(csv, name);
}

static void put_measure_names(table *csv, measure_group group) {
  for (const measure *m = measures; m->name; m++)
    if (m->group == group && !m->repeated) put_name(csv, measure_prefix(group), m->name, "");
}

static void put_header(table *csv) {
  static const char *const first[] = {"index", "status", "error"};
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) put_text(csv, first[i]);
  for (int i = 0; i < KEY_COUNT; i++) {
    const char *param = schema_param(schema_get((schema_id)i));
    if (param) put_text(csv, param);
  }
  for (int i = 0; i < NUM_OPERATIONS; i++) put_name(csv, "variants_", measure_operations[i], "");
  put_measure_names(csv, MEASURE_RUN);
  put_text(csv, "rounds");
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    for (int i = 0; i < NUM_SUMMARIES; i++) {
      char ending[16];
      snprintf(ending, sizeof ending, "_%s", measure_summaries[i]);
      put_name(csv, "time_ms_", moecl_stage_name((moecl_stage)stage), ending);
    }
  for (int group = MEASURE_RATE; group < MEASURE_GROUP_COUNT; group++)
    put_measure_names(csv, (measure_group)group);
  end_row(csv);
}

static void put_params(table *csv, const experiment_point *point) {
  char value[128];
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (!schema_param(key)) continue;
    const char *text =
        schema_applies(key, point) ? schema_point_text(key, point, value, sizeof value) : NULL;
    put_text(csv, text && strcmp(text, "null") == 0 ? NULL : text);
  }
}

static void put_measure(table *csv, const measure *m, const point_result *result) {
  const measure_value value = measure_get(m, result);
  if (!value.present) put_text(csv, NULL);
  else if (m->kind == MEASURE_FLAG) put_text(csv, value.whole ? "true" : "false");
  else if (m->kind == MEASURE_COUNT || m->kind == MEASURE_LIMIT) put_integer(csv, value.whole);
  else put_real(csv, value.real);
}

static void put_measures(table *csv, measure_group group, const point_result *result) {
  for (const measure *m = measures; m->name; m++)
    if (m->group == group && !m->repeated) put_measure(csv, m, result);
}

static void put_point(table *csv, const experiment *plan, const point_result *result) {
  put_integer(csv, (int64_t)result->index);
  put_text(csv, point_status_name(result->status));
  put_text(csv, result->error);
  put_params(csv, &plan->points[result->index]);
  for (int i = 0; i < NUM_OPERATIONS; i++) put_text(csv, result->variants[i]);
  put_measures(csv, MEASURE_RUN, result);
  put_integer(csv, (int64_t)result->num_rounds);
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    sample_summary times = result->time_ms[stage];
    for (size_t i = 0; i < NUM_SUMMARIES; i++) put_real(csv, *measure_summary(&times, i));
  }
  for (int group = MEASURE_RATE; group < MEASURE_GROUP_COUNT; group++)
    put_measures(csv, (measure_group)group, result);
  end_row(csv);
}

char *results_csv(const results *all) {
  char *text = NULL;
  size_t size = 0;
  table csv = {.file = open_memstream(&text, &size)};
  if (!csv.file) return NULL;
  put_header(&csv);
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (all->have[i]) put_point(&csv, all->experiment, &all->points[i]);
  const bool bad = ferror(csv.file);
  if (fclose(csv.file) == 0 && !bad) return text;
  free(text);
  return NULL;
}
