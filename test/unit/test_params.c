// SPDX-License-Identifier: MIT
/* Layer parameters, as far as they can be judged without a device. */
#include <stdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "moecl/layer.h"
#include "moecl/routing.h"
#include <math.h>
#include <string.h>

static moecl_layer_params good(void) {
  return (moecl_layer_params){
      .hidden_size = 7, .intermediate_size = 5, .num_experts = 8, .top_k = 2};
}

static void refuses(const moecl_layer_params *params, const char *expected) {
  char message[256] = "untouched";
  assert_int_equal(moecl_layer_params_check(params, message, sizeof message),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_string_equal(message, expected);
  assert_int_equal(moecl_layer_params_check(params, NULL, 0), MOECL_ERROR_INVALID_ARGUMENT);
  char cut[8];
  moecl_layer_params_check(params, cut, sizeof cut);
  assert_int_equal(strlen(cut), 7);
}

#define REFUSES(field, value, message)                                                             \
  do {                                                                                             \
    moecl_layer_params params_ = good();                                                           \
    params_.field = value;                                                                         \
    refuses(&params_, message);                                                                    \
  } while (0)

static void test_check(void **state) {
  (void)state;
  char message[64] = "untouched";
  moecl_layer_params params = good();
  assert_int_equal(moecl_layer_params_check(&params, message, sizeof message), MOECL_OK);
  assert_string_equal(message, "");
  refuses(NULL, "params is NULL, expected layer parameters");
  REFUSES(hidden_size, 0, "hidden_size is 0, expected 1 to 1073741823");
  REFUSES(hidden_size, INT64_MIN, "hidden_size is -9223372036854775808, expected 1 to 1073741823");
  REFUSES(intermediate_size, 1073741824,
          "intermediate_size is 1073741824, expected 1 to 1073741823");
  REFUSES(num_experts, 1025, "num_experts is 1025, expected 1 to 1024");
  REFUSES(num_identity_experts, 8, "num_identity_experts is 8, expected 0 to num_experts - 1 (7)");
  REFUSES(num_identity_experts, -1,
          "num_identity_experts is -1, expected 0 to num_experts - 1 (7)");
  REFUSES(top_k, 65, "top_k is 65, expected 1 to 64");
  REFUSES(top_k, 9, "top_k is 9, expected at most num_experts (8)");
  REFUSES(dtype, (moecl_dtype)-1, "dtype is -1, expected a moecl_dtype");
  char beyond[64];
  snprintf(beyond, sizeof beyond, "activation is %d, expected a moecl_activation",
           MOECL_ACTIVATION_COUNT);
  REFUSES(activation, MOECL_ACTIVATION_COUNT, beyond);
  REFUSES(swiglu_alpha, -1.0f, "swiglu_alpha is -1, expected a finite number greater than 0");
  REFUSES(shared_swiglu_limit, -0.5f,
          "shared_swiglu_limit is -0.5, expected a finite number greater than 0, or 0 for "
          "swiglu_limit");
  REFUSES(
      shared_swiglu_limit, INFINITY,
      "shared_swiglu_limit is inf, expected a finite number greater than 0, or 0 for swiglu_limit");
  REFUSES(shared_scaling_factor, NAN,
          "shared_scaling_factor is nan, expected a finite number greater than 0, or 0 for 1");
  REFUSES(shared_scaling_factor, -1,
          "shared_scaling_factor is -1, expected a finite number greater than 0, or 0 for 1");
  REFUSES(swiglu_limit, INFINITY, "swiglu_limit is inf, expected a finite number greater than 0");
  REFUSES(drop_policy, MOECL_DROP_POLICY_COUNT, "drop_policy is 3, expected a moecl_drop_policy");
  REFUSES(jitter, 1.0f, "jitter is 1, expected 0 or more and less than 1");
  REFUSES(jitter, -0.5f, "jitter is -0.5, expected 0 or more and less than 1");
  REFUSES(min_capacity, -1, "min_capacity is -1, expected 0 or more");
  REFUSES(capacity_factor, -1.5,
          "capacity_factor is -1.5, expected a finite number greater than "
          "0, or 0 for dropless");
  REFUSES(capacity_factor, INFINITY,
          "capacity_factor is inf, expected a finite number greater "
          "than 0, or 0 for dropless");
  params.jitter = NAN;
  assert_int_equal(moecl_layer_params_check(&params, NULL, 0), MOECL_ERROR_INVALID_ARGUMENT);
  params = good();
  params.hidden_size = params.intermediate_size = MOECL_MAX_SIZE;
  params.num_experts = MOECL_MAX_EXPERTS;
  refuses(&params, "hidden_size 1073741823, intermediate_size 1073741823 and num_experts 1024 "
                   "multiply to more weights than 64-bit sizes can count, expected smaller ones");
}

static void test_router_rule(void **state) {
  (void)state;
  REFUSES(scoring, MOECL_SCORING_COUNT, "scoring is 4, expected a moecl_scoring");
  REFUSES(group_score, (moecl_group_score)-1, "group_score is -1, expected a moecl_group_score");
  REFUSES(second_choice, MOECL_SECOND_CHOICE_COUNT,
          "second_choice is 3, expected a moecl_second_choice");
  REFUSES(sparsemixer_jitter, NAN, "sparsemixer_jitter is nan, expected 0 or more and less than 1");
  REFUSES(routed_scaling_factor, -1.0f,
          "routed_scaling_factor is -1, expected a finite number greater than 0, or 0 for 1");
  REFUSES(renormalize_epsilon, -1e-6f,
          "renormalize_epsilon is -1e-06, expected 0, or a finite number of 1.17549e-38 or more");
  REFUSES(renormalize_epsilon, 1e-40f,
          "renormalize_epsilon is 9.99995e-41, expected 0, or a "
          "finite number of 1.17549e-38 or more");
  REFUSES(renormalize_minimum, NAN,
          "renormalize_minimum is nan, expected 0, or a finite number of 1.17549e-38 or more");
  REFUSES(renormalize_minimum, INFINITY,
          "renormalize_minimum is inf, expected 0, or a finite number of 1.17549e-38 or more");
  REFUSES(num_expert_group, 3,
          "num_expert_group is 3, expected 1 to 32 and a divisor of num_experts (8)");
  REFUSES(topk_group, 1,
          "num_expert_group is 0, expected 1 to 32 and a divisor of num_experts (8)");
  REFUSES(num_expert_group, 4, "topk_group is 0, expected 1 to num_expert_group (4)");
  moecl_layer_params params = good();
  params.num_expert_group = 8;
  params.topk_group = 1;
  refuses(&params, "top_k is 2, expected at most the 1 experts of topk_group groups");
  params.topk_group = 2;
  params.group_score = MOECL_GROUP_TOP2_SUM;
  refuses(&params, "num_expert_group is 8, expected groups of two experts or more for the sum of a "
                   "group's two best");
  params.num_expert_group = 4;
  assert_int_equal(moecl_layer_params_check(&params, NULL, 0), MOECL_OK);
  params.score_after_topk = true;
  refuses(&params,
          "score_after_topk is true with fewer than all expert groups, expected one of both");
  params.topk_group = 4; /* all: no limit */
  assert_int_equal(moecl_layer_params_check(&params, NULL, 0), MOECL_OK);
  params.score_correction_bias = true;
  refuses(&params, "score_after_topk is true with score_correction_bias, expected one of both");
  params.score_after_topk = false;
  params.second_choice = MOECL_SECOND_SAMPLED;
  refuses(&params, "second_choice is sampled with score_correction_bias, expected one of both");
  params.score_correction_bias = false;
  params.scoring = MOECL_SCORING_SPARSEMIXER;
  refuses(&params, "second_choice is sampled with scoring sparsemixer, expected one of both");
  params.second_choice = MOECL_SECOND_RANDOM;
  refuses(&params, "scoring is sparsemixer with a second_choice by chance, expected one of both");
  params.second_choice = MOECL_SECOND_ALL;
  assert_int_equal(moecl_layer_params_check(&params, NULL, 0), MOECL_OK);
  params.score_correction_bias = true;
  refuses(&params, "scoring is sparsemixer with score_correction_bias, expected one of both");
  params.score_correction_bias = false;
  params.topk_group = 2;
  refuses(&params,
          "scoring is sparsemixer with fewer than all expert groups, expected one of both");
}

/* Help texts and scripts tell gated activations by their names. */
static void test_gated_names(void **state) {
  (void)state;
  for (int i = 0; i < MOECL_ACTIVATION_COUNT; i++) {
    const char *name = moecl_activation_name((moecl_activation)i);
    assert_int_equal(moecl_activation_is_gated((moecl_activation)i), strstr(name, "glu") != NULL);
  }
}

static void test_tensor_size(void **state) {
  (void)state;
  moecl_layer_params params = good();
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_ROUTER_WEIGHT), 8 * 7);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_GATE_UP_PROJ), 2 * 5 * 7);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_DOWN_PROJ), 7 * 5);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_ROUTER_BIAS), 0);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_GATE_UP_BIAS), 0);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_DOWN_BIAS), 0);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_TENSOR_COUNT), 0);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_SCORE_CORRECTION_BIAS), 0);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_ROUTER_NOISE_WEIGHT), 0);
  params.score_correction_bias = params.router_noise = true;
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_SCORE_CORRECTION_BIAS), 8);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_ROUTER_NOISE_WEIGHT), 8 * 7);
  params.dtype = MOECL_BF16;
  assert_int_equal(moecl_layer_tensor_dtype(&params, MOECL_SCORE_CORRECTION_BIAS), MOECL_F32);
  assert_int_equal(moecl_layer_tensor_dtype(&params, MOECL_ROUTER_NOISE_WEIGHT), MOECL_BF16);
  params.router_bias = params.gate_up_bias = params.down_bias = true;
  params.activation = MOECL_RELU;
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_GATE_UP_PROJ), 5 * 7);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_ROUTER_BIAS), 8);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_GATE_UP_BIAS), 5);
  assert_int_equal(moecl_layer_tensor_size(&params, MOECL_DOWN_BIAS), 7);
}

static int64_t capacity(double factor, int64_t tokens, int64_t top_k, int64_t experts,
                        int64_t min) {
  moecl_layer_params params = good();
  params.capacity_factor = factor;
  params.top_k = top_k;
  params.num_experts = experts;
  params.min_capacity = min;
  return moecl_expert_capacity(&params, tokens);
}

static void test_capacity(void **state) {
  (void)state;
  assert_int_equal(capacity(0, 100, 2, 8, 0), -1);
  assert_int_equal(capacity(0, 100, 2, 8, 5), -1);
  assert_int_equal(capacity(1, 100, 2, 8, 0), 25);
  assert_int_equal(capacity(1, 101, 2, 8, 0), 26); /* 25.25 */
  assert_int_equal(capacity(1.25, 1024, 2, 16, 0), 160);
  assert_int_equal(capacity(1.25, 1, 1, 8, 0), 1);
  assert_int_equal(capacity(1.25, 1, 1, 8, 4), 4);
  assert_int_equal(capacity(1, 0, 1, 8, 0), 0);
  assert_int_equal(capacity(5e-324, 1000, 2, 8, 0), 1); /* any more than nothing */
  assert_int_equal(capacity(5e-324, 1, 1, 1024, 0), 1);
  assert_int_equal(capacity(5e-324, 0, 1, 8, 0), 0);
  assert_int_equal(capacity(1, INT32_MAX, 1, 1, 0), INT32_MAX);
  assert_int_equal(capacity(1e300, 1000, 1, 1, 0), INT64_C(1) << 62);
  assert_int_equal(capacity(1e-300, 1000, 1, 1, 0), 1);
}

/* Factors of two decimals are what people write; against exact integers. */
static void test_capacity_decimal_factors(void **state) {
  (void)state;
  for (int64_t hundredths = 1; hundredths <= 400; hundredths++)
    for (int64_t tokens = 1; tokens <= 4096; tokens += 1 + tokens / 16)
      for (int64_t experts = 1; experts <= 1024; experts = experts * 2 + experts % 3) {
        int64_t over = 100 * experts;
        int64_t exact = (hundredths * tokens * 2 + over - 1) / over;
        assert_int_equal(capacity((double)hundredths / 100, tokens, 2, experts, 0), exact);
      }
}

/* Shares of the tokens, which Python's math.ceil(share * num_tokens) gave. */
static void test_capacity_of_tokens(void **state) {
  (void)state;
  static const struct {
    double share;
    int64_t tokens, capacity;
  } cases[] = {{0.07, 100, 8},  {0.07, 200, 15}, {0.55, 100, 56},  {0.14, 50, 8},
               {0.25, 24, 6},   {0.25, 25, 7},   {1.0, 7, 7},      {0.29, 100, 29},
               {0.57, 100, 57}, {0.58, 100, 58}, {1.1, 10, 11},    {0.1, 3, 1},
               {0.01, 1, 1},    {0.28, 25, 8},   {0.56, 1025, 574}};
  moecl_layer_params params = good();
  params.capacity_of_tokens = true;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    params.capacity_factor = cases[i].share;
    for (params.top_k = 1; params.top_k <= 2; params.top_k++)
      assert_int_equal(moecl_expert_capacity(&params, cases[i].tokens), cases[i].capacity);
  }
  params.min_capacity = 9;
  assert_int_equal(moecl_expert_capacity(&params, 1), 9);
  params.capacity_factor = 0;
  assert_int_equal(moecl_expert_capacity(&params, 1), -1);
}

static void test_names(void **state) {
  (void)state;
  assert_string_equal(moecl_scoring_name(MOECL_SCORING_SPARSEMIXER), "sparsemixer");
  assert_string_equal(moecl_scoring_name(MOECL_SCORING_COUNT), "?");
  assert_string_equal(moecl_group_score_name(MOECL_GROUP_TOP2_SUM), "top2_sum");
  assert_string_equal(moecl_group_score_name((moecl_group_score)-1), "?");
  assert_string_equal(moecl_second_choice_name(MOECL_SECOND_SAMPLED), "sampled");
  assert_string_equal(moecl_second_choice_name(MOECL_SECOND_CHOICE_COUNT), "?");
}

static void test_stage_names(void **state) {
  (void)state;
  assert_string_equal(moecl_stage_name(MOECL_STAGE_ROUTER), "router");
  assert_string_equal(moecl_stage_name(MOECL_STAGE_GATE_UP), "gate_up");
  assert_string_equal(moecl_stage_name(MOECL_STAGE_LAYER), "layer");
  assert_string_equal(moecl_stage_name(MOECL_STAGE_COUNT), "?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_check),
      cmocka_unit_test(test_router_rule),
      cmocka_unit_test(test_gated_names),
      cmocka_unit_test(test_tensor_size),
      cmocka_unit_test(test_capacity),
      cmocka_unit_test(test_capacity_decimal_factors),
      cmocka_unit_test(test_capacity_of_tokens),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_stage_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
