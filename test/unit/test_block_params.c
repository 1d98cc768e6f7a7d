// SPDX-License-Identifier: MIT
/* What is said of block parameters without a device: sizes of tensors, defaults, and a
 * sentence for every mistake. */
#include "desc/block.h"
#include "unit.h"
#include <math.h>

static moecl_block_params good(void) {
  return (moecl_block_params){
      .attention = {.num_heads = 8, .num_kv_heads = 2, .rope = {.theta = 10000}},
      .layer = {.hidden_size = 64, .intermediate_size = 16, .num_experts = 4, .top_k = 2}};
}

static void test_sizes(void **state) {
  moecl_block_params p = good();
  (void)state;
  /* Heads of 64 / 8 = 8; 8 + 2 + 2 of them are projected. */
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_QKV_PROJ), 12 * 8 * 64);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_O_PROJ), 64 * 8 * 8);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_ATTENTION_NORM), 64);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_FEED_FORWARD_NORM), 64);
  const moecl_block_tensor none[] = {MOECL_ATTENTION_NORM_BIAS,
                                     MOECL_QKV_BIAS,
                                     MOECL_Q_NORM,
                                     MOECL_K_NORM,
                                     MOECL_SINKS,
                                     MOECL_O_BIAS,
                                     MOECL_FEED_FORWARD_NORM_BIAS,
                                     MOECL_RELATIVE_BIAS};
  for (size_t i = 0; i < BASE_COUNT(none); i++)
    assert_int_equal(moecl_block_tensor_size(&p, none[i]), 0);
  p.attention.head_dim = 20;
  p.attention.qkv_bias = p.attention.output_bias = p.attention.sinks = true;
  p.attention_norm.bias = p.feed_forward_norm.bias = true;
  p.attention.qk_norm = MOECL_QK_NORM_HEAD;
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_QKV_BIAS), 12 * 20);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_O_PROJ), 64 * 8 * 20);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_O_BIAS), 64);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_SINKS), 8);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_Q_NORM), 20);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_K_NORM), 20);
  p.attention.qk_norm = MOECL_QK_NORM_FULL;
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_Q_NORM), 160);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_K_NORM), 40);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_ATTENTION_NORM_BIAS), 64);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_FEED_FORWARD_NORM_BIAS), 64);
  p.attention.relative_attention_num_buckets = 32;
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_RELATIVE_BIAS), 32 * 8);
  assert_int_equal(moecl_block_tensor_size(&p, MOECL_BLOCK_TENSOR_COUNT), 0);
  assert_int_equal(moecl_block_tensor_size(NULL, MOECL_QKV_PROJ), 0);
}

static void test_defaults(void **state) {
  moecl_block_params p = good();
  (void)state;
  const desc_attention a = desc_attention_of(&p);
  assert_true(a.causal && a.window == 0 && a.head_dim == 8 && a.rotary.dim == 8);
  assert_true(fabs(a.scale - 1 / sqrt(8)) < 1e-15 && a.qk_norm_epsilon == 1e-5);
  assert_true(desc_norm_of(&p, &p.attention_norm).epsilon == 1e-5);
  assert_true(a.relative.num_buckets == 0 && a.relative.max_distance == 0);
  p.attention.relative_attention_num_buckets = 32;
  assert_int_equal(desc_attention_of(&p).relative.max_distance, 128);
  p.attention.relative_attention_max_distance = 40;
  assert_int_equal(desc_attention_of(&p).relative.max_distance, 40);
  p.attention.num_kv_heads = 0;
  p.attention.rope = (moecl_rope_params){
      .theta = 10000, .scaling = MOECL_ROPE_YARN, .factor = 40, .original_positions = 4096};
  const desc_attention yarn = desc_attention_of(&p);
  assert_int_equal(yarn.num_kv_heads, 8);
  assert_true(yarn.rotary.beta_fast == 32 && yarn.rotary.beta_slow == 1);
  /* transformers' get_mscale(40). */
  assert_true(fabs(yarn.rotary.attention_factor - 1.3688879454113936) < 1e-14);
  p.attention.rope = (moecl_rope_params){0};
  assert_int_equal(desc_attention_of(&p).rotary.dim, 0);
}

static void expect(const moecl_block_params *params, const char *want) {
  char message[256];
  assert_int_equal(moecl_block_params_check(params, message, sizeof message),
                   MOECL_ERROR_INVALID_ARGUMENT);
  if (!strstr(message, want)) fail_msg("\"%s\" does not say \"%s\"", message, want);
  assert_int_equal(moecl_block_params_check(params, NULL, 0), MOECL_ERROR_INVALID_ARGUMENT);
}

#define WRONG(member, value, want)                                                                 \
  do {                                                                                             \
    moecl_block_params wrong = p;                                                                  \
    wrong.member = (value);                                                                        \
    expect(&wrong, want);                                                                          \
  } while (0)

static void test_messages(void **state) {
  char message[256];
  moecl_block_params p = good();
  (void)state;
  assert_ok(moecl_block_params_check(&p, message, sizeof message));
  assert_string_equal(message, "");
  expect(NULL, "params is NULL");
  WRONG(layer.top_k, 5, "top_k is 5, expected at most num_experts (4)");
  WRONG(attention.num_heads, 0, "num_heads is 0, expected 1 to 1024");
  WRONG(attention.num_kv_heads, 3, "num_kv_heads is 3, expected a divisor of num_heads (8)");
  WRONG(attention.num_kv_heads, 16, "num_kv_heads is 16, expected 0 to 8");
  WRONG(attention.head_dim, 257, "head_dim is 257, expected 1 to 256");
  WRONG(layer.hidden_size, 63,
        "num_heads is 8, and hidden_size 63 no multiple of it: expected a head_dim");
  WRONG(attention.head_dim, 7,
        "head_dim is 7, of which rope turns pairs: expected an even number, an even "
        "rope.dim, or no rope.theta");
  WRONG(attention.rope.dim, 3, "rope.dim is 3, expected an even number");
  WRONG(attention.rope.dim, 10, "rope.dim is 10, expected 0 to 8");
  WRONG(attention.rope.theta, 1, "rope.theta is 1, expected a finite number greater than 1");
  WRONG(attention.rope.theta, (double)NAN, "rope.theta is nan");
  WRONG(attention.rope.scaling, MOECL_ROPE_LINEAR, "rope.factor is 0, expected");
  WRONG(attention.rope.scaling, MOECL_ROPE_SCALING_COUNT, "expected a moecl_rope_scaling");
  WRONG(attention.sliding_window, -1, "sliding_window is -1, expected 0 to");
  WRONG(attention.scale, -1.0f, "scale is -1, expected a finite number");
  WRONG(attention.clip_qkv, -2.0f, "clip_qkv is -2, expected a finite number");
  WRONG(attention.qk_norm, MOECL_QK_NORM_COUNT, "expected a moecl_qk_norm");
  WRONG(attention.qk_norm_epsilon, INFINITY, "qk_norm_epsilon is inf");
  WRONG(attention_norm.kind, MOECL_NORM_COUNT, "attention_norm.kind is 2, expected a moecl_norm");
  WRONG(feed_forward_norm.epsilon, -1.0f, "feed_forward_norm.epsilon is -1, expected");
  WRONG(reserved[3], 1, "moecl_block_params.reserved[3] is not 0");
  WRONG(attention.reserved[1], 1, "moecl_attention_params.reserved[1] is not 0");
  WRONG(attention.rope.reserved[0], 1, "moecl_rope_params.reserved[0] is not 0");
  WRONG(attention_norm.reserved[0], 1, "moecl_norm_params.reserved[0] is not 0");
  WRONG(attention.relative_attention_num_buckets, 1,
        "relative_attention_num_buckets is 1, expected 2 to 65536");
  p.attention.relative_attention_num_buckets = 40;
  WRONG(attention.relative_attention_max_distance, 1048577,
        "relative_attention_max_distance is 1048577, expected 0 to 1048576");
  WRONG(attention.relative_attention_max_distance, 20,
        "relative_attention_max_distance is 20, expected more than 20, half of a side's "
        "relative_attention_num_buckets (40)");
  p.attention.not_causal = true;
  WRONG(attention.relative_attention_max_distance, 10, "expected more than 10");
  WRONG(attention.relative_attention_num_buckets, 3, "is 3, expected 4 to 65536");
  p.attention.relative_attention_max_distance = 11;
  assert_ok(moecl_block_params_check(&p, NULL, 0));
  p = good();
  p.attention.rope.scaling = MOECL_ROPE_LLAMA3;
  p.attention.rope.factor = 8;
  expect(&p, "rope.original_positions is 0, expected a finite number greater than 0");
  p.attention.rope.original_positions = 8192;
  p.attention.rope.low_freq_factor = 4;
  p.attention.rope.high_freq_factor = 4;
  expect(&p, "rope.high_freq_factor is 4, expected more than rope.low_freq_factor (4)");
  p.attention.rope.low_freq_factor = 1;
  assert_ok(moecl_block_params_check(&p, NULL, 0));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_defaults),
                                     cmocka_unit_test(test_messages)};
  return cmocka_run_group_tests_name("block_params", tests, NULL, NULL);
}
