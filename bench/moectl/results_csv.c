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

/* What results.json has as null is empty here. */
static void put_real(table *csv, double value) {
  char digits[40];
  snprintf(digits, sizeof digits, "%.15g", value);
  put_text(csv, isfinite(value) ? digits : NULL);
}

static void put_bool(table *csv, bool value) { put_text(csv, value ? "true" : "false"); }

static void end_row(table *csv) {
  fputs("\r\n", csv->file);
  csv->column = 0;
}

static void put_header(table *csv) {
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
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) put_text(csv, first[i]);
  for (const char *const *param = results_params(); *param; param++) put_text(csv, *param);
  for (int i = 0; i < 4; i++) {
    snprintf(name, sizeof name, "variants_%s", operations[i]);
    put_text(csv, name);
  }
  put_text(csv, "iterations");
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    for (int i = 0; i < 3; i++) {
      snprintf(name, sizeof name, "time_ms_%s_%s", moecl_stage_name((moecl_stage)stage),
               summary[i]);
      put_text(csv, name);
    }
  for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) put_text(csv, rest[i]);
  end_row(csv);
}

static void put_params(table *csv, const experiment_point *point) {
  char value[128];
  for (const char *const *param = results_params(); *param; param++) {
    const bool absent = strncmp(*param, "skew_", 5) == 0 && point->distribution != WORKLOAD_SKEWED;
    const char *text =
        absent ? NULL : experiment_param_text(point, *param, value, sizeof value);
    put_text(csv, text && strcmp(text, "null") == 0 ? NULL : text);
  }
}

static void put_measures(table *csv, const point_result *result) {
  const bool timed = isfinite(result->time_ms[MOECL_STAGE_LAYER].median);
  put_integer(csv, result->iterations);
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    put_real(csv, result->time_ms[stage].median);
    put_real(csv, result->time_ms[stage].min);
    put_real(csv, result->time_ms[stage].p90);
  }
  put_real(csv, timed ? result->tokens_per_s : NAN);
  put_real(csv, timed ? result->tflops : NAN);
  put_real(csv, timed ? result->gbytes_per_s : NAN);
  put_integer(csv, (int64_t)result->memory_bytes);
}

static void put_empty(table *csv, int columns) {
  for (int i = 0; i < columns; i++) put_text(csv, NULL);
}

static void put_routing(table *csv, const moecl_routing *routing) {
  const moecl_routing_statistics *s = &routing->statistics;
  if (!routing->tokens_per_expert || !routing->tokens_per_expert_after_capacity) {
    put_empty(csv, 9);
    return;
  }
  if (routing->capacity < 0) put_text(csv, NULL);
  else put_integer(csv, routing->capacity);
  put_real(csv, s->dropped_fraction);
  put_real(csv, s->load_balancing_loss);
  put_real(csv, s->router_z_loss);
  put_real(csv, s->entropy);
  put_real(csv, s->max_mean_imbalance);
  put_real(csv, s->coefficient_of_variation);
  put_real(csv, s->padding_waste);
  put_integer(csv, s->nonfinite_tokens);
}

static void put_verify(table *csv, const verify_result *verify) {
  if (!verify->ran) {
    put_empty(csv, 7);
    return;
  }
  put_real(csv, verify->error);
  put_real(csv, verify->tolerance);
  put_bool(csv, verify->ok);
  put_integer(csv, verify->tokens_checked);
  put_integer(csv, verify->experts_checked);
  put_integer(csv, verify->topk_mismatches);
  put_bool(csv, verify->capacity_ok);
}

static void put_point(table *csv, const experiment *plan, const point_result *result) {
  put_integer(csv, (int64_t)result->index);
  put_text(csv, point_status_name(result->status));
  put_text(csv, result->error);
  put_params(csv, &plan->points[result->index]);
  for (int i = 0; i < 4; i++) put_text(csv, result->variants[i]);
  put_measures(csv, result);
  put_routing(csv, &result->routing);
  put_verify(csv, &result->verify);
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
