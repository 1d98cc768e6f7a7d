// SPDX-License-Identifier: MIT
/* The reference's norms, rotary embeddings and attention against PyTorch's and transformers':
 * test/golden/make/make_attention_golden.py. */
#include "../golden.h"
#include "ref/ref.h"
#include "unit.h"
#include <math.h>

static golden *file;

/* A tensor of a case, for the test to free. */
static double *tensor(const char *name, const char *part) {
  char full[128];
  snprintf(full, sizeof full, "%s.%s", name, part);
  double *values = golden_doubles(file, full);
  assert_non_null(values);
  return values;
}
static int64_t length(const char *name, const char *part, int axis) {
  char full[128];
  snprintf(full, sizeof full, "%s.%s", name, part);
  return golden_length(file, full, axis);
}

static void same(const char *name, const char *part, const double *got, const double *want,
                 int64_t count, double tolerance) {
  for (int64_t i = 0; i < count; i++) {
    if (fabs(got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i]))) continue;
    fprintf(stderr, "%s: %s[%lld] is %.17g, expected %.17g\n", name, part, (long long)i, got[i],
            want[i]);
    fail();
  }
}

/* ---- norms ---- */

static void check_norm(const char *name, const desc_norm *norm) {
  double *x = tensor(name, "x"), *weight = tensor(name, "weight"), *bias = tensor(name, "bias");
  double *y = tensor(name, "y");
  assert_int_equal(length(name, "x", 1), norm->size);
  for (int64_t row = 0; row < length(name, "x", 0); row++)
    ref_norm(norm, x + row * norm->size, weight, bias, x + row * norm->size);
  same(name, "y", x, y, length(name, "x", 0) * norm->size, 1e-13);
  free(x), free(weight), free(bias), free(y);
}

static void test_norms(void **state) {
  (void)state;
  check_norm("norm.rms", &(desc_norm){.size = 37, .epsilon = 1e-6});
  check_norm("norm.rms_plus_one", &(desc_norm){.size = 16, .epsilon = 1e-6, .plus_one = true});
  check_norm("norm.layer",
             &(desc_norm){.kind = MOECL_NORM_LAYER, .size = 37, .epsilon = 1e-5, .bias = true});
  check_norm("norm.layer_no_bias",
             &(desc_norm){.kind = MOECL_NORM_LAYER, .size = 5, .epsilon = 1e-5});
}

/* By hand: 3, 4 have the mean square 12.5, and 1, 3 the mean 2 and variance 1. */
static void test_norms_by_hand(void **state) {
  const double weight[] = {1, 2}, bias[] = {10, 20};
  double x[] = {3, 4}, y[2];
  (void)state;
  ref_norm(&(desc_norm){.size = 2}, x, NULL, NULL, y);
  assert_true(fabs(y[0] - 3 / sqrt(12.5)) < 1e-15 && fabs(y[1] - 4 / sqrt(12.5)) < 1e-15);
  ref_norm(&(desc_norm){.kind = MOECL_NORM_LAYER, .size = 2, .epsilon = 3, .bias = true},
           (double[]){1, 3}, weight, bias, y);
  assert_true(y[0] == -0.5 + 10 && y[1] == 1 + 20);
}

/* ---- rotary embeddings and attention ---- */

static desc_attention read_params(const char *name) {
  double *p = tensor(name, "params");
  assert_int_equal(length(name, "params", 0), 22);
  const desc_attention attention = {.num_heads = (int64_t)p[0],
                                    .num_kv_heads = (int64_t)p[1],
                                    .head_dim = (int64_t)p[2],
                                    .causal = p[3] != 0,
                                    .window = (int64_t)p[4],
                                    .scale = p[5],
                                    .sinks = p[6] != 0,
                                    .qk_norm = (moecl_qk_norm)p[7],
                                    .qk_norm_epsilon = p[8],
                                    .qk_norm_plus_one = p[9] != 0,
                                    .rotary = {.dim = (int64_t)p[10],
                                               .theta = p[11],
                                               .interleaved = p[12] != 0,
                                               .scaling = (moecl_rope_scaling)p[13],
                                               .factor = p[14],
                                               .original_positions = p[15],
                                               .low_freq_factor = p[16],
                                               .high_freq_factor = p[17],
                                               .beta_fast = p[18],
                                               .beta_slow = p[19],
                                               .not_truncated = p[20] != 0,
                                               .attention_factor = p[21]}};
  free(p);
  return attention;
}

/* transformers computes frequencies in fp32. */
static double tolerance(const desc_attention *attention) {
  return attention->rotary.scaling == MOECL_ROPE_UNSCALED ? 1e-12 : 1e-5;
}

static void check_frequencies(const char *name, const desc_attention *attention) {
  double *want = tensor(name, "frequency");
  assert_int_equal(length(name, "frequency", 0), attention->rotary.dim / 2);
  for (int64_t pair = 0; pair < attention->rotary.dim / 2; pair++) {
    const double got = desc_rotary_frequency(&attention->rotary, pair);
    assert_true(fabs(got - want[pair]) <= 2e-6 * want[pair]);
  }
  free(want);
}

static void check_turned(const char *name, const desc_attention *attention, const char *part,
                         int64_t num_heads) {
  const char *const turned = *part == 'q' ? "turned_q" : "turned_k";
  const char *const norm = *part == 'q' ? "q_norm" : "k_norm";
  double *x = tensor(name, part), *weight = tensor(name, norm), *want = tensor(name, turned);
  const int64_t tokens = length(name, part, 0), size = num_heads * attention->head_dim;
  for (int64_t t = 0; t < tokens; t++)
    ref_prepare_heads(attention, num_heads, t, weight, x + t * size);
  same(name, turned, x, want, tokens * size, tolerance(attention));
  free(x), free(weight), free(want);
}

static void check_attention(const char *name, const desc_attention *attention) {
  double *q = tensor(name, "turned_q"), *k = tensor(name, "turned_k"), *v = tensor(name, "v");
  double *sinks = tensor(name, "sinks"), *want = tensor(name, "output");
  const int64_t keys = length(name, "k", 0), tokens = length(name, "output", 0);
  const int64_t size = desc_query_size(attention);
  double *got = malloc((size_t)(tokens * size) * sizeof *got);
  assert_non_null(got);
  assert_ok(
      ref_attention(attention, tokens, keys, q + (keys - tokens) * size, k, v, sinks, NULL, got));
  same(name, "output", got, want, tokens * size, 1e-12);
  free(q), free(k), free(v), free(sinks), free(want), free(got);
}

static void test_cases(void **state) {
  char names[512];
  int count = 0;
  (void)state;
  snprintf(names, sizeof names, "%s", golden_metadata(file, "cases"));
  for (char *rest, *name = strtok_r(names, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
    const desc_attention attention = read_params(name);
    check_frequencies(name, &attention);
    check_turned(name, &attention, "q", attention.num_heads);
    check_turned(name, &attention, "k", attention.num_kv_heads);
    check_attention(name, &attention);
    count++;
  }
  assert_int_equal(count, 17);
}

/* One key takes all; of two equal ones each has half, and with a sink of the same logit a
 * third. */
static void test_by_hand(void **state) {
  const desc_attention one = {.num_heads = 1, .num_kv_heads = 1, .head_dim = 1, .scale = 1};
  desc_attention sunk = one;
  const double q[] = {0}, k[] = {5, -7}, v[] = {3, 6}, sink[] = {0};
  double out;
  (void)state;
  sunk.sinks = true;
  assert_ok(ref_attention(&one, 1, 1, q, k, v, NULL, NULL, &out));
  assert_true(out == 3);
  assert_ok(ref_attention(&one, 1, 2, q, k, v, NULL, NULL, &out));
  assert_true(out == 4.5);
  assert_ok(ref_attention(&sunk, 1, 2, q, k, v, sink, NULL, &out));
  assert_true(fabs(out - 3) < 1e-15);
  /* Logits that exp() has no number for. */
  const double far[] = {1e30, -1e30};
  assert_ok(ref_attention(&one, 1, 2, (double[]){1}, far, v, NULL, NULL, &out));
  assert_true(out == 3);
}

static void test_names(void **state) {
  (void)state;
  assert_string_equal(moecl_norm_name(MOECL_NORM_LAYER), "layer");
  assert_string_equal(moecl_norm_name(MOECL_NORM_COUNT), "?");
  assert_string_equal(moecl_qk_norm_name(MOECL_QK_NORM_FULL), "full");
  assert_string_equal(moecl_qk_norm_name((moecl_qk_norm)-1), "?");
  assert_string_equal(moecl_rope_scaling_name(MOECL_ROPE_YARN), "yarn");
  assert_string_equal(moecl_rope_scaling_name(MOECL_ROPE_SCALING_COUNT), "?");
}

/* ---- some tokens of a block's sequence ---- */

enum { TOKENS = 23, WIDTH = 12 };

static double *drawn(size_t count, uint64_t stream) {
  const moecl_random_params params = {
      .distribution = MOECL_NORMAL, .scale = 0.5f, .stream = stream};
  float *raw = malloc((count + 1) * sizeof *raw);
  double *values = malloc((count + 1) * sizeof *values);
  assert_true(raw && values);
  assert_ok(moecl_random_host(raw, count, &params));
  for (size_t i = 0; i < count; i++) values[i] = (double)raw[i];
  free(raw);
  return values;
}

/* They are those of the whole sequence, bit for bit, on any number of threads. */
static void check_tokens(const moecl_block_params *params, const int64_t *tokens, int64_t count,
                         int threads) {
  double *tensors[MOECL_BLOCK_TENSOR_COUNT] = {NULL}, *hidden = drawn(TOKENS * WIDTH, 99);
  double sum[TOKENS * WIDTH], normalized[TOKENS * WIDTH];
  double some[TOKENS * WIDTH], some_normalized[TOKENS * WIDTH];
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const int64_t size = moecl_block_tensor_size(params, (moecl_block_tensor)i);
    if (size > 0) tensors[i] = drawn((size_t)size, (uint64_t)i);
  }
  const double *const *given = (const double *const *)tensors;
  assert_ok(moecl_reference_attention(params, TOKENS, hidden, given, sum, normalized));
  assert_ok(moecl_reference_attention_tokens(params, TOKENS, hidden, given, count, tokens, threads,
                                             some, some_normalized));
  for (int64_t i = 0; i < count; i++) {
    const size_t row = WIDTH * sizeof(double);
    assert_memory_equal(some + i * WIDTH, sum + tokens[i] * WIDTH, row);
    assert_memory_equal(some_normalized + i * WIDTH, normalized + tokens[i] * WIDTH, row);
  }
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) free(tensors[i]);
  free(hidden);
}

static void test_some_tokens(void **state) {
  const int64_t spread[] = {0, 7, 8, 15, 22}, last[] = {22}, middle[] = {9, 10};
  moecl_block_params params = {
      .attention = {.num_heads = 3,
                    .num_kv_heads = 1,
                    .head_dim = 6,
                    .sinks = true,
                    .qkv_bias = true,
                    .output_bias = true,
                    .qk_norm = MOECL_QK_NORM_HEAD,
                    .rope = {.theta = 100}},
      .layer = {.hidden_size = WIDTH, .intermediate_size = 4, .num_experts = 2, .top_k = 1}};
  (void)state;
  for (int window = 0; window <= 5; window += 5)
    for (int not_causal = 0; not_causal < 2; not_causal++) {
      params.attention.sliding_window = window;
      params.attention.not_causal = not_causal == 1;
      params.attention.relative_attention_num_buckets = window > 0 ? 6 : 0;
      params.attention.relative_attention_max_distance = 4;
      check_tokens(&params, spread, 5, 3);
      check_tokens(&params, last, 1, 2);
      check_tokens(&params, middle, 2, 1);
    }
}

static void test_wrong_tokens(void **state) {
  const moecl_block_params params = {
      .attention = {.num_heads = 1},
      .layer = {.hidden_size = 2, .intermediate_size = 1, .num_experts = 1, .top_k = 1}};
  const int64_t wrong[][2] = {{0, 0}, {1, 0}, {0, 3}, {-1, 0}};
  const double zeros[16] = {0};
  const double *tensors[MOECL_BLOCK_TENSOR_COUNT] = {NULL};
  double sum[4] = {0}, normalized[4] = {0};
  (void)state;
  tensors[MOECL_ATTENTION_NORM] = tensors[MOECL_FEED_FORWARD_NORM] = zeros;
  tensors[MOECL_QKV_PROJ] = tensors[MOECL_O_PROJ] = zeros;
  for (size_t i = 0; i < BASE_COUNT(wrong); i++)
    assert_int_equal(moecl_reference_attention_tokens(&params, 3, zeros, tensors, 2, wrong[i], 1,
                                                      sum, normalized),
                     MOECL_ERROR_INVALID_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_norms),       cmocka_unit_test(test_norms_by_hand),
      cmocka_unit_test(test_cases),       cmocka_unit_test(test_by_hand),
      cmocka_unit_test(test_names),       cmocka_unit_test(test_some_tokens),
      cmocka_unit_test(test_wrong_tokens)};
  file = golden_open("attention.safetensors");
  if (!file) return 1;
  const int failed = cmocka_run_group_tests_name("attention_ref", tests, NULL, NULL);
  golden_close(&file);
  return failed ? 1 : 0;
}
