// SPDX-License-Identifier: MIT
/* Every variant of the norm against the reference, on random rows of many sizes. */
#include "device_tensor.h"
#include "layers.h"
#include "op/norm/norm.h"
#include "ref/ref.h"
#include <math.h>

typedef struct norm_case {
  int64_t rows, size;
  desc_norm norm;
  double scale, shift; /* of the numbers */
} norm_case;

static const norm_case cases[] = {
    {1, 1, {.epsilon = 1e-6}, 1, 0},
    {3, 7, {.epsilon = 1e-5, .bias = true}, 1, 0},
    {5, 64, {.kind = MOECL_NORM_LAYER, .epsilon = 1e-5, .bias = true}, 1, 0},
    {2, 333, {.kind = MOECL_NORM_LAYER, .epsilon = 1e-5}, 1, 3},
    {4, 2048, {.epsilon = 1e-6, .plus_one = true}, 1, 0},
    {1, 5003, {.epsilon = 1e-6, .plus_one = true, .bias = true}, 30, 1},
    {70, 16, {.epsilon = 1e-12}, 1e-3, 0},
    {2, 129, {.epsilon = 1e-6}, 1e4, 0},
    {3, 8, {.epsilon = 1e-5, .plus_one = true}, 1, 0},
    {2, 2056, {.kind = MOECL_NORM_LAYER, .epsilon = 1e-5, .bias = true}, 1, 2},
    {5, 4096, {.epsilon = 1e-5}, 1, 0},
    {1, 8192, {.kind = MOECL_NORM_LAYER, .epsilon = 1e-5}, 1, 0},
    {2, 8200, {.epsilon = 1e-5}, 1, 0},
    {3, 40, {.epsilon = 1e-5}, 0, 0}, /* zeros stay zeros */
};

static void check_close(const char *what, const kernel_variant *variant, const norm_case *c,
                        const double *got, const double *want, size_t count, double tolerance) {
  for (size_t i = 0; i < count; i++) {
    if (fabs(got[i] - want[i]) <= tolerance * (1 + fabs(want[i]))) continue;
    fprintf(stderr, "norm '%s', %lld x %lld, MOECL_TEST_SEED=%llu: %s[%zu] is %g, expected %g\n",
            variant->name, (long long)c->rows, (long long)c->size, (unsigned long long)case_seed(),
            what, i, got[i], want[i]);
    fail();
  }
}

/* x + r in fp32, then rounded to the storage type. */
static void expect_sum(const norm_case *c, const device_tensor *x, const device_tensor *r,
                       double *sum) {
  const size_t count = (size_t)(c->rows * c->size);
  float bits;
  for (size_t i = 0; i < count; i++) {
    const double value = (float)x->values[i] + (float)r->values[i];
    moecl_from_double(x->dtype, &value, 1, &bits);
    moecl_to_double(x->dtype, &bits, 1, &sum[i]);
  }
}

enum { INPUT, RESIDUAL, SUM, WEIGHT, BIAS, OUTPUT, TENSORS };

static void check(const kernel_variant *variant, const norm_case *c, moecl_dtype dtype,
                  const desc_format *residual, const desc_format *output) {
  const desc_format *stored = desc_format_of(dtype);
  op_norm_desc desc = {c->norm, stored, residual, output};
  const size_t count = (size_t)(c->rows * c->size), size = (size_t)c->size;
  const uint64_t seed = case_seed();
  desc.norm.size = c->size;
  device_tensor t[TENSORS] = {
      tensor_draw(stored, count, seed, c->scale, c->shift),
      tensor_draw(residual ? residual : stored, count, seed + 1, c->scale, 0),
      tensor_make(stored, count),
      tensor_draw(stored, size, seed + 2, 1, 0),
      tensor_draw(stored, size, seed + 3, 1, 0),
      tensor_make(output ? output : stored, count)};
  op_norm norm;
  assert_ok(op_create(&op_norm_kind, context, variant, &desc, &norm));
  const op_norm_io io = {c->rows,          t[INPUT].buffer, t[RESIDUAL].buffer, t[SUM].buffer,
                         t[WEIGHT].buffer, t[BIAS].buffer,  t[OUTPUT].buffer};
  ocl_chain chain = {.context = context};
  assert_ok(op_norm_enqueue(&norm, &chain, &io));
  const double *from = t[INPUT].values;
  if (residual) {
    double *sum = tensor_read(&t[SUM]);
    expect_sum(c, &t[INPUT], &t[RESIDUAL], t[SUM].values);
    check_close("sum", variant, c, sum, t[SUM].values, count, 0);
    from = t[SUM].values;
    free(sum);
  }
  if (output) {
    double *got = tensor_read(&t[OUTPUT]);
    for (int64_t row = 0; row < c->rows; row++)
      ref_norm(&desc.norm, from + row * c->size, t[WEIGHT].values, t[BIAS].values,
               t[OUTPUT].values + row * c->size);
    const double tolerance = desc_format_dtype(output) == MOECL_BF16  ? 0x1p-8
                             : desc_format_dtype(output) == MOECL_F16 ? 0x1p-10
                                                                      : 1e-5;
    check_close("output", variant, c, got, t[OUTPUT].values, count, tolerance);
    free(got);
  }
  op_norm_kind.release(&norm);
  tensor_release(t, TENSORS);
}

static void test_norm(void **state) {
  const desc_format *f32 = desc_format_of(MOECL_F32);
  (void)state;
  for (size_t v = 0; v < op_norm_table.count; v++)
    for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
      const kernel_variant *variant = &op_norm_table.rows[v];
      const desc_format *stored = desc_format_of((moecl_dtype)dtype);
      if (!serves_here(variant, (moecl_dtype)dtype)) continue;
      /* What is added, and what comes out: every case has one pair, so that programs are few. */
      const desc_format *const pairs[][2] = {
          {NULL, stored}, {stored, f32}, {f32, stored}, {stored, NULL}, {f32, NULL}};
      for (size_t i = 0; i < BASE_COUNT(cases); i++)
        if (kernel_variant_accepts(variant, &(op_norm_desc){.norm = {.size = cases[i].size}}))
          check(variant, &cases[i], (moecl_dtype)dtype, pairs[i % 5][0], pairs[i % 5][1]);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_norm)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("norm", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
