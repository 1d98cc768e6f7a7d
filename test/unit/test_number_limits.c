// SPDX-License-Identifier: MIT
/* Sentences about numbers that do not fit a data type. */
#include "unit.h"
#include "run/verify_parts.h"

static const int64_t tokens[2] = {3, 70};

/* Two tokens of 100, each with one number a tensor; 5 have outputs that are not finite. */
static bool describe(moecl_dtype dtype, moecl_dtype output_dtype,
                     const double (*numbers)[OVERFLOW_TENSORS], double tolerance, char text[640]) {
  overflow *overflow = overflow_create(dtype, output_dtype, 2);
  assert_non_null(overflow);
  for (int64_t i = 0; i < 2; i++)
    for (int t = 0; t < OVERFLOW_TENSORS; t++) {
      const double values[3] = {1, -numbers[i][t], 0.5 * numbers[i][t]};
      overflow_note(overflow, i, (overflow_tensor)t, t < OVERFLOW_SHARED_INTERMEDIATE ? 7 : -1,
                    values, 3);
      const double small = 2; /* of another expert, and less */
      overflow_note(overflow, i, (overflow_tensor)t, 9, &small, 1);
    }
  const bool found = overflow_describe(overflow, tokens, 5, 100, tolerance, text, 640);
  overflow_destroy(overflow);
  return found;
}

static void test_told(void **state) {
  static const double numbers[2][OVERFLOW_TENSORS] = {{10, 70000, 10, 10, 10, 66000},
                                                      {1e5, 10, 10, 2e5, 3e5, 10}};
  char text[640];
  (void)state;
  assert_true(describe(MOECL_F16, MOECL_F16, numbers, 0, text));
  assert_string_equal(text, "5 of 100 tokens have outputs that are not finite: exact values are "
                            "beyond 65504, the largest of fp16 (token 3: expert 7's intermediate "
                            "70000, the token's output 66000). No mistake of the engine's, and yet "
                            "not verified: take bf16 or fp32, or smaller inputs or weights");
}

/* Every token needs a reason: the second one has none. */
static void test_no_reason(void **state) {
  static const double numbers[2][OVERFLOW_TENSORS] = {{10, 70000, 10, 10, 10, 66000},
                                                      {10, 65504, 65519, 10, 10, 10}};
  char text[640];
  (void)state;
  assert_false(describe(MOECL_F16, MOECL_F16, numbers, 0, text));
  assert_string_equal(text, "5 of 100 tokens have outputs that are not finite, though all exact "
                            "numbers of token 70 fit what they are stored as");
  /* 65520 is rounded to infinity, and what is off by 2e-4 may be as much. */
  assert_true(describe(MOECL_F16, MOECL_F16, numbers, 2e-4, text));
}

static void test_wide_types(void **state) {
  static const double numbers[2][OVERFLOW_TENSORS] = {{1, 3.41e38, 1, 1, 1, 1},
                                                      {1, 1, 1, 1, 1, 1e40}};
  char text[640];
  (void)state;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
    assert_true(describe((moecl_dtype)dtype, MOECL_F32, numbers, 0, text));
    if (dtype == MOECL_F16) continue;
    assert_non_null(strstr(text, dtype == MOECL_F32 ? "beyond 3.40282e+38, the largest of fp32"
                                                    : "beyond 3.38953e+38, the largest of bf16"));
    assert_non_null(strstr(text, "not verified: take smaller inputs or weights"));
  }
}

/* Experts' outputs, the shared one's too, are fp32 in all variants that can: then they are
 * no reason before they are too large for that. */
static void test_outputs(void **state) {
  static const struct {
    double value;
    bool fp16, outputs_fp32; /* too large where fp16 is stored; where it is outputs in fp32 */
  } all[] = {{65519, false, false},
             {65521, true, false},
             {0x1.fffffep127, true, false},
             {0x1p128, true, true}};
  char text[640];
  (void)state;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    for (int t = 0; t < OVERFLOW_TENSORS; t++) {
      const bool output = t == OVERFLOW_EXPERT_OUTPUT || t == OVERFLOW_SHARED_OUTPUT;
      double made[2][OVERFLOW_TENSORS] = {{0}};
      const double(*numbers)[OVERFLOW_TENSORS] = (const double(*)[OVERFLOW_TENSORS])made;
      made[0][t] = made[1][t] = all[i].value;
      if (describe(MOECL_F16, MOECL_F16, numbers, 0, text) != all[i].fp16)
        fail_msg("fp16, tensor %d, %g: %s", t, all[i].value, text);
      if (describe(MOECL_F16, MOECL_F32, numbers, 0, text) !=
          (output ? all[i].outputs_fp32 : all[i].fp16))
        fail_msg("fp16 with outputs in fp32, tensor %d, %g: %s", t, all[i].value, text);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_told),
      cmocka_unit_test(test_no_reason),
      cmocka_unit_test(test_wide_types),
      cmocka_unit_test(test_outputs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
