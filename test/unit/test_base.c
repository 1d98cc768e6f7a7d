// SPDX-License-Identifier: MIT
#include "unit.h"
#include "base/grow.h"
#include "base/log.h"
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_sizes(void **state) {
  (void)state;
  uint64_t product;
  assert_true(base_mul(UINT32_MAX, UINT32_MAX, &product));
  assert_true(product == UINT64_C(0xfffffffe00000001));
  assert_true(base_mul(0, UINT64_MAX, &product) && product == 0);
  assert_true(base_mul(1, UINT64_MAX, &product) && product == UINT64_MAX);
  assert_false(base_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &product));
  assert_int_equal(base_div_up(7, 3), 3);
  assert_int_equal(base_div_up(UINT64_MAX, 1) == UINT64_MAX, 1);
  assert_int_equal(base_round_up(65, 64), 128);
}

/* What is there stays, and room doubles, or is what was asked for. */
static void test_grow(void **state) {
  size_t room = 0;
  int *list = NULL;
  (void)state;
  for (int i = 0; i < 1000; i++) {
    list = base_grow(list, (size_t)i + 1, &room, sizeof *list);
    assert_true(list && room > (size_t)i && room <= (i < 16 ? 16 : 2 * (size_t)i));
    list[i] = i;
  }
  for (int i = 0; i < 1000; i++) assert_int_equal(list[i], i);
  list = base_grow(list, 5000, &room, sizeof *list);
  assert_true(list && room == 5000 && list[999] == 999);
  assert_ptr_equal(base_grow(list, 5000, &room, sizeof *list), list);
  free(list);
}

static void test_names(void **state) {
  (void)state;
  assert_string_equal(moecl_version(), "0.1.0");
  assert_string_equal(moecl_dtype_name(MOECL_F32), "fp32");
  assert_string_equal(moecl_dtype_name(MOECL_BF16), "bf16");
  assert_string_equal(moecl_dtype_name((moecl_dtype)-1), "?");
  assert_string_equal(moecl_activation_name(MOECL_SWIGLU), "swiglu");
  assert_string_equal(moecl_activation_name(MOECL_ACTIVATION_COUNT), "?");
  assert_string_equal(moecl_drop_policy_name(MOECL_DROP_POSITION), "position");
  assert_string_equal(moecl_eviction_name(MOECL_EVICT_LFU), "lfu");
  assert_string_equal(moecl_eviction_name(MOECL_EVICTION_COUNT), "?");
  assert_int_equal(moecl_dtype_size(MOECL_DTYPE_COUNT), 0);
  assert_true(moecl_activation_is_gated(MOECL_GEGLU));
  assert_false(moecl_activation_is_gated(MOECL_GELU));
  assert_true(moecl_activation_has_limit(MOECL_SWIGLU_CLAMPED));
  assert_true(moecl_activation_has_limit(MOECL_SWIGLU_LIMITED));
  assert_false(moecl_activation_has_limit(MOECL_SWIGLU));
  assert_false(moecl_activation_has_limit(MOECL_ACTIVATION_COUNT));
  assert_false(moecl_activation_has_limit((moecl_activation)-1));
  for (int s = -1; s < 20; s++) assert_non_null(moecl_status_string((moecl_status)s));
}

static uint16_t narrow(moecl_dtype dtype, double value) {
  uint16_t bits;
  moecl_from_double(dtype, &value, 1, &bits);
  return bits;
}

/* Every number there is goes to double and back unchanged, and the middle
 * between neighbours goes to the even one. */
static void check_all(moecl_dtype dtype, uint16_t infinity) {
  for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000)
    for (uint32_t bits = 0; bits < 0x8000; bits++) {
      uint16_t value = (uint16_t)(sign | bits), next = (uint16_t)(value + 1);
      double a, b;
      moecl_to_double(dtype, &value, 1, &a);
      if (bits > infinity) {
        assert_true(isnan(a));
        assert_true((narrow(dtype, a) & 0x7fff) > infinity);
        continue;
      }
      assert_int_equal(narrow(dtype, a), value);
      if (bits + 1 >= infinity) continue;
      moecl_to_double(dtype, &next, 1, &b);
      double middle = (a + b) / 2;
      assert_int_equal(narrow(dtype, middle), bits % 2 ? next : value);
      assert_int_equal(narrow(dtype, nextafter(middle, a)), value);
      assert_int_equal(narrow(dtype, nextafter(middle, b)), next);
    }
}

static void test_conversions(void **state) {
  (void)state;
  check_all(MOECL_F16, 0x7c00);
  check_all(MOECL_BF16, 0x7f80);
}

static void test_conversion_edges(void **state) {
  (void)state;
  assert_int_equal(narrow(MOECL_F16, 1.0), 0x3c00);
  assert_int_equal(narrow(MOECL_BF16, 1.0), 0x3f80);
  assert_int_equal(narrow(MOECL_F16, 65504), 0x7bff);
  assert_int_equal(narrow(MOECL_F16, 65519.99), 0x7bff);
  assert_int_equal(narrow(MOECL_F16, 65520), 0x7c00);
  assert_int_equal(narrow(MOECL_F16, -1e300), 0xfc00);
  assert_int_equal(narrow(MOECL_F16, ldexp(1, -24)), 1);
  assert_int_equal(narrow(MOECL_F16, ldexp(1, -25)), 0);
  assert_int_equal(narrow(MOECL_F16, nextafter(ldexp(1, -25), 1)), 1);
  assert_int_equal(narrow(MOECL_F16, -5e-324), 0x8000);
  assert_int_equal(narrow(MOECL_BF16, INFINITY), 0x7f80);
  assert_int_equal(narrow(MOECL_BF16, ldexp(1, -133)), 1);
  /* 1 + 2^-8 + 2^-40: through float it would become a tie and round down. */
  assert_int_equal(narrow(MOECL_BF16, 1 + ldexp(1, -8) + ldexp(1, -40)), 0x3f81);
  float single;
  double wide = 1 + ldexp(1, -24);
  moecl_from_double(MOECL_F32, &wide, 1, &single);
  assert_true(single == 1.0f);
}

static void test_text(void **state) {
  (void)state;
  base_text text = {0};
  for (int i = 0; i < 1000; i++) base_text_addf(&text, "%d,", i % 10);
  base_text_add(&text, "end", 3);
  assert_int_equal(text.size, 2003);
  assert_string_equal(text.data + 1998, "9,end");
  base_text_add(&text, "x", SIZE_MAX); /* cannot fit: fails before it reads */
  assert_true(text.failed);
  base_text_free(&text);
  assert_null(text.data);
}

static void test_files(void **state) {
  (void)state;
  char folder[] = "/tmp/moecl-test-XXXXXX";
  char path[512], deep[256], *data;
  size_t size;
  assert_non_null(mkdtemp(folder));
  snprintf(deep, sizeof deep, "%s/a/b/c/", folder);
  assert_ok(base_make_directories(deep));
  assert_ok(base_make_directories(deep));
  snprintf(path, sizeof path, "%sfile", deep);
  assert_ok(base_file_write_atomic(path, "a\0b", 3));
  assert_ok(base_file_write_atomic(path, "longer", 6));
  assert_ok(base_file_read(path, &data, &size));
  assert_int_equal(size, 6);
  assert_string_equal(data, "longer");
  free(data);
  snprintf(deep, sizeof deep, "%.200s/below", path); /* its parent is a file */
  assert_int_equal(base_make_directories(deep), MOECL_ERROR_IO);
  assert_int_equal(base_file_write_atomic(deep, "", 0), MOECL_ERROR_IO);
  assert_int_equal(base_file_read(deep, &data, &size), MOECL_ERROR_IO);
  assert_int_equal(base_file_read(folder, &data, &size), MOECL_ERROR_IO);
  assert_null(data);
  assert_int_equal(unlink(path), 0);
  for (const char *const *part = (const char *const[]){"/a/b/c", "/a/b", "/a", "", NULL}; *part;
       part++) {
    snprintf(path, sizeof path, "%s%s", folder, *part);
    assert_int_equal(rmdir(path), 0); /* empty: no temporary file was left */
  }
}

static void test_hash(void **state) {
  (void)state;
  char a[33], b[33];
  base_hash_hex("", 0, a); /* XXH3_128bits of nothing, from its specification */
  assert_string_equal(a, "99aa06d3014798d86001c324468d497f");
  base_hash_hex("a", 1, b);
  assert_string_not_equal(a, b);
}

static void test_log_lengths(void **state) {
  (void)state;
  test_log captured = {.level = MOECL_LOG_DEBUG};
  moecl_log log = {test_log_add, &captured};
  assert_int_equal(log_error(&log, MOECL_ERROR_IO, "%0*d", 5000, 7), MOECL_ERROR_IO);
  assert_int_equal(captured.text.size, 5003);
  base_text_free(&captured.text);
  log_write(&(moecl_log){0}, MOECL_LOG_ERROR, "nobody listens");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_grow),
      cmocka_unit_test(test_conversions),
      cmocka_unit_test(test_conversion_edges),
      cmocka_unit_test(test_text),
      cmocka_unit_test(test_files),
      cmocka_unit_test(test_hash),
      cmocka_unit_test(test_log_lengths),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
