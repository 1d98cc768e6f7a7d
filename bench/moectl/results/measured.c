// SPDX-License-Identifier: MIT
#include "results/measured.h"
#include "base/files.h"
#include "base/utf8.h"
#include "experiment/settings.h"
#include "results/results_private.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Others wrote the file: no control character of it reaches a terminal. */
static void make_plain(char *text) {
  for (char *c = text; c && *c;) {
    const size_t control = utf8_control(c);
    memset(c, ' ', control);
    c += control > 0 ? control : 1;
  }
}

static char *plain_text(const char *from, size_t length) {
  char *text = format_text("%.*s", (int)length, from);
  make_plain(text);
  return text;
}

static char *real_text(double real) {
  char text[40];
  return format_text("%s", schema_real_text(real, text, sizeof text));
}

/* The last part of a path. */
static char *last_name(const char *path) {
  size_t end = strlen(path);
  while (end > 1 && path[end - 1] == '/') end--;
  size_t begin = end;
  while (begin > 0 && path[begin - 1] != '/') begin--;
  return plain_text(path + begin, end - begin);
}

static bool is_path(const schema_key *key) {
  return key == schema_get(KEY_CHECKPOINT) || key == schema_get(KEY_FILE);
}

/* As YAML writes it; NULL without memory. */
static char *value_text(const schema_key *key, const json_t *value) {
  if (json_is_null(value)) return format_text("null");
  if (json_is_boolean(value)) return format_text("%s", json_is_true(value) ? "true" : "false");
  if (json_is_string(value) && is_path(key)) return last_name(json_string_value(value));
  if (json_is_string(value)) return plain_text(json_string_value(value), json_string_length(value));
  if (json_is_integer(value) && key->type == TYPE_INT)
    return format_text("%" PRId64, (int64_t)json_integer_value(value));
  return real_text(json_number_value(value));
}

static char *default_value(const schema_key *key) {
  return key->type == TYPE_REAL && strcmp(key->default_text, "null") != 0
             ? real_text(strtod(key->default_text, NULL))
             : format_text("%s", key->default_text);
}

/* A key's value, or its default; false with a message. A list is no value of a point. */
static bool read_value(const schema_key *key, const json_t *value, const char *where, char **text,
                       char **error) {
  if (json_is_array(value) || json_is_object(value))
    return fail_text(error, "%s: %s is not one value", where, key->name);
  if (!value && !key->default_text)
    return fail_text(error, "%s: %s is missing", where, schema_param(key));
  *text = value ? value_text(key, value) : default_value(key);
  return *text || fail_text(error, "no memory for %s", where);
}

/* How many points the experiment has: the product of its lists' lengths. */
static size_t count_planned(const json_t *experiment) {
  size_t count = 1;
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    const json_t *value = schema_param(key) ? settings_json_get(experiment, key) : NULL;
    const size_t length = json_array_size(value); /* 0: no list */
    if (length > 0) count = count > SIZE_MAX / length ? SIZE_MAX : count * length;
  }
  return count;
}

/* The keys that are one for the experiment. Its name is the file's where it is not given. */
static bool read_experiment(const json_t *experiment, measured_run *run, char **error) {
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    const json_t *value = settings_json_get(experiment, key);
    if (schema_param(key) || (!value && !key->default_text)) continue;
    if (!read_value(key, value, run->path, &run->values[i], error)) return false;
  }
  return true;
}

static bool read_params(const json_t *params, const char *where, measured_point *point,
                        char **error) {
  const char *name;
  json_t *value;
  if (!json_is_object(params)) return fail_text(error, "%s has no params", where);
  json_object_foreach((json_t *)params, name, value) {
    if (schema_find_param(name) == KEY_COUNT)
      return fail_text(error,
                       "%s: the parameter %s is unknown to this version (%s), so whether its "
                       "work is the same can't be told; use the newer one",
                       where, name, moecl_version());
  }
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (schema_param(key) && !read_value(key, json_object_get(params, schema_param(key)), where,
                                         &point->values[i], error))
      return false;
  }
  return true;
}

static bool read_point(const json_t *object, size_t index, measured_run *run, char **error) {
  measured_point *point = &run->points[index];
  const char *wrong = results_point_read(object, &point->result);
  if (wrong)
    return fail_text(error,
                     "%s cannot be read: points[%zu].%s is missing or not what it should "
                     "be",
                     run->path, index, wrong);
  run->num_points++;
  make_plain(point->result.error);
  make_plain(point->result.parallel.transport);
  utf8_drop_part(point->result.parallel.transport);
  char *where = format_text("%s, point %zu", run->path, point->result.index);
  const bool ok = where ? read_params(json_object_get(object, "params"), where, point, error)
                        : fail_text(error, "no memory for %s", run->path);
  free(where);
  return ok;
}

static bool read_points(const json_t *points, measured_run *run, char **error) {
  size_t i;
  json_t *point;
  if (!json_is_array(points)) return fail_text(error, "%s has no list of points", run->path);
  run->points = calloc(json_array_size(points) + 1, sizeof *run->points);
  if (!run->points) return fail_text(error, "no memory for %s", run->path);
  json_array_foreach(points, i, point) if (!read_point(point, i, run, error)) return false;
  return true;
}

static bool read_who(const json_t *root, measured_run *run, char **error) {
  const bool peer = json_object_get(root, "system") != NULL;
  const char *whose = peer ? "system" : "versions";
  const struct {
    const char *object, *key;
    char **to;
  } parts[] = {{"device", "name", &run->device},
               {"device", "platform", &run->platform},
               {"device", "driver", &run->driver},
               {"system", "name", &run->system},
               {whose, peer ? "version" : "moecl", &run->version},
               {whose, "commit", &run->commit},
               {"kernels", "hash", &run->kernels}};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    const json_t *object = json_object_get(root, parts[i].object);
    const char *found = json_string_value(json_object_get(object, parts[i].key));
    const char *otherwise = peer || parts[i].to != &run->system ? "not recorded" : "moecl";
    const char *text = found ? found : otherwise;
    *parts[i].to = plain_text(text, strlen(text));
    if (!*parts[i].to) return fail_text(error, "no memory for %s", run->path);
  }
  return true;
}

static bool read_root(const json_t *root, measured_run *run, char **error) {
  const char *schema = json_string_value(json_object_get(root, "schema"));
  if (!schema || strcmp(schema, RESULTS_SCHEMA) != 0)
    return fail_text(error, "%s is not results.json of a run: its schema is %s, expected %s",
                     run->path, schema ? schema : "not given", RESULTS_SCHEMA);
  const json_t *experiment = json_object_get(root, "experiment");
  run->num_planned = count_planned(experiment);
  return read_who(root, run, error) && read_experiment(experiment, run, error) &&
         read_points(json_object_get(root, "points"), run, error);
}

static bool is_there(const char *folder, const char *name) {
  char *path = format_text("%s/%s", folder, name);
  struct stat info;
  const bool there = path && stat(path, &info) == 0;
  free(path);
  return there;
}

/* Why a file cannot be read; a folder of another command's results is told from an empty one. */
static void say_unread(const char *path, const char *file, bool folder, char **error) {
  const int reason = errno;
  if (folder && is_there(path, "index.html"))
    fail_text(error, "%s is a suite's folder: compare its parts, as %s/layer", path, path);
  else if (folder && is_there(path, "docs/consolidated_profiling_report.md"))
    fail_text(error,
              "%s is a profile's folder: moectl profile --baseline %s compares a new profile "
              "with it, moectl compare those of moectl run",
              path, path);
  else fail_text(error, "%s cannot be read: %s", file, strerror(reason));
}

/* The file's text; where a folder was given, that of its results.json. */
static char *read_text(const char *path, size_t *size, measured_run *run, char **error) {
  struct stat info;
  const bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
  char *file = format_text("%s%s", path, folder ? "/results.json" : "");
  char *journal = format_text("%s/results.jsonl", path);
  char *text = file && journal ? read_whole_file(file, size) : NULL;
  if (!file || !journal) fail_text(error, "no memory for %s", path);
  else if (!text) say_unread(path, file, folder, error);
  run->has_journal = text && folder && stat(journal, &info) == 0;
  free(file);
  free(journal);
  return text;
}

bool measured_load(const char *path, measured_run *run, char **error) {
  size_t size = 0;
  json_error_t where;
  *error = NULL;
  *run = (measured_run){.path = format_text("%s", path)};
  char *text = read_text(path, &size, run, error);
  json_t *root = text ? json_loadb(text, size, 0, &where) : NULL;
  bool ok = text && run->path;
  if (ok && !root)
    ok = fail_text(error, "%s is not JSON (line %d: %s)", path, where.line, where.text);
  ok = ok && read_root(root, run, error);
  json_decref(root);
  free(text);
  if (!ok) measured_release(run);
  return ok;
}

void measured_release(measured_run *run) {
  for (size_t i = 0; i < run->num_points; i++) {
    point_result_destroy(&run->points[i].result);
    for (int key = 0; key < KEY_COUNT; key++) free(run->points[i].values[key]);
  }
  char *const texts[] = {run->path,   run->device,  run->platform, run->driver,
                         run->system, run->version, run->commit,   run->kernels};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) free(texts[i]);
  for (int key = 0; key < KEY_COUNT; key++) free(run->values[key]);
  free(run->points);
  *run = (measured_run){0};
}

const char *measured_value(const measured_run *run, size_t point, schema_id key) {
  const char *own = run->points[point].values[key], *shared = run->values[key];
  return own ? own : shared ? shared : "null";
}
