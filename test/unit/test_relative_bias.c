// SPDX-License-Identifier: MIT
/* T5's relative position bias against transformers' own: the bucket of every distance, and the
 * reference's attention with it (test/golden/make/make_relative_golden.py). */
#include "../golden.h"
#include "ref/ref.h"
#include "unit.h"
#include <math.h>

static golden *file;

static double *tensor(const char *name, const char *part) {
  char full[64];
  snprintf(full, sizeof full, "%s.%s", name, part);
  double *values = golden_doubles(file, full);
  if (!values) fail_msg("no tensor %s", full);
  return values;
}

/* From twice the largest distance before the query to as far behind it. */
static void check_buckets(int64_t buckets, int64_t most, bool causal) {
  char part[32];
  const desc_relative relative = {buckets, most};
  snprintf(part, sizeof part, "%lld.%lld", (long long)buckets, (long long)most);
  double *want = tensor(causal ? "causal" : "both", part);
  for (int64_t d = -2 * most; d <= 2 * most; d++) {
    const int64_t got = desc_relative_bucket(&relative, causal, d);
    if (got != (int64_t)want[d + 2 * most])
      fail_msg("%s %s, distance %lld: bucket %lld, expected %.0f", causal ? "causal" : "both", part,
               (long long)d, (long long)got, want[d + 2 * most]);
    /* The kernels' list ends at the largest distance. */
    const int64_t within = d < -most ? -most : d > most ? most : d;
    assert_int_equal(got, desc_relative_bucket(&relative, causal, within));
  }
  free(want);
}

static void test_buckets(void **state) {
  static const int64_t sizes[][2] = {{32, 128}, {8, 16},    {4, 3},    {5, 9}, {7, 40},
                                     {64, 300}, {320, 200}, {33, 128}, {2, 2}};
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(sizes); i++) {
    check_buckets(sizes[i][0], sizes[i][1], true);
    if (sizes[i][0] >= 4) check_buckets(sizes[i][0], sizes[i][1], false);
  }
}

/* By hand: 8 buckets of a side, 4 of one distance; then 4 to 5, 6 to 7 and 8 to 11 by their
 * logarithms up to 16. */
static void test_by_hand(void **state) {
  static const int64_t want[] = {0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7};
  const desc_relative relative = {16, 16};
  (void)state;
  for (int64_t d = 0; d < (int64_t)BASE_COUNT(want); d++) {
    assert_int_equal(desc_relative_bucket(&relative, false, -d), want[d]);
    if (d > 0) assert_int_equal(desc_relative_bucket(&relative, false, d), 8 + want[d]);
    assert_int_equal(desc_relative_bucket(&(desc_relative){8, 16}, true, -d), want[d]);
    assert_int_equal(desc_relative_bucket(&(desc_relative){8, 16}, true, d), 0);
  }
}

static void check_attention(const char *name, bool causal) {
  enum { TOKENS = 29, KEYS = 41, SIZE = 3 * 5 };
  const desc_attention attention = {.num_heads = 3,
                                    .num_kv_heads = 3,
                                    .head_dim = 5,
                                    .causal = causal,
                                    .scale = 1,
                                    .relative = {8, 20}};
  double *q = tensor(name, "q"), *k = tensor(name, "k"), *v = tensor(name, "v");
  double *bias = tensor(name, "bias"), *want = tensor(name, "output"), got[TOKENS * SIZE];
  assert_ok(ref_attention(&attention, TOKENS, KEYS, q, k, v, NULL, bias, got));
  for (int i = 0; i < TOKENS * SIZE; i++)
    if (!(fabs(got[i] - want[i]) <= 1e-13))
      fail_msg("%s: output[%d] is %.17g, expected %.17g", name, i, got[i], want[i]);
  free(q), free(k), free(v), free(bias), free(want);
}

static void test_attention(void **state) {
  (void)state;
  check_attention("encoder", false);
  check_attention("decoder", true);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_buckets), cmocka_unit_test(test_by_hand),
                                     cmocka_unit_test(test_attention)};
  file = golden_open("relative_bias.safetensors");
  if (!file) return 1;
  const int failed = cmocka_run_group_tests_name("relative_bias", tests, NULL, NULL);
  golden_close(&file);
  return failed ? 1 : 0;
}
