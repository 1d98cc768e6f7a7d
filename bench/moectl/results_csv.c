/* results.csv: one row a point, everything of results.json that is one value.
 * The lists (tokens per expert) are in results.json only. */
#include "files.h"
#include "results_private.h"
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
static void put_text(table *table, const char *value) {
  if (table->column++) fputc(',', table->file);
  if (!value) return;
  const bool quote = strpbrk(value, ",\"\r\n") != NULL;
  if (quote) fputc('"', table->file);
  for (; *value; value++) {
    if (*value == '"') fputc('"', table->file);
    fputc(*value, table->file);
  }
  if (quote) fputc('"', table->file);
}

static void put_integer(table *table, int64_t value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%" PRId64, value);
  put_text(table, digits);
}

/* What results.json has as null is empty here. */
static void put_real(table *table, double value) {
  char digits[40];
  snprintf(digits, sizeof digits, "%.15g", value);
  put_text(table, isfinite(value) ? digits : NULL);
}

static void put_bool(table *table, bool value) { put_text(table, value ? "true" : "false"); }

static void end_row(table *table) {
  fputs("\r\n", table->file);
  table->column = 0;
}

static void put_header(table *table) {
  static const char *const rest[] = {
      "tokens_per_s", "tflops", "gbytes_per_s", "memory_bytes", "capacity", "dropped_fraction",
      "load_balancing_loss", "router_z_loss", "entropy", "max_mean_imbalance",
      "coefficient_of_variation", "padding_waste", "nonfinite_tokens", "verify_error",
      "verify_tolerance", "verify_ok", "verify_tokens_checked", "verify_experts_checked",
      "verify_topk_mismatches", "verify_capacity_ok"};
  static const char *const first[] = {"index", "status", "error"};
  static const char *const operations[] = {"router", "permute", "grouped_gemm", "combine"};
  static const char *const summary[] = {"median", "min", "p90"};
  char name[64];
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) put_text(table, first[i]);
  for (const char *const *param = results_params(); *param; param++) put_text(table, *param);
  for (int i = 0; i < 4; i++) {
    snprintf(name, sizeof name, "variants_%s", operations[i]);
    put_text(table, name);
  }
  put_text(table, "iterations");
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    for (int i = 0; i < 3; i++) {
      snprintf(name, sizeof name, "time_ms_%s_%s", moecl_stage_name((moecl_stage)stage),
               summary[i]);
      put_text(table, name);
    }
  for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) put_text(table, rest[i]);
  end_row(table);
}

static void put_params(table *table, const experiment_point *point) {
  char value[128];
  for (const char *const *param = results_params(); *param; param++) {
    const bool absent = strncmp(*param, "skew_", 5) == 0 && point->distribution != WORKLOAD_SKEWED;
    const char *text =
        absent ? NULL : experiment_param_text(point, *param, value, sizeof value);
    put_text(table, text && strcmp(text, "null") == 0 ? NULL : text);
  }
}

static void put_measures(table *table, const point_result *result) {
  const bool timed = isfinite(result->time_ms[MOECL_STAGE_LAYER].median);
  put_integer(table, result->iterations);
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    put_real(table, result->time_ms[stage].median);
    put_real(table, result->time_ms[stage].min);
    put_real(table, result->time_ms[stage].p90);
  }
  put_real(table, timed ? result->tokens_per_s : NAN);
  put_real(table, timed ? result->tflops : NAN);
  put_real(table, timed ? result->gbytes_per_s : NAN);
  put_integer(table, (int64_t)result->memory_bytes);
}

static void put_empty(table *table, int columns) {
  for (int i = 0; i < columns; i++) put_text(table, NULL);
}

static void put_routing(table *table, const moecl_routing *routing) {
  const moecl_routing_statistics *s = &routing->statistics;
  if (!routing->tokens_per_expert || !routing->tokens_per_expert_after_capacity) {
    put_empty(table, 9);
    return;
  }
  if (routing->capacity < 0) put_text(table, NULL);
  else put_integer(table, routing->capacity);
  put_real(table, s->dropped_fraction);
  put_real(table, s->load_balancing_loss);
  put_real(table, s->router_z_loss);
  put_real(table, s->entropy);
  put_real(table, s->max_mean_imbalance);
  put_real(table, s->coefficient_of_variation);
  put_real(table, s->padding_waste);
  put_integer(table, s->nonfinite_tokens);
}

static void put_verify(table *table, const verify_result *verify) {
  if (!verify->ran) {
    put_empty(table, 7);
    return;
  }
  put_real(table, verify->error);
  put_real(table, verify->tolerance);
  put_bool(table, verify->ok);
  put_integer(table, verify->tokens_checked);
  put_integer(table, verify->experts_checked);
  put_integer(table, verify->topk_mismatches);
  put_bool(table, verify->capacity_ok);
}

static void put_point(table *table, const experiment *experiment, const point_result *result) {
  put_integer(table, (int64_t)result->index);
  put_text(table, point_status_name(result->status));
  put_text(table, result->error);
  put_params(table, &experiment->points[result->index]);
  for (int i = 0; i < 4; i++) put_text(table, result->variants[i]);
  put_measures(table, result);
  put_routing(table, &result->routing);
  put_verify(table, &result->verify);
  end_row(table);
}

char *results_csv(const results *results) {
  char *text = NULL;
  size_t size = 0;
  table table = {.file = open_memstream(&text, &size)};
  if (!table.file) return NULL;
  put_header(&table);
  for (size_t i = 0; i < results->experiment->num_points; i++)
    if (results->have[i]) put_point(&table, results->experiment, &results->points[i]);
  const bool bad = ferror(table.file);
  if (fclose(table.file) == 0 && !bad) return text;
  free(text);
  return NULL;
}
