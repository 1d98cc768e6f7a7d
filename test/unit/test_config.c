// SPDX-License-Identifier: MIT
/* Experiment files: what they mean. */
#include "config.h"
#include "experiment/settings.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_defaults(void **state) {
  (void)state;
  experiment e = load(minimal, NULL);
  assert_string_equal(e.path, "dir/t.yaml");
  assert_string_equal(e.name, "t");
  assert_string_equal(e.device, "auto");
  assert_null(e.input_file);
  assert_null(e.input_tensor);
  assert_int_equal(e.warmup, 3);
  assert_int_equal(e.iterations, 20);
  assert_int_equal(e.rounds, 0);
  assert_true(e.verify);
  assert_int_equal(e.num_points, 1);
  assert_int_equal(e.num_axes, 0);
  const experiment_point *p = &e.points[0];
  assert_int_equal(p->layer.hidden_size, 64);
  assert_int_equal(p->layer.intermediate_size, 128);
  assert_int_equal(p->layer.num_experts, 8);
  assert_int_equal(p->layer.top_k, 2);
  assert_int_equal(p->layer.dtype, MOECL_F32);
  assert_int_equal(p->layer.activation, MOECL_SWIGLU);
  assert_false(p->layer.router_bias || p->layer.gate_up_bias || p->layer.down_bias);
  assert_true(p->layer.renormalize);
  assert_true(p->layer.jitter == 0.0f);
  assert_true(p->layer.capacity_factor == 0.0);
  assert_int_equal(p->layer.min_capacity, 0);
  assert_int_equal(p->layer.drop_policy, MOECL_DROP_POSITION);
  assert_null(p->layer.grouped_gemm_variant);
  assert_null(p->layer.router_variant);
  assert_int_equal(p->num_tokens, 16);
  assert_int_equal(p->distribution, WORKLOAD_NORMAL);
  assert_true(p->skew_exponent == 1.0 && p->skew_noise == 0.5);
  assert_int_equal(p->skew_clusters, 0);
  assert_int_equal(p->seed, 0);
  experiment_destroy(&e);
  experiment_destroy(&e); /* again is harmless */
}

static void test_every_key(void **state) {
  (void)state;
  experiment e =
      load("name: all-keys\ndevice: 0:1\nseed: 9223372036854775807\ndtype: bf16\n"
           "layer: {hidden_size: 3, intermediate_size: 5, num_experts: 1024, top_k: 64,\n"
           "  activation: relu, gate_up_bias: true, down_bias: true, grouped_gemm_variant: cpu,\n"
           "  router: {scoring: softmax, renormalize: false, jitter: 0.01, router_bias: true, "
           "router_variant: "
           "generic},\n"
           "  capacity: {capacity_factor: 1.25, capacity_of_tokens: true, min_capacity: 4, "
           "drop_policy: probability,\n"
           "             renormalize: true}}\n"
           "workload: {num_tokens: 7, distribution: file, skew_exponent: 1.5, skew_clusters: 12, "
           "skew_noise: 0.25,\n"
           "  file: data/x.npy, tensor: h}\n"
           "measure: {warmup: 0, iterations: 1, verify: false}\n",
           NULL);
  const experiment_point *p = &e.points[0];
  assert_string_equal(e.name, "all-keys");
  assert_string_equal(e.device, "0:1");
  assert_string_equal(e.input_file, "dir/data/x.npy");
  assert_string_equal(e.input_tensor, "h");
  assert_true(e.warmup == 0 && e.iterations == 1 && !e.verify);
  assert_true(p->seed == INT64_MAX);
  assert_true(p->layer.dtype == MOECL_BF16 && p->layer.activation == MOECL_RELU);
  assert_true(p->layer.gate_up_bias && p->layer.down_bias && p->layer.router_bias);
  assert_string_equal(p->layer.grouped_gemm_variant, "cpu");
  assert_string_equal(p->layer.router_variant, "generic");
  assert_true(!p->layer.renormalize && p->layer.jitter == 0.01f);
  assert_true(p->layer.capacity_factor == 1.25 && p->layer.min_capacity == 4);
  assert_true(p->layer.capacity_of_tokens);
  assert_int_equal(p->layer.drop_policy, MOECL_DROP_PROBABILITY);
  assert_true(p->layer.renormalize_after_capacity);
  assert_true(p->num_tokens == 7 && p->distribution == WORKLOAD_FILE);
  assert_true(p->skew_exponent == 1.5 && p->skew_clusters == 12 && p->skew_noise == 0.25);
  char text[32];
  assert_string_equal(experiment_param_text(p, "jitter", text, sizeof text), "0.01");
  assert_string_equal(experiment_param_text(p, "capacity_factor", text, sizeof text), "1.25");
  assert_string_equal(experiment_param_text(p, "dtype", text, sizeof text), "bf16");
  assert_string_equal(experiment_param_text(p, "renormalize", text, sizeof text), "false");
  assert_string_equal(experiment_param_text(p, "grouped_gemm_variant", text, sizeof text), "cpu");
  assert_null(experiment_param_text(p, "nothing", text, sizeof text));
  experiment_destroy(&e);
}

/* DeepSeek-V3's rule, and that the defaults are no rule at all. */
static void test_router_rule(void **state) {
  (void)state;
#define LAYER                                                                                      \
  "workload: {num_tokens: 1}\nlayer: {hidden_size: 6, intermediate_size: 5, "                      \
  "num_experts: 8, top_k: 2, router: "
  char text[32];
  experiment e =
      load(LAYER "{scoring: sigmoid, routed_scaling_factor: 2.5, score_correction_bias: true, "
                 "num_expert_group: 4, topk_group: 2, group_score: top2_sum}}\n",
           NULL);
  const moecl_layer_params *layer = &e.points[0].layer;
  assert_int_equal(layer->scoring, MOECL_SCORING_SIGMOID);
  assert_true(layer->routed_scaling_factor == 2.5f && layer->score_correction_bias);
  assert_true(layer->num_expert_group == 4 && layer->topk_group == 2);
  assert_int_equal(layer->group_score, MOECL_GROUP_TOP2_SUM);
  assert_string_equal(experiment_param_text(&e.points[0], "topk_group", text, sizeof text), "2");
  experiment_destroy(&e);
  e = load(LAYER "{renormalize_epsilon: 1e-6, renormalize_minimum: 1e-12}}\n", NULL);
  layer = &e.points[0].layer;
  assert_true(layer->renormalize_epsilon == 1e-6f && layer->renormalize_minimum == 1e-12f);
  assert_string_equal(experiment_param_text(&e.points[0], "renormalize_epsilon", text, sizeof text),
                      "1e-06");
  experiment_destroy(&e);
  e = load(LAYER "{score_after_topk: true, second_choice: sampled, router_noise: true}}\n", NULL);
  layer = &e.points[0].layer;
  assert_true(layer->score_after_topk && layer->router_noise);
  assert_int_equal(layer->second_choice, MOECL_SECOND_SAMPLED);
  assert_true(layer->scoring == MOECL_SCORING_SOFTMAX && layer->num_expert_group == 0);
  assert_true(layer->routed_scaling_factor == 1.0f && layer->sparsemixer_jitter == 0.01f);
  assert_string_equal(experiment_param_text(&e.points[0], "topk_group", text, sizeof text), "null");
  experiment_destroy(&e);
}

static void test_sweep_order(void **state) {
  (void)state;
  static const char text[] =
      "workload: {num_tokens: [16, 32]}\n"
      "layer: {hidden_size: 64, intermediate_size: 8, top_k: [1, 2], num_experts: 4,\n"
      "        capacity: {capacity_factor: [1.0, null, 2]}}\n";
  experiment e = load(text, NULL);
  assert_int_equal(e.num_points, 12);
  assert_int_equal(e.num_axes, 3);
  assert_string_equal(e.axes[0].param, "num_tokens");
  assert_string_equal(e.axes[1].param, "top_k");
  assert_string_equal(e.axes[2].param, "capacity_factor");
  assert_int_equal(e.axes[2].count, 3);
  static const double factors[] = {1, 0, 2};
  char label[128];
  for (int i = 0; i < 12; i++) {
    assert_int_equal(e.points[i].num_tokens, i / 6 == 0 ? 16 : 32);
    assert_int_equal(e.points[i].layer.top_k, i / 3 % 2 == 0 ? 1 : 2);
    assert_true(e.points[i].layer.capacity_factor == factors[i % 3]);
  }
  assert_string_equal(experiment_point_label(&e, 10, label, sizeof label),
                      "num_tokens=32, top_k=2, capacity_factor=null");
  assert_string_equal(experiment_point_label(&e, 10, label, 8), "num_tok"); /* cut, no further */
  experiment_destroy(&e);
}

static void test_single_value_list(void **state) {
  (void)state;
  experiment e = load(minimal, "layer.top_k=[1]");
  assert_int_equal(e.num_points, 1);
  assert_int_equal(e.num_axes, 0);
  experiment_destroy(&e);
}

static void test_overrides(void **state) {
  (void)state;
  experiment e = load(minimal, "layer.capacity.capacity_factor=[1.0, null]");
  assert_int_equal(e.num_points, 2);
  assert_true(e.points[0].layer.capacity_factor == 1.0);
  assert_true(e.points[1].layer.capacity_factor == 0.0);
  experiment_destroy(&e);

  /* Of several the last counts; a key of the file keeps its place in the order. */
  experiment_override sets[] = {{"layer.top_k=5"}, {"seed=[1,2]"}, {"layer.top_k=[1, 4]"}};
  char *error = NULL;
  assert_true(experiment_parse(minimal, strlen(minimal), "t.yaml", sets, 3, &e, &error));
  assert_int_equal(e.num_points, 4);
  assert_string_equal(e.axes[0].param, "top_k");
  assert_string_equal(e.axes[1].param, "seed");
  experiment_destroy(&e);

  /* A list of the file gives way whole. */
  e = load("layer: {hidden_size: 64, intermediate_size: 8, top_k: [1, 2], num_experts: 4}\n"
           "workload: {num_tokens: 1}\n",
           "layer.top_k=3");
  assert_true(e.num_points == 1 && e.points[0].layer.top_k == 3);
  experiment_destroy(&e);

  e = load(minimal, "device=NVIDIA H100");
  assert_string_equal(e.device, "NVIDIA H100");
  experiment_destroy(&e);
}

static void test_input_file_place(void **state) {
  (void)state;
  char text[512];
  snprintf(text, sizeof text, "%s  distribution: file\n  file: in.npy\n", minimal);
  experiment e = load(text, NULL);
  assert_string_equal(e.input_file, "dir/in.npy");
  experiment_destroy(&e);
  e = load(text, "workload.file=/abs/in.npy");
  assert_string_equal(e.input_file, "/abs/in.npy");
  experiment_destroy(&e);
  e = load(text, "workload.file=here/in.npy"); /* as the shell completed it */
  assert_string_equal(e.input_file, "here/in.npy");
  experiment_destroy(&e);
}

static void test_resolved_json(void **state) {
  (void)state;
  experiment e = load(minimal, "layer.capacity.capacity_factor=[1.1, null]");
  assert_string_equal(
      e.resolved_json,
      "{\"name\":\"t\",\"device\":\"auto\",\"seed\":0,\"layer\":{\"checkpoint\":null,\"layer\":"
      "null,"
      "\"hidden_size\":64,"
      "\"intermediate_size\":128,\"num_experts\":8,\"num_identity_experts\":0,\"top_k\":2,"
      "\"activation\":\"swiglu\",\"swiglu_alpha\":1.702,\"swiglu_limit\":7.0,"
      "\"gate_up_bias\":false,\"down_bias\":false,\"shared\":{\"shared_intermediate_size\":null,"
      "\"shared_gate\":false,\"shared_swiglu_limit\":null,\"shared_scaling_factor\":1.0},"
      "\"weight_format\":\"dtype\",\"scale_search\":\"none\",\"activation_format\":\"dtype\","
      "\"batch_invariant\":false,\"grouped_gemm_variant\":"
      "\"auto\","
      "\"router\":{"
      "\"scoring\":\"softmax\",\"score_after_topk\":false,\"sparsemixer_jitter\":0.01,"
      "\"renormalize\":true,\"renormalize_epsilon\":null,\"renormalize_minimum\":0.0,"
      "\"routed_scaling_factor\":1.0,\"score_correction_bias\":false,\"num_expert_group\":null,"
      "\"topk_group\":null,\"group_score\":\"max\",\"cut_groups_to_zero\":false,\"second_choice\":"
      "\"all\","
      "\"router_noise\":false,\"weight_on_input\":false,\"jitter\":0.0,\"router_bias\":false,"
      "\"router_variant\":\"auto\"},\"capacity\":{\"capacity_factor\":[1.1,null],"
      "\"capacity_of_tokens\":false,\"min_"
      "capacity\":0,"
      "\"drop_policy\":\"position\",\"renormalize_after_capacity\":false}},"
      "\"parallel\":{\"experts\":null,\"placement\":\"even\",\"placement_file\":null,"
      "\"replicas\":0,\"chunks\":null,\"transport\":\"auto\",\"dispatch_format\":\"dtype\","
      "\"cache\":null,\"eviction\":\"lru\"},"
      "\"devices\":\"auto\","
      "\"dtype\":\"fp32\","
      "\"workload\":{\"num_"
      "tokens\":16,"
      "\"distribution\":\"normal\",\"skew_exponent\":1.0,\"skew_clusters\":null,\"skew_noise\":0.5,"
      "\"file\":null,\"tensor\":null},\"measure\":{\"what\":\"layer\",\"warmup\":3,\"iterations\":"
      "20,\"rounds\":null,"
      "\"verify\":true},\"sweep\":[\"layer.capacity.capacity_factor\"]}");
  experiment_destroy(&e);
  e = load(minimal, "layer.capacity.capacity_factor=1.2345678901234567"); /* needs 17 digits */
  json_t *json = json_loads(e.resolved_json, 0, NULL);
  json_t *capacity = json_object_get(json_object_get(json, "layer"), "capacity");
  assert_true(json_real_value(json_object_get(capacity, "capacity_factor")) == 1.2345678901234567);
  json_decref(json);
  experiment_destroy(&e);
}

/* Devices are a list that is one value, and a list of such is swept; the key has an older place. */
static void test_devices(void **state) {
  (void)state;
  experiment e = load(minimal, "devices=[0:0, \"a name\"]");
  assert_int_equal(e.num_points, 1);
  assert_string_equal(e.points[0].parallel.devices, "0:0, a name");
  assert_non_null(strstr(e.resolved_json, "\"devices\":\"0:0, a name\""));
  assert_non_null(e.warnings); /* without a number of members */
  experiment_destroy(&e);
  e = load(minimal, "devices=[[0:0, 0:1], 1:0, [all]]");
  assert_int_equal(e.num_points, 3);
  assert_string_equal(e.points[0].parallel.devices, "0:0, 0:1");
  assert_string_equal(e.points[1].parallel.devices, "1:0");
  assert_string_equal(e.points[2].parallel.devices, "all");
  experiment_destroy(&e);
  e = load(minimal, "parallel.devices=0:1");
  assert_string_equal(e.points[0].parallel.devices, "0:1");
  assert_non_null(strstr(e.warnings, "parallel.devices is now called devices"));
  json_t *then = json_loads(e.resolved_json, 0, NULL); /* as an earlier version wrote it */
  json_object_set(json_object_get(then, "parallel"), "devices", json_object_get(then, "devices"));
  json_object_del(then, "devices");
  assert_true(settings_json_same(e.resolved_json, then));
  json_decref(then);
  experiment_destroy(&e);
  e = load(minimal, "parallel.chunks=[auto, 2]");
  assert_true(e.points[0].parallel.chunks == 0 && e.points[1].parallel.chunks == 2);
  experiment_destroy(&e);
}

/* Writes a file beside the experiment and loads that with it; the error, malloc'ed, or NULL. */
static char *load_placement(const char *content, const char *keys, experiment *e) {
  char path[] = "/tmp/moecl-placement-XXXXXX", text[1000];
  char *error = NULL;
  const int file = mkstemp(path);
  assert_true(file >= 0 && write(file, content, strlen(content)) == (ssize_t)strlen(content));
  close(file);
  snprintf(text, sizeof text, "%sparallel: {placement_file: %s, %s}\n", minimal, path + 5, keys);
  if (!experiment_parse(text, strlen(text), "/tmp/t.yaml", NULL, 0, e, &error))
    assert_non_null(error);
  unlink(path);
  return error;
}

static void test_placement_file(void **state) {
  (void)state;
  experiment e;
  const char *by_file = "experts: 2, placement: file";
  assert_null(load_placement("[[0, 2, 4, 6], [7, 5, 3, 1, 0]]", by_file, &e));
  assert_int_equal(e.points[0].parallel.placement, PARALLEL_FROM_FILE);
  assert_true(e.placement.num_lists == 2 && e.placement.num_loads == 0);
  assert_true(e.placement.list_sizes[0] == 4 && e.placement.list_sizes[1] == 5);
  assert_true(e.placement.lists[3] == 6 && e.placement.lists[4] == 7 && e.placement.lists[8] == 0);
  experiment_destroy(&e);
  assert_null(load_placement("[8, 7, 6, 5, 4, 3, 2, 0]", "experts: [2, 3], replicas: [0, 8]", &e));
  assert_true(e.placement.num_loads == 8 && e.placement.loads[7] == 0 && e.num_points == 4);
  assert_int_equal(e.points[1].parallel.replicas, 8);
  experiment_destroy(&e);
  assert_null(load_placement("{\"points\": [{\"routing\": null}, {\"routing\": "
                             "{\"tokens_per_expert\": [1, 2, 3, 4, 5, 6, 7, 8]}}, {\"routing\": "
                             "{\"tokens_per_expert\": [1, 0, 0, 0, 0, 0, 0, 9]}}]}",
                             by_file, &e));
  assert_true(e.placement.num_loads == 8 && e.placement.loads[0] == 2 &&
              e.placement.loads[7] == 17);
  assert_null(e.warnings);
  experiment_destroy(&e);
  assert_null(load_placement("[8, 7, 6, 5, 4, 3, 2, 0]", "experts: 2, replicas: [0, 1]", &e));
  assert_null(e.warnings);
  experiment_destroy(&e);
  assert_null(load_placement("[8, 7, 6, 5, 4, 3, 2, 0]", "experts: 2, placement: capacity", &e));
  assert_non_null(e.warnings);
  assert_non_null(strstr(e.warnings, "parallel.placement_file has no effect without"));
  experiment_destroy(&e);
  const struct {
    const char *content, *keys, *part;
  } wrong[] = {
      {"[[0], [1]]", "experts: 3, placement: file",
       "lists of 2 members, expected parallel.experts"},
      {"[[0, 1, 2, 3], [4, 5, 6, 8]]", by_file, "member 1's list has expert 8, expected 0 to 7"},
      {"[[0, 1, 2, 1], [3, 4, 5, 6, 7]]", by_file, "member 0's list has expert 1 twice"},
      {"[[0, 1, 2, 3], [4, 5, 6, 0]]", by_file, "expert 7 is in no member's list"},
      {"[[], []]", by_file, "expert 0 is in no member's list"},
      {"[1, 2, 3]", by_file, "loads of 3 experts, expected 8"},
      {"[1, 2, 3]", "experts: 2, replicas: 1", "loads of 3 experts, expected 8"},
      {"[1, -2, 3]", by_file, "is no placement: expected [[0, 1], [2, 3]]"},
      {"{\"points\": []}", by_file, "is no placement"},
      {"", by_file, "line 1: "},
      {"[1, 2, 3, 4, 5, 6, 7, 8]", "experts: 2, replicas: 9", "at most the layer's 8 experts"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    char *error = load_placement(wrong[i].content, wrong[i].keys, &e);
    if (!error || !strstr(error, wrong[i].part))
      fail_msg("'%s' says nothing of '%s'", error ? error : "", wrong[i].part);
    free(error);
  }
}

/* All 64 bits of a seed; in JSON those that a signed integer lacks are digits in quotes,
 * which an experiment takes back. */
static void test_whole_seed(void **state) {
  (void)state;
  char text[64], again[4096];
  experiment e = load(minimal, "seed=[9223372036854775807, 18446744073709551615, "
                               "9223372036854775808]");
  assert_true(e.points[0].seed == INT64_MAX && e.points[1].seed == UINT64_MAX);
  assert_true(e.points[2].seed == UINT64_C(1) << 63);
  assert_string_equal(experiment_param_text(&e.points[1], "seed", text, sizeof text),
                      "18446744073709551615");
  const char *written = "\"seed\":[9223372036854775807,\"18446744073709551615\","
                        "\"9223372036854775808\"]";
  assert_non_null(strstr(e.resolved_json, written));
  snprintf(again, sizeof again, "{%s,%s", written, strstr(e.resolved_json, "\"layer\":"));
  char *sweep = strstr(again, ",\"sweep\"");
  assert_non_null(sweep);
  strcpy(sweep, "}");
  experiment_destroy(&e);
  e = load(again, NULL);
  assert_int_equal(e.num_points, 3);
  assert_true(e.points[1].seed == UINT64_MAX && e.points[2].seed == UINT64_C(1) << 63);
  experiment_destroy(&e);
}

static void test_name_from_path(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"a/b/k-sweep.yaml", "k-sweep"}, {"my exp.yml", "my-exp"},
                                         {".hidden.yaml", "xhidden"},     {".yaml", "experiment"},
                                         {"\xc3\xa4.yaml", "x-"},         {"plain", "plain"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    experiment e;
    char *error = NULL;
    assert_true(experiment_parse(minimal, strlen(minimal), cases[i][0], NULL, 0, &e, &error));
    assert_string_equal(e.name, cases[i][1]);
    experiment_destroy(&e);
  }
}

static void test_shipped_configs(void **state) {
  (void)state;
  static const struct {
    const char *name;
    size_t points;
  } configs[] = {{"quickstart", 4},      {"router-scaling", 16}, {"k-sweep", 10},
                 {"capacity-sweep", 20}, {"jitter-study", 15},   {"recorded", 8},
                 {"mixtral-8x7b", 5},    {"olmoe-1b-7b", 5},     {"qwen3-30b-a3b", 5},
                 {"gpt-oss-20b", 5},     {"deepseek-v3", 5}};
  for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
    char path[512], *error = NULL;
    experiment e;
    snprintf(path, sizeof path, "%s/configs/%s.yaml", MOECL_SOURCE_DIR, configs[i].name);
    bool good = experiment_load(path, NULL, 0, &e, &error);
    if (!good) print_error("%s\n", error);
    assert_true(good);
    assert_string_equal(e.name, configs[i].name);
    assert_int_equal(e.num_points, configs[i].points);
    assert_true(e.verify);
    experiment_destroy(&e);
  }
}

static void test_help_names_every_key(void **state) {
  (void)state;
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  assert_non_null(file);
  experiment_print_keys(file);
  fclose(file);
  assert_non_null(strstr(text, "\n  layer.router.jitter\n      a number from 0 to less than 1; "
                               "default 0; can be swept\n"));
  assert_non_null(strstr(text, "\n  measure.verify\n      true or false; default true\n"));
  for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1)
    assert_true(strcspn(line, "\n") <= 92);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),          cmocka_unit_test(test_every_key),
      cmocka_unit_test(test_router_rule),       cmocka_unit_test(test_sweep_order),
      cmocka_unit_test(test_single_value_list), cmocka_unit_test(test_overrides),
      cmocka_unit_test(test_input_file_place),  cmocka_unit_test(test_resolved_json),
      cmocka_unit_test(test_devices),           cmocka_unit_test(test_placement_file),
      cmocka_unit_test(test_whole_seed),        cmocka_unit_test(test_name_from_path),
      cmocka_unit_test(test_shipped_configs),   cmocka_unit_test(test_help_names_every_key),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
