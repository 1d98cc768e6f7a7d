// SPDX-License-Identifier: MIT
/* Experiment files: the exact message for what is wrong. */
#include "config.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void refuses_bytes(const char *text, size_t size, const char *set, const char *message) {
  struct experiment experiment, zeros = {0};
  char *error = NULL;
  experiment_override override = {set};
  assert_false(experiment_parse(text, size, "t.yaml", &override, set != NULL, &experiment, &error));
  assert_non_null(error);
  assert_string_equal(error, message);
  assert_memory_equal(&experiment, &zeros, sizeof zeros);
  free(error);
}
static void refuses(const char *text, const char *message) {
  refuses_bytes(text, strlen(text), NULL, message);
}
static void refuses_set(const char *set, const char *message) {
  refuses_bytes(minimal, strlen(minimal), set, message);
}
/* The minimal experiment and more lines (from line 8 on). */
static void refuses_added(const char *lines, const char *message) {
  char text[1024];
  snprintf(text, sizeof text, "%s%s", minimal, lines);
  refuses(text, message);
}

static void test_not_yaml(void **state) {
  (void)state;
  static const char empty[] =
      "t.yaml:1:1: the file is empty; expected an experiment, e.g. configs/quickstart.yaml";
  refuses("", empty);
  refuses("# only a comment\n", empty);
  refuses("---\n", empty);
  refuses("a: [1, 2\n", "t.yaml:2:1: not valid YAML: did not find expected ',' or ']' (while "
                        "parsing a flow sequence that begins in line 1)");
  refuses("a: b: c\n",
          "t.yaml:1:5: not valid YAML: mapping values are not allowed in this context");
  refuses("layer:\n\ttop_k: 1\n", "t.yaml:2:1: not valid YAML: found character that cannot start "
                                  "any token; a tab cannot indent, expected spaces");
  refuses_bytes("a: 1\n\x01\x02\0\x7f", 9, NULL,
                "t.yaml:2:1: not a text file: control characters are not allowed at byte 5; "
                "expected YAML in UTF-8");
  refuses("a: \xff\xfe\n", "t.yaml:1:4: not a text file: invalid leading UTF-8 octet at byte 3; "
                           "expected YAML in UTF-8");
  refuses("- 1\n", "t.yaml:1:1: expected an experiment (keys such as 'layer' and 'workload'), "
                   "found a list");
  refuses("hello\n", "t.yaml:1:1: expected an experiment (keys such as 'layer' and 'workload'), "
                     "found 'hello'");
  refuses_added("---\na: 1\n",
                "t.yaml:8:1: a second document begins here; expected one experiment a file");
}

static void test_hostile_yaml(void **state) {
  (void)state;
  static const char alias[] =
      "anchors and aliases (&name, *name) are not supported; expected the value itself";
  char message[160], deep[65];
  snprintf(message, sizeof message, "t.yaml:1:4: %s", alias);
  refuses("a: &a [x, x]\nb: [*a, *a, *a]\n", message);
  refuses("a: *a\n", message);
  refuses("a: !!python/object:os.system 1\n",
          "t.yaml:1:4: tags (!name) are not supported; expected a plain value");
  memset(deep, '[', 64);
  deep[64] = '\0';
  refuses(deep, "t.yaml:1:17: nested deeper than 16 levels; expected an experiment");
  size_t many = 120000;
  char *text = malloc(many + 1);
  assert_non_null(text);
  for (size_t i = 0; i < many; i += 2) memcpy(text + i, "1,", 2);
  memcpy(text, "a: [", 4);
  text[many] = '\0';
  refuses(text, "t.yaml:1:99999: more than 50000 keys and values; expected an experiment");
  free(text);
}

static void test_unknown_keys(void **state) {
  (void)state;
  refuses_added("nmae: x\n", "t.yaml:8:1: unknown key 'nmae'; did you mean 'name'?");
  refuses_added("top_k: 1\n", "t.yaml:8:1: unknown key 'top_k'; did you mean 'top_k' in layer?");
  refuses_added("layer.top_k: 1\n",
                "t.yaml:8:1: unknown key 'layer.top_k'; did you mean 'top_k' in layer?");
  refuses_added("  dtype: bf16\n", "t.yaml:8:3: unknown key 'dtype' in workload; did you mean "
                                   "'dtype' at the top level?");
  refuses_added("  Num-Clusters: 2\n", "t.yaml:8:3: unknown key 'Num-Clusters' in workload; "
                                       "did you mean 'skew_clusters'?");
  refuses_added("  num_token: 2\n",
                "t.yaml:8:3: unknown key 'num_token' in workload; did you mean 'num_tokens'?");
  refuses_added("zzzzzz: 2\n",
                "t.yaml:8:1: unknown key 'zzzzzz'; 'moectl help experiment' lists all");
  refuses_added("? [a]\n: 2\n", "t.yaml:8:3: expected a key, found a list");
  refuses("layer:\n  hidden_size: 64\n  intermediate_size: 128\n  num_experts: 8\n  topk: 2\n"
          "workload: {num_tokens: 1}\n",
          "t.yaml:2:3: layer.top_k is missing; expected an integer from 1 to 64\n"
          "t.yaml:5:3: unknown key 'topk' in layer; did you mean 'top_k'?");
}

/* What is wrong between keys is told beside keys that are wrong by themselves. */
static void test_together(void **state) {
  (void)state;
  refuses("layer: {hidden_size: 8, intermediate_size: 8, num_experts: 2, top_k: 3}\n"
          "workload: {num_tokens: 0}\n",
          "t.yaml:1:70: layer.top_k: expected at most layer.num_experts (2), found 3\n"
          "t.yaml:2:24: workload.num_tokens: expected an integer from 1 to 2147483647, found '0'");
  refuses("layer: {hiden_size: 8, intermediate_size: 8, num_experts: [8, 2], top_k: [1, 3]}\n"
          "workload: {num_tokens: 4}\n",
          "t.yaml:1:8: layer.hidden_size is missing; expected an integer from 1 to 1073741823\n"
          "t.yaml:1:9: unknown key 'hiden_size' in layer; did you mean 'hidden_size'?\n"
          "t.yaml:1:74: layer.top_k: expected at most layer.num_experts (2), found 3, in the point "
          "num_experts=2, top_k=3 (1 of 4 points are like it)");
  /* Of a key that is wrong by itself nothing else is said. */
  refuses("layer: {hidden_size: 8, intermediate_size: 8, num_experts: 0, top_k: 3}\n"
          "workload: {num_tokens: 2147483647}\n",
          "t.yaml:1:60: layer.num_experts: expected an integer from 1 to 1024, found '0'\n"
          "t.yaml:2:24: workload.num_tokens: expected num_tokens x top_k at most 2147483136, found "
          "2147483647 x 3");
  refuses("layer: {hidden_size: 8, intermediate_size: 8, num_experts: 9, top_k: 3,\n"
          "        router: {num_expert_group: 4, topk_group: 4}}\n"
          "seed: x\n"
          "workload: {num_tokens: 1, distribution: file}\n",
          "t.yaml:2:36: layer.router.num_expert_group is 4, expected 1 to 32 and a divisor of "
          "layer.num_experts (9)\n"
          "t.yaml:3:7: seed: expected an integer from 0 to 18446744073709551615, found 'x'\n"
          "t.yaml:4:41: workload.distribution: 'file' needs workload.file, expected the path of a "
          ".safetensors or .npy file");
  /* One group key without the other, beside sizes that are wrong, missing or too many. */
  refuses(
      "layer: {hidden_size: x, num_experts: 8, top_k: 9,\n"
      "        router: {num_expert_group: 4, score_after_topk: true, score_correction_bias: "
      "true}}\n"
      "workload: {num_tokens: 1}\n",
      "t.yaml:1:8: layer.intermediate_size is missing; expected an integer from 1 to "
      "1073741823\n"
      "t.yaml:1:22: layer.hidden_size: expected an integer from 1 to 1073741823, found 'x'\n"
      "t.yaml:1:48: layer.top_k: expected at most layer.num_experts (8), found 9\n"
      "t.yaml:2:36: layer.router.num_expert_group: is 4 without layer.router.topk_group; expected "
      "that "
      "beside it, 1 to 4\n"
      "t.yaml:2:57: layer.router.score_after_topk is true with layer.router.score_correction_bias, "
      "expected one of both");
  refuses_added("zzzzzz: 1\nseed: 1.5\n",
                "t.yaml:8:1: unknown key 'zzzzzz'; 'moectl help experiment' lists all\n"
                "t.yaml:9:7: seed: expected an integer from 0 to 18446744073709551615, found "
                "'1.5'; a fraction has no meaning here");
  refuses_set("layer.router.topk_group=2",
              "--set layer.router.topk_group=2: layer.router.topk_group: is 2 without "
              "layer.router.num_expert_group; expected both or neither");
  refuses("layer: {hidden_size: 8, intermediate_size: 8, num_experts: 2, top_k: 2}\n"
          "workload: {num_tokens: 1, distribution: fiel, skew_exponent: [1, 2], file: 3, tensor: "
          "[a]}\n",
          "t.yaml:2:41: workload.distribution: expected one of normal, skewed, file, found "
          "'fiel'; did you mean 'file'?\n"
          "t.yaml:2:87: workload.tensor: cannot be swept; expected one value, found a list");
}

static void test_offload(void **state) {
  (void)state;
  refuses_added(
      "parallel: {placement: offload, cache: 2.5}\n",
      "t.yaml:8:39: parallel.cache: expected a share below 1, or a whole number up to the "
      "layer's 8 experts, found 2.5");
  refuses_added(
      "parallel: {placement: offload, cache: 9}\n",
      "t.yaml:8:39: parallel.cache: expected a share below 1, or a whole number up to the "
      "layer's 8 experts, found 9");
  refuses_added(
      "parallel: {placement: offload, cache: 0}\n",
      "t.yaml:8:39: parallel.cache: expected a number greater than 0, at most 1024, or null, "
      "found '0'; for all that fit write null");
  /* Told once, by the keys' names. */
  refuses_added("block: {attention: {num_heads: 4}}\nparallel: {placement: offload, cache: 2}\n"
                "measure: {what: block}\n",
                "t.yaml:9:23: parallel.placement: 'offload' is of layers on one device, expected "
                "another where blocks are measured (measure.what)");
}

static void test_structure(void **state) {
  (void)state;
  refuses("name: x\n",
          "t.yaml:1:1: layer.hidden_size is missing; expected an integer from 1 to 1073741823\n"
          "t.yaml:1:1: layer.intermediate_size is missing; expected an integer from 1 to "
          "1073741823\n"
          "t.yaml:1:1: layer.num_experts is missing; expected an integer from 1 to 1024\n"
          "t.yaml:1:1: layer.top_k is missing; expected an integer from 1 to 64\n"
          "t.yaml:1:1: workload.num_tokens is missing; expected an integer from 1 to 2147483647");
  refuses_added("measure: 3\n",
                "t.yaml:8:10: measure: expected a section (keys below it), found '3'");
  refuses_added("measure: [1]\n",
                "t.yaml:8:10: measure: expected a section (keys below it), found a list");
  refuses_added("seed: 1\nseed: 2\n", "t.yaml:9:1: seed is given twice; expected it once");
  refuses_added("layer: {}\n", "t.yaml:8:1: layer is given twice; expected it once");
  refuses_added("seed: {a: 1}\n",
                "t.yaml:8:7: seed: expected an integer from 0 to 18446744073709551615, found a "
                "mapping (key: value)");
  refuses_added(
      "seed: [[1]]\n",
      "t.yaml:8:8: seed: expected an integer from 0 to 18446744073709551615, found a list");
  refuses_added("seed: []\n", "t.yaml:8:7: seed: expected 1 to 1000 values in the list, found 0");
  refuses_added("seed: [1, 2, 1]\n", "t.yaml:8:14: seed: '1' is in the list twice");
  refuses_added("name: [a, b]\n",
                "t.yaml:8:7: name: cannot be swept; expected one value, found a list");
}

static void test_integers(void **state) {
  (void)state;
  static const struct {
    const char *written, *found;
  } cases[] = {{"1e3", "'1e3'; write 1000"},
               {"2.0", "'2.0'; write 2"},
               {"2.5", "'2.5'; a fraction has no meaning here"},
               {"\"4\"", "the text \"4\"; write it without quotes"},
               {"010", "'010'; write a plain decimal number"},
               {"0x10", "'0x10'; write a plain decimal number"},
               {"1_000", "'1_000'; write a plain decimal number"},
               {"0", "'0'"},
               {"-1", "'-1'"},
               {"65", "'65'"},
               {"99999999999999999999", "'99999999999999999999'"},
               {"four", "'four'"},
               {"true", "'true'"},
               {"null", "'null'"},
               {"\"a\\0b\"", "the text \"a\\x00b\""}};
  char set[64], message[256];
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    snprintf(set, sizeof set, "layer.top_k=%s", cases[i].written);
    snprintf(message, sizeof message,
             "--set %s: layer.top_k: expected an integer from 1 to 64, found %s", set,
             cases[i].found);
    refuses_set(set, message);
  }
  refuses_added(
      "seed:\n",
      "t.yaml:8:6: seed: expected an integer from 0 to 18446744073709551615, found nothing");
}

static void test_reals(void **state) {
  (void)state;
  static const struct {
    const char *set, *rest;
  } cases[] = {
      {"layer.router.jitter=1", "a number from 0 to less than 1, found '1'"},
      {"layer.router.jitter=0.99999999", "a number from 0 to less than 1, found '0.99999999'"},
      {"layer.router.jitter=-0.1", "a number from 0 to less than 1, found '-0.1'"},
      {"layer.router.jitter=-1e-50", "a number from 0 to less than 1, found '-1e-50'"},
      {"layer.router.routed_scaling_factor=1e-50",
       "a number greater than 0, at most 1000000, found '1e-50'"},
      {"layer.router.routed_scaling_factor=1000000.0001",
       "a number greater than 0, at most 1000000, found '1000000.0001'"},
      {"layer.router.renormalize_minimum=-1e-300", "a number from 0 to 1000000, found '-1e-300'"},
      {"layer.router.jitter=.nan", "a number from 0 to less than 1, found '.nan'"},
      {"layer.router.jitter=nan", "a number from 0 to less than 1, found 'nan'"},
      {"layer.capacity.capacity_factor=0",
       "a number greater than 0, at most 1000000, or null, found '0'; "
       "for no limit write null"},
      {"layer.capacity.capacity_factor=1e999",
       "a number greater than 0, at most 1000000, or null, found '1e999'"},
      {"layer.capacity.capacity_factor=inf",
       "a number greater than 0, at most 1000000, or null, found 'inf'"},
      {"layer.capacity.capacity_factor=none",
       "a number greater than 0, at most 1000000, or null, found 'none'; write null"},
      {"layer.capacity.capacity_factor=\"1.0\"",
       "a number greater than 0, at most 1000000, or null, found "
       "the text \"1.0\"; write it without quotes"}};
  char message[256];
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int key = (int)strcspn(cases[i].set, "=");
    snprintf(message, sizeof message, "--set %s: %.*s: expected %s", cases[i].set, key,
             cases[i].set, cases[i].rest);
    refuses_set(cases[i].set, message);
  }
  experiment e = load(minimal, "layer.capacity.capacity_factor=~");
  assert_true(e.points[0].layer.capacity_factor == 0.0);
  experiment_destroy(&e);
  e = load(minimal, "layer.capacity.capacity_factor=.5e1");
  assert_true(e.points[0].layer.capacity_factor == 5.0);
  experiment_destroy(&e);
}

static const char *activation_name(int i) { return moecl_activation_name((moecl_activation)i); }
static const char *drop_name(int i) { return moecl_drop_policy_name((moecl_drop_policy)i); }
static const char *scoring_name(int i) { return moecl_scoring_name((moecl_scoring)i); }

/* Each of the names is expected. */
static void refuses_word(const char *key, const char *word, const char *(*name)(int), int count,
                         const char *meant) {
  char set[128], message[1024];
  snprintf(set, sizeof set, "%s=%s", key, word);
  size_t used =
      (size_t)snprintf(message, sizeof message, "--set %s: %s: expected one of ", set, key);
  for (int i = 0; i < count; i++)
    used += (size_t)snprintf(message + used, sizeof message - used, "%s, ", name(i));
  snprintf(message + used, sizeof message - used, "found '%s'; did you mean '%s'?", word, meant);
  refuses_set(set, message);
}

static void test_words(void **state) {
  (void)state;
  refuses_set("measure.verify=yes", "--set measure.verify=yes: measure.verify: expected true or "
                                    "false, found 'yes'; write true");
  refuses_set("measure.verify=Off", "--set measure.verify=Off: measure.verify: expected true or "
                                    "false, found 'Off'; write false");
  refuses_set("measure.verify=True", "--set measure.verify=True: measure.verify: expected true or "
                                     "false, found 'True'; write true");
  refuses_word("layer.activation", "swigul", activation_name, MOECL_ACTIVATION_COUNT, "swiglu");
  refuses_word("layer.capacity.drop_policy", "prob", drop_name, MOECL_DROP_POLICY_COUNT,
               "probability");
  refuses_word("layer.router.scoring", "sigmod", scoring_name, MOECL_SCORING_COUNT, "sigmoid");
  static const char *const dtypes[][2] = {{"float32", "fp32"},  {"Float16", "fp16"},
                                          {"bfloat16", "bf16"}, {"torch.bfloat16", "bf16"},
                                          {"half", "fp16"},     {"f32", "fp32"}};
  for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
    char set[64], message[256];
    snprintf(set, sizeof set, "dtype=%s", dtypes[i][0]);
    snprintf(message, sizeof message,
             "--set %s: dtype: expected one of fp32, fp16, bf16, found '%s'; did you mean '%s'?",
             set, dtypes[i][0], dtypes[i][1]);
    refuses_set(set, message);
  }
  refuses_set("name=a/b", "--set name=a/b: name: expected at most 100 letters, digits, '.', '_' "
                          "and '-', beginning with a letter or digit, found 'a/b'");
  refuses_set("name=\"\"", "--set name=\"\": name: expected at most 100 letters, digits, '.', '_' "
                           "and '-', beginning with a letter or digit, found ''; without this key "
                           "it is the file's");
  refuses_set("seed=18446744073709551616",
              "--set seed=18446744073709551616: seed: expected an integer from 0 to "
              "18446744073709551615, found '18446744073709551616'");
  refuses_set("seed=-1", "--set seed=-1: seed: expected an integer from 0 to "
                         "18446744073709551615, found '-1'");
  refuses_set("seed=\"1\"", "--set seed=\"1\": seed: expected an integer from 0 to "
                            "18446744073709551615, found the text \"1\"; write it without quotes");
  refuses_set("measure.rounds=0",
              "--set measure.rounds=0: measure.rounds: expected an integer from "
              "1 to 1000, or null, found '0'");
  refuses_set("name=..", "--set name=..: name: expected at most 100 letters, digits, '.', '_' "
                         "and '-', beginning with a letter or digit, found '..'");
  refuses_set("device=null",
              "--set device=null: device: expected a text of 1 to 4000 bytes, found 'null'");
  refuses_set("device=\"a\\nb\"", "--set device=\"a\\nb\": device: expected a text without control "
                                  "characters");
}

static void test_bad_overrides(void **state) {
  (void)state;
  refuses_set("layer.top_k", "--set layer.top_k: expected KEY=VALUE, e.g. layer.top_k=4");
  refuses_set("layer.top_k=", "--set layer.top_k=: expected a value after '='");
  refuses_set("=3", "--set =3: unknown key ''; 'moectl help experiment' lists all");
  refuses_set("top_k=3", "--set top_k=3: unknown key 'top_k'; did you mean 'layer.top_k'?");
  refuses_set("layer.topk=3", "--set layer.topk=3: unknown key 'layer.topk'; did you mean "
                              "'layer.top_k'?");
  refuses_set("layer={}", "--set layer={}: 'layer' is a section; expected one of its keys");
  refuses_set("layer.top_k=[1", "--set layer.top_k=[1: not valid YAML: did not find expected ',' "
                                "or ']'");
  /* A mistake in the file is reported even where an override replaces it. */
  experiment_override set = {"seed=1"};
  experiment e;
  char text[256], *error = NULL;
  snprintf(text, sizeof text, "%sseed: x\n", minimal);
  assert_false(experiment_parse(text, strlen(text), "t.yaml", &set, 1, &e, &error));
  assert_string_equal(
      error, "t.yaml:8:7: seed: expected an integer from 0 to 18446744073709551615, found 'x'");
  free(error);
}

static void test_impossible_points(void **state) {
  (void)state;
  refuses_set("layer.top_k=9", "--set layer.top_k=9: layer.top_k: expected at most "
                               "layer.num_experts (8), found 9");
  refuses_set("layer.num_experts=1025", "--set layer.num_experts=1025: layer.num_experts: expected "
                                        "an integer from 1 to 1024, found '1025'");
  refuses_set("workload.num_tokens=0", "--set workload.num_tokens=0: workload.num_tokens: expected "
                                       "an integer from 1 to 2147483647, found '0'");
}

static void test_impossible_sweeps(void **state) {
  (void)state;
  refuses("layer: {hidden_size: 64, intermediate_size: 8, num_experts: [2, 8],\n"
          "        top_k: [1, 4]}\n"
          "workload: {num_tokens: 4}\n",
          "t.yaml:2:16: layer.top_k: expected at most layer.num_experts (2), found 4, in the point "
          "num_experts=2, top_k=4 (1 of 4 points are like it)");
  refuses("layer: {hidden_size: 64, intermediate_size: 8, num_experts: 8, top_k: [1, 2]}\n"
          "workload: {num_tokens: [4, 2147483136]}\n",
          "t.yaml:2:24: workload.num_tokens: expected num_tokens x top_k at most 2147483136, found "
          "2147483136 x 2, in the point top_k=2, num_tokens=2147483136 (1 of 4 points are like "
          "it)");
  refuses("layer: {hidden_size: 1073741823, intermediate_size: 1073741823, num_experts: 1024, "
          "top_k: 1}\nworkload: {num_tokens: 1}\n",
          "t.yaml:1:22: layer.hidden_size 1073741823, layer.intermediate_size 1073741823 and "
          "layer.num_experts "
          "1024 multiply to more weights than 64-bit sizes can count, expected smaller ones");
  refuses("layer: {hidden_size: 1, intermediate_size: 1073741823, num_experts: 1, top_k: 1}\n"
          "workload: {num_tokens: 2147483136}\n",
          "t.yaml:2:24: workload.num_tokens: expected intermediate values that 64-bit sizes can "
          "count, found num_tokens 2147483136, top_k 1, hidden_size 1, intermediate_size "
          "1073741823");
}

static void test_huge_sweep(void **state) {
  (void)state;
  char text[8192];
  size_t used = (size_t)snprintf(text, sizeof text, "%sseed: [0", minimal);
  for (int i = 1; i < 101; i++)
    used += (size_t)snprintf(text + used, sizeof text - used, ", %d", i);
  used += (size_t)snprintf(text + used, sizeof text - used, "]\nmeasure: {}\n");
  char set[1024] = "workload.num_tokens=[1";
  for (int i = 2; i < 101; i++) snprintf(set + strlen(set), sizeof set - strlen(set), ",%d", i);
  strcat(set, "]");
  experiment_override override = {set};
  experiment e;
  char *error = NULL;
  assert_false(experiment_parse(text, used, "t.yaml", &override, 1, &e, &error));
  assert_non_null(strstr(error, "t.yaml:8:7: the sweep has 10100 points (workload.num_tokens 100 x "
                                "seed 101), expected at most 10000"));
  free(error);
}

static void test_workload(void **state) {
  (void)state;
  refuses_added("  distribution: file\n",
                "t.yaml:8:17: workload.distribution: 'file' needs workload.file, expected the path "
                "of a .safetensors or .npy file");
  refuses_added("  file: x.npy\n",
                "t.yaml:8:9: workload.file: is not used by the default distribution 'normal'; "
                "expected 'distribution: file' beside it");
  refuses_added("  skew_noise: [0.1, 0.2]\n",
                "t.yaml:8:15: workload.skew_noise: sweeping it changes nothing "
                "without 'distribution: skewed'");
  experiment e = load(minimal, "workload.distribution=[normal, skewed]");
  assert_int_equal(e.points[1].distribution, WORKLOAD_SKEWED);
  experiment_destroy(&e);
}

static void test_many_problems(void **state) {
  (void)state;
  char text[1024] = "", *line;
  for (int i = 0; i < 30; i++) strcat(text, "q: 1\n");
  experiment e;
  char *error = NULL;
  assert_false(experiment_parse(text, strlen(text), "t.yaml", NULL, 0, &e, &error));
  int lines = 1;
  for (line = error; (line = strchr(line, '\n')) != NULL; line++) lines++;
  assert_int_equal(lines, 21);
  assert_non_null(strstr(error, "\nt.yaml: 15 more problems not shown")); /* 5 keys missing */
  free(error);
}

static void test_files(void **state) {
  (void)state;
  experiment e;
  char *error = NULL;
  assert_false(experiment_load("/nonexistent.yaml", NULL, 0, &e, &error));
  assert_string_equal(error, "/nonexistent.yaml: cannot be read: No such file or directory");
  free(error);
  assert_false(experiment_load("/", NULL, 0, &e, &error));
  assert_string_equal(error, "/: cannot be read: Is a directory");
  free(error);
  assert_false(experiment_load("/dev/zero", NULL, 0, &e, &error));
  assert_string_equal(error, "/dev/zero: is larger than 1 MiB; expected an experiment in YAML");
  free(error);
}

static void refuses_file(const char *path, const char *message) {
  experiment e;
  char *error = NULL;
  assert_false(experiment_load(path, NULL, 0, &e, &error));
  assert_non_null(error);
  assert_string_equal(error, message);
  free(error);
}

/* Results given for an experiment, as the file or as its folder; however large. */
static void test_results_given(void **state) {
  (void)state;
  char folder[] = "/tmp/moecl-given-XXXXXX", path[64], message[512], here[1024];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/results.json", folder);
  refuses_file(folder, strcat(strcpy(message, folder), ": cannot be read: Is a directory"));
  char odd[96], odd_path[128];
  snprintf(odd, sizeof odd, "%s/it's $HOME", folder);
  snprintf(odd_path, sizeof odd_path, "%s/results.json", odd);
  for (int large = 0; large < 2; large++) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fprintf(file, "{\n \"schema\": \"moecl-results/1\",\n \"versions\": {%*s}\n}\n",
            large ? 2 << 20 : 1, "");
    fclose(file);
    static const char *const what =
        "holds the results of a run, expected an experiment; to go on with that run: moectl run "
        "FILE.yaml --resume %s; to run again what is recorded there: jq '.experiment | "
        "del(.sweep)' %s/results.json > again.yaml";
    char rest[400];
    snprintf(rest, sizeof rest, what, folder, folder);
    snprintf(message, sizeof message, "%s: %s", path, rest);
    refuses_file(path, message);
    snprintf(message, sizeof message, "%s: %s", folder, rest);
    refuses_file(folder, message);
    /* The commands are for a shell. */
    assert_int_equal(mkdir(odd, 0700), 0);
    assert_int_equal(rename(path, odd_path), 0);
    snprintf(message, sizeof message,
             "%s: holds the results of a run, expected an experiment; to go on with that run: "
             "moectl run FILE.yaml --resume '%s/it'\\''s $HOME'; to run again what is recorded "
             "there: jq '.experiment | del(.sweep)' '%s/it'\\''s $HOME/results.json' > again.yaml",
             odd, folder, folder);
    refuses_file(odd, message);
    assert_int_equal(rename(odd_path, path), 0);
    assert_int_equal(rmdir(odd), 0);
    snprintf(rest, sizeof rest, what, ".", ".");
    snprintf(message, sizeof message, "results.json: %s", rest);
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(folder), 0);
    refuses_file("results.json", message);
    assert_int_equal(chdir(here), 0);
  }
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(folder), 0);
}

/* Accepted with these warnings; NULL: none. */
static void warns(const char *lines, const char *set, const char *message) {
  char text[1024];
  snprintf(text, sizeof text, "%s%s", minimal, lines);
  experiment e = load(text, set);
  if (message == NULL) assert_null(e.warnings);
  else if (e.warnings == NULL) fail_msg("no warning for: %s", lines);
  else assert_string_equal(e.warnings, message);
  experiment_destroy(&e);
}

static void test_no_effect(void **state) {
  (void)state;
  warns("", NULL, NULL);
  warns("  skew_exponent: 1.5\n", NULL,
        "dir/t.yaml:8:18: warning: workload.skew_exponent has no effect "
        "without 'distribution: skewed'");
  warns(
      "  skew_clusters: 4\n  skew_noise: 0.5\n  distribution: normal\n", NULL,
      "dir/t.yaml:8:18: warning: workload.skew_clusters has no effect without 'distribution: "
      "skewed'\n"
      "dir/t.yaml:9:15: warning: workload.skew_noise has no effect without 'distribution: skewed'");
  warns("  skew_clusters: null\n", NULL, NULL);
  warns("  skew_exponent: 1.5\n  distribution: [normal, skewed]\n", NULL, NULL);
  warns("  tensor: x\n  file: y.npy\n  distribution: normal\n", NULL,
        "dir/t.yaml:8:11: warning: workload.tensor has no effect without 'distribution: file'\n"
        "dir/t.yaml:9:9: warning: workload.file has no effect without 'distribution: file'");
  warns("", "layer.capacity.drop_policy=probability",
        "--set layer.capacity.drop_policy=probability: warning: layer.capacity.drop_policy has no "
        "effect without a number for layer.capacity.capacity_factor");
  warns(
      "", "measure.rounds=21",
      "--set measure.rounds=21: warning: measure.rounds: more than measure.iterations (20), which "
      "is how many there will be");
  warns("", "measure.rounds=20", NULL);
  warns("", "layer.capacity.renormalize_after_capacity=true", NULL); /* renormalizes all, then */
  warns("", "layer.capacity.drop_policy=[position, probability]",
        "--set layer.capacity.drop_policy=[position, probability]: warning: "
        "layer.capacity.drop_policy has no effect without a number for "
        "layer.capacity.capacity_factor");
  warns("parallel: {placement: offload, chunks: 2, cache: 2, replicas: [1, 0]}\n", NULL,
        "dir/t.yaml:8:40: warning: parallel.chunks has no effect with 'placement: offload'\n"
        "dir/t.yaml:8:63: warning: parallel.replicas has no effect with 'placement: offload'");
  warns("devices: [0:1]\nparallel: {placement: [even, offload], experts: 1}\n", NULL, NULL);
  warns(
      "parallel: {experts: 2, chunks: 4}\n", "layer.activation_format=int8",
      "dir/t.yaml:8:32: warning: parallel.chunks has no effect without 'activation_format: dtype'");
  warns("devices: [0:0, 0:1, 0:2]\nparallel: {experts: [2, 1]}\n", NULL,
        "dir/t.yaml:8:10: warning: devices: 3 are named for at most 2 members (parallel.experts): "
        "the last ones are not used");
  warns("devices: [[0:0, 0:1], [1:0]]\nparallel: {experts: 2}\n", NULL, NULL);
  warns("parallel: {experts: 2, chunks: 4}\n", "layer.activation_format=[dtype,int8]", NULL);
  static const char layer[] = "layer:\n  hidden_size: 8\n  intermediate_size: 8\n  num_experts: 4\n"
                              "  top_k: 2\n  capacity: {min_capacity: 4, drop_policy: position, "
                              "capacity_factor: %s}\nworkload: {num_tokens: 8}\n";
  char text[512];
  snprintf(text, sizeof text, layer, "null");
  experiment e = load(text, NULL);
  assert_string_equal(e.warnings,
                      "dir/t.yaml:6:28: warning: layer.capacity.min_capacity has no effect without "
                      "a number for layer.capacity.capacity_factor\n"
                      "dir/t.yaml:6:44: warning: layer.capacity.drop_policy has no effect without "
                      "a number for layer.capacity.capacity_factor");
  experiment_destroy(&e);
  snprintf(text, sizeof text, layer, "[null, 1.0]");
  e = load(text, NULL);
  assert_null(e.warnings);
  experiment_destroy(&e);
}

/* A limit matters to each activation that has one: see moecl/types.h. */
static void test_limit(void **state) {
  static const char format[] = "layer: {hidden_size: 8, intermediate_size: 8, num_experts: 4, "
                               "top_k: 2, activation: %s, swiglu_limit: 5}\n"
                               "workload: {num_tokens: 8}\n";
  static const struct {
    const char *activation;
    bool has_limit;
  } cases[] = {
      {"swiglu_clamped", true},         {"swiglu_limited", true}, {"swiglu_limited_silu", true},
      {"[relu, swiglu_limited]", true}, {"swiglu", false},        {"[relu2, geglu]", false}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char text[512];
    snprintf(text, sizeof text, format, cases[i].activation);
    experiment e = load(text, NULL);
    if (cases[i].has_limit) assert_null(e.warnings);
    else
      assert_non_null(strstr(e.warnings, "layer.swiglu_limit has no effect without 'activation: "
                                         "swiglu_clamped', swiglu_limited or swiglu_limited_silu"));
    experiment_destroy(&e);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_not_yaml),
      cmocka_unit_test(test_hostile_yaml),
      cmocka_unit_test(test_unknown_keys),
      cmocka_unit_test(test_offload),
      cmocka_unit_test(test_structure),
      cmocka_unit_test(test_together),
      cmocka_unit_test(test_integers),
      cmocka_unit_test(test_reals),
      cmocka_unit_test(test_words),
      cmocka_unit_test(test_bad_overrides),
      cmocka_unit_test(test_impossible_points),
      cmocka_unit_test(test_impossible_sweeps),
      cmocka_unit_test(test_huge_sweep),
      cmocka_unit_test(test_workload),
      cmocka_unit_test(test_many_problems),
      cmocka_unit_test(test_files),
      cmocka_unit_test(test_results_given),
      cmocka_unit_test(test_no_effect),
      cmocka_unit_test(test_limit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
