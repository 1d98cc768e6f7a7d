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

/* Ten times these would let a wrong kernel pass. */
static void test_tolerance(void **state) {
  (void)state;
  assert_true(moe_tolerance(0x1p-24) == 1e-5); /* fp32 */
  assert_true(moe_tolerance(0x1p-11) == 1e-2); /* tf32, fp16 */
  assert_true(moe_tolerance(0x1p-8) == 1e-2);  /* bf16 */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_flops), cmocka_unit_test(test_bytes),
                                     cmocka_unit_test(test_tolerance)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
