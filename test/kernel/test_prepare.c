// SPDX-License-Identifier: MIT
/* The router's input, converted and jittered, bit by bit: the same numbers whether
 * a work-item makes one Philox block of them or eight. */
#include "../unit/unit.h"
#include "moecl/reference.h"
#include "ocl/ocl.h"

static moecl_context *context;

static const uint64_t seeds[] = {0, 1, 0xfedcba9876543210u};
static const uint64_t first_token = 0xfffffffdu; /* beyond 32 bits after three */
enum { MOST_TOKENS = 70, MOST_HIDDEN = 300, LOCAL = 64 };

/* Everything behind the last row stays as it was. */
static void check(moecl_dtype dtype, float jitter, int blocks, int64_t tokens, int64_t hidden,
                  uint64_t seed) {
  static double x[MOST_TOKENS * MOST_HIDDEN];
  static float raw[MOST_TOKENS * MOST_HIDDEN], got[MOST_TOKENS * MOST_HIDDEN + 1];
  const uint64_t count = (uint64_t)(tokens * hidden), bytes = count * moecl_dtype_size(dtype);
  const moecl_random_params params = {
      .distribution = MOECL_NORMAL, .scale = 1, .seed = seed + 5, .dtype = dtype};
  char defines[64];
  ocl_kernel *kernel = NULL;
  moecl_buffer *from = NULL, *to = NULL;
  assert_ok(moecl_random_host(raw, count, &params));
  moecl_to_double(dtype, raw, count, x);
  assert_ok(moecl_buffer_create(context, bytes, &from));
  assert_ok(moecl_buffer_write_wait(from, 0, bytes, raw));
  assert_ok(moecl_buffer_create(context, count * 4 + 4, &to));
  assert_ok(moecl_buffer_fill_byte(to, 0, count * 4 + 4, 0xcd));
  snprintf(defines, sizeof defines, "DTYPE %d\nJITTER %d\nBLOCKS %d\n", (int)dtype, jitter > 0,
           blocks);
  assert_ok(ocl_kernel_create(context, "router/prepare.cl", defines, "prepare", &kernel));
  assert_ok(
      ocl_kernel_args(kernel, "bbllfLL", from, to, tokens, hidden, jitter, seed, first_token));
  ocl_chain chain = {.context = context};
  const uint64_t items = (uint64_t)tokens * base_div_up((uint64_t)hidden, 4 * (uint64_t)blocks);
  assert_ok(ocl_launch(&chain, kernel, base_div_up(items, LOCAL), LOCAL));
  assert_ok(moecl_buffer_read_wait(to, 0, count * 4 + 4, got));
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t h = 0; h < hidden; h++) {
      const float factor =
          moecl_reference_jitter(seed, first_token + (uint64_t)t, (uint32_t)h, jitter);
      const float is = got[t * hidden + h], want = (float)x[t * hidden + h] * factor;
      if (memcmp(&is, &want, sizeof is) == 0) continue;
      fprintf(stderr,
              "%s, jitter %g, %d blocks, %lld x %lld, seed %llu: [%lld, %lld] is %.9g, expected "
              "%.9g\n",
              moecl_dtype_name(dtype), (double)jitter, blocks, (long long)tokens, (long long)hidden,
              (unsigned long long)seed, (long long)t, (long long)h, (double)is, (double)want);
      fail();
    }
  assert_int_equal(((const unsigned char *)&got[count])[0], 0xcd);
  ocl_kernel_destroy(&kernel);
  moecl_buffer_destroy(&from);
  moecl_buffer_destroy(&to);
}

static void test_prepare(void **state) {
  static const int64_t widths[] = {1, 3, 4, 31, 32, 33, 96, 300};
  (void)state;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
    for (int blocks = 1; blocks <= 8; blocks += 7)
      for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        check((moecl_dtype)dtype, 0, blocks, 70, widths[i], 0);
        for (size_t s = 0; s < sizeof seeds / sizeof seeds[0]; s++)
          check((moecl_dtype)dtype, s == 1 ? 0x1p-20f : 0.125f, blocks, s == 0 ? 1 : 70, widths[i],
                seeds[s]);
      }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_prepare)};
  skip_without_device();
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("prepare", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
