// SPDX-License-Identifier: MIT
/* One row of the schema is a key everywhere: what experiments, results.json, results.csv and help
 * call it; and what it was called before is read still. No device needed. */
#include "results_fixture.h"
#include "experiment/schema.h"

/* What follows the last dot. */
static const char *last_part(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot ? dot + 1 : name;
}

/* A parameter of a point, which can be swept and stands in the results. */
static bool is_param(const schema_key *key) { return (key->flags & OF_EXPERIMENT) == 0; }

/* How many of the cells of a file's first line are `name`. */
static int count_columns(const char *csv, const char *name) {
  int count = 0;
  const size_t length = strlen(name);
  for (const char *at = csv; at < csv + strcspn(csv, "\r"); at += strcspn(at, ",\r") + 1)
    count += strcspn(at, ",\r") == length && strncmp(at, name, length) == 0;
  return count;
}

/* What a name means is clear without its section: in columns, and on axes. */
static void test_names_are_unique(void **state) {
  (void)state;
  for (int i = 0; i < KEY_COUNT; i++)
    for (int j = 0; j < i; j++) {
      const schema_key *one = schema_get((schema_id)i), *other = schema_get((schema_id)j);
      if (strcmp(last_part(one->name), last_part(other->name)) == 0)
        fail_msg("%s and %s end alike", one->name, other->name);
    }
}

/* Help and messages name each choice, whole. */
static void test_choices_are_named(void **state) {
  char expected[SCHEMA_EXPECTED_SIZE + 3] = ", ";
  (void)state;
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    schema_expected(key, expected + 2, SCHEMA_EXPECTED_SIZE);
    strcat(expected, ",");
    for (int c = 0; c < key->num_choices && key->type == TYPE_CHOICE; c++) {
      char *word = key->choice(c) ? format_text(", %s,", key->choice(c)) : NULL;
      if (word && !strstr(expected, word)) fail_msg("%s: no '%s' in %s", key->name, word, expected);
      free(word);
    }
  }
}

static void test_one_name(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  f->plan.points[0].what = WHAT_BLOCK; /* it has them all */
  add(all, make_point(f, 0, POINT_OK));
  finish(all);
  char *csv = slurp(f, "results.csv"), *help = NULL;
  size_t size = 0, members = 0;
  FILE *file = open_memstream(&help, &size);
  experiment_print_keys(file);
  fclose(file);
  json_t *root = read_json(f);
  const json_t *point = json_array_get(json_object_get(root, "points"), 0);
  const json_t *params = json_object_get(point, "params");
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    const char *name = last_part(key->name);
    char *line = format_text("\n  %s\n", key->name);
    if (!strstr(help, line)) fail_msg("help lacks %s", key->name);
    free(line);
    if (!is_param(key)) continue;
    members++;
    if (count_columns(csv, name) != 1) fail_msg("%d columns %s", count_columns(csv, name), name);
    if (!json_object_get(params, name)) fail_msg("results.json lacks %s", name);
  }
  assert_int_equal(json_object_size(params), members); /* and nothing else */
  json_decref(root);
  free(help);
  free(csv);
  results_destroy(&all);
}

/* Every key that had another name, by which it is known in old files. */
static const struct {
  const char *old, *now, *value;
} renamed[] = {
    {"layer.variant", "layer.grouped_gemm_variant", "generic"},
    {"layer.shared.intermediate_size", "layer.shared.shared_intermediate_size", "16"},
    {"layer.shared.gate", "layer.shared.shared_gate", "true"},
    {"layer.shared.swiglu_limit", "layer.shared.shared_swiglu_limit", "3"},
    {"layer.shared.scaling_factor", "layer.shared.shared_scaling_factor", "0.5"},
    {"layer.router.scaling_factor", "layer.router.routed_scaling_factor", "2.5"},
    {"layer.router.correction_bias", "layer.router.score_correction_bias", "true"},
    {"layer.router.groups", "layer.router.num_expert_group", "4"},
    {"layer.router.topk_groups", "layer.router.topk_group", "2"},
    {"layer.router.noise", "layer.router.router_noise", "true"},
    {"layer.router.bias", "layer.router.router_bias", "true"},
    {"layer.router.variant", "layer.router.router_variant", "generic"},
    {"layer.capacity.factor", "layer.capacity.capacity_factor", "1.25"},
    {"layer.capacity.of_tokens", "layer.capacity.capacity_of_tokens", "true"},
    {"layer.capacity.renormalize", "layer.capacity.renormalize_after_capacity", "true"},
    {"workload.exponent", "workload.skew_exponent", "2"},
    {"workload.clusters", "workload.skew_clusters", "3"},
    {"workload.noise", "workload.skew_noise", "0.25"},
};
enum { NUM_RENAMED = sizeof renamed / sizeof renamed[0] };

static const char layer[] =
    "name: t\nlayer: {hidden_size: 64, intermediate_size: 32, num_experts: 8, top_k: 2, "
    "activation: swiglu_clamped}\n"
    "workload: {num_tokens: 6, distribution: skewed}\n";

/* An experiment with every key that was renamed, under one name or the other. */
static experiment load_all(bool old) {
  experiment_override overrides[NUM_RENAMED];
  char *texts[NUM_RENAMED], *error = NULL;
  experiment e;
  for (size_t i = 0; i < NUM_RENAMED; i++) {
    texts[i] = format_text("%s=%s", old ? renamed[i].old : renamed[i].now, renamed[i].value);
    overrides[i].assignment = texts[i];
  }
  if (!experiment_parse(layer, strlen(layer), "t.yaml", overrides, NUM_RENAMED, &e, &error))
    fail_msg("%s", error);
  for (size_t i = 0; i < NUM_RENAMED; i++) free(texts[i]);
  return e;
}

static size_t count_text(const char *text, const char *part) {
  size_t count = 0;
  for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part)) count++;
  return count;
}

static void test_old_names(void **state) {
  (void)state;
  experiment now = load_all(false), then = load_all(true);
  assert_null(now.warnings);
  assert_string_equal(now.resolved_json, then.resolved_json);
  assert_memory_equal(&now.points->seed, &then.points->seed, sizeof now.points->seed);
  for (size_t i = 0; i < NUM_RENAMED; i++) {
    char *warning = format_text("--set %s=%s: warning: %s is now called %s", renamed[i].old,
                                renamed[i].value, renamed[i].old, renamed[i].now);
    assert_non_null(then.warnings);
    if (count_text(then.warnings, warning) != 1) fail_msg("%s\n%s", warning, then.warnings);
    free(warning);
  }
  assert_int_equal(count_text(then.warnings, "warning:"), NUM_RENAMED);
  size_t have_old = 0;
  for (int i = 0; i < KEY_COUNT; i++) have_old += schema_get((schema_id)i)->old_name != NULL;
  assert_int_equal(have_old, NUM_RENAMED + 1); /* devices is from another section: test_config */
  experiment_destroy(&now);
  experiment_destroy(&then);
}

/* In a file the warning tells where; the name that counts is told once. */
static void test_old_name_in_a_file(void **state) {
  (void)state;
  static const char text[] = "layer:\n  hidden_size: 64\n  intermediate_size: 32\n"
                             "  num_experts: 8\n  top_k: 2\n  capacity:\n    factor: [1, 2]\n"
                             "workload: {num_tokens: 6}\n";
  char *error = NULL;
  experiment e;
  assert_true(experiment_parse(text, strlen(text), "t.yaml", NULL, 0, &e, &error));
  assert_string_equal(e.warnings, "t.yaml:7:5: warning: layer.capacity.factor is now called "
                                  "layer.capacity.capacity_factor");
  assert_string_equal(e.axes[0].param, "capacity_factor");
  assert_true(e.points[1].layer.capacity_factor == 2.0);
  experiment_destroy(&e);
  static const char both[] = "layer: {hidden_size: 64, intermediate_size: 32, num_experts: 8,\n"
                             "  top_k: 2, capacity: {factor: 1,\n  capacity_factor: 2}}\n"
                             "workload: {num_tokens: 6}\n";
  assert_false(experiment_parse(both, strlen(both), "t.yaml", NULL, 0, &e, &error));
  assert_string_equal(error, "t.yaml:3:3: layer.capacity.capacity_factor is given twice, under its "
                             "old name too; expected it once");
  free(error);
}

/* results.json as it was written under the old names: the point is taken over. */
static void test_resume_old_names(void **state) {
  fixture *f = *state;
  results *all = open_new(f);
  add(all, make_point(f, 0, POINT_OK));
  results_destroy(&all);
  json_t *root = read_json(f), *plan = json_object_get(root, "experiment");
  for (size_t i = 0; i < NUM_RENAMED; i++) {
    json_t *section = plan;
    char *name = strdup(renamed[i].old), *part = name;
    for (char *dot; (dot = strchr(part, '.')) != NULL; part = dot + 1) {
      *dot = '\0';
      section = json_object_get(section, part);
    }
    json_t *value = json_object_get(section, last_part(renamed[i].now));
    assert_non_null(value);
    json_object_set(section, part, value);
    json_object_del(section, last_part(renamed[i].now));
    free(name);
  }
  json_t *axes = json_object_get(plan, "sweep");
  assert_string_equal(json_string_value(json_array_get(axes, 1)), "layer.capacity.capacity_factor");
  json_array_set_new(axes, 1, json_string("layer.capacity.factor"));
  char *text = json_dumps(root, 0), *error;
  put_file(f, "results.json", text);
  free(text);
  all = resume(f, &error);
  if (!all) fail_msg("%s", error);
  assert_true(results_has(all, 0));
  results_destroy(&all);
  /* Another value is another experiment still. */
  json_object_set_new(json_object_get(json_object_get(plan, "layer"), "router"), "groups",
                      json_integer(2));
  text = json_dumps(root, 0);
  put_file(f, "results.json", text);
  free(text);
  expect_refused(f, "another experiment");
  json_decref(root);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names_are_unique),
      cmocka_unit_test(test_choices_are_named),
      CASE(test_one_name),
      cmocka_unit_test(test_old_names),
      cmocka_unit_test(test_old_name_in_a_file),
      CASE(test_resume_old_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
