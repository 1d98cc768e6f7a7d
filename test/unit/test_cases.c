// SPDX-License-Identifier: MIT
/* What tests and benchmarks count with: operations, bytes and tolerances, against
 * numbers worked out by hand. */
#include "cases.h"
#include "unit.h"

/* OLMoE-1B-7B, 4096 tokens and 8 experts each: the router 4096 x 2048 x 64, an expert
 * three matrices of 2048 x 1024, two operations each. */
static const moecl_layer_params olmoe = {.hidden_size = 2048,
                                         .intermediate_size = 1024,
                                         .num_experts = 64,
                                         .top_k = 8,
                                         .activation = MOECL_SWIGLU,
                                         .dtype = MOECL_BF16};

static void test_flops(void **state) {
  moecl_layer_params params = olmoe;
  (void)state;
  assert_true(moe_flops(&params, 32768, 4096) == 413390602240.0);
  assert_true(moe_flops(&params, 0, 4096) == 1073741824.0); /* all dropped: the router */
  assert_true(moe_flops(&params, 1, 0) == 12582912.0);
  params.activation = MOECL_RELU; /* two matrices */
  assert_true(moe_flops(&params, 1, 0) == 8388608.0);
  params.activation = MOECL_SWIGLU;
  params.shared_intermediate_size = 512; /* three of 2048 x 512 a token */
  assert_true(moe_flops(&params, 0, 1) == 262144.0 + 6291456.0);
  params.shared_gate = true; /* and 2048 */
  assert_true(moe_flops(&params, 0, 1) == 262144.0 + 6291456.0 + 4096.0);
}

static void test_bytes(void **state) {
  moecl_layer_params params = olmoe;
  (void)state;
  /* 64 experts of 12,582,912 bytes, the router's 262,144, 4096 rows in and out. */
  assert_true(moe_bytes(&params, 64, 4096) == 805306368.0 + 262144.0 + 33554432.0);
  assert_true(moe_bytes(&params, 0, 1) == 262144.0 + 8192.0);
  params.dtype = MOECL_F32;
  assert_true(moe_bytes(&params, 1, 0) == 25165824.0 + 524288.0);
  params.activation = MOECL_GELU;
  assert_true(moe_bytes(&params, 1, 0) == 16777216.0 + 524288.0);
  params.shared_intermediate_size = 512, params.shared_gate = true;
  assert_true(moe_bytes(&params, 0, 0) == 524288.0 + 2 * 2048 * 512 * 4.0 + 2048 * 4.0);
  /* The experts' weights alone are half as long. */
  params.weight_format = MOECL_FORMAT_F16;
  assert_true(moe_bytes(&params, 1, 0) == 524288.0 + 8388608.0 + 2 * 2048 * 512 * 2.0 + 2048 * 4.0);
}

/* Queries of 4 heads of 16, keys of 2: q, k and v are 128 rows of 64, o 64 of 64. */
static const moecl_block_params block = {.attention = {.num_heads = 4, .num_kv_heads = 2},
                                         .layer = {.hidden_size = 64, .dtype = MOECL_F32}};
static const double projections = 128 * 64 + 64 * 64;

static double flops_of_pairs(double tokens, double pairs) {
  return 2 * tokens * projections + 4 * 64 * pairs;
}

static void test_block_flops(void **state) {
  moecl_block_params params = block;
  (void)state;
  assert_true(block_own_flops(&params, 1, 0) == flops_of_pairs(1, 1));
  assert_true(block_own_flops(&params, 5, 0) == flops_of_pairs(5, 1 + 2 + 3 + 4 + 5));
  assert_true(block_own_flops(&params, 2, 7) == flops_of_pairs(2, 8 + 9));
  params.attention.sliding_window = 3;
  assert_true(block_own_flops(&params, 5, 0) == flops_of_pairs(5, 1 + 2 + 3 + 3 + 3));
  assert_true(block_own_flops(&params, 2, 7) == flops_of_pairs(2, 3 + 3));
  assert_true(block_own_flops(&params, 2, 1) == flops_of_pairs(2, 2 + 3));
  params.attention.not_causal = true; /* 0-2, 0-3, 0-4, 1-4, 2-4 */
  assert_true(block_own_flops(&params, 5, 0) == flops_of_pairs(5, 3 + 4 + 5 + 4 + 3));
  params.attention.sliding_window = 0;
  assert_true(block_own_flops(&params, 5, 0) == flops_of_pairs(5, 25));
  assert_true(block_own_flops(&params, 2, 7) == flops_of_pairs(2, 18));
}

static void test_block_bytes(void **state) {
  moecl_block_params params = block;
  const double weights = projections + 2 * 64; /* and two norms */
  (void)state;
  assert_true(block_own_bytes(&params, 9, 0) == 4 * weights);
  /* Keys and values of 32 numbers each: 7 that were there, 2 that are new. */
  assert_true(block_own_bytes(&params, 2, 7) == 4 * (weights + 64 * (7 + 2)));
  params.attention.sliding_window = 3;
  assert_true(block_own_bytes(&params, 2, 7) == 4 * (weights + 64 * (2 + 2)));
  assert_true(block_own_bytes(&params, 2, 1) == 4 * (weights + 64 * (1 + 2)));
  params.layer.dtype = MOECL_BF16;
  params.attention.qkv_bias = params.attention.sinks = true;
  assert_true(block_own_bytes(&params, 1, 0) == 2 * (weights + 128 + 4));
}

/* Ten times these would let a wrong kernel pass. */
static void test_tolerance(void **state) {
  (void)state;
  assert_true(moe_tolerance(0x1p-24) == 1e-5); /* fp32 */
  assert_true(moe_tolerance(0x1p-11) == 1e-2); /* tf32, fp16 */
  assert_true(moe_tolerance(0x1p-8) == 1e-2);  /* bf16 */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_flops), cmocka_unit_test(test_bytes),
                                     cmocka_unit_test(test_block_flops),
                                     cmocka_unit_test(test_block_bytes),
                                     cmocka_unit_test(test_tolerance)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
