// SPDX-License-Identifier: MIT
/* What lets the interface grow: version numbers, and the reserved ends of structs. */
#include "../unit/unit.h"

/* moecl_version() is the number in meson.build, which the macros have to follow. */
static void test_version(void **state) {
  (void)state;
  int major, minor, patch;
  assert_string_equal(MOECL_VERSION_STRING, moecl_version());
  assert_int_equal(sscanf(moecl_version(), "%d.%d.%d", &major, &minor, &patch), 3);
  assert_int_equal(MOECL_VERSION_MAJOR, major);
  assert_int_equal(MOECL_VERSION_MINOR, minor);
  assert_int_equal(MOECL_VERSION_PATCH, patch);
#if MOECL_VERSION_NUMBER < 100 || MOECL_VERSION_NUMBER >= 1000000
#error "the preprocessor compares MOECL_VERSION_NUMBER"
#endif
  assert_int_equal(MOECL_VERSION_NUMBER, (major * 100 + minor) * 100 + patch);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_version)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
