// SPDX-License-Identifier: MIT
/* results.csv: one row a point, everything of results.json that is one value.
 * The lists (tokens per expert) are in results.json only; columns of blocks are there where some
 * point measures one. */
#include "results/csv.h"
#include "results/measures.h"
#include "results/results_private.h"
#include "experiment/schema.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put_measure_names(csv_stream *csv, measure_group group) {
  for (const measure *m = measures; m->name; m++)
    if (m->group == group && !m->repeated) csv_name(csv, measure_prefix(group), m->name, "");
}

typedef struct columns {
  int operations, stages;
  bool blocks;
} columns;

static columns columns_of(const experiment *plan) {
  const bool blocks = experiment_has_blocks(plan);
  return (columns){.operations = blocks ? NUM_OPERATIONS : NUM_LAYER_OPERATIONS,
                   .stages = blocks ? RESULTS_STAGES : MOECL_STAGE_LAYER + 1,
                   .blocks = blocks};
}

static bool has_column(const schema_key *key, const columns *columns) {
  return schema_param(key) && (columns->blocks || !schema_needs_block(key));
}

static void put_header(csv_stream *csv, const columns *columns) {
  static const char *const first[] = {"index", "status", "error"};
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) csv_text(csv, first[i]);
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (has_column(key, columns)) csv_text(csv, schema_param(key));
  }
  for (int i = 0; i < columns->operations; i++)
    csv_name(csv, "variants_", measure_operations[i], "");
  put_measure_names(csv, MEASURE_RUN);
  csv_text(csv, "rounds");
  for (int stage = 0; stage < columns->stages; stage++)
    for (int i = 0; i < NUM_SUMMARIES; i++) {
      char ending[16];
      snprintf(ending, sizeof ending, "_%s", measure_summaries[i]);
      csv_name(csv, "time_ms_", moecl_stage_name((moecl_stage)stage), ending);
    }
  for (int group = MEASURE_RATE; group < MEASURE_GROUP_COUNT; group++)
    put_measure_names(csv, (measure_group)group);
  csv_end_row(csv);
}

static void put_params(csv_stream *csv, const experiment_point *point, const columns *columns) {
  char value[128];
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (!has_column(key, columns)) continue;
    const char *text =
        schema_applies(key, point) ? schema_point_text(key, point, value, sizeof value) : NULL;
    csv_text(csv, text && strcmp(text, "null") == 0 ? NULL : text);
  }
}

static void put_measure(csv_stream *csv, const measure *m, const point_result *result) {
  const measure_value value = measure_get(m, result);
  if (!value.present) csv_text(csv, NULL);
  else if (m->kind == MEASURE_FLAG) csv_text(csv, value.whole ? "true" : "false");
  else if (m->kind == MEASURE_COUNT || m->kind == MEASURE_LIMIT) csv_integer(csv, value.whole);
  else csv_real(csv, value.real);
}

static void put_measures(csv_stream *csv, measure_group group, const point_result *result) {
  for (const measure *m = measures; m->name; m++)
    if (m->group == group && !m->repeated) put_measure(csv, m, result);
}

static void put_point(csv_stream *csv, const experiment *plan, const columns *columns,
                      const point_result *result) {
  csv_integer(csv, (int64_t)result->index);
  csv_text(csv, point_status_name(result->status));
  csv_text(csv, result->error);
  put_params(csv, &plan->points[result->index], columns);
  for (int i = 0; i < columns->operations; i++) csv_text(csv, result->variants[i]);
  put_measures(csv, MEASURE_RUN, result);
  csv_integer(csv, (int64_t)result->num_rounds);
  for (int stage = 0; stage < columns->stages; stage++) {
    sample_summary times = result->time_ms[stage];
    for (size_t i = 0; i < NUM_SUMMARIES; i++) csv_real(csv, *measure_summary(&times, i));
  }
  for (int group = MEASURE_RATE; group < MEASURE_GROUP_COUNT; group++)
    put_measures(csv, (measure_group)group, result);
  csv_end_row(csv);
}

char *results_csv(const results *all) {
  char *text = NULL;
  size_t size = 0;
  csv_stream csv = {.file = open_memstream(&text, &size)};
  if (!csv.file) return NULL;
  const columns columns = columns_of(all->experiment);
  put_header(&csv, &columns);
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (all->have[i]) put_point(&csv, all->experiment, &columns, &all->points[i]);
  const bool bad = ferror(csv.file);
  if (fclose(csv.file) == 0 && !bad) return text;
  free(text);
  return NULL;
}
