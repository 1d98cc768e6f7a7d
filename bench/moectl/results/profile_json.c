// SPDX-License-Identifier: MIT
/* profile.json, written and, as a baseline, read back. */
#include "base/files.h"
#include "base/json_text.h"
#include "results/measures.h"
#include "results/profile.h"
#include "results/provenance.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* JSON knows no NaN or infinity. */
static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *summary_json(sample_summary times) {
  return json_pack("{s:o, s:o, s:o}", "median", number(times.median), "min", number(times.min),
                   "p90", number(times.p90));
}

static json_t *kernel_json(const profile_kernel *kernel) {
  return json_pack("{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "kernel", json_words(kernel->name),
                   "step", kernel->step, "stage", moecl_stage_name(kernel->stage), "enqueued_us",
                   number(kernel->enqueued_us), "start_us", number(kernel->start_us), "end_us",
                   number(kernel->end_us), "us", number(kernel->us), "gap_us",
                   number(kernel->gap_us));
}

static json_t *kernels_json(const profile_part *part) {
  json_t *list = json_array();
  for (size_t i = 0; i < part->num_kernels; i++)
    json_array_append_new(list, kernel_json(&part->kernels[i]));
  return list;
}

static json_t *stages_json(const profile_part *part) {
  json_t *stages = json_object();
  for (int i = 0; i < MOECL_STAGE_COUNT; i++) {
    const profile_stage *stage = &part->stages[i];
    if (stage->kernels == 0) continue;
    json_object_set_new(stages, moecl_stage_name((moecl_stage)i),
                        json_pack("{s:I, s:o, s:o, s:o, s:o}", "kernels",
                                  (json_int_t)stage->kernels, "us", number(stage->us), "flops",
                                  number(stage->flops), "bytes", number(stage->bytes), "us_over",
                                  summary_json(stage->over)));
  }
  return stages;
}

static json_t *memory_json(const profile_memory *memory) {
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights",
                   (json_int_t)memory->weights, "workspace", (json_int_t)memory->workspace,
                   "activations", (json_int_t)memory->activations, "hidden_states",
                   (json_int_t)memory->hidden, "inputs", (json_int_t)memory->inputs, "cache",
                   (json_int_t)memory->cache, "bf16_saves", (json_int_t)memory->bf16_saves,
                   "predicted", (json_int_t)memory->predicted, "seen", (json_int_t)memory->seen);
}

static json_t *rounds_json(const profile_part *part) {
  json_t *list = json_array();
  for (size_t i = 0; i < part->num_rounds; i++)
    json_array_append_new(list, number(part->round_us[i]));
  return list;
}

static json_t *part_json(const profile_part *part) {
  if (!part->ran) return json_pack("{s:b, s:o}", "ran", 0, "why", json_words(part->why));
  return json_pack("{s:b, s:b, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "ran", 1,
                   "timed", part->timed, "forwards", (json_int_t)part->forwards, "alone_us",
                   summary_json(part->alone_us), "span_us", summary_json(part->span_us),
                   "rounds_us", rounds_json(part), "host_us", number(part->host_us), "total_us",
                   number(part->total_us), "gaps_us", number(part->gaps_us), "memory_bytes",
                   memory_json(&part->memory), "stages", stages_json(part), "kernels",
                   kernels_json(part));
}

static json_t *variants_json(const profile_point *point) {
  json_t *list = json_array();
  for (size_t i = 0; i < point->num_variants; i++) {
    const profile_variant *variant = &point->variants[i];
    json_array_append_new(
        list, json_pack("{s:s, s:b, s:b, s:o, s:o, s:b, s:I, s:o}", "name", variant->name, "chosen",
                        variant->chosen, "ran", variant->ran, "why", json_words(variant->why), "us",
                        summary_json(variant->us), "ok", variant->ran && variant->verify.ok,
                        "topk_mismatches", (json_int_t)variant->verify.topk_mismatches, "error",
                        number(variant->verify.error)));
  }
  return list;
}

static json_t *point_json(const profile *all, const profile_point *point) {
  char label[512];
  char *work = profile_work(&all->experiment->points[point->index]);
  json_t *parts = json_object(), *operations = json_object();
  for (int i = 0; i < PROFILE_PARTS; i++)
    json_object_set_new(parts, profile_part_names[i], part_json(&point->parts[i]));
  for (int i = 0; i < NUM_LAYER_OPERATIONS; i++)
    json_object_set_new(operations, measure_operations[i], json_words(point->operations[i].name));
  experiment_point_label(all->experiment, point->index, label, sizeof label);
  json_t *json = json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "index", (json_int_t)point->index,
                           "label", json_words(label), "work", json_words(work), "variants",
                           operations, "parts", parts, "router_variants", variants_json(point));
  free(work);
  return json;
}

char *profile_json(const profile *all) {
  json_t *points = json_array();
  for (size_t i = 0; i < all->num_points; i++)
    if (all->points[i].ran) json_array_append_new(points, point_json(all, &all->points[i]));
  json_t *json =
      json_pack("{s:s, s:s, s:[o, o], s:s, s:s, s:o, s:o, s:o, s:o}", "schema", PROFILE_SCHEMA,
                "measured", all->measured, "load_average", number(all->least_load),
                number(all->most_load), "moecl", moecl_version(), "commit", provenance_commit(),
                "experiment", json_words(all->experiment->name), "device",
                json_words(all->device.name), "peaks", peaks_json(&all->peaks), "points", points);
  char *text = json ? json_text(json, 1) : NULL;
  json_decref(json);
  return text;
}

/* ---- the baseline ---- */

static double real_of(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_number(value) ? json_number_value(value) : NAN;
}

static sample_summary summary_of(const json_t *json) {
  return (sample_summary){real_of(json, "median"), real_of(json, "min"), real_of(json, "p90")};
}

static void read_rounds(const json_t *rounds, profile_record *record, int part) {
  size_t i;
  json_t *us;
  json_array_foreach(rounds, i, us) {
    if (i == PROFILE_ROUNDS) return;
    record->parts[part].round_us[i] = json_is_number(us) ? json_number_value(us) : NAN;
    record->parts[part].num_rounds++;
  }
}

static void read_part(const json_t *json, profile_record *record, int part) {
  const json_t *stages = json_object_get(json, "stages");
  record->parts[part].ran = json_is_true(json_object_get(json, "ran"));
  record->parts[part].whole_us = summary_of(json_object_get(json, "alone_us"));
  if (!isfinite(record->parts[part].whole_us.median))
    record->parts[part].whole_us = summary_of(json_object_get(json, "span_us"));
  read_rounds(json_object_get(json, "rounds_us"), record, part);
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    const json_t *one = json_object_get(stages, moecl_stage_name((moecl_stage)stage));
    record->parts[part].stages[stage].there = json_is_object(one);
    record->parts[part].stages[stage].us = summary_of(json_object_get(one, "us_over"));
  }
}

static char *words_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? format_text("%s", text) : NULL;
}

static bool read_record(const json_t *json, profile_record *record) {
  const json_t *parts = json_object_get(json, "parts");
  record->label = words_of(json, "label");
  record->work = words_of(json, "work");
  for (int part = 0; part < PROFILE_PARTS; part++)
    read_part(json_object_get(parts, profile_part_names[part]), record, part);
  return record->label && record->work && json_is_object(parts);
}

static bool read_records(const json_t *root, profile_baseline *baseline) {
  size_t i;
  json_t *point;
  const json_t *points = json_object_get(root, "points");
  if (!json_is_array(points)) return false;
  baseline->records = calloc(json_array_size(points) + 1, sizeof *baseline->records);
  if (!baseline->records) return false;
  json_array_foreach(points, i, point) {
    baseline->num_records++;
    if (!read_record(point, &baseline->records[i])) return false;
  }
  const json_t *load = json_object_get(root, "load_average");
  baseline->least_load =
      json_is_number(json_array_get(load, 0)) ? json_number_value(json_array_get(load, 0)) : NAN;
  baseline->most_load =
      json_is_number(json_array_get(load, 1)) ? json_number_value(json_array_get(load, 1)) : NAN;
  baseline->measured = words_of(root, "measured");
  baseline->device = words_of(root, "device");
  baseline->version = words_of(root, "moecl");
  baseline->commit = words_of(root, "commit");
  return baseline->measured && baseline->device && baseline->version && baseline->commit;
}

bool profile_baseline_read(const char *text, size_t size, const char *path,
                           profile_baseline *baseline, char **error) {
  json_error_t where;
  *baseline = (profile_baseline){0};
  json_t *root = json_loadb(text, size, 0, &where);
  const char *schema = json_string_value(json_object_get(root, "schema"));
  bool ok = root != NULL;
  if (!ok) fail_text(error, "%s is not JSON (line %d: %s)", path, where.line, where.text);
  else if (!schema || strcmp(schema, PROFILE_SCHEMA) != 0)
    ok = fail_text(error,
                   "%s is no profile: its schema is %s, expected %s; 'moectl profile' "
                   "writes one",
                   path, schema ? schema : "not given", PROFILE_SCHEMA);
  else if (!read_records(root, baseline))
    ok = fail_text(error, "%s cannot be read: a part of the profile is missing", path);
  json_decref(root);
  if (!ok) profile_baseline_release(baseline);
  return ok;
}

void profile_baseline_release(profile_baseline *baseline) {
  for (size_t i = 0; i < baseline->num_records; i++) {
    free(baseline->records[i].label);
    free(baseline->records[i].work);
  }
  free(baseline->records);
  free(baseline->measured);
  free(baseline->device);
  free(baseline->version);
  free(baseline->commit);
  *baseline = (profile_baseline){0};
}

const profile_record *profile_baseline_find(const profile_baseline *baseline,
                                            const experiment *experiment, size_t index) {
  char *work = profile_work(&experiment->points[index]);
  const profile_record *found = NULL;
  for (size_t i = 0; work && !found && i < baseline->num_records; i++)
    if (strcmp(baseline->records[i].work, work) == 0) found = &baseline->records[i];
  free(work);
  return found;
}
