// SPDX-License-Identifier: MIT
/* Options together: every two values of two keys of an experiment that may stand
 * together do so in a point here, which has to verify; all others must be refused,
 * and are named in `exclusive`. */
#include "../unit/unit.h"
#include "experiment/experiment.h"
#include "layers.h"
#include "run/runner.h"
#include "experiment/schema.h"
#include <stdio.h>

enum { MOST_VALUES = 16 };

static struct {
  const char *key, *values[MOST_VALUES]; /* the first: neutral; none here: each name of the key's
                                            enumeration */
} options[] = {
    {"dtype", {"fp32", "fp16", "bf16"}},
    {"workload.num_tokens", {"33", "1"}},
    {"layer.top_k", {"2", "1", "8"}},
    /* One of each kind: gated, with a limit after which, plain. Of all of them test_layer_rules.c
     * has layers; twice as many here would be twice the time. */
    {"layer.activation", {"swiglu", "swiglu_clamped", "swiglu_limited", "relu2"}},
    {"layer.num_identity_experts", {"0", "3"}},
    {"layer.gate_up_bias", {"false", "true"}},
    {"layer.down_bias", {"false", "true"}},
    {"layer.shared.shared_intermediate_size", {"null", "24"}},
    {"layer.shared.shared_gate", {"false", "true"}},
    {"layer.shared.shared_scaling_factor", {"1", "0.5"}},
    {"layer.activation_format", {"dtype", "int8", "fp8-g128"}},
    {"layer.batch_invariant", {"false", "true"}},
    {"layer.grouped_gemm_variant", {"auto", "generic"}},
    {"layer.router.router_variant", {"auto", "generic", "by_block"}},
    {"layer.router.scoring", {NULL}},
    {"layer.router.score_after_topk", {"false", "true"}},
    {"layer.router.renormalize", {"true", "false"}},
    {"layer.router.renormalize_epsilon", {"null", "0.01"}},
    {"layer.router.renormalize_minimum", {"0", "0.9"}},
    {"layer.router.routed_scaling_factor", {"1", "2.5"}},
    {"layer.router.score_correction_bias", {"false", "true"}},
    {"layer.router.topk_group", {"4", "3"}}, /* of four groups */
    {"layer.router.group_score", {NULL}},
    {"layer.router.cut_groups_to_zero", {"false", "true"}},
    {"layer.router.second_choice", {NULL}},
    {"layer.router.router_noise", {"false", "true"}},
    {"layer.router.weight_on_input", {"false", "true"}},
    {"layer.router.jitter", {"0", "0.1"}},
    {"layer.router.router_bias", {"false", "true"}},
    {"layer.capacity.capacity_factor", {"null", "1", "0.1"}},
    {"layer.capacity.capacity_of_tokens", {"false", "true"}},
    {"layer.capacity.drop_policy", {NULL}},
    {"layer.capacity.min_capacity", {"0", "3"}},
    {"layer.capacity.renormalize_after_capacity", {"false", "true"}},
};
enum { OPTIONS = sizeof options / sizeof *options };

/* What excludes each other, as include/moecl/layer.h and params.c say. */
static const char *const exclusive[][2] = {
    {"score_after_topk=true", "scoring=sparsemixer"},
    {"score_after_topk=true", "score_correction_bias=true"},
    {"score_after_topk=true", "topk_group=3"},
    {"scoring=sparsemixer", "score_correction_bias=true"},
    {"scoring=sparsemixer", "topk_group=3"},
    {"scoring=sparsemixer", "second_choice=random"},
    {"scoring=sparsemixer", "second_choice=sampled"},
    {"score_correction_bias=true", "second_choice=sampled"},
    {"topk_group=3", "second_choice=sampled"},
    {"top_k=8", "topk_group=3"}, /* six experts */
    {"shared_intermediate_size=null", "shared_gate=true"},
    {"num_identity_experts=3", "weight_on_input=true"},
};

static const char text[] = "layer: {hidden_size: 40, intermediate_size: 24, num_experts: 8, "
                           "top_k: 2, router: {num_expert_group: 4, topk_group: 4}}\n"
                           "workload: {num_tokens: 33}\n"
                           "measure: {warmup: 0, iterations: 1}\n";

static moecl_context *context;
static bool done[OPTIONS][MOST_VALUES][OPTIONS][MOST_VALUES]; /* seen in a point, a < b */
static uint64_t random_state;

static unsigned draw(unsigned below) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(random_state >> 33) % below;
}

static void fill_in_names(void) {
  for (int a = 0; a < OPTIONS; a++) {
    if (options[a].values[0]) continue;
    const schema_key *key = schema_get(schema_find(options[a].key, strlen(options[a].key)));
    assert_int_equal(key->type, TYPE_CHOICE);
    assert_in_range(key->num_choices, 2, MOST_VALUES);
    for (int i = 0; i < key->num_choices; i++) options[a].values[i] = key->choice(i);
    assert_string_equal(options[a].values[0], key->default_text);
  }
}

static int values_of(int option) {
  int count = 0;
  while (count < MOST_VALUES && options[option].values[count]) count++;
  return count;
}

static bool is(const char *want, int option, int value) {
  char assignment[128];
  snprintf(assignment, sizeof assignment, "%s=%s", options[option].key,
           options[option].values[value]);
  const size_t length = strlen(assignment), wanted = strlen(want);
  return length >= wanted && strcmp(assignment + length - wanted, want) == 0 &&
         (length == wanted || assignment[length - wanted - 1] == '.');
}

static bool excludes(int a, int i, int b, int j) {
  for (size_t e = 0; e < sizeof exclusive / sizeof *exclusive; e++)
    if ((is(exclusive[e][0], a, i) && is(exclusive[e][1], b, j)) ||
        (is(exclusive[e][1], a, i) && is(exclusive[e][0], b, j)))
      return true;
  return false;
}

/* Every name in `exclusive` is one of the options above, and every key of a layer is,
 * but for sizes and numbers that only scale something. */
static void test_names(void **state) {
  static const char *const plain[] = {"layer.hidden_size",
                                      "layer.intermediate_size",
                                      "layer.num_experts",
                                      "layer.swiglu_alpha",
                                      "layer.swiglu_limit",
                                      "layer.router.sparsemixer_jitter",
                                      "layer.router.num_expert_group",
                                      "layer.shared.shared_swiglu_limit",
                                      "layer.weight_format",
                                      "layer.scale_search"}; /* test_formats.c, test_encode.c */
  (void)state;
  fill_in_names();
  for (int id = 0; id < KEY_COUNT; id++) {
    const schema_key *key = schema_get((schema_id)id);
    bool known = !schema_is_of_layer(key);
    for (int a = 0; a < OPTIONS; a++) known = known || strcmp(options[a].key, key->name) == 0;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
      known = known || strcmp(plain[i], key->name) == 0;
    if (!known) fail_msg("%s is not among the options here", key->name);
  }
  for (size_t e = 0; e < sizeof exclusive / sizeof *exclusive; e++)
    for (int side = 0; side < 2; side++) {
      int found = 0;
      for (int a = 0; a < OPTIONS; a++)
        for (int i = 0; i < values_of(a); i++) found += is(exclusive[e][side], a, i);
      assert_int_equal(found, 1);
    }
}

static bool stand_together(const int *values) {
  for (int a = 0; a < OPTIONS; a++)
    for (int b = a + 1; b < OPTIONS; b++)
      if (excludes(a, values[a], b, values[b])) return false;
  return true;
}

/* As on the command line; `given` has all assignments. */
static bool parse(const int *values, experiment *experiment, char *given, size_t size,
                  char **error) {
  char assignments[OPTIONS][128];
  experiment_override overrides[OPTIONS];
  size_t used = 0;
  for (int a = 0; a < OPTIONS; a++) {
    snprintf(assignments[a], sizeof assignments[a], "%s=%s", options[a].key,
             options[a].values[values[a]]);
    overrides[a] = (experiment_override){assignments[a]};
    used += (size_t)snprintf(given + used, size - used, " %s", assignments[a]);
  }
  return experiment_parse(text, sizeof text - 1, "options.yaml", overrides, OPTIONS, experiment,
                          error);
}

enum { GIVEN_SIZE = OPTIONS * 128 };

static void verifies(const int *values) {
  static volatile sig_atomic_t interrupted;
  char given[GIVEN_SIZE], *error = NULL;
  experiment experiment;
  if (!parse(values, &experiment, given, sizeof given, &error))
    fail_msg("refused: %s\n%s", error, given);
  runner runner = {.context = context, .experiment = &experiment, .interrupted = &interrupted};
  point_result result;
  assert_int_equal(experiment.num_points, 1);
  assert_true(runner_run_point(&runner, 0, NULL, &result));
  if (result.status != POINT_OK) fail_msg("%s\n%s", result.error, given);
  assert_true(result.verify.ran && result.verify.ok);
  point_result_destroy(&result);
  runner_release(&runner);
  experiment_destroy(&experiment);
}

/* How many pairs the values have that no point had before; marks them. */
static int new_pairs(const int *values, bool mark) {
  int count = 0;
  for (int a = 0; a < OPTIONS; a++)
    for (int b = a + 1; b < OPTIONS; b++) {
      bool *seen = &done[a][values[a]][b][values[b]];
      count += !*seen;
      if (mark) *seen = true;
    }
  return count;
}

/* Random values that stand together, with two given ones. */
static bool complete(int a, int i, int b, int j, int *values) {
  for (int attempt = 0; attempt < 1000; attempt++) {
    for (int o = 0; o < OPTIONS; o++) values[o] = (int)draw((unsigned)values_of(o));
    values[a] = i;
    values[b] = j;
    if (stand_together(values)) return true;
  }
  return false;
}

/* Of many points with the pair the one that has the most that is new. */
static void cover(int a, int i, int b, int j) {
  int best[OPTIONS], values[OPTIONS], most = -1;
  for (int candidate = 0; candidate < 60; candidate++) {
    if (!complete(a, i, b, j, values)) fail_msg("%s and %s: alone", options[a].key, options[b].key);
    const int count = new_pairs(values, false);
    if (count <= most) continue;
    most = count;
    memcpy(best, values, sizeof best);
  }
  new_pairs(best, true);
  verifies(best);
}

static void test_pairs(void **state) {
  int points = 0;
  (void)state;
  for (int a = 0; a < OPTIONS; a++)
    for (int b = a + 1; b < OPTIONS; b++)
      for (int i = 0; i < values_of(a); i++)
        for (int j = 0; j < values_of(b); j++) {
          if (done[a][i][b][j] || excludes(a, i, b, j)) continue;
          cover(a, i, b, j);
          points++;
        }
  print_message("%d points, seed %llu\n", points, (unsigned long long)case_seed());
}

/* Everything else at its first value, so that nothing else is refused. */
static void test_exclusive(void **state) {
  (void)state;
  for (int a = 0; a < OPTIONS; a++)
    for (int b = a + 1; b < OPTIONS; b++)
      for (int i = 0; i < values_of(a); i++)
        for (int j = 0; j < values_of(b); j++) {
          int values[OPTIONS] = {0};
          char given[GIVEN_SIZE], *error = NULL;
          experiment experiment;
          values[a] = i;
          values[b] = j;
          if (!excludes(a, i, b, j)) continue;
          if (parse(values, &experiment, given, sizeof given, &error)) fail_msg("taken:%s", given);
          assert_non_null(error);
          free(error);
        }
}

int main(void) {
  skip_without_device();
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  random_state = case_seed();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_exclusive),
      cmocka_unit_test(test_pairs),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed;
}
