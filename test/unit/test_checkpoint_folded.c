// SPDX-License-Identifier: MIT
/* What a family multiplies by and layers don't, multiplied onto the weights: Gemma 4. */
#define MODEL_FOLDER "checkpoint_folded"
#include "model_folder.h"
#include <math.h>

/* H 4, I 2, E 2 throughout. */
#define GEMMA4(more)                                                                               \
  "{\"model_type\":\"gemma4_text\",\"hidden_size\":4,\"num_hidden_layers\":1,"                     \
  "\"intermediate_size\":3,\"moe_intermediate_size\":2,\"top_k_experts\":1" more "}"
static const char gemma4[] = GEMMA4(",\"enable_moe_block\":true,\"num_experts\":2");

#define AT "model.layers.0."
enum { NORM, SCALE, ROUTER, EXPERT_SCALE, GATE_UP, DOWN, TENSORS };
static const made gemma4_tensors[TENSORS] = {
    [NORM] = {AT "pre_feedforward_layernorm_2.weight", "BF16", 1, {4}, 1},
    [SCALE] = {AT "router.scale", "F16", 1, {4}, 10},
    [ROUTER] = {AT "router.proj.weight", "F32", 2, {2, 4}, 1},
    [EXPERT_SCALE] = {AT "router.per_expert_scale", "BF16", 1, {2}, 5},
    [GATE_UP] = {AT "experts.gate_up_proj", "F32", 3, {2, 4, 4}, 10},
    [DOWN] = {AT "experts.down_proj", "BF16", 3, {2, 4, 2}, 100}};

/* The folder with one tensor otherwise. */
static void make_with(int which, made tensor) {
  made tensors[TENSORS];
  memcpy(tensors, gemma4_tensors, sizeof tensors);
  tensors[which] = tensor;
  make("model.safetensors", gemma4, tensors, TENSORS);
}

/* The same tensor, its first element another one. */
static void make_from(int which, double first) {
  made tensor = gemma4_tensors[which];
  tensor.first = first;
  make_with(which, tensor);
}

static void test_values(void **state) {
  (void)state;
  make("model.safetensors", gemma4, gemma4_tensors, TENSORS);
  moecl_checkpoint *checkpoint = open_made();
  assert_ok(moecl_checkpoint_check(checkpoint, 0));
  /* 1..8 times 10..13, over 1..4 and the root of 4. */
  CHECK(0, MOECL_ROUTER_WEIGHT, 0, 5, 5.5f, 6, 6.5f, 25, 16.5f, 14, 13);
  CHECK(0, MOECL_DOWN_PROJ, 0, 500, 505, 510, 515, 520, 525, 530, 535);
  CHECK(0, MOECL_DOWN_PROJ, 1, 648, 654, 660, 666, 672, 678, 684, 690);
  CHECK(0, MOECL_GATE_UP_PROJ, 1, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41);
  float scale[2];
  assert_ok(moecl_checkpoint_read_expert_scale(checkpoint, 0, scale));
  assert_true(scale[0] == 5 && scale[1] == 6);
  assert_int_equal(moecl_checkpoint_read_expert_scale(checkpoint, 1, scale),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_checkpoint_read_expert_scale(checkpoint, 0, NULL),
                   MOECL_ERROR_INVALID_ARGUMENT);
  moecl_checkpoint_destroy(&checkpoint);
  make_from(EXPERT_SCALE, -1);
  checkpoint = open_made();
  CHECK(0, MOECL_DOWN_PROJ, 0, -100, -101, -102, -103, -104, -105, -106, -107);
  CHECK(0, MOECL_DOWN_PROJ, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  moecl_checkpoint_destroy(&checkpoint);
}

/* 257 times 5 is 1285, which bf16 has as 1288; 257 alone is 256 there, and that times 5
 * 1280. */
static void test_rounded_once(void **state) {
  (void)state;
  const struct {
    int which;
    moecl_tensor tensor;
  } cases[] = {{ROUTER, MOECL_ROUTER_WEIGHT}, {DOWN, MOECL_DOWN_PROJ}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    made tensor = gemma4_tensors[cases[i].which];
    tensor.dtype = "F32";
    tensor.first = 257;
    make_with(cases[i].which, tensor);
    moecl_checkpoint *checkpoint = open_made();
    uint16_t stored[8];
    double first;
    assert_ok(moecl_checkpoint_read(checkpoint, 0, cases[i].tensor, 0, MOECL_BF16, stored));
    moecl_to_double(MOECL_BF16, stored, 1, &first);
    assert_true(first == 1288);
    moecl_checkpoint_destroy(&checkpoint);
  }
}

/* Reads router and down in fp16; the one message. */
static void expect(moecl_status status, const char *message) {
  uint16_t values[8];
  test_log log = {.level = MOECL_LOG_DEBUG};
  moecl_checkpoint *checkpoint;
  assert_ok(moecl_checkpoint_open(folder(), test_log_add, &log, &checkpoint));
  moecl_status got =
      moecl_checkpoint_read(checkpoint, 0, MOECL_ROUTER_WEIGHT, 0, MOECL_F16, values);
  if (got == MOECL_OK)
    got = moecl_checkpoint_read(checkpoint, 0, MOECL_DOWN_PROJ, 1, MOECL_F16, values);
  if (got != status || !test_log_has(&log, message) || test_log_count(&log, "\n") != 1)
    fail_msg("status %d, expected %d and '%s', got '%s'", (int)got, (int)status, message,
             log.text.data ? log.text.data : "");
  moecl_checkpoint_destroy(&checkpoint);
  base_text_free(&log.text);
}

static void test_bad_factors(void **state) {
  (void)state;
  make_from(NORM, -2);
  expect(MOECL_ERROR_UNSUPPORTED, "pre_feedforward_layernorm_2.weight': element 2 is 0");
  make_from(NORM, NAN);
  expect(MOECL_ERROR_IO, "pre_feedforward_layernorm_2.weight': element 0 is not a finite number");
  make_from(SCALE, INFINITY);
  expect(MOECL_ERROR_IO, "router.scale': element 0 is not a finite number");
  make_from(EXPERT_SCALE, NAN);
  expect(MOECL_ERROR_IO, "router.per_expert_scale': element 1 is not a finite number");
  make_from(DOWN, 60000);
  expect(MOECL_ERROR_IO, "down_proj': element 8, times what the family multiplies by, is too "
                         "large for fp16");
  make_from(ROUTER, 30000);
  expect(MOECL_ERROR_IO, "proj.weight': element 0, times what the family multiplies by, is too "
                         "large for fp16");
  make_from(ROUTER, NAN);
  expect(MOECL_ERROR_IO, "router.proj.weight': element 0 is not a finite number");
}

/* They are tensors of the layer: they must be there, of their shape, and others not. */
static void test_checked(void **state) {
  (void)state;
  static const struct {
    int which;
    made tensor;
    moecl_status status;
    const char *message;
  } cases[] = {
      {SCALE, {AT "a", "F32", 1, {4}, 1}, MOECL_ERROR_IO, "no tensor '" AT "router.scale'"},
      {NORM, {AT "a", "F32", 1, {4}, 1}, MOECL_ERROR_IO, "no tensor '" AT "pre_feedforward"},
      {EXPERT_SCALE,
       {AT "router.per_expert_scale", "F32", 1, {3}, 1},
       MOECL_ERROR_IO,
       "per_expert_scale' has shape [3], expected [2]"}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    test_log log = {.level = MOECL_LOG_DEBUG};
    moecl_checkpoint *checkpoint;
    make_with(cases[i].which, cases[i].tensor);
    assert_ok(moecl_checkpoint_open(folder(), test_log_add, &log, &checkpoint));
    assert_int_equal(moecl_checkpoint_check(checkpoint, 0), cases[i].status);
    if (!test_log_has(&log, cases[i].message)) fail_msg("%s", log.text.data);
    moecl_checkpoint_destroy(&checkpoint);
    base_text_free(&log.text);
  }
  /* The dense network and norms beside the experts are none of the layer's; a bias is. */
  static const struct {
    const char *name;
    moecl_status status;
  } extra[] = {{AT "mlp.up_proj.weight", MOECL_OK},
               {AT "post_feedforward_layernorm_2.weight", MOECL_OK},
               {AT "router.proj.bias", MOECL_ERROR_UNSUPPORTED},
               {AT "experts.down_proj_bias", MOECL_ERROR_UNSUPPORTED}};
  for (size_t i = 0; i < COUNT(extra); i++) {
    made tensors[TENSORS + 1];
    memcpy(tensors, gemma4_tensors, sizeof gemma4_tensors);
    tensors[TENSORS] = (made){extra[i].name, "F32", 1, {2}, 1};
    make("model.safetensors", gemma4, tensors, TENSORS + 1);
    moecl_checkpoint *checkpoint = open_made();
    assert_int_equal(moecl_checkpoint_check(checkpoint, 0), extra[i].status);
    moecl_checkpoint_destroy(&checkpoint);
  }
}

/* Without experts every layer is its dense network, which nothing is folded into. */
static void test_dense(void **state) {
  (void)state;
  static const char *const configs[] = {
      GEMMA4(""), GEMMA4(",\"num_experts\":null"),
      GEMMA4(",\"enable_moe_block\":false,\"num_experts\":2,\"use_double_wide_mlp\":false")};
  const made tensors[] = {{AT "mlp.gate_proj.weight", "F32", 2, {3, 4}, 1},
                          {AT "mlp.up_proj.weight", "F32", 2, {3, 4}, 1},
                          {AT "mlp.down_proj.weight", "F32", 2, {4, 3}, 1}};
  for (size_t i = 0; i < COUNT(configs); i++) {
    moecl_checkpoint_layer layer;
    make("model.safetensors", configs[i], tensors, COUNT(tensors));
    moecl_checkpoint *checkpoint = open_made();
    assert_ok(moecl_checkpoint_get_layer(checkpoint, 0, &layer));
    assert_true(!layer.is_moe && layer.params.intermediate_size == 3);
    assert_int_equal(layer.params.activation, MOECL_GEGLU_TANH);
    assert_ok(moecl_checkpoint_check(checkpoint, 0));
    CHECK(0, MOECL_DOWN_PROJ, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
    CHECK(0, MOECL_ROUTER_WEIGHT, 0, 0, 0, 0, 0);
    float scale = 0;
    assert_ok(moecl_checkpoint_read_expert_scale(checkpoint, 0, &scale));
    assert_true(scale == 1);
    moecl_checkpoint_destroy(&checkpoint);
  }
  moecl_checkpoint *checkpoint;
  make("model.safetensors", GEMMA4(",\"use_double_wide_mlp\":true"), tensors, COUNT(tensors));
  assert_int_equal(moecl_checkpoint_open(folder(), NULL, NULL, &checkpoint),
                   MOECL_ERROR_UNSUPPORTED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values),      cmocka_unit_test(test_rounded_once),
      cmocka_unit_test(test_bad_factors), cmocka_unit_test(test_checked),
      cmocka_unit_test(test_dense),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
