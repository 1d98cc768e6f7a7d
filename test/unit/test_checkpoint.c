// SPDX-License-Identifier: MIT
/* Model folders: what layers a config.json describes, each layout of tensors to
 * the canonical one. What is refused is in test_checkpoint_refusals.c. */
#define MODEL_FOLDER "checkpoint"
#include "model_configs.h"
#include <math.h>

/* ---- layouts ---- */

static void test_separate(void **state) {
  (void)state;
  make("model.safetensors", mixtral, mixtral_tensors, COUNT(mixtral_tensors));
  moecl_checkpoint *checkpoint = open_made();
  moecl_checkpoint_layer layer;
  assert_string_equal(moecl_checkpoint_family(checkpoint), "mixtral");
  assert_int_equal(moecl_checkpoint_num_layers(checkpoint), 2);
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 1, &layer));
  assert_true(layer.is_moe && layer.params.renormalize);
  assert_string_equal(layer.prefix, "model.layers.1.");
  assert_string_equal(layer.stored_dtype, "BF16"); /* of the first expert's down */
  assert_int_equal(layer.params.dtype, MOECL_BF16);
  assert_int_equal(layer.params.top_k, 1);
  CHECK(1, MOECL_ROUTER_WEIGHT, 0, 1, 2, 3, 4);
  CHECK(1, MOECL_GATE_UP_PROJ, 0, 10, 11, 12, 13, 14, 15, 30, 31, 32, 33, 34, 35);
  CHECK(1, MOECL_GATE_UP_PROJ, 1, 40, 41, 42, 43, 44, 45, 60, 61, 62, 63, 64, 65);
  CHECK(1, MOECL_DOWN_PROJ, 0, 20, 21, 22, 23, 24, 25);
  moecl_checkpoint_size size;
  assert_ok(moecl_checkpoint_measure(checkpoint, &size));
  assert_int_equal(size.parameters, 40);
  assert_int_equal(size.bytes, 28 * 4 + 12 * 2);
  assert_true(size.extra_parameters == 0 && size.other_bytes == 0);
  assert_ok(moecl_checkpoint_check(checkpoint, 1));
  assert_int_equal(moecl_checkpoint_check(checkpoint, 0), MOECL_ERROR_IO);
  assert_int_equal(moecl_checkpoint_check(checkpoint, 2), MOECL_ERROR_INVALID_ARGUMENT);
  /* Layer 0 has no tensors here: it is described, and not read. */
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
  assert_null(layer.stored_dtype);
  moecl_checkpoint_destroy(&checkpoint);
}

static void test_transposed_and_interleaved(void **state) {
  (void)state;
  const made tensors[] = {{"model.layers.0.mlp.router.weight", "F32", 2, {2, 2}, 1},
                          {"model.layers.0.mlp.router.bias", "F32", 1, {2}, 5},
                          {"model.layers.0.mlp.experts.gate_up_proj", "F32", 3, {2, 2, 6}, 100},
                          {"model.layers.0.mlp.experts.gate_up_proj_bias", "F32", 2, {2, 6}, 200},
                          {"model.layers.0.mlp.experts.down_proj", "F32", 3, {2, 3, 2}, 300},
                          {"model.layers.0.mlp.experts.down_proj_bias", "F32", 2, {2, 2}, 400}};
  make("model.safetensors",
       "{\"model_type\":\"gpt_oss\",\"hidden_size\":2,\"intermediate_size\":3,"
       "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"num_hidden_layers\":1,"
       "\"swiglu_limit\":5}",
       tensors, COUNT(tensors));
  moecl_checkpoint *checkpoint = open_made();
  moecl_checkpoint_layer layer;
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
  assert_int_equal(layer.params.activation, MOECL_SWIGLU_CLAMPED);
  assert_true(layer.params.swiglu_limit == 5 && layer.params.swiglu_alpha == 1.702f);
  assert_true(layer.params.router_bias && layer.params.score_after_topk);
  CHECK(0, MOECL_ROUTER_BIAS, 0, 5, 6);
  /* Expert 1 in the file, [H,2I]: 112..117, 118..123; columns are gate, up, ... */
  CHECK(0, MOECL_GATE_UP_PROJ, 1, 112, 118, 114, 120, 116, 122, 113, 119, 115, 121, 117, 123);
  CHECK(0, MOECL_GATE_UP_BIAS, 1, 206, 208, 210, 207, 209, 211);
  CHECK(0, MOECL_DOWN_PROJ, 1, 306, 308, 310, 307, 309, 311);
  CHECK(0, MOECL_DOWN_BIAS, 1, 402, 403);
  moecl_checkpoint_destroy(&checkpoint);
}

static void test_stacked_with_one_bias(void **state) {
  (void)state;
  const made tensors[] = {{"model.layers.0.mlp.router.layer.weight", "F32", 2, {2, 2}, 1},
                          {"model.layers.0.mlp.input_linear.weight", "F32", 3, {2, 6, 2}, 100},
                          {"model.layers.0.mlp.output_linear.weight", "F32", 3, {2, 2, 3}, 300},
                          {"model.layers.0.mlp.bias", "F32", 1, {2}, 7}};
  make("model.safetensors",
       "{\"model_type\":\"jetmoe\",\"hidden_size\":2,\"intermediate_size\":3,"
       "\"num_local_experts\":2,\"num_hidden_layers\":1}",
       tensors, COUNT(tensors));
  moecl_checkpoint *checkpoint = open_made();
  CHECK(0, MOECL_GATE_UP_PROJ, 1, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123);
  CHECK(0, MOECL_DOWN_PROJ, 1, 306, 307, 308, 309, 310, 311);
  CHECK(0, MOECL_DOWN_BIAS, 0, 7, 8);
  CHECK(0, MOECL_DOWN_BIAS, 1, 7, 8);
  moecl_checkpoint_destroy(&checkpoint);
}

static void test_flat(void **state) {
  (void)state;
  const made tensors[] = {{"transformer.blocks.0.ffn.router.layer.weight", "F32", 2, {2, 2}, 1},
                          {"transformer.blocks.0.ffn.experts.mlp.w1", "F32", 2, {6, 2}, 100},
                          {"transformer.blocks.0.ffn.experts.mlp.v1", "F32", 2, {6, 2}, 200},
                          {"transformer.blocks.0.ffn.experts.mlp.w2", "F32", 2, {6, 2}, 300}};
  make("model.safetensors",
       "{\"model_type\":\"dbrx\",\"d_model\":2,\"n_layers\":1,\"ffn_config\":"
       "{\"ffn_hidden_size\":3,\"moe_num_experts\":2,\"moe_top_k\":2}}",
       tensors, COUNT(tensors));
  moecl_checkpoint *checkpoint = open_made();
  CHECK(0, MOECL_GATE_UP_PROJ, 1, 106, 107, 108, 109, 110, 111, 206, 207, 208, 209, 210, 211);
  CHECK(0, MOECL_DOWN_PROJ, 1, 306, 308, 310, 307, 309, 311);
  moecl_checkpoint_destroy(&checkpoint);
}

/* As Qwen3-VL's files have them, or as they would be multiplied; the one that is
 * square tells nothing. */
static void test_either_way(void **state) {
  (void)state;
  static const struct {
    int64_t hidden, inner;
    bool transposed;
  } cases[] = {{2, 3, true},  {2, 3, false}, {4, 2, true},
               {4, 2, false}, {3, 3, true},  {3, 3, false}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    const int64_t h = cases[i].hidden, n = cases[i].inner;
    const bool t = cases[i].transposed;
#define VL "model.language_model.layers.0.mlp."
    const made tensors[] = {
        {VL "gate.weight", "F32", 2, {1, h}, 1},
        {VL "experts.gate_up_proj", "F32", 3, {1, t ? h : 2 * n, t ? 2 * n : h}, 0},
        {VL "experts.down_proj", "F32", 3, {1, t ? n : h, t ? h : n}, 0}};
    char config[256];
    snprintf(config, sizeof config,
             "{\"model_type\":\"qwen3_vl_moe\",\"text_config\":{\"hidden_size\":%d,"
             "\"moe_intermediate_size\":%d,\"num_experts\":1,\"num_experts_per_tok\":1,"
             "\"num_hidden_layers\":1}}",
             (int)h, (int)n);
    make("model.safetensors", config, tensors, COUNT(tensors));
    moecl_checkpoint *checkpoint = open_made();
    float gate_up[24], down[12];
    for (int64_t r = 0; r < 2 * n; r++)
      for (int64_t c = 0; c < h; c++) gate_up[r * h + c] = (float)(t ? c * 2 * n + r : r * h + c);
    for (int64_t r = 0; r < h; r++)
      for (int64_t c = 0; c < n; c++) down[r * n + c] = (float)(t ? c * h + r : r * n + c);
    check_read(checkpoint, 0, MOECL_GATE_UP_PROJ, 0, gate_up, (size_t)(2 * n * h));
    check_read(checkpoint, 0, MOECL_DOWN_PROJ, 0, down, (size_t)(h * n));
    moecl_checkpoint_destroy(&checkpoint);
  }
}

/* A tensor of the layer's feed-forward network that nothing reads; those of attention,
 * norms and other layers are not this layer's. */
static void test_unread(void **state) {
  (void)state;
  static const struct {
    const char *name;
    bool refused;
  } extra[] = {{AT "experts.1.w2.bias", true},
               {AT "experts.2.w2.weight", true},
               {AT "gate.scale", true},
               {AT "zzz", true},
               {"model.layers.1.mlp.gate.weight", true}, /* the other of two alternatives */
               {"model.layers.1.block_sparse_moe", true},
               {"model.layers.1.router_scale", true}, /* siblings that sound like the network's */
               {"model.layers.1.mlp_2.up_proj.weight", true},
               {"model.layers.1.shared_gate.weight", true},
               {"model.layers.1.pre_mlp_layernorm.weight", false},
               {"model.layers.1.block_sparse_moe_norm.weight", false},
               {"model.layers.1.self_attn.o_proj.bias", false},
               {"model.layers.10.block_sparse_moe.gate.bias", false},
               {"model.layers.0.block_sparse_moe.gate.bias", false},
               {"a.block_sparse_moe.gate.bias", false}};
  made tensors[COUNT(mixtral_tensors) + 1];
  memcpy(tensors, mixtral_tensors, sizeof mixtral_tensors);
  for (int sharded = 0; sharded < 2; sharded++)
    for (size_t i = 0; i < COUNT(extra); i++) {
      tensors[COUNT(mixtral_tensors)] = (made){extra[i].name, "F32", 1, {2}, 1};
      make(sharded ? "a.safetensors" : "model.safetensors", mixtral, tensors, COUNT(tensors));
      base_text index = {0};
      for (size_t t = 0; t < COUNT(tensors); t++)
        base_text_addf(&index, "%s\"%s\":\"a.safetensors\"", t ? "," : "{\"weight_map\":{",
                       tensors[t].name);
      base_text_addf(&index, "}}");
      if (sharded) drop("model.safetensors");
      if (sharded) in_folder("model.safetensors.index.json", index.data, index.size);
      base_text_free(&index);
      test_log log = {.level = MOECL_LOG_DEBUG};
      moecl_checkpoint *checkpoint = NULL;
      assert_ok(moecl_checkpoint_open(folder(), test_log_add, &log, &checkpoint));
      const moecl_status status = moecl_checkpoint_check(checkpoint, 1);
      const bool named = test_log_has(&log, extra[i].name) && test_log_has(&log, ".safetensors: ");
      if (status != (extra[i].refused ? MOECL_ERROR_UNSUPPORTED : MOECL_OK) ||
          named != extra[i].refused)
        fail_msg("%s: status %d, '%s'", extra[i].name, (int)status, log.text.data);
      base_text_free(&log.text);
      moecl_checkpoint_destroy(&checkpoint);
    }
  drop("model.safetensors.index.json");
}

/* Of a prefix that is the network's own everything is. */
static void test_unread_below_the_network(void **state) {
  (void)state;
#define MIXER "layers.0.mixer."
  const made tensors[] = {{MIXER "up_proj.weight", "F32", 2, {3, 2}, 1},
                          {MIXER "down_proj.weight", "F32", 2, {2, 3}, 1},
                          {"layers.0.norm.weight", "F32", 1, {2}, 1},
                          {MIXER "odd", "F32", 1, {2}, 1}};
  for (size_t count = 3; count <= 4; count++) {
    make("model.safetensors",
         "{\"model_type\":\"nemotron_h\",\"hidden_size\":2,\"intermediate_size\":3,"
         "\"layers_block_type\":[\"mlp\"]}",
         tensors, count);
    moecl_checkpoint *checkpoint = open_made();
    assert_int_equal(moecl_checkpoint_check(checkpoint, 0),
                     count == 3 ? MOECL_OK : MOECL_ERROR_UNSUPPORTED);
    moecl_checkpoint_destroy(&checkpoint);
  }
}

#define MLP "model.layers.1.mlp."

/* Families whose files call and lay the same tensors in two ways. */
static void test_other_names(void **state) {
  (void)state;
  static const char config[] =
      "{\"model_type\":\"minimax_m3_vl_text\",\"hidden_size\":2,\"intermediate_size\":1,"
      "\"dense_intermediate_size\":2,\"shared_intermediate_size\":2,\"num_local_experts\":2,"
      "\"num_experts_per_tok\":1,\"num_hidden_layers\":2,\"moe_layer_freq\":[0,1]}";
#define L0 "model.layers.0.mlp."
#define M3 "model.layers.1.block_sparse_moe."
  const made published[] = {{L0 "gate_proj.weight", "F32", 2, {2, 2}, 10},
                            {L0 "up_proj.weight", "F32", 2, {2, 2}, 14},
                            {L0 "down_proj.weight", "F32", 2, {2, 2}, 20},
                            {M3 "experts.0.w1.weight", "F32", 2, {1, 2}, 40},
                            {M3 "experts.0.w3.weight", "F32", 2, {1, 2}, 42},
                            {M3 "experts.0.w2.weight", "F32", 2, {2, 1}, 50},
                            {M3 "experts.1.w1.weight", "F32", 2, {1, 2}, 44},
                            {M3 "experts.1.w3.weight", "F32", 2, {1, 2}, 46},
                            {M3 "experts.1.w2.weight", "F32", 2, {2, 1}, 52},
                            {M3 "gate.weight", "F32", 2, {2, 2}, 1},
                            {M3 "e_score_correction_bias", "F32", 1, {2}, 5},
                            {M3 "shared_experts.gate_proj.weight", "F32", 2, {2, 2}, 70},
                            {M3 "shared_experts.up_proj.weight", "F32", 2, {2, 2}, 74},
                            {M3 "shared_experts.down_proj.weight", "F32", 2, {2, 2}, 90}};
  const made saved[] = {{L0 "gate_up_proj.weight", "F32", 2, {4, 2}, 10},
                        {L0 "down_proj.weight", "F32", 2, {2, 2}, 20},
                        {MLP "experts.gate_up_proj", "F32", 3, {2, 2, 2}, 40},
                        {MLP "experts.down_proj", "F32", 3, {2, 2, 1}, 50},
                        {MLP "gate.weight", "F32", 2, {2, 2}, 1},
                        {MLP "gate.e_score_correction_bias", "F32", 1, {2}, 5},
                        {MLP "shared_experts.gate_up_proj.weight", "F32", 2, {4, 2}, 70},
                        {MLP "shared_experts.down_proj.weight", "F32", 2, {2, 2}, 90}};
  for (int i = 0; i < 2; i++) {
    make("model.safetensors", config, i ? saved : published, i ? COUNT(saved) : COUNT(published));
    moecl_checkpoint *checkpoint = open_made();
    moecl_checkpoint_layer layer;
    assert_ok(moecl_checkpoint_get_layer(checkpoint, 1, &layer));
    assert_string_equal(layer.prefix, "model.layers.1.");
    assert_string_equal(layer.stored_dtype, "F32");
    assert_ok(moecl_checkpoint_check(checkpoint, 0));
    assert_ok(moecl_checkpoint_check(checkpoint, 1));
    CHECK(0, MOECL_GATE_UP_PROJ, 0, 10, 11, 12, 13, 14, 15, 16, 17);
    CHECK(0, MOECL_DOWN_PROJ, 0, 20, 21, 22, 23);
    CHECK(1, MOECL_GATE_UP_PROJ, 0, 40, 41, 42, 43);
    CHECK(1, MOECL_GATE_UP_PROJ, 1, 44, 45, 46, 47);
    CHECK(1, MOECL_DOWN_PROJ, 1, 52, 53);
    CHECK(1, MOECL_SHARED_GATE_UP_PROJ, 0, 70, 71, 72, 73, 74, 75, 76, 77);
    CHECK(1, MOECL_SHARED_DOWN_PROJ, 0, 90, 91, 92, 93);
    moecl_checkpoint_destroy(&checkpoint);
  }
}

/* A dense layer is one expert, whose router is made up; a section and a prefix;
 * the correction bias is fp32 whatever is asked for. */
static void test_dense_and_shared(void **state) {
  (void)state;
  const made tensors[] = {{"model.layers.0.mlp.gate_proj.weight", "F32", 2, {3, 2}, 10},
                          {"model.layers.0.mlp.up_proj.weight", "F32", 2, {3, 2}, 20},
                          {"model.layers.0.mlp.down_proj.weight", "F32", 2, {2, 3}, 30},
                          {MLP "gate.weight", "F32", 2, {2, 2}, 1},
                          {MLP "gate.e_score_correction_bias", "F32", 1, {2}, 0.1},
                          {MLP "experts.0.gate_proj.weight", "F32", 2, {1, 2}, 40},
                          {MLP "experts.0.up_proj.weight", "F32", 2, {1, 2}, 50},
                          {MLP "experts.0.down_proj.weight", "F32", 2, {2, 1}, 60},
                          {MLP "shared_experts.gate_proj.weight", "F32", 2, {2, 2}, 70},
                          {MLP "shared_experts.up_proj.weight", "F32", 2, {2, 2}, 80},
                          {MLP "shared_experts.down_proj.weight", "F32", 2, {2, 2}, 90}};
  make("model.safetensors",
       "{\"model_type\":\"deepseek_v3\",\"hidden_size\":2,\"intermediate_size\":3,"
       "\"moe_intermediate_size\":1,\"n_routed_experts\":2,\"num_experts_per_tok\":1,"
       "\"n_shared_experts\":2,\"first_k_dense_replace\":1,\"num_hidden_layers\":2,"
       "\"n_group\":1,\"topk_group\":1}",
       tensors, COUNT(tensors));
  moecl_checkpoint *checkpoint = open_made();
  moecl_checkpoint_layer layer;
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
  assert_true(!layer.is_moe && layer.params.num_experts == 1 && layer.params.top_k == 1);
  assert_true(layer.params.scoring == MOECL_SCORING_SOFTMAX && !layer.params.score_correction_bias);
  CHECK(0, MOECL_ROUTER_WEIGHT, 0, 0, 0);
  CHECK(0, MOECL_GATE_UP_PROJ, 0, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25);
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 1, &layer));
  const moecl_layer_params *p = &layer.params;
  assert_true(layer.is_moe && p->scoring == MOECL_SCORING_SIGMOID && p->renormalize);
  assert_true(p->num_expert_group == 0 && p->topk_group == 0); /* one group is none */
  assert_true(p->routed_scaling_factor == 2.5f);
  assert_int_equal(p->shared_intermediate_size, 2);
  CHECK(1, MOECL_SHARED_GATE_UP_PROJ, 0, 70, 71, 72, 73, 80, 81, 82, 83);
  CHECK(1, MOECL_SHARED_DOWN_PROJ, 0, 90, 91, 92, 93);
  float bias[2];
  assert_ok(moecl_checkpoint_read(checkpoint, 1, MOECL_SCORE_CORRECTION_BIAS, 0, MOECL_BF16, bias));
  assert_true(bias[0] == 0.1f && bias[1] == 1.1f);
  moecl_checkpoint_destroy(&checkpoint);
}

/* Which layers are MoE, told by each kind of rule. */
static void check_moe(const char *config, const char *pattern) {
  make("model.safetensors", config, NULL, 0);
  moecl_checkpoint *checkpoint = open_made();
  assert_int_equal(moecl_checkpoint_num_layers(checkpoint), strlen(pattern));
  for (size_t i = 0; pattern[i]; i++) {
    moecl_checkpoint_layer layer;
    assert_ok(moecl_checkpoint_get_layer(checkpoint, (int64_t)i, &layer));
    if (layer.is_moe != (pattern[i] == 'E')) fail_msg("%s: layer %zu", config, i);
  }
  moecl_checkpoint_destroy(&checkpoint);
}

static void test_moe_rules(void **state) {
  (void)state;
  check_moe("{\"model_type\":\"qwen2_moe\",\"hidden_size\":2,\"num_hidden_layers\":6,"
            "\"decoder_sparse_step\":2,\"mlp_only_layers\":[3]}",
            "-E---E");
  check_moe("{\"model_type\":\"glm4_moe\",\"hidden_size\":2,\"num_hidden_layers\":4,"
            "\"first_k_dense_replace\":2}",
            "--EE");
  check_moe("{\"model_type\":\"llama4\",\"text_config\":{\"model_type\":\"llama4_text\","
            "\"hidden_size\":2,\"num_hidden_layers\":4,\"interleave_moe_layer_step\":2}}",
            "-E-E");
  check_moe("{\"model_type\":\"llama4_text\",\"hidden_size\":2,\"num_hidden_layers\":4,"
            "\"interleave_moe_layer_step\":1,\"moe_layers\":[0,3]}",
            "E--E");
  check_moe("{\"model_type\":\"switch_transformers\",\"num_layers\":4,\"num_decoder_layers\":3,"
            "\"encoder_sparse_step\":2,\"decoder_sparse_step\":1}",
            "-E-EEEE");
  check_moe("{\"model_type\":\"ernie4_5_moe\",\"hidden_size\":2,\"num_hidden_layers\":6,"
            "\"moe_layer_start_index\":1,\"moe_layer_end_index\":3,\"moe_layer_interval\":2}",
            "-E-E--");
  check_moe("{\"model_type\":\"nemotron_h\",\"hidden_size\":2,\"moe_intermediate_size\":2,"
            "\"intermediate_size\":2,\"n_routed_experts\":2,\"num_experts_per_tok\":1,"
            "\"hybrid_override_pattern\":\"ME*-M\"}",
            "E-");
  check_moe("{\"model_type\":\"nemotron_h\",\"hidden_size\":2,\"layers_block_type\":"
            "[\"linear_attention\",\"moe\",7,\"full_attention\",\"mlp\"]}",
            "E-");
  /* Switch's step out of the number of MoE layers, rounded down; none leaves one. */
#define SWITCH(encoder, decoder)                                                                   \
  "{\"model_type\":\"switch_transformers\",\"num_layers\":5,\"num_decoder_layers\":3,"             \
  "\"num_sparse_encoder_layers\":" encoder ",\"num_sparse_decoder_layers\":" decoder "}"
  check_moe(SWITCH("2", "1"), "-E-E--E-");
  check_moe(SWITCH("0", "3"), "-E---EEE");
  check_moe(SWITCH("6", "4"), "--------");
  /* Too few experts for a router. */
  check_moe("{\"model_type\":\"jamba\",\"hidden_size\":2,\"num_hidden_layers\":2,"
            "\"num_experts\":1,\"num_experts_per_tok\":1}",
            "--");
  check_moe("{\"model_type\":\"granitemoehybrid\",\"hidden_size\":2,\"num_hidden_layers\":2,"
            "\"num_local_experts\":0,\"num_experts_per_tok\":0}",
            "--");
  check_moe("{\"model_type\":\"qwen3_moe\",\"hidden_size\":2,\"num_hidden_layers\":2,"
            "\"num_experts\":0}",
            "--");
  /* Without a list, one by default; an empty one is a list. */
#define FLINT(more) "{\"model_type\":\"flint\",\"hidden_size\":2,\"num_hidden_layers\":3" more "}"
  check_moe(FLINT(""), "--E");
  check_moe(FLINT(",\"mlp_only_layers\":null"), "--E");
  check_moe(FLINT(",\"mlp_only_layers\":[]"), "EEE");
  check_moe(FLINT(",\"mlp_only_layers\":[2]"), "EE-");
  /* A section's section; and the text model's family where the whole's is not known. */
  check_moe("{\"model_type\":\"qwen3_omni_moe\",\"thinker_config\":{\"text_config\":"
            "{\"num_hidden_layers\":2,\"mlp_only_layers\":[0]}}}",
            "-E");
  check_moe("{\"model_type\":\"qwen3_omni_moe_thinker\",\"text_config\":"
            "{\"num_hidden_layers\":2,\"mlp_only_layers\":[1]}}",
            "E-");
  check_moe("{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"mistral4\","
            "\"num_hidden_layers\":2,\"first_k_dense_replace\":1}}",
            "-E");
  check_moe(TYPES(""), "-EE");
  check_moe(TYPES(",\"moe_layer_freq\":[1,0,1]"), "E-E");
  check_moe(TYPES(",\"moe_layer_freq\":[true,false,false]"), "E--");
  check_moe(TYPES(",\"mlp_layer_types\":[\"sparse\",\"sparse\",\"dense\"]"), "EE-");
}

static moecl_layer_params described(const char *config) {
  moecl_checkpoint_layer layer;
  make("model.safetensors", config, NULL, 0);
  moecl_checkpoint *checkpoint = open_made();
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
  moecl_checkpoint_destroy(&checkpoint);
  return layer.params;
}

/* What config.json says of the rule. */
static void test_rules(void **state) {
  (void)state;
  moecl_layer_params p = described(NLLB(""));
  assert_true(p.top_k == 2 && p.intermediate_size == 4096 && p.activation == MOECL_RELU);
  assert_true(!p.renormalize && p.renormalize_after_capacity && p.gate_up_bias && p.down_bias);
  assert_true(p.capacity_factor == 1 && moecl_expert_capacity(&p, 32) == 32);
  assert_true(p.routed_scaling_factor == 0.8f && p.drop_policy == MOECL_DROP_POSITION);
  p = described(NLLB(",\"normalize_router_prob_before_dropping\":true,\"moe_token_dropout\":0,"
                     "\"moe_eval_capacity_token_fraction\":0,\"expert_capacity\":7,"
                     "\"batch_prioritized_routing\":true,\"second_expert_policy\":\"sampling\""));
  assert_true(p.renormalize && !p.renormalize_after_capacity && p.routed_scaling_factor == 0);
  assert_true(moecl_expert_capacity(&p, 1000) == 7 && p.drop_policy == MOECL_DROP_PRIORITIZED);
  assert_int_equal(p.second_choice, MOECL_SECOND_SAMPLED);
  p = described(NLLB(",\"moe_eval_capacity_token_fraction\":0.07"));
  assert_int_equal(moecl_expert_capacity(&p, 100), 8); /* as Python rounds 0.07 * 100 */
  p = described(NLLB(",\"second_expert_policy\":\"random\""));
  assert_int_equal(p.second_choice, MOECL_SECOND_RANDOM);
  p = described(V2(",\"topk_method\":\"group_limited_greedy\""));
  assert_true(p.num_expert_group == 4 && p.topk_group == 2);
  p = described(V2(",\"topk_method\":\"greedy\""));
  assert_true(p.num_expert_group == 0 && p.topk_group == 0);
  /* Absent and null, where they are not the same. */
#define DBRX(more)                                                                                 \
  "{\"model_type\":\"dbrx\",\"d_model\":2,\"n_layers\":1,\"ffn_config\":{" more "}}"
  assert_true(described(DBRX("")).renormalize);
  assert_true(described(DBRX("\"moe_normalize_expert_weights\":1.0")).renormalize);
  assert_false(described(DBRX("\"moe_normalize_expert_weights\":null")).renormalize);
#define OF(type, more)                                                                             \
  "{\"model_type\":\"" type "\",\"hidden_size\":2,\"num_hidden_layers\":1" more "}"
  p = described(OF("flex_olmo", ""));
  assert_true(p.num_experts == 7 && p.top_k == 5 && p.intermediate_size == 11008);
  p = described(OF("afmoe", ",\"num_dense_layers\":0"));
  assert_true(p.shared_intermediate_size == 2 * 1408 && p.num_experts == 64 && p.top_k == 6);
  assert_int_equal(described(OF("granitemoehybrid", "")).shared_intermediate_size, 1024);
  assert_int_equal(described(OF("granitemoe", "")).shared_intermediate_size, 0);
  for (int i = 0; i < 4; i++) { /* what is not asked for is not refused */
    static const char *const off[] = {OF("mixtral", ",\"shared_intermediate_size\":0"),
                                      OF("mixtral", ",\"shared_intermediate_size\":false"),
                                      OF("mixtral", ",\"shared_intermediate_size\":null"),
                                      OF("hunyuan", ",\"norm_topk_prob\":true")};
    assert_int_equal(described(off[i]).hidden_size, 2);
  }
#define DOTS(more) OF("dots1", ",\"n_routed_experts\":4,\"num_experts_per_tok\":2" more)
  assert_int_equal(described(DOTS(",\"scoring_func\":\"noaux_tc\"")).scoring,
                   MOECL_SCORING_SIGMOID);
  assert_int_equal(described(DOTS("")).shared_intermediate_size, 0);
  p = described(OF("lfm2_moe", ",\"num_dense_layers\":0,\"hidden_act\":\"gelu\""));
  assert_int_equal(p.activation,
                   MOECL_SWIGLU); /* whatever a file says: the class has no such key */
  /* Numbers that JSON has not, where nobody asks for them, and texts that look like them. */
  p = described(OF("mixtral", ",\"a\":[0.0,Infinity,-Infinity,NaN],\"b\":\"\\\"NaN, \\\\\","
                              "\"hidden_act\":\"silu\""));
  assert_int_equal(p.activation, MOECL_SWIGLU);
#define PHI(more)                                                                                  \
  "{\"model_type\":\"phimoe\",\"hidden_size\":2,\"intermediate_size\":2,\"num_hidden_layers\":"    \
  "1" more "}"
  p = described(PHI(""));
  assert_true(p.sparsemixer_jitter == 0.01f);
  p = described(PHI(",\"router_jitter_noise\":0")); /* 0 alone would be the default */
  assert_true(p.sparsemixer_jitter > 0 && p.sparsemixer_jitter < 1e-30f);
  p = described(PHI(",\"router_jitter_noise\":1e-60")); /* nor is it rounded to that */
  assert_true(p.sparsemixer_jitter > 0 && p.sparsemixer_jitter < 1e-30f);
}

/* Layers behind the last one are counted apart, and so are types that hold other
 * things than numbers. */
static void test_measure(void **state) {
  (void)state;
  const made tensors[] = {{AT "gate.weight", "F32", 2, {2, 2}, 1},
                          {"model.layers.2.input_layernorm.weight", "F32", 1, {5}, 1},
                          {"model.layers.12.mlp.weight", "BF16", 1, {6}, 1},
                          {"model.layers.x.weight", "F32", 1, {7}, 1},
                          {"model.layers.2", "F32", 1, {8}, 1},
                          {"packed", "I32", 1, {9}, 1}};
  make("model.safetensors", mixtral, tensors, COUNT(tensors));
  moecl_checkpoint *checkpoint = open_made();
  moecl_checkpoint_size size;
  assert_ok(moecl_checkpoint_measure(checkpoint, &size));
  assert_int_equal(size.parameters, 4 + 5 + 6 + 7 + 8);
  assert_int_equal(size.extra_parameters, 5 + 6);
  assert_int_equal(size.other_bytes, 4 * 9);
  moecl_checkpoint_destroy(&checkpoint);
}

/* Models that are a part of others: sizes in text_config, layers in a language
 * model; Qwen's with experts stacked and transposed, gates before ups. */
static void test_text_models(void **state) {
  (void)state;
#define LANGUAGE "model.language_model.layers.0.mlp."
  const made qwen[] = {{LANGUAGE "gate.weight", "F32", 2, {2, 2}, 1},
                       {LANGUAGE "experts.gate_up_proj", "F32", 3, {2, 2, 6}, 100},
                       {LANGUAGE "experts.down_proj", "F32", 3, {2, 3, 2}, 300}};
  make("model.safetensors",
       "{\"model_type\":\"qwen3_vl_moe\",\"hidden_size\":7,\"text_config\":{\"hidden_size\":2,"
       "\"moe_intermediate_size\":3,\"num_experts\":2,\"num_experts_per_tok\":2,"
       "\"num_hidden_layers\":1,\"mlp_only_layers\":[]}}",
       qwen, COUNT(qwen));
  moecl_checkpoint *checkpoint = open_made();
  moecl_checkpoint_layer layer;
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
  assert_true(layer.is_moe && layer.params.renormalize);
  CHECK(0, MOECL_GATE_UP_PROJ, 1, 112, 118, 113, 119, 114, 120, 115, 121, 116, 122, 117, 123);
  CHECK(0, MOECL_DOWN_PROJ, 1, 306, 308, 310, 307, 309, 311);
  moecl_checkpoint_destroy(&checkpoint);
  static const struct {
    const char *model_type, *family;
    double scale;
  } others[] = {{"glm4v_moe", "glm4_moe", 0}, {"kimi_k25", "deepseek_v3", 2.5}};
  for (size_t i = 0; i < COUNT(others); i++) {
    char config[256];
    snprintf(config, sizeof config,
             "{\"model_type\":\"%s\",\"text_config\":{\"hidden_size\":6,"
             "\"first_k_dense_replace\":0,\"num_hidden_layers\":1}}",
             others[i].model_type);
    make("model.safetensors", config, NULL, 0);
    checkpoint = open_made();
    assert_string_equal(moecl_checkpoint_family(checkpoint), others[i].family);
    assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
    assert_true(layer.is_moe && layer.params.hidden_size == 6 && layer.params.renormalize);
    assert_true(layer.params.scoring == MOECL_SCORING_SIGMOID &&
                layer.params.score_correction_bias &&
                layer.params.routed_scaling_factor == (float)others[i].scale);
    moecl_checkpoint_destroy(&checkpoint);
  }
}

/* Models that were saved without their head have no "model." before their names. */
static void test_base_models(void **state) {
  (void)state;
  static const struct {
    const char *config, *prefix;
  } cases[] = {{OF("mixtral", ""), "layers.0."},
               {DBRX(""), "blocks.0."},
               {NLLB(""), "encoder.layers.0.ffn."},
               {"{\"model_type\":\"qwen3_vl_moe\",\"text_config\":{\"hidden_size\":2,"
                "\"num_hidden_layers\":1}}",
                "language_model.layers.0."}};
  static const char *const downs[] = {"block_sparse_moe.experts.0.w2.weight", "ffn.experts.mlp.w2",
                                      "experts.expert_0.fc2.weight", "mlp.experts.down_proj"};
  for (size_t i = 0; i < COUNT(cases); i++) {
    char name[100];
    snprintf(name, sizeof name, "%s%s", cases[i].prefix, downs[i]);
    const made tensor = {name, "F16", 1, {2}, 1};
    make("model.safetensors", cases[i].config, &tensor, 1);
    moecl_checkpoint *checkpoint = open_made();
    moecl_checkpoint_layer layer;
    assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
    assert_string_equal(layer.prefix, cases[i].prefix);
    assert_string_equal(layer.stored_dtype, "F16");
    moecl_checkpoint_destroy(&checkpoint);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_separate),
      cmocka_unit_test(test_transposed_and_interleaved),
      cmocka_unit_test(test_stacked_with_one_bias),
      cmocka_unit_test(test_flat),
      cmocka_unit_test(test_either_way),
      cmocka_unit_test(test_unread),
      cmocka_unit_test(test_unread_below_the_network),
      cmocka_unit_test(test_other_names),
      cmocka_unit_test(test_dense_and_shared),
      cmocka_unit_test(test_moe_rules),
      cmocka_unit_test(test_rules),
      cmocka_unit_test(test_measure),
      cmocka_unit_test(test_text_models),
      cmocka_unit_test(test_base_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
