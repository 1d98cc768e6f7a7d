// SPDX-License-Identifier: MIT
/* Blocks against transformers' own (test/golden/make/make_block_goldens.py): at once, and a
 * prompt and single tokens behind a cache. */
#include "../golden.h"
#include "../unit/unit.h"
#include <math.h>

typedef struct block_case {
  const char *file;
  moecl_block_params params;
} block_case;

#define ROPE(THETA) .rope = {.theta = (THETA)}
#define GPT_OSS(WINDOW)                                                                            \
  {                                                                                                \
    .attention = {.num_heads = 4,                                                                  \
                  .num_kv_heads = 1,                                                               \
                  .head_dim = 16,                                                                  \
                  .sinks = true,                                                                   \
                  .qkv_bias = true,                                                                \
                  .output_bias = true,                                                             \
                  .sliding_window = (WINDOW),                                                      \
                  .rope = {.theta = 150000,                                                        \
                           .scaling = MOECL_ROPE_YARN,                                             \
                           .factor = 32,                                                           \
                           .original_positions = 4096,                                             \
                           .not_truncated = true}},                                                \
    .layer = {                                                                                     \
      .hidden_size = 32,                                                                           \
      .intermediate_size = 20,                                                                     \
      .num_experts = 4,                                                                            \
      .top_k = 2,                                                                                  \
      .activation = MOECL_SWIGLU_CLAMPED,                                                          \
      .router_bias = true,                                                                         \
      .gate_up_bias = true,                                                                        \
      .down_bias = true,                                                                           \
      .score_after_topk = true                                                                     \
    }                                                                                              \
  }

/* Switch's encoder: 24 tokens are beyond the largest distance. */
#define SWITCH                                                                                     \
  {                                                                                                \
    .attention = {.num_heads = 3,                                                                  \
                  .head_dim = 12,                                                                  \
                  .not_causal = true,                                                              \
                  .scale = 1,                                                                      \
                  .relative_attention_num_buckets = 8,                                             \
                  .relative_attention_max_distance = 16},                                          \
    .attention_norm = {.epsilon = 1e-6f}, .feed_forward_norm = {.epsilon = 1e-6f}, .layer = {      \
      .hidden_size = 32,                                                                           \
      .intermediate_size = 20,                                                                     \
      .num_experts = 4,                                                                            \
      .top_k = 1,                                                                                  \
      .activation = MOECL_RELU,                                                                    \
      .capacity_factor = 1e-300,                                                                   \
      .min_capacity = 7                                                                            \
    }                                                                                              \
  }

/* What the families below have in common: their sizes, both norms' epsilon, DeepSeek's routing. */
#define HEADS .num_heads = 4, .num_kv_heads = 2
#define NORMS(EPSILON)                                                                             \
  .attention_norm = {.epsilon = (EPSILON)}, .feed_forward_norm = {.epsilon = (EPSILON)}
#define ROUTED .hidden_size = 32, .intermediate_size = 12, .num_experts = 6, .top_k = 3
#define SIGMOID .scoring = MOECL_SCORING_SIGMOID, .score_correction_bias = true, .renormalize = true

static const block_case cases[] = {
    {"mixtral",
     {.attention = {.num_heads = 4, .num_kv_heads = 2, ROPE(1e6)},
      .layer = {.hidden_size = 32,
                .intermediate_size = 24,
                .num_experts = 4,
                .top_k = 2,
                .renormalize = true}}},
    {"olmoe",
     {.attention = {.num_heads = 4, .qk_norm = MOECL_QK_NORM_FULL, ROPE(10000)},
      .layer = {.hidden_size = 32, .intermediate_size = 16, .num_experts = 8, .top_k = 3}}},
    {"qwen3_moe",
     {.attention = {.num_heads = 6,
                    .num_kv_heads = 2,
                    .head_dim = 12,
                    .qk_norm = MOECL_QK_NORM_HEAD,
                    .qk_norm_epsilon = 1e-6f,
                    ROPE(1e6)},
      .attention_norm = {.epsilon = 1e-6f},
      .feed_forward_norm = {.epsilon = 1e-6f},
      .layer = {.hidden_size = 32,
                .intermediate_size = 16,
                .num_experts = 8,
                .top_k = 3,
                .renormalize = true}}},
    {"gpt_oss_window", GPT_OSS(7)},
    {"gpt_oss", GPT_OSS(0)},
    {"switch_first", SWITCH},
    {"switch", SWITCH},
    {"olmoe_clip",
     {.attention = {.num_heads = 4, .qk_norm = MOECL_QK_NORM_FULL, .clip_qkv = 0.75f, ROPE(10000)},
      .layer = {.hidden_size = 32, .intermediate_size = 16, .num_experts = 8, .top_k = 3}}},
    {"qwen2_moe",
     {.attention = {HEADS, .qkv_bias = true, .sliding_window = 7, ROPE(1e6)},
      NORMS(1e-6f),
      .layer = {ROUTED, .shared_intermediate_size = 20, .shared_gate = true}}},
    {"dots1",
     {.attention = {HEADS, .qkv_bias = true, .output_bias = true, .qk_norm = MOECL_QK_NORM_HEAD,
                    .qk_norm_epsilon = 1e-6f, .sliding_window = 7, ROPE(10000)},
      NORMS(1e-6f),
      .layer = {ROUTED, SIGMOID, .routed_scaling_factor = 2.5f, .shared_intermediate_size = 24}}},
    {"solar_open",
     {.attention = {HEADS, .head_dim = 12, .qkv_bias = true, ROPE(1e6)},
      .layer = {ROUTED, SIGMOID, .shared_intermediate_size = 12}}},
    {"hy_v3",
     {.attention = {HEADS, .head_dim = 12, .qk_norm = MOECL_QK_NORM_HEAD, ROPE(11158840)},
      .layer = {ROUTED, SIGMOID, .routed_scaling_factor = 2.826f, .shared_intermediate_size = 12}}},
    {"exaone_moe_window",
     {.attention = {HEADS, .qk_norm = MOECL_QK_NORM_HEAD, .sliding_window = 7, ROPE(1e6)},
      .layer = {ROUTED, SIGMOID, .routed_scaling_factor = 2.5f, .shared_intermediate_size = 12}}},
    {"exaone_moe", /* layers without a window know no positions */
     {.attention = {HEADS, .qk_norm = MOECL_QK_NORM_HEAD},
      .layer = {ROUTED, SIGMOID, .routed_scaling_factor = 2.5f, .shared_intermediate_size = 12}}},
    {"minimax_m2",
     {.attention = {HEADS, .head_dim = 12, .qk_norm = MOECL_QK_NORM_FULL, .qk_norm_epsilon = 1e-6f,
                    .rope = {.theta = 5e6, .dim = 6}},
      NORMS(1e-6f),
      .layer = {ROUTED, SIGMOID}}},
    {"glm4_moe",
     {.attention = {HEADS, .head_dim = 12, .qkv_bias = true, .qk_norm = MOECL_QK_NORM_HEAD,
                    .rope = {.theta = 10000, .dim = 6}},
      .layer = {ROUTED, SIGMOID, .shared_intermediate_size = 12}}},
    {"glm4_moe_plain",
     {.attention = {HEADS, .head_dim = 12, .qkv_bias = true, .rope = {.theta = 10000, .dim = 6}},
      .layer = {ROUTED, SIGMOID, .shared_intermediate_size = 12}}},
    {"ernie4_5_moe",
     {.attention = {HEADS, .rope = {.theta = 500000, .interleaved = true}},
      .layer = {ROUTED, .score_correction_bias = true, .renormalize = true,
                .renormalize_minimum = 1e-12f, .shared_intermediate_size = 12}}},
    {"phimoe",
     {.attention = {HEADS, .qkv_bias = true, .output_bias = true, .sliding_window = 7, ROPE(1e6)},
      .attention_norm = {.kind = MOECL_NORM_LAYER, .bias = true},
      .feed_forward_norm = {.kind = MOECL_NORM_LAYER, .bias = true},
      .layer = {.hidden_size = 32,
                .intermediate_size = 12,
                .num_experts = 6,
                .top_k = 2,
                .scoring = MOECL_SCORING_SPARSEMIXER,
                .sparsemixer_jitter = 0.01f}}},
    {"mellum",
     {.attention = {HEADS, .head_dim = 12, .qk_norm = MOECL_QK_NORM_HEAD, .qk_norm_epsilon = 1e-6f,
                    .rope = {.theta = 500000,
                             .scaling = MOECL_ROPE_YARN,
                             .factor = 4,
                             .original_positions = 1024}},
      NORMS(1e-6f),
      .layer = {ROUTED, .renormalize = true}}},
    {"mellum_window",
     {.attention = {HEADS, .head_dim = 12, .qk_norm = MOECL_QK_NORM_HEAD, .qk_norm_epsilon = 1e-6f,
                    .sliding_window = 7, ROPE(10000)},
      NORMS(1e-6f),
      .layer = {ROUTED, .renormalize = true}}},
    {"granitemoe",
     {.attention = {HEADS, .scale = 0.25f, ROPE(10000)},
      NORMS(1e-6f),
      .layer = {.hidden_size = 32,
                .intermediate_size = 12,
                .num_experts = 6,
                .top_k = 2,
                .score_after_topk = true}}},
    {"flint",
     {.attention = {HEADS, .head_dim = 12, .sinks = true, .qk_norm = MOECL_QK_NORM_HEAD,
                    .qk_norm_epsilon = 1e-6f},
      NORMS(1e-6f),
      .layer = {ROUTED, .scoring = MOECL_SCORING_SIGMOID, .renormalize = true,
                .shared_intermediate_size = 20}}},
    {"flint_window",
     {.attention = {HEADS, .head_dim = 12, .sinks = true, .qk_norm = MOECL_QK_NORM_HEAD,
                    .qk_norm_epsilon = 1e-6f, .sliding_window = 7, ROPE(10000)},
      NORMS(1e-6f),
      .layer = {ROUTED, .scoring = MOECL_SCORING_SIGMOID, .renormalize = true,
                .shared_intermediate_size = 20}}}};

static const char *const block_names[MOECL_BLOCK_TENSOR_COUNT] = {"attention_norm",
                                                                  "attention_norm_bias",
                                                                  "qkv_proj",
                                                                  "qkv_bias",
                                                                  "q_norm",
                                                                  "k_norm",
                                                                  "sinks",
                                                                  "o_proj",
                                                                  "o_bias",
                                                                  "feed_forward_norm",
                                                                  "feed_forward_norm_bias",
                                                                  "relative_bias"};
static const char *const layer_names[MOECL_TENSOR_COUNT] = {
    "router_weight",         "router_bias", "gate_up_proj",
    "gate_up_bias",          "down_proj",   "down_bias",
    "score_correction_bias", NULL,          "shared_gate_up_proj",
    "shared_down_proj",      "shared_gate"};

static moecl_context *context;

/* A tensor in a data type; NULL where the file has none. */
static void *stored(const golden *file, const char *name, moecl_dtype dtype, int64_t size) {
  const int64_t count = golden_count(file, name);
  if (count < 0) return NULL;
  assert_int_equal(count, size);
  double *values = golden_doubles(file, name);
  void *raw = malloc((size_t)count * sizeof(float));
  assert_true(values && raw);
  moecl_from_double(dtype, values, (size_t)count, raw);
  free(values);
  return raw;
}

/* Every tensor that the block has is in the file, and no other. */
static void give_weights(const golden *file, moecl_block *block, const moecl_block_params *params) {
  const moecl_dtype dtype = params->layer.dtype;
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const int64_t size = moecl_block_tensor_size(params, (moecl_block_tensor)i);
    void *raw = block_names[i] ? stored(file, block_names[i], dtype, size) : NULL;
    assert_int_equal(raw != NULL, size > 0);
    if (raw) assert_ok(moecl_block_set_weights(block, (moecl_block_tensor)i, raw));
    free(raw);
  }
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) {
    const moecl_tensor tensor = (moecl_tensor)i;
    const moecl_dtype own = tensor == MOECL_SCORE_CORRECTION_BIAS ? MOECL_F32 : dtype;
    const int64_t items = moecl_layer_tensor_items(&params->layer, tensor);
    const int64_t size = items * moecl_layer_tensor_size(&params->layer, tensor);
    void *raw = layer_names[i] ? stored(file, layer_names[i], own, size) : NULL;
    assert_int_equal(raw != NULL, size > 0);
    if (raw) assert_ok(moecl_layer_set_weights(moecl_block_layer(block), tensor, 0, items, raw));
    free(raw);
  }
}

/* Tokens [first, first + tokens) of `hidden`, the output as doubles behind it. */
static void forward(moecl_block *block, moecl_cache *cache, moecl_dtype dtype, const void *hidden,
                    int64_t width, int64_t first, int64_t tokens, double *output) {
  const size_t count = (size_t)(tokens * width), one = moecl_dtype_size(dtype);
  float raw[24 * 32]; /* holds any type */
  moecl_buffer *input = NULL, *result = NULL;
  assert_true(count <= BASE_COUNT(raw));
  assert_ok(moecl_buffer_create(context, count * one, &input));
  assert_ok(moecl_buffer_create(context, count * one, &result));
  assert_ok(moecl_buffer_write_wait(input, 0, count * one,
                                    (const char *)hidden + (size_t)(first * width) * one));
  const moecl_block_forward_params params = {
      .num_tokens = tokens, .hidden_states = input, .output = result, .cache = cache};
  assert_ok(moecl_block_forward(block, &params, NULL));
  assert_ok(moecl_buffer_read_wait(result, 0, count * one, raw));
  moecl_to_double(dtype, raw, count, output + first * width);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&result);
}

static void check_close(const char *file, const char *how, const double *got, const double *want,
                        size_t count, double tolerance) {
  const double error = moecl_relative_error(got, want, count);
  if (!(error <= tolerance))
    fail_msg("%s, %s: error %.3g, expected %.3g at most", file, how, error, tolerance);
}

static void check(const block_case *c, moecl_dtype dtype, double tolerance) {
  char name[128];
  moecl_block *block = NULL;
  moecl_cache *cache = NULL;
  moecl_block_params params = c->params;
  params.layer.dtype = dtype;
  snprintf(name, sizeof name, "blocks/%s.safetensors", c->file);
  golden *file = golden_open(name);
  assert_non_null(file);
  const int64_t tokens = golden_length(file, "hidden_states", 0);
  const int64_t width = golden_length(file, "hidden_states", 1);
  const size_t count = (size_t)(tokens * width);
  void *hidden = stored(file, "hidden_states", dtype, tokens * width);
  double *want = golden_doubles(file, "output"), *got = malloc(count * sizeof *got);
  assert_true(hidden && want && got);
  assert_ok(moecl_block_create(context, &params, &block));
  give_weights(file, block, &params);
  forward(block, NULL, dtype, hidden, width, 0, tokens, got);
  check_close(c->file, "at once", got, want, count, tolerance);
  /* Tokens that look at later ones have to come at once. */
  const int64_t whole = params.attention.not_causal ? tokens : tokens - 3;
  assert_ok(moecl_cache_create(block, tokens, &cache));
  forward(block, cache, dtype, hidden, width, 0, whole, got);
  for (int64_t t = whole; t < tokens; t++) forward(block, cache, dtype, hidden, width, t, 1, got);
  check_close(c->file, "cached", got, want, count, tolerance);
  moecl_cache_destroy(&cache);
  moecl_block_destroy(&block);
  golden_close(&file);
  free(hidden), free(want), free(got);
}

static void test_f32(void **state) {
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(cases); i++) check(&cases[i], MOECL_F32, 1e-5);
}

/* Weights are rounded from the recorded ones, and so are choices' weights. */
static void test_bf16(void **state) {
  (void)state;
  check(&cases[0], MOECL_BF16, 1e-2);
  check(&cases[4], MOECL_BF16, 1e-2);
  check(&cases[5], MOECL_BF16, 1e-2);
  check(&cases[6], MOECL_BF16, 1e-2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
  skip_without_device();
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
