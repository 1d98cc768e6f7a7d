// SPDX-License-Identifier: MIT
/* Whole transformer blocks of several families' shapes against the reference: a sequence at
 * once, and token by token or in parts behind a cache. */
#include "layer_run.h"
#include "moecl/block.h"
#include "ocl/ocl.h"
#include <math.h>

enum { TOKENS = 37, MOST_PARTS = 4 };

typedef struct block_case {
  const char *name;
  moecl_block_params params;
  int64_t parts[MOST_PARTS]; /* of the sequence, in the cache one after the other */
} block_case;

/* Mixtral: grouped queries, rotary embedding, SwiGLU. */
#define MIXTRAL                                                                                    \
  {                                                                                                \
    .attention = {.num_heads = 4, .num_kv_heads = 2, .rope = {.theta = 1e6}}, .layer = {           \
      .hidden_size = 64,                                                                           \
      .intermediate_size = 48,                                                                     \
      .num_experts = 8,                                                                            \
      .top_k = 2,                                                                                  \
      .renormalize = true                                                                          \
    }                                                                                              \
  }
/* OLMoE: all heads of queries and of keys normalized at once, and cut. */
#define OLMOE                                                                                      \
  {                                                                                                \
    .attention = {.num_heads = 4,                                                                  \
                  .qk_norm = MOECL_QK_NORM_FULL,                                                   \
                  .clip_qkv = 1,                                                                   \
                  .rope = {.theta = 10000}},                                                       \
    .layer = {                                                                                     \
      .hidden_size = 64,                                                                           \
      .intermediate_size = 32,                                                                     \
      .num_experts = 16,                                                                           \
      .top_k = 4                                                                                   \
    }                                                                                              \
  }
/* Qwen3-MoE: each head normalized, and heads that are no share of the hidden size. */
#define QWEN3                                                                                      \
  {                                                                                                \
    .attention = {.num_heads = 6,                                                                  \
                  .num_kv_heads = 2,                                                               \
                  .head_dim = 24,                                                                  \
                  .qk_norm = MOECL_QK_NORM_HEAD,                                                   \
                  .qk_norm_epsilon = 1e-6f,                                                        \
                  .rope = {.theta = 1e6}},                                                         \
    .attention_norm = {.epsilon = 1e-6f}, .feed_forward_norm = {.epsilon = 1e-6f}, .layer = {      \
      .hidden_size = 56,                                                                           \
      .intermediate_size = 32,                                                                     \
      .num_experts = 16,                                                                           \
      .top_k = 4,                                                                                  \
      .renormalize = true                                                                          \
    }                                                                                              \
  }
/* gpt-oss: sinks, a window, YaRN, biases everywhere. */
#define GPT_OSS                                                                                    \
  {                                                                                                \
    .attention = {.num_heads = 8,                                                                  \
                  .num_kv_heads = 1,                                                               \
                  .head_dim = 16,                                                                  \
                  .sinks = true,                                                                   \
                  .qkv_bias = true,                                                                \
                  .output_bias = true,                                                             \
                  .sliding_window = 8,                                                             \
                  .rope = {.theta = 150000,                                                        \
                           .scaling = MOECL_ROPE_YARN,                                             \
                           .factor = 32,                                                           \
                           .original_positions = 4096,                                             \
                           .not_truncated = true}},                                                \
    .layer = {                                                                                     \
      .hidden_size = 72,                                                                           \
      .intermediate_size = 40,                                                                     \
      .num_experts = 8,                                                                            \
      .top_k = 4,                                                                                  \
      .activation = MOECL_SWIGLU_CLAMPED,                                                          \
      .router_bias = true,                                                                         \
      .gate_up_bias = true,                                                                        \
      .down_bias = true,                                                                           \
      .score_after_topk = true                                                                     \
    }                                                                                              \
  }
/* An encoder: every token looks at every one, LayerNorm, no positions, one plain expert. */
#define ENCODER                                                                                    \
  {                                                                                                \
    .attention = {.num_heads = 3, .not_causal = true, .scale = 1},                                 \
    .attention_norm = {.kind = MOECL_NORM_LAYER, .bias = true},                                    \
    .feed_forward_norm = {.kind = MOECL_NORM_LAYER, .bias = true}, .layer = {                      \
      .hidden_size = 33,                                                                           \
      .intermediate_size = 50,                                                                     \
      .num_experts = 4,                                                                            \
      .top_k = 1,                                                                                  \
      .activation = MOECL_RELU                                                                     \
    }                                                                                              \
  }
/* Switch's encoder: a relative bias, logits as they are, heads that are no share of the hidden
 * size, a capacity. */
#define SWITCH                                                                                     \
  {                                                                                                \
    .attention = {.num_heads = 3,                                                                  \
                  .head_dim = 12,                                                                  \
                  .not_causal = true,                                                              \
                  .scale = 1,                                                                      \
                  .relative_attention_num_buckets = 10,                                            \
                  .relative_attention_max_distance = 20},                                          \
    .layer = {                                                                                     \
      .hidden_size = 40,                                                                           \
      .intermediate_size = 50,                                                                     \
      .num_experts = 4,                                                                            \
      .top_k = 1,                                                                                  \
      .activation = MOECL_RELU,                                                                    \
      .capacity_factor = 1                                                                         \
    }                                                                                              \
  }
/* T5's decoder has such a bias, too: one side of it. */
#define RELATIVE_DECODER                                                                           \
  {                                                                                                \
    .attention = {.num_heads = 4,                                                                  \
                  .scale = 1,                                                                      \
                  .relative_attention_num_buckets = 8,                                             \
                  .relative_attention_max_distance = 16},                                          \
    .layer = {                                                                                     \
      .hidden_size = 64,                                                                           \
      .intermediate_size = 24,                                                                     \
      .num_experts = 4,                                                                            \
      .top_k = 2                                                                                   \
    }                                                                                              \
  }
/* Gemma's norms, with a shared expert. */
#define PLUS_ONE                                                                                   \
  {                                                                                                \
    .attention = {.num_heads = 2,                                                                  \
                  .num_kv_heads = 1,                                                               \
                  .qk_norm = MOECL_QK_NORM_HEAD,                                                   \
                  .qk_norm_plus_one = true,                                                        \
                  .rope = {.theta = 10000, .dim = 8, .interleaved = true}},                        \
    .attention_norm = {.plus_one = true}, .feed_forward_norm = {.plus_one = true}, .layer = {      \
      .hidden_size = 64,                                                                           \
      .intermediate_size = 32,                                                                     \
      .num_experts = 4,                                                                            \
      .top_k = 2,                                                                                  \
      .shared_intermediate_size = 24                                                               \
    }                                                                                              \
  }

static const block_case cases[] = {{"mixtral", MIXTRAL, {TOKENS - 2, 1, 1}},
                                   {"olmoe", OLMOE, {20, 17}},
                                   {"qwen3_moe", QWEN3, {1, 35, 1}},
                                   {"gpt_oss", GPT_OSS, {5, 31, 1}},
                                   {"encoder", ENCODER, {0}},
                                   {"switch", SWITCH, {0}},
                                   {"relative decoder", RELATIVE_DECODER, {5, 31, 1}},
                                   {"plus one", PLUS_ONE, {16, 21}}};

static moecl_context *context;

/* ---- a block, its weights, and what the reference makes of its first half ---- */

typedef struct block_data {
  const block_case *c;
  moe_case source; /* the layer's, of all tokens */
  case_data layer;
  moecl_block_params params;
  moecl_block *block;
  double *tensor[MOECL_BLOCK_TENSOR_COUNT]; /* as the block has them */
  double *sum, *normalized;
} block_data;

/* Matrices keep their input's size; norms' weights are near 1, or near 0 where that is
 * added. */
static double *draw_tensor(const block_data *d, moecl_block_tensor tensor, void *raw) {
  const size_t count = (size_t)moecl_block_tensor_size(&d->params, tensor);
  double *values = malloc(count * sizeof *values);
  const bool plus_one = tensor == MOECL_Q_NORM || tensor == MOECL_K_NORM
                            ? d->params.attention.qk_norm_plus_one
                            : d->params.attention_norm.plus_one;
  const bool is_norm = tensor == MOECL_ATTENTION_NORM || tensor == MOECL_FEED_FORWARD_NORM ||
                       tensor == MOECL_Q_NORM || tensor == MOECL_K_NORM;
  const double columns = tensor == MOECL_O_PROJ ? 4 : (double)d->params.layer.hidden_size;
  const double scale = is_norm                                              ? 0.2
                       : tensor == MOECL_QKV_PROJ || tensor == MOECL_O_PROJ ? 1 / sqrt(columns)
                                                                            : 1;
  const moecl_random_params params = {.distribution = MOECL_NORMAL,
                                      .scale = (float)scale,
                                      .seed = case_seed(),
                                      .stream = 100 + (uint64_t)tensor};
  assert_non_null(values);
  assert_ok(moecl_random_host(raw, count, &params));
  for (size_t i = 0; i < count; i++)
    values[i] = (double)((float *)raw)[i] + (is_norm && !plus_one ? 1 : 0);
  moecl_from_double(d->params.layer.dtype, values, count, raw);
  moecl_to_double(d->params.layer.dtype, raw, count, values);
  return values;
}

/* Each tensor from the host and from a buffer in turn. */
static void give_tensor(block_data *d, moecl_block_tensor tensor) {
  const size_t count = (size_t)moecl_block_tensor_size(&d->params, tensor);
  if (count == 0) return;
  void *raw = malloc(count * sizeof(float));
  assert_non_null(raw);
  d->tensor[tensor] = draw_tensor(d, tensor, raw);
  if (tensor % 2) {
    const size_t one = moecl_dtype_size(d->params.layer.dtype);
    moecl_buffer *source = upload(context, raw, count * one, 3 * one);
    assert_ok(moecl_block_set_weights_buffer(d->block, tensor, source, 3 * one));
    moecl_buffer_destroy(&source);
  } else {
    assert_ok(moecl_block_set_weights(d->block, tensor, raw));
  }
  free(raw);
}

static void make_block(const block_case *c, moecl_dtype dtype, const char *variant, block_data *d) {
  *d = (block_data){.c = c, .params = c->params};
  d->params.layer.dtype = dtype;
  d->params.attention_variant = variant;
  d->source = (moe_case){.name = c->name, .layer = d->params.layer, .num_tokens = TOKENS};
  assert_true(case_make(&d->source, dtype, case_seed(), &d->layer));
  assert_ok(moecl_block_create(context, &d->params, &d->block));
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) give_tensor(d, (moecl_block_tensor)i);
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++)
    if (d->layer.tensor[i])
      set_tensor(context, moecl_block_layer(d->block), &d->layer, (moecl_tensor)i, true, false);
  const size_t count = (size_t)(TOKENS * d->params.layer.hidden_size);
  d->sum = malloc(count * sizeof *d->sum);
  d->normalized = malloc(count * sizeof *d->normalized);
  assert_true(d->sum && d->normalized);
  assert_ok(moecl_reference_attention(&d->params, TOKENS, d->layer.hidden_values,
                                      (const double *const *)d->tensor, d->sum, d->normalized));
}

static void release_block(block_data *d) {
  moecl_block_destroy(&d->block);
  case_release(&d->layer);
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) free(d->tensor[i]);
  free(d->sum), free(d->normalized);
}

/* ---- forwards ---- */

/* Runs `tokens` from `first` on; the output's bytes. */
static void *forward(block_data *d, int64_t first, int64_t tokens, moecl_cache *cache,
                     moecl_profile *profile) {
  const size_t row = (size_t)d->params.layer.hidden_size * moecl_dtype_size(d->params.layer.dtype);
  const size_t bytes = (size_t)tokens * row;
  moecl_buffer *output = NULL;
  moecl_buffer *input = upload(context, (char *)d->layer.hidden + (size_t)first * row, bytes, 0);
  assert_ok(moecl_buffer_create(context, bytes + GUARD, &output));
  assert_ok(moecl_buffer_fill_byte(output, 0, bytes + GUARD, 0xff));
  const moecl_block_forward_params params = {.num_tokens = tokens,
                                             .hidden_states = input,
                                             .output = output,
                                             .cache = cache,
                                             .seed = d->layer.seed,
                                             .profile = profile};
  assert_ok(moecl_block_forward(d->block, &params, NULL));
  unsigned char *result = read_all(output);
  for (size_t i = bytes; i < bytes + GUARD; i++) assert_int_equal(result[i], 0xff);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  return result;
}

/* Of these tokens, the reference's sum and what its experts make of the device's routing,
 * whose logits are the reference's. */
static void compare(block_data *d, int64_t first, int64_t tokens, const void *output) {
  const int64_t width = d->params.layer.hidden_size;
  const size_t count = (size_t)(tokens * width);
  const double tolerance = d->params.layer.dtype == MOECL_F32 ? 1e-5 : 1e-2;
  moe_case source = d->source;
  case_data part = d->layer;
  moecl_routing routing;
  source.num_tokens = tokens;
  part.source = &source;
  part.hidden_values = d->normalized + first * width;
  assert_ok(moecl_layer_read_routing_wait(moecl_block_layer(d->block), &routing));
  const size_t logits = (size_t)(tokens * routing.num_experts);
  double *got = malloc((count + logits) * sizeof *got),
         *want = case_reference_output(&part, &routing);
  double *want_logits = case_reference_logits(&part);
  assert_true(got && want && want_logits);
  const char *variant = moecl_block_variant(d->block, "attention", NULL);
  for (size_t i = 0; i < logits; i++) got[i] = (double)routing.router_logits[i];
  const bool same =
      case_compare(&part, variant, "router_logits", got, want_logits, logits, tolerance);
  for (size_t i = 0; i < count; i++) want[i] += d->sum[(size_t)(first * width) + i];
  moecl_to_double(d->params.layer.dtype, output, count, got);
  assert_true(case_compare(&part, variant, "output", got, want, count, tolerance) && same);
  free(got), free(want), free(want_logits);
  moecl_routing_destroy(&routing);
}

/* All at once, then in parts behind a cache; the second time from the first part on again,
 * which has to give the same bits. */
static void check_block(const block_case *c, moecl_dtype dtype, const char *variant) {
  block_data d;
  moecl_cache *cache = NULL;
  make_block(c, dtype, variant, &d);
  void *whole = forward(&d, 0, TOKENS, NULL, NULL);
  compare(&d, 0, TOKENS, whole);
  free(whole);
  assert_ok(moecl_cache_create(d.block, TOKENS, &cache));
  for (int64_t part = 0, first = 0; part < MOST_PARTS && c->parts[part] > 0; part++) {
    void *output = forward(&d, first, c->parts[part], cache, NULL);
    compare(&d, first, c->parts[part], output);
    assert_ok(moecl_cache_set_tokens(cache, first));
    void *again = forward(&d, first, c->parts[part], cache, NULL);
    assert_memory_equal(output, again,
                        (size_t)(c->parts[part] * d.params.layer.hidden_size) *
                            moecl_dtype_size(dtype));
    first += c->parts[part];
    assert_int_equal(moecl_cache_tokens(cache), first);
    free(output), free(again);
  }
  moecl_cache_destroy(&cache);
  release_block(&d);
}

static void test_families(void **state) {
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(cases); i++) check_block(&cases[i], MOECL_F32, NULL);
}

static void test_narrow(void **state) {
  (void)state;
  check_block(&cases[3], MOECL_BF16, NULL);
  check_block(&cases[2], MOECL_F16, "generic");
}

/* A device of one work-item a work-group and 1 KiB of local memory: this one with its limits
 * lowered. */
static void test_small_device(void **state) {
  const char *const operations[] = {"norm", "rotary", "attention", "projections", "router"};
  const moecl_device_info info = context->info;
  moecl_block *block = NULL;
  (void)state;
  context->info.max_work_group_size = 1;
  context->info.local_memory_bytes = 1024;
  context->info.capabilities &= ~(uint32_t)(MOECL_CAP_CPU | MOECL_CAP_LOCAL_MEMORY);
  assert_ok(moecl_block_create(context, &cases[2].params, &block));
  for (size_t i = 0; i < BASE_COUNT(operations); i++)
    assert_string_equal(moecl_block_variant(block, operations[i], NULL), "serial");
  moecl_block_destroy(&block);
  check_block(&cases[2], MOECL_F32, NULL);
  context->info = info;
}

/* ---- what is refused, counted and timed ---- */

static void test_stages(void **state) {
  double ms[MOECL_STAGE_COUNT];
  block_data d;
  moecl_profile *profile = NULL;
  (void)state;
  make_block(&cases[0], MOECL_F32, NULL, &d);
  assert_ok(moecl_profile_create(context, &profile));
  free(forward(&d, 0, TOKENS, NULL, profile));
  assert_ok(moecl_profile_read_wait(profile, ms, MOECL_STAGE_COUNT));
  double sum = 0;
  for (int i = MOECL_STAGE_ATTENTION_NORM; i < MOECL_STAGE_COUNT; i++) {
    assert_true(isnan(ms[MOECL_STAGE_LAYER]) || ms[i] >= 0);
    sum += ms[i];
  }
  assert_true(isnan(ms[MOECL_STAGE_LAYER]) || ms[MOECL_STAGE_LAYER] >= sum * 0.999);
  moecl_profile_destroy(&profile);
  release_block(&d);
}

static void test_memory(void **state) {
  block_data d;
  moecl_cache *cache = NULL;
  (void)state;
  make_block(&cases[0], MOECL_F32, NULL, &d);
  /* Norms 2 x 64, q, k, v (4 + 2 + 2) x 16 x 64 and o 64 x 64 at least, 4 bytes each. */
  const uint64_t own =
      moecl_block_weight_bytes(d.block) - moecl_layer_weight_bytes(moecl_block_layer(d.block));
  assert_true(own >= 4 * (2 * 64 + 8 * 16 * 64 + 64 * 64));
  /* Either may be the larger: keys and values may lie where the layer's tensors do later,
   * and how these come to lie depends on them. */
  const uint64_t without = moecl_block_workspace_size(d.block, TOKENS, false);
  const uint64_t cached = moecl_block_workspace_size(d.block, TOKENS, true);
  assert_true(cached > 0 && without > 0);
  assert_true(moecl_block_workspace_size(d.block, -1, true) == 0);
  assert_ok(moecl_cache_create(d.block, 100, &cache));
  assert_true(moecl_cache_bytes(cache) >= 2 * 100 * 2 * 16 * 4);
  /* Exactly as much as was said is enough. */
  moecl_buffer *input = NULL, *output = NULL, *workspace = NULL;
  const uint64_t bytes = TOKENS * 64 * 4;
  assert_ok(moecl_buffer_create(context, bytes, &input));
  assert_ok(moecl_buffer_create(context, bytes, &output));
  assert_ok(moecl_buffer_create(context, cached, &workspace));
  moecl_block_forward_params params = {.num_tokens = TOKENS,
                                       .hidden_states = input,
                                       .output = output,
                                       .cache = cache,
                                       .workspace = workspace};
  assert_ok(moecl_block_forward(d.block, &params, NULL));
  moecl_buffer_destroy(&workspace);
  assert_ok(moecl_buffer_create(context, without - 1, &workspace));
  params.workspace = workspace;
  params.cache = NULL;
  assert_int_equal(moecl_block_forward(d.block, &params, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_buffer_destroy(&workspace);
  moecl_cache_destroy(&cache);
  release_block(&d);
}

/* What is said beforehand is what a block takes, with a cache and without. */
static void test_memory_beforehand(void **state) {
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(cases); i++) {
    moecl_block_params params = cases[i].params;
    moecl_block *block = NULL;
    moecl_cache *cache = NULL;
    moecl_memory memory, cached;
    params.layer.dtype = i % 2 ? MOECL_BF16 : MOECL_F32;
    assert_ok(moecl_block_memory(context, &params, TOKENS, 0, &memory));
    assert_ok(moecl_block_memory(context, &params, TOKENS, 100, &cached));
    assert_ok(moecl_block_create(context, &params, &block));
    assert_ok(moecl_cache_create(block, 100, &cache));
    assert_true(memory.weight_bytes == moecl_block_weight_bytes(block));
    assert_true(memory.workspace_bytes == moecl_block_workspace_size(block, TOKENS, false));
    assert_true(memory.cache_bytes == 0 && cached.cache_bytes == moecl_cache_bytes(cache));
    assert_true(cached.workspace_bytes == moecl_block_workspace_size(block, TOKENS, true));
    assert_true(memory.hidden_bytes == (uint64_t)(TOKENS * params.layer.hidden_size) *
                                           moecl_dtype_size(params.layer.dtype));
    assert_true(memory.largest_buffer_bytes >= memory.workspace_bytes);
    moecl_cache_destroy(&cache);
    moecl_block_destroy(&block);
  }
  moecl_memory memory;
  assert_int_equal(moecl_block_memory(context, &cases[0].params, TOKENS, -1, &memory),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_true(memory.weight_bytes == 0);
}

static size_t find_step(const moecl_plan_step *steps, size_t count, const char *name) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(steps[i].name, name) == 0) return i;
  fail_msg("no step %s", name);
  return count;
}

/* Its own steps in this order, the layer's between the last two; tensors of both. */
static void test_plan(void **state) {
  static const char *const order[] = {"attention_norm", "qkv_proj", "rotary",
                                      "attention",      "o_proj",   "feed_forward_norm",
                                      "gate_up",        "down",     "residual"};
  static const char *const tensors[] = {"qkv_proj",      "o_proj", "gate_up_proj",
                                        "q_norm_weight", "keys",   "hidden_states"};
  moecl_plan_step steps[32];
  moecl_plan_tensor found[96];
  moecl_plan *plan = NULL;
  (void)state;
  assert_ok(moecl_block_plan_create(context, &cases[1].params, 1, 65, &plan));
  const size_t count = moecl_plan_steps(plan, steps, 32), all = moecl_plan_tensors(plan, found, 96);
  assert_true(count <= 32 && all <= 96);
  for (size_t i = 1; i < BASE_COUNT(order); i++)
    assert_true(find_step(steps, count, order[i - 1]) < find_step(steps, count, order[i]));
  for (size_t i = 0; i < BASE_COUNT(tensors); i++) {
    size_t at = 0;
    while (at < all && strcmp(found[at].name, tensors[i]) != 0) at++;
    if (at == all) fail_msg("no tensor %s", tensors[i]);
    if (strcmp(tensors[i], "keys") == 0) /* 65 tokens of 4 heads of 16 */
      assert_true(found[at].life == MOECL_LIFE_INPUT && found[at].bytes >= 65 * 4 * 16 * 4);
  }
  assert_true(moecl_plan_memory(plan).cache_bytes >= 2 * 65 * 4 * 16 * 4);
  moecl_plan_destroy(&plan);
}

static void test_refusals(void **state) {
  block_data d;
  moecl_cache *cache = NULL, *other = NULL;
  moecl_block *unset = NULL;
  (void)state;
  make_block(&cases[0], MOECL_F32, NULL, &d);
  moecl_buffer *hidden = NULL, *output = NULL;
  assert_ok(moecl_buffer_create(context, TOKENS * 64 * 4, &hidden));
  assert_ok(moecl_buffer_create(context, TOKENS * 64 * 4, &output));
  assert_ok(moecl_cache_create(d.block, 20, &cache));
  moecl_block_forward_params params = {
      .num_tokens = TOKENS, .hidden_states = hidden, .output = output, .cache = cache};
  assert_int_equal(moecl_block_forward(d.block, &params, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_cache_tokens(cache), 0);
  assert_int_equal(moecl_cache_set_tokens(cache, 1), MOECL_ERROR_INVALID_ARGUMENT);
  params.num_tokens = 7;
  assert_ok(moecl_block_forward(d.block, &params, NULL));
  assert_int_equal(moecl_cache_set_tokens(cache, 8), MOECL_ERROR_INVALID_ARGUMENT);
  assert_ok(moecl_cache_set_tokens(cache, 0));
  assert_ok(moecl_cache_set_tokens(cache, 7));
  params.output = hidden;
  assert_int_equal(moecl_block_forward(d.block, &params, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  params.output = output;
  /* Another block's cache, of other heads; weights that were not set; no such tensor. */
  moecl_block_params narrow = d.params;
  narrow.attention.num_heads = narrow.attention.num_kv_heads = 2;
  assert_ok(moecl_block_create(context, &narrow, &unset));
  assert_ok(moecl_cache_create(unset, 20, &other));
  params.cache = other;
  assert_int_equal(moecl_block_forward(d.block, &params, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_block_forward(unset, &params, NULL), MOECL_ERROR_NOT_READY);
  assert_int_equal(moecl_block_set_weights(d.block, MOECL_SINKS, d.sum),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_block_set_weights_buffer(d.block, MOECL_O_PROJ, hidden, 2),
                   MOECL_ERROR_INVALID_ARGUMENT);
  moecl_cache_destroy(&cache);
  moecl_cache_destroy(&other);
  moecl_block_destroy(&unset);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&output);
  release_block(&d);
}

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* usage: test_block [test] */
int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_families),     cmocka_unit_test(test_narrow),
      cmocka_unit_test(test_small_device), cmocka_unit_test(test_stages),
      cmocka_unit_test(test_memory),       cmocka_unit_test(test_memory_beforehand),
      cmocka_unit_test(test_plan),         cmocka_unit_test(test_refusals)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("block", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
