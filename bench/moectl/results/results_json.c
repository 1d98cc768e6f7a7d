// SPDX-License-Identifier: MIT
/* results.json, written and read back. */
#include "base/files.h"
#include "base/json_text.h"
#include "results/measures.h"
#include "results/provenance.h"
#include "experiment/schema.h"
#include "results/results_private.h"
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(name, newer)                                                                         \
  { #name, offsetof(point_member, name), newer }
#define MEMBER(name) FIELD(name, false)
#define NEWER(name) FIELD(name, true)
const results_member_field results_member_counts[RESULTS_MEMBER_COUNTS] = {
    MEMBER(experts),
    MEMBER(num_tokens),
    MEMBER(rows),
    MEMBER(bytes_sent),
    MEMBER(bytes_received),
    NEWER(choice_bytes_sent),
    NEWER(choice_bytes_received),
    NEWER(copied_bytes),
    NEWER(stored_bytes),
    NEWER(memory_bytes)};
const results_member_field results_member_times[RESULTS_MEMBER_TIMES] = {
    MEMBER(layer_ms), MEMBER(kernels_ms), MEMBER(transfer_ms), MEMBER(hidden_ms)};

/* JSON knows no NaN or infinity. */
static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *versions_json(void) {
  return json_pack("{s:s, s:s, s:s}", "moecl", moecl_version(), "commit", provenance_commit(),
                   "compiler", provenance_compiler());
}

static json_t *kernels_json(const kernel_origin *kernels) {
  return json_pack("{s:o, s:s}", "dir", json_words(kernels->dir), "hash", kernels->hash);
}

static json_t *device_json(const moecl_device_info *d) {
  return json_pack(
      "{s:i, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, "
      "s:b, s:I}",
      "platform_index", d->platform_index, "device_index", d->device_index, "type",
      moecl_device_type_name(d->type), "platform", json_words(d->platform), "name",
      json_words(d->name), "vendor", json_words(d->vendor), "driver", json_words(d->driver),
      "opencl_version", json_words(d->opencl_version), "opencl_c_version",
      json_words(d->opencl_c_version), "compute_units", (json_int_t)d->compute_units, "clock_mhz",
      (json_int_t)d->clock_mhz, "native_vector_width_float",
      (json_int_t)d->native_vector_width_float, "max_work_group_size",
      (json_int_t)d->max_work_group_size, "global_memory_bytes", (json_int_t)d->global_memory_bytes,
      "max_allocation_bytes", (json_int_t)d->max_allocation_bytes, "local_memory_bytes",
      (json_int_t)d->local_memory_bytes, "local_memory_dedicated", d->local_memory_dedicated,
      "subgroup_size", (json_int_t)d->subgroup_size, "fp16", d->fp16, "capabilities",
      (json_int_t)d->capabilities);
}

/* A parameter as YAML writes it, typed again: "null", "true" and numbers are
 * themselves, the rest are names, and a seed beyond signed integers its digits. No name of a dtype,
 * activation, policy or variant reads as a number. */
static json_t *param_json(const experiment_point *point, const schema_key *key) {
  char value[96], *end;
  schema_point_text(key, point, value, sizeof value);
  if (strcmp(value, "null") == 0) return json_null();
  if (strcmp(value, "true") == 0) return json_true();
  if (strcmp(value, "false") == 0) return json_false();
  if (key->type == TYPE_REAL) return number(strtod(value, NULL));
  errno = 0;
  const long long whole = strtoll(value, &end, 10);
  return *end == '\0' && end != value && errno == 0 ? json_integer(whole) : json_words(value);
}

/* Sets a member; false, with the whole object released, without memory. */
static bool set(json_t **object, const char *key, json_t *value) {
  if (*object && json_object_set_new(*object, key, value) == 0) return true;
  if (!*object) json_decref(value);
  json_decref(*object);
  *object = NULL;
  return false;
}

static json_t *params_json(const experiment_point *point) {
  json_t *params = json_object();
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (schema_param(key) && schema_applies(key, point))
      set(&params, schema_param(key), param_json(point, key));
  }
  return params;
}

/* By operation: the variants' names, or why they were chosen. A layer has not those of a
 * block. */
static json_t *by_operation(char *const values[NUM_OPERATIONS], experiment_what what) {
  json_t *object = json_object();
  for (int i = 0; i < (what == WHAT_BLOCK ? NUM_OPERATIONS : NUM_LAYER_OPERATIONS); i++)
    set(&object, measure_operations[i], json_words(values[i]));
  return object;
}

static json_t *summary_json(sample_summary times) {
  json_t *summary = json_object();
  for (size_t i = 0; i < NUM_SUMMARIES; i++)
    set(&summary, measure_summaries[i], number(*measure_summary(&times, i)));
  return summary;
}

static json_t *times_json(const sample_summary *time_ms, experiment_what what) {
  json_t *times = json_object();
  const int stages = what == WHAT_BLOCK ? RESULTS_STAGES : MOECL_STAGE_LAYER + 1;
  for (int stage = 0; stage < stages; stage++) {
    const sample_summary *summary = &time_ms[stage];
    set(&times, moecl_stage_name((moecl_stage)stage),
        isfinite(summary->median) ? summary_json(*summary) : json_null());
  }
  return times;
}

static json_t *rounds_json(const point_result *result, experiment_what what) {
  json_t *list = json_array();
  for (size_t r = 0; list && r < result->num_rounds; r++) {
    const point_round *round = &result->rounds[r];
    json_t *one = json_object();
    set(&one, "iterations", json_integer(round->iterations));
    set(&one, "load_average", number(round->load_average));
    set(&one, "time_ms", times_json(round->time_ms, what));
    set(&one, "host_ms", number(round->host_ms));
    if (one && json_array_append_new(list, one) == 0) continue;
    json_decref(list);
    return NULL;
  }
  return list;
}

static json_t *measure_json(const measure *m, const point_result *result) {
  const measure_value value = measure_get(m, result);
  if (!value.present) return json_null();
  if (m->kind == MEASURE_FLAG) return json_boolean(value.whole);
  if (m->kind == MEASURE_COUNT || m->kind == MEASURE_LIMIT) return json_integer(value.whole);
  return number(value.real);
}

static void set_measures(json_t **object, measure_group group, const point_result *result) {
  for (const measure *m = measures; m->name; m++)
    if (m->group == group) set(object, m->name, measure_json(m, result));
}

static json_t *counts_json(const int64_t *counts, int64_t count) {
  json_t *list = json_array();
  for (int64_t i = 0; list && i < count; i++) {
    if (json_array_append_new(list, json_integer(counts[i])) == 0) continue;
    json_decref(list);
    return NULL;
  }
  return list;
}

/* null for a point that failed before its routing was read. */
static json_t *routing_json(const point_result *result) {
  const moecl_routing *routing = &result->routing;
  if (!measure_group_present(MEASURE_ROUTING, result)) return json_null();
  json_t *object = json_object();
  set(&object, "tokens_per_expert", counts_json(routing->tokens_per_expert, routing->num_experts));
  set(&object, "tokens_per_expert_after_capacity",
      counts_json(routing->tokens_per_expert_after_capacity, routing->num_experts));
  set_measures(&object, MEASURE_ROUTING, result);
  return object;
}

static json_t *verify_json(const point_result *result) {
  if (!measure_group_present(MEASURE_VERIFY, result)) return json_null();
  json_t *object = json_object();
  set_measures(&object, MEASURE_VERIFY, result);
  return object;
}

static json_t *member_json(const point_member *member) {
  json_t *object = json_object();
  const char *variant = member->grouped_gemm_variant;
  set(&object, "device", json_words(member->device));
  set(&object, "grouped_gemm_variant", json_words(*variant ? variant : NULL));
  for (size_t i = 0; i < RESULTS_MEMBER_COUNTS; i++)
    set(&object, results_member_counts[i].name,
        json_integer(*(const int64_t *)((const char *)member + results_member_counts[i].offset)));
  for (size_t i = 0; i < RESULTS_MEMBER_TIMES; i++)
    set(&object, results_member_times[i].name,
        number(*(const double *)((const char *)member + results_member_times[i].offset)));
  return object;
}

static json_t *parallel_json(const point_result *result) {
  json_t *object = json_object(), *members = json_array();
  for (size_t m = 0; members && m < result->parallel.num_members; m++) {
    if (json_array_append_new(members, member_json(&result->parallel.members[m])) == 0) continue;
    json_decref(members);
    members = NULL;
  }
  set(&object, "transport", json_words(result->parallel.transport));
  set_measures(&object, MEASURE_PARALLEL, result);
  set(&object, "members", members);
  return object;
}

static json_t *point_json(const experiment *plan, const point_result *result) {
  const experiment_what what = plan->points[result->index].what;
  json_t *point = json_pack(
      "{s:I, s:s, s:o, s:o, s:o, s:o}", "index", (json_int_t)result->index, "status",
      point_status_name(result->status), "error", json_words(result->error), "params",
      params_json(&plan->points[result->index]), "variants", by_operation(result->variants, what),
      "variant_reasons", by_operation(result->variant_reasons, what));
  set_measures(&point, MEASURE_RUN, result);
  set(&point, "time_ms", times_json(result->time_ms, what));
  set_measures(&point, MEASURE_RATE, result);
  set(&point, "rounds_planned", json_integer(result->rounds_planned));
  set(&point, "rounds", rounds_json(result, what));
  set(&point, "routing", routing_json(result));
  set(&point, "verify", verify_json(result));
  if (measure_group_present(MEASURE_PARALLEL, result))
    set(&point, "parallel", parallel_json(result));
  if (measure_group_present(MEASURE_OFFLOAD, result)) {
    json_t *offload = json_object();
    set_measures(&offload, MEASURE_OFFLOAD, result);
    set(&point, "offload", offload);
  }
  return point;
}

static json_t *points_json(const results *all) {
  json_t *points = json_array();
  for (size_t i = 0; points && i < all->experiment->num_points; i++) {
    if (!all->have[i] ||
        json_array_append_new(points, point_json(all->experiment, &all->points[i])) == 0)
      continue;
    json_decref(points);
    return NULL;
  }
  return points;
}

char *results_json(const results *all) {
  json_t *plan = json_loads(all->experiment->resolved_json, 0, NULL);
  json_t *root =
      json_pack("{s:s, s:o, s:O, s:o, s:o, s:o, s:o, s:o}", "schema", RESULTS_SCHEMA, "versions",
                versions_json(), "runs", all->runs, "kernels", kernels_json(&all->kernels),
                "experiment", plan, "device", device_json(&all->device), "peaks",
                peaks_json(&all->peaks), "points", points_json(all));
  char *shown = root ? json_text(root, 1) : NULL;
  json_decref(root);
  char *whole = shown ? format_text("%s\n", shown) : NULL;
  free(shown);
  return whole;
}

char *results_json_line(const results *all, size_t index) {
  json_t *point = point_json(all->experiment, &all->points[index]);
  char *text = point ? json_text(point, 0) : NULL;
  json_decref(point);
  char *line = text ? format_text("%s\n", text) : NULL;
  free(text);
  return line;
}
