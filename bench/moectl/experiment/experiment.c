// SPDX-License-Identifier: MIT
#include "experiment/experiment.h"

#include "experiment/effects.h"
#include "base/files.h"
#include "experiment/from_checkpoint.h"
#include "base/shell.h"
#include "experiment/sweep.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char *copy_text(const char *text, problems *problems) {
  size_t size = strlen(text) + 1;
  char *copy = malloc(size);
  if (copy == NULL) problem_out_of_memory(problems);
  else memcpy(copy, text, size);
  return copy;
}

/* Checks between keys that hold for the experiment as a whole. */
static void check_workload(const settings *settings, problems *problems) {
  const setting *distribution = &settings->keys[KEY_DISTRIBUTION];
  if (distribution->count == 0) return; /* wrong, and reported */
  bool uses_file = false, uses_skew = false;
  for (size_t i = 0; i < distribution->count; i++) {
    uses_file |= distribution->values[i].integer == WORKLOAD_FILE;
    uses_skew |= distribution->values[i].integer == WORKLOAD_SKEWED;
  }
  const setting *file = &settings->keys[KEY_FILE];
  const bool file_is_wrong = file->given && file->count == 0; /* reported */
  if (uses_file && !file_is_wrong && (file->count == 0 || file->values[0].null))
    problem_add(problems, distribution->mark,
                "workload.distribution: 'file' needs workload.file, expected the path of a "
                ".safetensors or .npy file");
  /* Given for nothing it would silently measure something else. (Naming another
   * distribution beside it, to compare, is fine.) */
  if (!distribution->given && file->given && file->count > 0 && !file->values[0].null)
    problem_add(problems, file->mark,
                "workload.file: is not used by the default distribution 'normal'; expected "
                "'distribution: file' beside it");
  static const schema_id skew_keys[] = {KEY_SKEW_EXPONENT, KEY_SKEW_CLUSTERS, KEY_SKEW_NOISE};
  for (size_t i = 0; i < 3 && !uses_skew; i++) {
    const setting *s = &settings->keys[skew_keys[i]];
    if (s->count > 1)
      problem_add(problems, s->mark,
                  "%s: sweeping it changes nothing without 'distribution: skewed'",
                  schema_get(skew_keys[i])->name);
  }
}

/* Given for nothing, it would silently measure something else. (Beside 'what: layer' it is
 * ignored with a warning.) */
static void check_what(const settings *settings, problems *problems) {
  const setting *what = &settings->keys[KEY_WHAT];
  for (size_t i = 0; i < what->count; i++)
    if (what->values[i].integer == WHAT_BLOCK) return;
  for (int i = 0; i < KEY_COUNT; i++) {
    const setting *s = &settings->keys[i];
    const schema_key *key = schema_get((schema_id)i);
    if (!s->given || !schema_needs_block(key) || (what->given && s->count < 2)) continue;
    problem_add(problems, s->mark,
                "%s: is of a transformer block, and what is measured is a layer; expected 'what: "
                "block' in measure",
                key->name);
    return;
  }
}

/* "configs/k-sweep.yaml" names its results "k-sweep". */
static char *name_from_path(const char *path, problems *problems) {
  const char *slash = strrchr(path, '/');
  char *name = copy_text(slash == NULL ? path : slash + 1, problems);
  if (name == NULL) return NULL;
  char *dot = strrchr(name, '.');
  if (dot != NULL && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0)) *dot = '\0';
  if (strlen(name) > 100) name[100] = '\0';
  for (char *c = name; *c != '\0'; c++) {
    bool letter = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z');
    bool other = (*c >= '0' && *c <= '9') || (c > name && strchr("._-", *c) != NULL);
    if (!letter && !other) *c = c == name ? 'x' : '-';
  }
  if (name[0] != '\0') return name;
  free(name);
  return copy_text("experiment", problems);
}

/* A relative input file lies beside the experiment, so that the pair can be
 * moved; one from the command line is where the shell's completion saw it. */
static char *resolve_input(const setting *file, const char *path, problems *problems) {
  const char *input = file->values[0].text;
  const char *slash = strrchr(path, '/');
  if (input[0] == '/' || slash == NULL || file->mark.set != NULL) return copy_text(input, problems);
  size_t folder = (size_t)(slash - path) + 1, size = strlen(input) + 1;
  char *resolved = malloc(folder + size);
  if (resolved == NULL) {
    problem_out_of_memory(problems);
    return NULL;
  }
  memcpy(resolved, path, folder);
  memcpy(resolved + folder, input, size);
  return resolved;
}

/* The name is settled before the JSON is made, which shows it. */
static void settle_name(settings *settings, const char *path, problems *problems) {
  setting *name = &settings->keys[KEY_NAME];
  if (name->count > 0) return;
  name->values = calloc(1, sizeof *name->values);
  if (name->values == NULL) {
    problem_out_of_memory(problems);
    return;
  }
  name->values[0].text = name_from_path(path, problems);
  name->count = 1;
}

static void fill_experiment(experiment *experiment, const settings *settings, problems *problems) {
  const setting *keys = settings->keys;
  experiment->name = copy_text(keys[KEY_NAME].values[0].text, problems);
  experiment->device = copy_text(keys[KEY_DEVICE].values[0].text, problems);
  if (!keys[KEY_FILE].values[0].null)
    experiment->input_file = resolve_input(&keys[KEY_FILE], experiment->path, problems);
  if (!keys[KEY_TENSOR].values[0].null)
    experiment->input_tensor = copy_text(keys[KEY_TENSOR].values[0].text, problems);
  static const schema_id plain[] = {KEY_WARMUP, KEY_ITERATIONS, KEY_ROUNDS, KEY_VERIFY};
  for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
    schema_store(schema_get(plain[i]), &keys[plain[i]].values[0], experiment);
  experiment->resolved_json = settings_json(settings);
  if (experiment->resolved_json == NULL) problem_out_of_memory(problems);
}

/* Read before points are checked by it. */
static void read_placement(const settings *settings, experiment *experiment, problems *problems) {
  const setting *file = &settings->keys[KEY_PARALLEL_PLACEMENT_FILE];
  char *error = NULL;
  if (file->count == 0 || file->values[0].null) return; /* none, or wrong, which was reported */
  experiment->placement_path = resolve_input(file, experiment->path, problems);
  if (experiment->placement_path &&
      !placement_file_read(experiment->placement_path, &experiment->placement, &error))
    problem_add(problems, file->mark, "parallel.placement_file: %s", error ? error : "no memory");
  free(error);
}

static void fill_warnings(experiment *experiment, const settings *settings, problems *problems) {
  struct problems warnings = {.path = problems->path};
  effects_check(settings, &warnings);
  if (warnings.out_of_memory) problem_out_of_memory(problems);
  if (problems_any(&warnings)) experiment->warnings = problems_take(&warnings);
}

/* With a checkpoint its layer's values stand for the defaults. */
static void read_checkpoint(settings *settings, experiment *experiment, problems *problems) {
  const setting *folder = &settings->keys[KEY_CHECKPOINT];
  if (folder->given && folder->count > 0 && !folder->values[0].null)
    experiment->checkpoint = resolve_input(folder, experiment->path, problems);
  if (!problems->out_of_memory)
    from_checkpoint(settings, experiment->checkpoint, &experiment->source, problems);
}

/* Is a checkpoint named, and cannot serve? That was reported. */
static bool checkpoint_fails(const settings *settings, const experiment *experiment) {
  const setting *folder = &settings->keys[KEY_CHECKPOINT];
  const bool named = folder->given && (folder->count == 0 || !folder->values[0].null);
  return named && !experiment->source;
}

/* False: the file is no mapping of keys at all. */
static bool read_all(settings *settings, experiment *experiment, const char *text, size_t size,
                     const experiment_override *overrides, size_t num_overrides,
                     problems *problems) {
  bool empty = false;
  tree_node *root = tree_parse(text, size, NULL, &empty, problems);
  if (empty)
    problem_add(problems, (tree_mark){NULL, 1, 1},
                "the file is empty; expected an experiment, e.g. configs/quickstart.yaml");
  if (root != NULL) settings_read_tree(settings, root, problems);
  for (size_t i = 0; i < num_overrides; i++)
    settings_override(settings, overrides[i].assignment, problems);
  /* Nothing could be read: what is missing then is no news. */
  const bool readable = root != NULL && root->kind == TREE_MAPPING;
  if (readable) {
    read_checkpoint(settings, experiment, problems);
    /* Where it was refused its sizes would be missed too. */
    if (!checkpoint_fails(settings, experiment)) settings_complete(settings, problems);
  }
  tree_destroy(root);
  return readable;
}

bool experiment_parse(const char *text, size_t size, const char *path,
                      const experiment_override *overrides, size_t num_overrides,
                      experiment *experiment, char **error) {
  problems problems = {.path = path};
  memset(experiment, 0, sizeof *experiment);
  *error = NULL;
  experiment->path = copy_text(path, &problems);
  experiment->settings = calloc(1, sizeof *experiment->settings);
  if (experiment->settings == NULL) problem_out_of_memory(&problems);
  settings *settings = experiment->settings;
  const bool readable = !problems.out_of_memory && read_all(settings, experiment, text, size,
                                                            overrides, num_overrides, &problems);
  /* Beside values that are wrong by themselves, what is wrong between others. */
  if (readable && !problems.out_of_memory) {
    check_workload(settings, &problems);
    check_what(settings, &problems);
    read_placement(settings, experiment, &problems);
    sweep_expand(settings, experiment, &problems);
    for (size_t i = 0; i < experiment->num_points; i++)
      experiment->points[i].source = experiment->source;
  }
  if (!problems_any(&problems)) settle_name(settings, path, &problems);
  if (!problems_any(&problems)) fill_experiment(experiment, settings, &problems);
  if (!problems_any(&problems)) fill_warnings(experiment, settings, &problems);
  if (!problems_any(&problems)) return true;
  *error = problems_take(&problems);
  experiment_destroy(experiment);
  return false;
}

/* What a run wrote is JSON, which is YAML too: without this every key of it
 * would be reported as a mistake. Its schema is its first member. */
static bool is_results(const char *text, size_t size) {
  static const char mark[] = "\"moecl-results/";
  const size_t length = sizeof mark - 1;
  for (size_t i = 0; i + length <= size && i < 64; i++)
    if (memcmp(text + i, mark, length) == 0) return true;
  return false;
}

static void results_given(const char *folder, size_t length, problems *problems) {
  if (length == 0) {
    folder = ".";
    length = 1;
  }
  char *path = format_text("%.*s", (int)length, folder);
  char *file = format_text("%.*s/results.json", (int)length, folder);
  char *path_word = path ? shell_text(path) : NULL, *file_word = file ? shell_text(file) : NULL;
  problem_add_file(problems,
                   "holds the results of a run, expected an experiment; to go on with that run: "
                   "moectl run FILE.yaml --resume %s; to run again what is recorded there: "
                   "jq '.experiment | del(.sweep)' %s > again.yaml",
                   path_word ? path_word : "DIR", file_word ? file_word : "DIR/results.json");
  free(path_word);
  free(file_word);
  free(path);
  free(file);
}

/* A folder with results in it, given for an experiment. */
static bool is_results_folder(const char *path) {
  char file[4096], start[128];
  snprintf(file, sizeof file, "%s/results.json", path);
  FILE *results = fopen(file, "rb");
  if (results == NULL) return false;
  const size_t size = fread(start, 1, sizeof start, results);
  fclose(results);
  return is_results(start, size);
}

/* Reads at most a byte more than allowed, which also bounds /dev/zero. */
static char *read_file(const char *path, size_t *size, problems *problems) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    problem_add_file(problems, "cannot be read: %s", strerror(errno));
    return NULL;
  }
  char *text = malloc(EXPERIMENT_MAX_FILE + 1);
  if (text == NULL) {
    problem_out_of_memory(problems);
  } else {
    errno = 0;
    *size = fread(text, 1, EXPERIMENT_MAX_FILE + 1, file);
    const int reason = errno;
    const char *slash = strrchr(problems->path, '/');
    if (ferror(file) && is_results_folder(problems->path))
      results_given(problems->path, strlen(problems->path), problems);
    else if (ferror(file)) problem_add_file(problems, "cannot be read: %s", strerror(reason));
    else if (is_results(text, *size))
      results_given(problems->path, slash == NULL ? 0 : (size_t)(slash - problems->path), problems);
    else if (*size > EXPERIMENT_MAX_FILE)
      problem_add_file(problems, "is larger than 1 MiB; expected an experiment in YAML");
  }
  fclose(file);
  return text;
}

bool experiment_load(const char *path, const experiment_override *overrides, size_t num_overrides,
                     experiment *experiment, char **error) {
  problems problems = {.path = path};
  size_t size = 0;
  memset(experiment, 0, sizeof *experiment);
  *error = NULL;
  char *text = read_file(path, &size, &problems);
  bool good = !problems_any(&problems);
  if (good) good = experiment_parse(text, size, path, overrides, num_overrides, experiment, error);
  else *error = problems_take(&problems);
  free(text);
  return good;
}

void experiment_destroy(experiment *experiment) {
  if (experiment == NULL) return;
  free(experiment->path);
  free(experiment->options);
  free(experiment->command);
  free(experiment->name);
  free(experiment->device);
  free(experiment->input_file);
  free(experiment->input_tensor);
  free(experiment->placement_path);
  placement_file_release(&experiment->placement);
  free(experiment->points);
  free(experiment->axes);
  free(experiment->resolved_json);
  free(experiment->checkpoint);
  checkpoint_source_destroy(&experiment->source);
  free(experiment->warnings);
  if (experiment->settings != NULL) settings_free(experiment->settings);
  free(experiment->settings);
  memset(experiment, 0, sizeof *experiment);
}

const char *experiment_param_text(const experiment_point *point, const char *param, char *text,
                                  size_t size) {
  schema_id id = schema_find_param(param);
  return id == KEY_COUNT ? NULL : schema_point_text(schema_get(id), point, text, size);
}

const char *experiment_point_label(const experiment *experiment, size_t index, char *text,
                                   size_t size) {
  char one[96];
  size_t used = 0;
  if (size > 0) text[0] = '\0';
  for (size_t i = 0; i < experiment->num_axes && used < size; i++) {
    const char *param = experiment->axes[i].param;
    experiment_param_text(&experiment->points[index], param, one, sizeof one);
    used += (size_t)snprintf(text + used, size - used, "%s%s=%s", i > 0 ? ", " : "", param, one);
  }
  return text;
}
