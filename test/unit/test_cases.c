// SPDX-License-Identifier: MIT
/* What tests and benchmarks count with: operations, bytes and tolerances, against
 * numbers worked out by hand. */
#include "cases.h"
#include "work.h"
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
  params.weight_format = MOECL_FORMAT_INT4_G128; /* 66 bytes for 128 columns */
  assert_true(moe_bytes(&params, 1, 0) ==
              524288.0 + (4194304.0 + 2 * 2048 * 512) / 128 * 66 + 2048 * 4.0);
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

/* ---- work.h ---- */

#define WORK(made, of_flops, of_bytes)                                                             \
  do {                                                                                             \
    const stage_work work = made;                                                                  \
    assert_true(work.flops == (of_flops));                                                         \
    assert_true(work.bytes == (of_bytes));                                                         \
  } while (0)

/* OLMoE: 100 tokens, of whose 800 assignments 700 were kept, by 60 experts. */
static void test_layer_work(void **state) {
  (void)state;
  moecl_layer_params params = olmoe;
  const work_counts n = {.num_tokens = 100, .kept = 700, .active = 60};
  /* Rows and weights of 2 bytes, 64 logits and 8 ids and weights a token of 4. */
  WORK(work_of_layer(&params, &n, MOECL_STAGE_ROUTER), 2 * 100 * 2048 * 64.0,
       100 * 2048 * 2.0 + 64 * 2048 * 2.0 + 100 * 64 * 4.0 + 100 * 8 * 8.0);
  /* 800 ids and slots, 700 tokens, 65 offsets. */
  WORK(work_of_layer(&params, &n, MOECL_STAGE_PERMUTE), 0, 800 * 8.0 + 700 * 4.0 + 65 * 4.0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_GATE_UP), 700 * 2.0 * 2048 * 2048,
       60 * 2048 * 2048 * 2.0 + 100 * 2048 * 2.0 + 700 * 1024 * 2.0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_DOWN), 700 * 2.0 * 1024 * 2048,
       60 * 1024 * 2048 * 2.0 + 700 * 1024 * 2.0 + 700 * 2048 * 4.0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_SHARED), 0, 0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_COMBINE), 700 * 2.0 * 2048,
       700 * 2048 * 4.0 + 100 * 2048 * 2.0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_LAYER), 0, 0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_ATTENTION), 0, 0);
  params.shared_intermediate_size = 512, params.shared_gate = true;
  WORK(work_of_layer(&params, &n, MOECL_STAGE_SHARED), 100 * 2.0 * (3 * 2048 * 512 + 2048),
       (3 * 2048 * 512 + 2048) * 2.0 + 100 * (2048 + 1024) * 2.0 + 100 * 2048 * 4.0);
  WORK(work_of_layer(&params, &n, MOECL_STAGE_COMBINE), 800 * 2.0 * 2048,
       800 * 2048 * 4.0 + 100 * 2048 * 2.0);
  /* All stages but the combination have what moe_flops counts. */
  double flops = 0;
  for (int stage = 0; stage < MOECL_STAGE_COMBINE; stage++)
    flops += work_of_layer(&params, &n, (moecl_stage)stage).flops;
  assert_true(flops == moe_flops(&params, 700, 100));
  params.router_noise = true;
  assert_true(work_of_layer(&params, &n, MOECL_STAGE_ROUTER).flops == 4 * 100 * 2048 * 64.0);
}

/* Mixtral's attention: 32 heads and 8 of keys, of 128 elements; 3 tokens after 5. */
static void test_block_work(void **state) {
  (void)state;
  moecl_block_params block = {
      .attention = {.num_heads = 32, .num_kv_heads = 8, .rope = {.theta = 1e6}}, .layer = olmoe};
  block.layer.hidden_size = 4096;
  const work_counts n = {.num_tokens = 3, .context = 5};
  WORK(work_of_block(&block, &n, MOECL_STAGE_ATTENTION_NORM), 4 * 3 * 4096.0, 2 * 3 * 4096 * 2.0);
  WORK(work_of_block(&block, &n, MOECL_STAGE_QKV_PROJ), 2 * 3 * 4096 * 6144.0,
       (4096 * 6144 + 3 * (4096 + 6144)) * 2.0);
  WORK(work_of_block(&block, &n, MOECL_STAGE_ROTARY), 3 * 3 * (4096 + 1024.0),
       2 * 3 * (4096 + 2048) * 2.0);
  /* The three look at 6, 7 and 8 keys. */
  WORK(work_of_block(&block, &n, MOECL_STAGE_ATTENTION), 4 * 4096 * 21.0,
       (2 * 4096 * 3 + 2 * 1024 * 8) * 2.0);
  WORK(work_of_block(&block, &n, MOECL_STAGE_O_PROJ), 2 * 3 * 4096 * 4096.0,
       (4096 * 4096 + 3 * (4096 + 4096)) * 2.0);
  WORK(work_of_block(&block, &n, MOECL_STAGE_FEED_FORWARD_NORM), 5 * 3 * 4096.0,
       4 * 3 * 4096 * 2.0);
  WORK(work_of_block(&block, &n, MOECL_STAGE_RESIDUAL), 3 * 4096.0, 3 * 3 * 4096 * 2.0);
  WORK(work_of_block(&block, &n, MOECL_STAGE_ROUTER), 2 * 3 * 4096 * 64.0,
       3 * 4096 * 2.0 + 64 * 4096 * 2.0 + 3 * 64 * 4.0 + 3 * 8 * 8.0);
  block.attention.sliding_window = 2; /* at 2 each, and 4 keys in all */
  WORK(work_of_block(&block, &n, MOECL_STAGE_ATTENTION), 4 * 4096 * 6.0,
       (2 * 4096 * 3 + 2 * 1024 * 4) * 2.0);
  block.attention.rope.theta = 0;
  assert_true(work_of_block(&block, &n, MOECL_STAGE_ROTARY).flops == 0);
}

static void test_attention_pairs(void **state) {
  (void)state;
  moecl_block_params block = {.attention = {.num_heads = 1}, .layer = olmoe};
  moecl_attention_params *attention = &block.attention;
  assert_true(block_attention_pairs(&block, 4, 0) == 10); /* 1 + 2 + 3 + 4 */
  assert_true(block_attention_pairs(&block, 1, 4096) == 4097);
  attention->sliding_window = 1;
  assert_true(block_attention_pairs(&block, 4, 3) == 4);
  attention->not_causal = true;
  assert_true(block_attention_pairs(&block, 4, 0) == 4);
  attention->sliding_window = 2; /* 2 + 3 + 3 + 2 */
  assert_true(block_attention_pairs(&block, 4, 0) == 10);
  attention->sliding_window = 0;
  assert_true(block_attention_pairs(&block, 4, 0) == 16);
}

static void test_tile_waste(void **state) {
  (void)state;
  const int64_t rows[4] = {64, 1, 0, 95}; /* 1, 1, 0 and 2 tiles of 64: 160 of 256 */
  assert_true(work_tile_waste(rows, 4, 64) == 0.375);
  assert_true(work_tile_waste(rows, 1, 64) == 0);
  assert_true(work_tile_waste(rows, 4, 0) == 0);
  assert_true(work_tile_waste(rows + 2, 1, 64) == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_flops),       cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_block_flops), cmocka_unit_test(test_block_bytes),
      cmocka_unit_test(test_tolerance),   cmocka_unit_test(test_layer_work),
      cmocka_unit_test(test_block_work),  cmocka_unit_test(test_attention_pairs),
      cmocka_unit_test(test_tile_waste)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
