// SPDX-License-Identifier: MIT
/* results.json of an earlier run, for --resume; a point of any run, for measured.c. */
#include "base/files.h"
#include "results/measures.h"
#include "results/results_private.h"
#include "experiment/settings.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A walk over one point's values; the first that is missing or of another type
 * fails it, and the rest reads as zeros. */
typedef struct reader {
  const char *wrong; /* the key, NULL: all well */
} reader;

static json_t *member(reader *walk, const json_t *object, const char *key) {
  json_t *value = json_object_get(object, key);
  if (!value && !walk->wrong) walk->wrong = key;
  return value;
}

static double real_of(reader *walk, const json_t *object, const char *key) {
  const json_t *value = member(walk, object, key);
  if (value && json_is_null(value)) return NAN;
  if (value && !json_is_number(value) && !walk->wrong) walk->wrong = key;
  return json_number_value(value);
}

static int64_t integer_of(reader *walk, const json_t *object, const char *key) {
  const json_t *value = member(walk, object, key);
  if (value && !json_is_integer(value) && !walk->wrong) walk->wrong = key;
  return (int64_t)json_integer_value(value);
}

static char *text_of(reader *walk, const json_t *object, const char *key) {
  const json_t *value = member(walk, object, key);
  if (!value || json_is_null(value)) return NULL;
  if (!json_is_string(value) && !walk->wrong) walk->wrong = key;
  return json_is_string(value) ? format_text("%s", json_string_value(value)) : NULL;
}

/* A measure that may be null is one that measure_get may find absent. */
static void read_measure(reader *walk, const json_t *object, const measure *m,
                         point_result *result) {
  const json_t *value = m->newer ? json_object_get(object, m->name) : member(walk, object, m->name);
  const bool real = m->kind == MEASURE_REAL || m->kind == MEASURE_SHARE;
  const bool null = (!value || json_is_null(value)) && (real || m->kind == MEASURE_LIMIT);
  const bool good = null || (real                      ? json_is_number(value)
                             : m->kind == MEASURE_FLAG ? json_is_boolean(value)
                                                       : json_is_integer(value));
  if (!good && !walk->wrong) walk->wrong = m->name;
  measure_set(m,
              (measure_value){.present = !null,
                              .real = json_number_value(value),
                              .whole = m->kind == MEASURE_FLAG ? json_is_true(value)
                                                               : json_integer_value(value)},
              result);
}

static void read_measures(reader *walk, const json_t *object, measure_group group,
                          point_result *result) {
  for (const measure *m = measures; m->name; m++)
    if (m->group == group && !m->repeated) read_measure(walk, object, m, result);
}

static void read_variants(reader *walk, const json_t *object, char *values[NUM_OPERATIONS]) {
  for (int i = 0; i < NUM_OPERATIONS; i++)
    if (i < NUM_LAYER_OPERATIONS || json_object_get(object, measure_operations[i]))
      values[i] = text_of(walk, object, measure_operations[i]);
}

static void read_times(reader *walk, const json_t *times, sample_summary *summaries) {
  for (int stage = 0; stage < RESULTS_STAGES; stage++) {
    const char *name = moecl_stage_name((moecl_stage)stage);
    const json_t *one =
        stage > MOECL_STAGE_LAYER ? json_object_get(times, name) : member(walk, times, name);
    summaries[stage] = (sample_summary){NAN, NAN, NAN}; /* fused into another */
    if (!one || json_is_null(one)) continue;
    for (size_t i = 0; i < NUM_SUMMARIES; i++)
      *measure_summary(&summaries[stage], i) = real_of(walk, one, measure_summaries[i]);
  }
}

/* An earlier version's point has no rounds: it was measured in one. */
static void read_rounds(reader *walk, const json_t *object, point_result *result) {
  const json_t *list = json_object_get(object, "rounds");
  const size_t count = list ? json_array_size(list) : 1;
  result->rounds = calloc(count + 1, sizeof *result->rounds);
  if (!result->rounds || (list && count == 0)) { /* none, or not a list */
    if (!walk->wrong) walk->wrong = "rounds";
    return;
  }
  result->num_rounds = count;
  result->rounds_planned = list ? integer_of(walk, object, "rounds_planned") : 1;
  for (size_t r = 0; r < count; r++) {
    point_round *round = &result->rounds[r];
    const json_t *from = list ? json_array_get(list, r) : object;
    read_times(walk, member(walk, from, "time_ms"), round->time_ms);
    round->iterations = integer_of(walk, from, "iterations");
    round->host_ms = real_of(walk, from, "host_ms");
    round->load_average = list ? real_of(walk, from, "load_average") : NAN;
  }
}

static int64_t *read_counts(reader *walk, const json_t *object, const char *key, int64_t count) {
  const json_t *list = member(walk, object, key);
  int64_t *counts = calloc((size_t)count + 1, sizeof *counts);
  if (!counts || (int64_t)json_array_size(list) != count) {
    if (!walk->wrong) walk->wrong = key;
    free(counts);
    return NULL;
  }
  for (int64_t i = 0; i < count; i++)
    counts[i] = (int64_t)json_integer_value(json_array_get(list, (size_t)i));
  return counts;
}

static void read_routing(reader *walk, const json_t *object, const experiment_point *point,
                         point_result *result) {
  moecl_routing *routing = &result->routing;
  *routing = (moecl_routing){.num_tokens = point->num_tokens,
                             .num_experts = point->layer.num_experts,
                             .num_identity_experts = point->layer.num_identity_experts,
                             .top_k = point->layer.top_k};
  routing->tokens_per_expert = read_counts(walk, object, "tokens_per_expert", routing->num_experts);
  routing->tokens_per_expert_after_capacity =
      read_counts(walk, object, "tokens_per_expert_after_capacity", routing->num_experts);
  /* A point that has tokens routed nowhere failed, and runs again; which was the first
   * of weight 0 is not in the file. */
  routing->statistics.first_nonfinite_token = -1;
  routing->statistics.first_nonfinite_score_token = -1;
  routing->statistics.first_zero_weight_token = -1;
  read_measures(walk, object, MEASURE_ROUTING, result);
}

static void read_member(reader *walk, const json_t *object, point_member *into) {
  const char *device = json_string_value(member(walk, object, "device"));
  const char *variant = json_string_value(json_object_get(object, "grouped_gemm_variant"));
  snprintf(into->device, sizeof into->device, "%s", device ? device : "");
  snprintf(into->grouped_gemm_variant, sizeof into->grouped_gemm_variant, "%s",
           variant ? variant : "");
  for (size_t i = 0; i < RESULTS_MEMBER_COUNTS; i++)
    if (!results_member_counts[i].newer || json_object_get(object, results_member_counts[i].name))
      *(int64_t *)((char *)into + results_member_counts[i].offset) =
          integer_of(walk, object, results_member_counts[i].name);
  for (size_t i = 0; i < RESULTS_MEMBER_TIMES; i++)
    *(double *)((char *)into + results_member_times[i].offset) =
        real_of(walk, object, results_member_times[i].name);
}

static void read_transport(reader *walk, const json_t *object, point_parallel *parallel) {
  const char *transport = json_string_value(member(walk, object, "transport"));
  snprintf(parallel->transport, sizeof parallel->transport, "%s", transport ? transport : "");
}

/* Not there: the point was on one device. */
static const json_t *parallel_of(const json_t *point) {
  const json_t *object = json_object_get(point, "parallel");
  return json_is_null(object) ? NULL : object;
}

static void read_parallel(reader *walk, const json_t *object, point_result *result) {
  point_parallel *parallel = &result->parallel;
  if (!object) return;
  const json_t *list = member(walk, object, "members");
  parallel->members = calloc(json_array_size(list) + 1, sizeof *parallel->members);
  if (!parallel->members || json_array_size(list) == 0) {
    if (!walk->wrong) walk->wrong = "members";
    return;
  }
  read_transport(walk, object, parallel);
  parallel->num_members = json_array_size(list);
  for (size_t m = 0; m < parallel->num_members; m++)
    read_member(walk, json_array_get(list, m), &parallel->members[m]);
  read_measures(walk, object, MEASURE_PARALLEL, result);
  parallel->chunks = integer_of(walk, object, "chunks");
}

static void read_point(reader *walk, const json_t *object, const experiment_point *point,
                       point_result *result) {
  const json_t *verify = member(walk, object, "verify");
  read_variants(walk, member(walk, object, "variants"), result->variants);
  read_variants(walk, member(walk, object, "variant_reasons"), result->variant_reasons);
  read_times(walk, member(walk, object, "time_ms"), result->time_ms);
  read_rounds(walk, object, result);
  read_measures(walk, object, MEASURE_RUN, result);
  read_measures(walk, object, MEASURE_RATE, result);
  read_routing(walk, member(walk, object, "routing"), point, result);
  result->verify.ran = verify && !json_is_null(verify);
  if (result->verify.ran) read_measures(walk, verify, MEASURE_VERIFY, result);
  read_parallel(walk, parallel_of(object), result);
  const json_t *offload = json_object_get(object, "offload"); /* not there: all on the device */
  if (offload) read_measures(walk, offload, MEASURE_OFFLOAD, result);
}

/* What failed or did not verify runs again. */
static bool is_finished(const char *status, point_status *finished) {
  *finished = strcmp(status, point_status_name(POINT_OK)) == 0 ? POINT_OK : POINT_UNVERIFIED_OK;
  return strcmp(status, point_status_name(*finished)) == 0;
}

/* Takes a point over, `again` in place of an earlier one; what failed is dropped.
 * Returns the key that is wrong, NULL when all is well. */
static const char *take_point(results *all, const json_t *object, bool again) {
  reader walk = {NULL};
  const int64_t index = integer_of(&walk, object, "index");
  const char *status = json_string_value(member(&walk, object, "status"));
  if (walk.wrong) return walk.wrong;
  if (!status) return "status";
  if (index < 0 || (uint64_t)index >= all->experiment->num_points) return "index";
  if (all->have[index] && !again) return "index";
  if (all->have[index]) point_result_destroy(&all->points[index]);
  all->have[index] = false;
  point_result result = {.index = (size_t)index};
  if (!is_finished(status, &result.status)) return NULL;
  read_point(&walk, object, &all->experiment->points[index], &result);
  if (walk.wrong) {
    point_result_destroy(&result);
    return walk.wrong;
  }
  all->points[index] = result;
  all->have[index] = true;
  return NULL;
}

static bool find_status(const char *name, point_status *status) {
  for (int i = POINT_OK; name && i <= POINT_ERROR; i++) {
    *status = (point_status)i;
    if (strcmp(name, point_status_name(*status)) == 0) return true;
  }
  return false;
}

const char *results_point_read(const json_t *object, point_result *result) {
  reader walk = {NULL};
  *result = (point_result){.index = (size_t)integer_of(&walk, object, "index")};
  if (!find_status(json_string_value(member(&walk, object, "status")), &result->status))
    return walk.wrong ? walk.wrong : "status";
  result->error = text_of(&walk, object, "error");
  if (result->status <= POINT_UNVERIFIED_OK) {
    read_variants(&walk, member(&walk, object, "variants"), result->variants);
    read_times(&walk, member(&walk, object, "time_ms"), result->time_ms);
    read_rounds(&walk, object, result);
    read_measures(&walk, object, MEASURE_RUN, result);
    if (parallel_of(object)) read_transport(&walk, parallel_of(object), &result->parallel);
  }
  if (walk.wrong) point_result_destroy(result);
  return walk.wrong;
}

/* A driver's bytes that are not UTF-8 were written as question marks. */
static bool same_name(const char *written, const char *name) {
  if (!written) return false;
  while (*written && *name && (*written == *name || (*written == '?' && *name & 0x80)))
    written++, name++;
  return *written == *name;
}

/* Points of one folder are compared with each other, so one device made them. */
static bool check_device(const results *all, const char *path, const json_t *root, char **error) {
  const json_t *device = json_object_get(root, "device");
  const char *name = json_string_value(json_object_get(device, "name"));
  const char *platform = json_string_value(json_object_get(device, "platform"));
  if (same_name(name, all->device.name) && same_name(platform, all->device.platform)) return true;
  return fail_text(error,
                   "%s was measured on %s (%s), not on %s (%s); choose that device with --device, "
                   "or start anew with --out",
                   path, name ? name : "an unnamed device", platform ? platform : "?",
                   all->device.name, all->device.platform);
}

/* Likewise one set of kernels: another folder with the same sources serves. */
static bool check_kernels(const results *all, const char *path, const json_t *root, char **error) {
  const json_t *kernels = json_object_get(root, "kernels");
  const char *hash = json_string_value(json_object_get(kernels, "hash"));
  const char *dir = json_string_value(json_object_get(kernels, "dir"));
  if (hash && strcmp(hash, all->kernels.hash) == 0) return true;
  return fail_text(error,
                   "%s was measured with other kernels (%s, sources %s) than now (%s, sources %s); "
                   "use those (MOECL_KERNEL_DIR), or start anew with --out",
                   path, dir ? dir : "built in", hash ? hash : "not recorded",
                   all->kernels.dir ? all->kernels.dir : "built in", all->kernels.hash);
}

static bool check_root(const results *all, const char *path, const json_t *root, char **error) {
  const char *schema = json_string_value(json_object_get(root, "schema"));
  if (!schema || strcmp(schema, RESULTS_SCHEMA) != 0)
    return fail_text(error, "%s cannot be resumed: its schema is %s, expected " RESULTS_SCHEMA,
                     path, schema ? schema : "not given");
  if (!settings_json_same(all->experiment->resolved_json, json_object_get(root, "experiment")))
    return fail_text(error,
                     "%s holds another experiment than %s resolves to; resume with the file and "
                     "the --set options it was begun with, or start anew with --out",
                     path, all->experiment->path);
  if (!check_device(all, path, root, error) || !check_kernels(all, path, root, error)) return false;
  if (!json_is_array(json_object_get(root, "points")))
    return fail_text(error, "%s cannot be resumed: it is damaged (no list of points)", path);
  return true;
}

bool results_json_read(results *all, const char *path, const char *text, size_t size,
                       char **error) {
  json_error_t where;
  json_t *root = json_loadb(text, size, 0, &where);
  if (!root)
    return fail_text(error, "%s cannot be resumed: it is damaged (line %d: %s)", path, where.line,
                     where.text);
  bool ok = check_root(all, path, root, error);
  size_t i;
  json_t *point;
  /* An earlier version's folder does not say who measured. */
  if (ok) json_array_extend(all->runs, json_object_get(root, "runs"));
  if (ok) json_array_foreach(json_object_get(root, "points"), i, point) {
      const char *wrong = take_point(all, point, false);
      if (!wrong) continue;
      ok = fail_text(error,
                     "%s cannot be resumed: it is damaged (points[%zu].%s is missing or "
                     "not what it should be)",
                     path, i, wrong);
      break;
    }
  json_decref(root);
  return ok;
}

bool results_journal_read(results *all, const char *path, const char *text, size_t size,
                          char **error) {
  size_t begin = 0;
  for (size_t line = 1; begin < size; line++) {
    const char *end = memchr(text + begin, '\n', size - begin);
    if (!end) return true; /* cut off while it was written: that point runs again */
    const size_t length = (size_t)(end - (text + begin));
    json_t *point = json_loadb(text + begin, length, 0, NULL);
    const char *wrong = point ? take_point(all, point, true) : "a line that is not JSON";
    json_decref(point);
    if (wrong)
      return fail_text(error,
                       "%s cannot be resumed: it is damaged (line %zu: %s is missing or not "
                       "what it should be)",
                       path, line, wrong);
    begin += length + 1;
  }
  return true;
}
