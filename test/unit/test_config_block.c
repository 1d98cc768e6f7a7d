// SPDX-License-Identifier: MIT
/* Experiments that measure a transformer block: keys, sweeps, messages. */
#include "config.h"
#include <stdlib.h>

static const char least[] = "layer:\n"
                            "  hidden_size: 64\n"
                            "  intermediate_size: 128\n"
                            "  num_experts: 8\n"
                            "  top_k: 2\n"
                            "block:\n"
                            "  attention:\n"
                            "    num_heads: 4\n"
                            "workload:\n"
                            "  num_tokens: 16\n"
                            "measure:\n"
                            "  what: block\n";

/* What is said of the text with an override (or NULL), which has to be wrong. */
static void says(const char *text, const char *set, const char *message) {
  experiment experiment;
  char *error = NULL;
  const experiment_override override = {set};
  if (experiment_parse(text, strlen(text), "t.yaml", &override, set != NULL, &experiment, &error))
    fail_msg("'%s' was taken", set ? set : text);
  assert_string_equal(error, message);
  free(error);
}

static void test_defaults(void **state) {
  (void)state;
  experiment e = load(least, NULL);
  const experiment_point *point = &e.points[0];
  const moecl_block_params p = experiment_block_params(point);
  assert_null(e.warnings);
  assert_int_equal(point->what, WHAT_BLOCK);
  assert_int_equal(point->context, 0);
  assert_true(experiment_has_blocks(&e));
  assert_string_equal(experiment_measured(&e), "block");
  assert_int_equal(p.layer.hidden_size, 64);
  assert_int_equal(p.attention.num_heads, 4);
  assert_int_equal(p.attention.num_kv_heads, 0);
  assert_int_equal(p.attention.head_dim, 0);
  assert_int_equal(p.attention.sliding_window, 0);
  assert_int_equal(p.attention.relative_attention_num_buckets, 0);
  assert_false(p.attention.not_causal || p.attention.sinks || p.attention.qkv_bias ||
               p.attention.output_bias || p.attention.qk_norm_plus_one);
  assert_int_equal(p.attention.qk_norm, MOECL_QK_NORM_NONE);
  assert_true(p.attention.scale == 0);
  assert_true(p.attention.rope.theta == 10000);
  assert_int_equal(p.attention.rope.scaling, MOECL_ROPE_UNSCALED);
  assert_false(p.attention.rope.not_truncated || p.attention.rope.interleaved);
  assert_int_equal(p.attention_norm.kind, MOECL_NORM_RMS);
  assert_true(p.attention_norm.epsilon == 1e-5f && p.feed_forward_norm.epsilon == 1e-5f);
  assert_null(p.attention_variant);
  assert_int_equal(moecl_block_params_check(&p, NULL, 0), MOECL_OK);
  experiment_destroy(&e);
}

static void test_every_key(void **state) {
  (void)state;
  experiment e = load(
      "layer: {hidden_size: 64, intermediate_size: 128, num_experts: 8, top_k: 2}\n"
      "block:\n"
      "  attention: {num_heads: 8, num_kv_heads: 2, head_dim: 24, causal: false, "
      "sliding_window: 5,\n"
      "    sinks: true, qkv_bias: true, output_bias: true, qk_norm: head, qk_norm_epsilon: 0.25,\n"
      "    qk_norm_plus_one: true, scale: 0.5, attention_variant: generic,\n"
      "    relative_attention_num_buckets: 16, relative_attention_max_distance: 50, clip_qkv: "
      "2.5}\n"
      "  rope: {rope_theta: 500000, rope_dim: 16, rope_interleaved: true, rope_scaling: yarn,\n"
      "    rope_factor: 32, rope_original_positions: 4096, rope_beta_fast: 16, rope_beta_slow: 2,\n"
      "    rope_attention_factor: 1.5, rope_truncate: false}\n"
      "  norm: {norm_kind: layer, norm_epsilon: 0.5, norm_plus_one: true, norm_bias: true}\n"
      "workload: {num_tokens: 3, context: 77}\n"
      "measure: {what: block}\n",
      NULL);
  const moecl_block_params p = experiment_block_params(&e.points[0]);
  const moecl_attention_params *a = &p.attention;
  assert_null(e.warnings);
  assert_int_equal(e.points[0].context, 77);
  assert_int_equal(a->num_heads, 8);
  assert_int_equal(a->num_kv_heads, 2);
  assert_int_equal(a->head_dim, 24);
  assert_int_equal(a->sliding_window, 5);
  assert_true(a->not_causal && a->sinks && a->qkv_bias && a->output_bias && a->qk_norm_plus_one);
  assert_int_equal(a->qk_norm, MOECL_QK_NORM_HEAD);
  assert_true(a->qk_norm_epsilon == 0.25f && a->scale == 0.5f);
  assert_int_equal(a->relative_attention_num_buckets, 16);
  assert_int_equal(a->relative_attention_max_distance, 50);
  assert_true(a->clip_qkv == 2.5f);
  assert_true(a->rope.theta == 500000 && a->rope.factor == 32);
  assert_int_equal(a->rope.dim, 16);
  assert_int_equal(a->rope.scaling, MOECL_ROPE_YARN);
  assert_true(a->rope.interleaved && a->rope.not_truncated);
  assert_true(a->rope.original_positions == 4096 && a->rope.attention_factor == 1.5);
  assert_true(a->rope.beta_fast == 16 && a->rope.beta_slow == 2);
  assert_int_equal(p.feed_forward_norm.kind, MOECL_NORM_LAYER);
  assert_true(p.attention_norm.bias && p.attention_norm.plus_one && p.feed_forward_norm.bias);
  assert_true(p.feed_forward_norm.epsilon == 0.5f);
  assert_string_equal(p.attention_variant, "generic");
  experiment_destroy(&e);
}

static void test_llama3(void **state) {
  (void)state;
  experiment e = load(least, "block.rope.rope_scaling=llama3");
  const moecl_rope_params *rope = &e.points[0].block.attention.rope;
  assert_int_equal(rope->scaling, MOECL_ROPE_LLAMA3);
  assert_true(rope->low_freq_factor == 1 && rope->high_freq_factor == 4);
  experiment_destroy(&e);
}

static void test_sweeps(void **state) {
  (void)state;
  experiment e = load(least, "workload.context=[0, 64, 4096]");
  assert_int_equal(e.num_points, 3);
  assert_string_equal(e.axes[0].param, "context");
  assert_int_equal(e.points[2].context, 4096);
  experiment_destroy(&e);
  e = load(least, "block.attention.num_kv_heads=[1, 2, null]");
  assert_int_equal(e.points[2].block.attention.num_kv_heads, 0);
  experiment_destroy(&e);
  e = load(least, "measure.what=[layer, block]");
  assert_string_equal(experiment_measured(&e), "forward");
  assert_int_equal(e.points[0].what, WHAT_LAYER);
  assert_int_equal(e.points[1].what, WHAT_BLOCK);
  experiment_destroy(&e);
}

/* What is recorded of a layer has no keys of blocks, and so no warnings when it is run again. */
static void test_recorded(void **state) {
  (void)state;
  experiment e = load(minimal, NULL);
  assert_null(strstr(e.resolved_json, "num_heads"));
  assert_null(strstr(e.resolved_json, "context"));
  assert_string_equal(experiment_measured(&e), "layer");
  experiment_destroy(&e);
  e = load(least, NULL);
  assert_non_null(strstr(e.resolved_json, "\"num_heads\":4"));
  assert_non_null(strstr(e.resolved_json, "\"context\":0"));
  experiment_destroy(&e);
}

static void test_messages(void **state) {
  (void)state;
  says(least, "block.attention.num_heads=null",
       "t.yaml:12:9: block.attention.num_heads is missing, which a block needs; expected an "
       "integer from 1 to 1024");
  says(least, "block.attention.num_kv_heads=3",
       "--set block.attention.num_kv_heads=3: block.attention.num_kv_heads is 3, expected a "
       "divisor of block.attention.num_heads (4)");
  says(
      least, "block.attention.num_heads=5",
      "--set block.attention.num_heads=5: block.attention.num_heads is 5, and layer.hidden_size 64 "
      "no multiple of it: expected a block.attention.head_dim");
  says(least, "block.rope.rope_dim=18",
       "--set block.rope.rope_dim=18: block.rope.rope_dim is 18, expected 0 to 16");
  says(least, "block.attention.relative_attention_num_buckets=256",
       "--set block.attention.relative_attention_num_buckets=256: "
       "block.attention.relative_attention_max_distance is 128, expected more than 128, half of a "
       "side's block.attention.relative_attention_num_buckets (256)");
  says(least, "block.attention.num_heads=0",
       "--set block.attention.num_heads=0: block.attention.num_heads: expected an integer from 1 "
       "to 1024, or null, found '0'");
  says(least, "workload.context=1073741823",
       "--set workload.context=1073741823: workload.context: expected context + num_tokens at "
       "most 1073741823, found 1073741823 + 16");
  says(minimal, "block.attention.num_heads=4",
       "--set block.attention.num_heads=4: block.attention.num_heads: is of a transformer block, "
       "and what is measured is a layer; expected 'what: block' in measure");
  says(minimal, "workload.context=4",
       "--set workload.context=4: workload.context: is of a transformer block, and what is "
       "measured is a layer; expected 'what: block' in measure");
  says(minimal, "measure.what=block",
       "--set measure.what=block: block.attention.num_heads is missing, which a block needs; "
       "expected an integer from 1 to 1024");
}

static void check_warning(const char *set, const char *warning) {
  experiment e = load(least, set);
  assert_non_null(e.warnings);
  if (!strstr(e.warnings, warning)) fail_msg("%s", e.warnings);
  experiment_destroy(&e);
}

static void test_warnings(void **state) {
  (void)state;
  check_warning("measure.what=layer", "warning: block.attention.num_heads has no effect without "
                                      "'what: block'");
  check_warning("block.rope.rope_beta_fast=16", "warning: block.rope.rope_beta_fast has no effect "
                                                "without 'rope_scaling: yarn'");
  check_warning("block.rope.rope_original_positions=16",
                "warning: block.rope.rope_original_positions has no effect without 'rope_scaling: "
                "llama3' or yarn");
  check_warning("block.attention.relative_attention_max_distance=50",
                "warning: block.attention.relative_attention_max_distance has no effect without "
                "a number for block.attention.relative_attention_num_buckets");
  check_warning("block.attention.qk_norm_epsilon=0.5",
                "warning: block.attention.qk_norm_epsilon has no effect without 'qk_norm: head' or "
                "full");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults), cmocka_unit_test(test_every_key),
      cmocka_unit_test(test_llama3),   cmocka_unit_test(test_sweeps),
      cmocka_unit_test(test_recorded), cmocka_unit_test(test_messages),
      cmocka_unit_test(test_warnings)};
  return cmocka_run_group_tests_name("config_block", tests, NULL, NULL);
}
