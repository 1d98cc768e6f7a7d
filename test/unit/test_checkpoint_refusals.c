// SPDX-License-Identifier: MIT
/* Model folders: the message for each way of being a bad one. */
#define MODEL_FOLDER "checkpoint_refusals"
#include "model_configs.h"
#include <math.h>

/* Opens what is there and reads layer 1's first expert; the one message. */
static moecl_status read_bad(moecl_dtype dtype, test_log *log) {
  char values[256];
  moecl_checkpoint *checkpoint;
  *log = (test_log){.level = MOECL_LOG_DEBUG};
  moecl_status status = moecl_checkpoint_open(folder(), test_log_add, log, &checkpoint);
  assert_true((status == MOECL_OK) == (checkpoint != NULL));
  if (status == MOECL_OK)
    status = moecl_checkpoint_read(checkpoint, 1, MOECL_DOWN_PROJ, 0, dtype, values);
  moecl_checkpoint_destroy(&checkpoint);
  return status;
}

static void expect(moecl_dtype dtype, moecl_status status, const char *file, const char *message) {
  test_log log;
  const moecl_status got = read_bad(dtype, &log);
  if (got != status || !test_log_has(&log, file) || !test_log_has(&log, message))
    fail_msg("status %d, expected %d and '%s' and '%s', got '%s'", (int)got, (int)status, file,
             message, log.text.data ? log.text.data : "");
  assert_int_equal(test_log_count(&log, "\n"), 1);
  base_text_free(&log.text);
}

static void test_bad_configs(void **state) {
  (void)state;
  static const struct {
    const char *config, *message;
    moecl_status status;
  } bad[] = {
      {"", "not sound JSON", MOECL_ERROR_IO},
      {"[]", "not a JSON object", MOECL_ERROR_IO},
      {"{}", "has no text 'model_type'", MOECL_ERROR_IO},
      {"{\"model_type\":7}", "has no text 'model_type'", MOECL_ERROR_IO},
      {"{\"model_type\":\"bert\"}", "'bert' is not known; known are mixtral, olmoe",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"mixtral\"}", "no key 'num_hidden_layers'", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1}", "no key 'hidden_size'",
       MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":\"2\"}",
       "'num_hidden_layers' is not a number", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":-1}", "is -1, expected a whole number",
       MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":0}", "has no layers", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1e300}", "expected a whole number",
       MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1.5}", "expected a whole number",
       MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"hidden_size\":4,"
       "\"intermediate_size\":4,\"hidden_act\":\"relu6\"}",
       "activation 'relu6'", MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"hidden_size\":4,"
       "\"intermediate_size\":4,\"hidden_act\":7}",
       "'hidden_act' is not a text", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"hidden_size\":4,"
       "\"intermediate_size\":4,\"num_experts_per_tok\":9}",
       "top_k is 9", MOECL_ERROR_IO},
      {"{\"model_type\":\"deepseek_v3\",\"num_hidden_layers\":4,\"hidden_size\":4,\"n_group\":3}",
       "3 groups", MOECL_ERROR_IO},
      {"{\"model_type\":\"deepseek_v3\",\"num_hidden_layers\":4,\"hidden_size\":4,"
       "\"scoring_func\":\"softmax\"}",
       "scoring_func is 'softmax'", MOECL_ERROR_UNSUPPORTED},
      {TYPES(",\"moe_layer_freq\":[1,0]"), "says nothing of layer 2", MOECL_ERROR_IO},
      {TYPES(",\"mlp_layer_types\":[\"odd\"]"), "says nothing of layer 0", MOECL_ERROR_IO},
      {"{\"model_type\":\"gpt_oss\",\"num_hidden_layers\":1,\"hidden_size\":2,"
       "\"intermediate_size\":2,\"swiglu_limit\":0}",
       "swiglu_limit", MOECL_ERROR_IO},
      {"{\"model_type\":\"nemotron_h\",\"moe_latent_size\":4}",
       "'moe_latent_size' asks for what is not known of family nemotron_h, expected none, false or "
       "0",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"nemotron_h\",\"hidden_size\":2}",
       "'layers_block_type|layer_types|hybrid_override_pattern', a text", MOECL_ERROR_IO},
      {"{\"model_type\":\"nemotron_h\",\"layers_block_type\":7}", "a list with a word a layer",
       MOECL_ERROR_IO},
      {"{\"model_type\":\"deepseek_v2\",\"mlp_bias\":true}", "'mlp_bias' asks for",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"ernie4_5_moe\",\"use_bias\":1}", "'use_bias' asks for",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"ernie4_5_moe\",\"use_bias\":[]}", "'use_bias' asks for",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"aria\",\"text_config\":{\"hidden_act\":\"gelu\"}}",
       "'hidden_act' asks for what is not known of family aria, expected silu",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"dbrx\",\"ffn_config\":{\"moe_normalize_expert_weights\":2}}",
       "'ffn_config.moe_normalize_expert_weights' asks for", MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"afmoe\",\"route_norm\":false}", "'route_norm' asks for",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"hunyuan\",\"norm_topk_prob\":false}", "'norm_topk_prob' asks for",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"minimax_m2\",\"use_routing_bias\":0}", "'use_routing_bias' asks for",
       MOECL_ERROR_UNSUPPORTED},
      {V2(",\"scoring_func\":\"sigmoid\""), "scoring_func is 'sigmoid', but family deepseek_v2",
       MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":null}",
       "'num_hidden_layers' is not a number, and null has no meaning there", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":Infinity}",
       "'num_hidden_layers' is not a number", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":Infinity1}", "not sound JSON",
       MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"hidden_size\":4,"
       "\"hidden_act\":null}",
       "'hidden_act' is not a text", MOECL_ERROR_IO},
      {"{\"model_type\":\"laguna\",\"moe_apply_router_weight_on_input\":false,"
       "\"moe_router_logit_softcapping\":30.0}",
       "'moe_router_logit_softcapping' asks for", MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"laguna\",\"moe_router_logit_softcapping\":0.0,"
       "\"moe_apply_router_weight_on_input\":true}",
       "'moe_apply_router_weight_on_input' asks for", MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"mistral\"}}",
       "'mistral3' is not known", MOECL_ERROR_UNSUPPORTED},
      {"{\"model_type\":\"mistral3\",\"text_config\":[{\"model_type\":\"mistral4\"}]}",
       "'mistral3' is not known", MOECL_ERROR_UNSUPPORTED},
      {NLLB(",\"second_expert_policy\":\"best\""), "'best' is not known", MOECL_ERROR_UNSUPPORTED},
      {NLLB(",\"second_expert_policy\":\"random\",\"normalize_router_prob_before_dropping\":true"),
       "'random' is not known beside", MOECL_ERROR_UNSUPPORTED},
      {NLLB(",\"moe_token_dropout\":1"), "expected more than 0", MOECL_ERROR_IO},
      {"{\"model_type\":\"mixtral\",\"model_type\":\"olmoe\"}", "has 'model_type' twice",
       MOECL_ERROR_IO}};
  for (size_t i = 0; i < COUNT(bad); i++) {
    make("model.safetensors", bad[i].config, NULL, 0);
    expect(MOECL_F32, bad[i].status, MODEL_FOLDER "/config.json", bad[i].message);
  }
  base_text deep = {0};
  base_text_addf(&deep, "{\"a\":");
  for (int i = 0; i < 100000; i++) base_text_add(&deep, "[", 1);
  make("model.safetensors", deep.data, NULL, 0);
  expect(MOECL_F32, MOECL_ERROR_IO, "config.json", "nested deeper");
  base_text_free(&deep);
  drop("config.json");
  expect(MOECL_F32, MOECL_ERROR_IO, "config.json", "No such file");
}

static void test_bad_tensors(void **state) {
  (void)state;
  made tensors[COUNT(mixtral_tensors)];
  memcpy(tensors, mixtral_tensors, sizeof tensors);
  made *down = &tensors[2];
  down->first = NAN;
  make("model.safetensors", mixtral, tensors, COUNT(tensors));
  expect(MOECL_BF16, MOECL_ERROR_IO, "model.safetensors",
         "experts.0.w2.weight': element 0 is not a finite number");
  *down = mixtral_tensors[2];
  down->first = 70000;
  make("model.safetensors", mixtral, tensors, COUNT(tensors));
  expect(MOECL_F16, MOECL_ERROR_IO, "model.safetensors",
         "experts.0.w2.weight': element 0 is too large for fp16");
  *down = (made){AT "experts.0.w2.weight", "F32", 2, {3, 2}, 1};
  make("model.safetensors", mixtral, tensors, COUNT(tensors));
  expect(MOECL_F32, MOECL_ERROR_IO, "model.safetensors",
         "experts.0.w2.weight' has shape [3, 2], expected [2, 3]");
  /* Of what is packed the type is told first: the shape is another one too. */
  *down = (made){AT "experts.0.w2.weight", "I32", 2, {2, 1}, 1};
  make("model.safetensors", mixtral, tensors, COUNT(tensors));
  expect(MOECL_F32, MOECL_ERROR_UNSUPPORTED, "model.safetensors",
         "experts.0.w2.weight' is of type I32, expected F32, F16 or BF16");
  down->name = "other";
  make("model.safetensors", mixtral, tensors, COUNT(tensors));
  expect(MOECL_F32, MOECL_ERROR_IO, MODEL_FOLDER,
         "has no tensor 'model.layers.1.block_sparse_moe.experts.0.w2.weight'");
  drop("model.safetensors");
  expect(MOECL_F32, MOECL_ERROR_IO, MODEL_FOLDER, "has neither model.safetensors nor");
}

static void test_bad_indices(void **state) {
  (void)state;
  static const char *const index[] = {
      "{\"weight_map\":{\"" AT "experts.0.w2.weight\":\"a.safetensors\"}}",
      "{\"weight_map\":{\"" AT "experts.0.w2.weight\":\"gone.safetensors\"}}",
      "{\"weight_map\":{\"" AT "experts.0.w2.weight\":\"../a.safetensors\"}}",
      "{\"weight_map\":{\"" AT "experts.0.w2.weight\":\"..\"}}",
      "{\"weight_map\":{\"" AT "experts.0.w2.weight\":7}}",
      "{\"weight_map\":[]}",
      "{\"weight_map\":{\"" AT "experts.0.w2.weight\":\"b.safetensors\"}}"};
  static const char *const message[] = {NULL,
                                        "experts.0.w2.weight' is in it",
                                        "expected the name of a file in this folder",
                                        "expected the name of a file in this folder",
                                        "its shard is no text",
                                        "no object 'weight_map'",
                                        "which the index says is in it"};
  make("a.safetensors", mixtral, mixtral_tensors, COUNT(mixtral_tensors));
  make("b.safetensors", mixtral, mixtral_tensors, 1);
  for (size_t i = 0; i < COUNT(index); i++) {
    in_folder("model.safetensors.index.json", index[i], strlen(index[i]));
    test_log log;
    if (message[i]) expect(MOECL_F32, MOECL_ERROR_IO, MODEL_FOLDER "/", message[i]);
    else assert_ok(read_bad(MOECL_F32, &log));
  }
  /* Opening alone does not read it; who asks again is told again. */
  in_folder("model.safetensors.index.json", index[3], strlen(index[3]));
  moecl_checkpoint *checkpoint = open_made();
  for (int i = 0; i < 2; i++) {
    moecl_checkpoint_layer layer;
    moecl_checkpoint_size size;
    assert_int_equal(moecl_checkpoint_get_layer(checkpoint, 1, &layer), MOECL_ERROR_IO);
    assert_int_equal(moecl_checkpoint_measure(checkpoint, &size), MOECL_ERROR_IO);
  }
  moecl_checkpoint_destroy(&checkpoint);
}

static void test_bad_arguments(void **state) {
  (void)state;
  float values[64];
  moecl_checkpoint_layer layer;
  moecl_checkpoint *checkpoint;
  assert_int_equal(moecl_checkpoint_open(NULL, NULL, NULL, &checkpoint),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_null(checkpoint);
  make("model.safetensors", mixtral, mixtral_tensors, COUNT(mixtral_tensors));
  checkpoint = open_made();
  assert_int_equal(moecl_checkpoint_get_layer(checkpoint, 2, &layer), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_checkpoint_get_layer(checkpoint, -1, &layer),
                   MOECL_ERROR_INVALID_ARGUMENT);
  const struct {
    int64_t layer;
    int tensor;
    int64_t item;
  } bad[] = {{2, MOECL_DOWN_PROJ, 0}, {1, MOECL_DOWN_PROJ, 2},     {1, MOECL_DOWN_PROJ, -1},
             {1, MOECL_DOWN_BIAS, 0}, {1, MOECL_ROUTER_WEIGHT, 1}, {1, MOECL_TENSOR_COUNT, 0}};
  for (size_t i = 0; i < COUNT(bad); i++)
    assert_int_equal(moecl_checkpoint_read(checkpoint, bad[i].layer, (moecl_tensor)bad[i].tensor,
                                           bad[i].item, MOECL_F32, values),
                     MOECL_ERROR_INVALID_ARGUMENT);
  moecl_checkpoint_destroy(&checkpoint);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bad_configs),
      cmocka_unit_test(test_bad_tensors),
      cmocka_unit_test(test_bad_indices),
      cmocka_unit_test(test_bad_arguments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
