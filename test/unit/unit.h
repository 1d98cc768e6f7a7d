// SPDX-License-Identifier: MIT
/* What the unit tests share: cmocka, a captured log, and a visible skip where
 * there is no device. */
#ifndef MOECL_TEST_UNIT_H
#define MOECL_TEST_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the ones above, as cmocka asks */
#include <cmocka.h>

#include "base/base.h"
#include "moecl/moecl.h"

#define TEST_SKIP 77 /* meson shows it as a skip */
#define assert_ok(expression) assert_int_equal((expression), MOECL_OK)

/* Everything logged at `level` and above, one message a line. */
typedef struct test_log {
  moecl_log_level level;
  base_text text;
} test_log;

static inline void test_log_add(void *user, moecl_log_level level, const char *message) {
  test_log *log = user;
  if (level <= log->level) base_text_addf(&log->text, "%d %s\n", (int)level, message);
}
static inline bool test_log_has(const test_log *log, const char *part) {
  return log->text.data && strstr(log->text.data, part);
}
static inline size_t test_log_count(const test_log *log, const char *part) {
  size_t count = 0;
  for (const char *at = log->text.data; at && (at = strstr(at, part)); at++) count++;
  return count;
}

/* Ends the program as skipped where no device is found. */
static inline void skip_without_device(void) {
  moecl_device_info *devices = NULL;
  size_t count = 0;
  moecl_status status = moecl_devices_list(&devices, &count);
  moecl_devices_destroy(&devices);
  if (status == MOECL_OK && count > 0) return;
  printf("SKIP: no OpenCL device (%s, %zu devices)\n", moecl_status_string(status), count);
  exit(TEST_SKIP);
}

/* Are programs to be kept on disk? Not where the environment names no place for them: tests with
 * a place of their own keep none there, either (test/meson.build says why). */
static inline bool keeps_programs(void) {
  const char *place = getenv("MOECL_CACHE_DIR");
  return !place || *place;
}

/* cmocka set-up and tear-down: *state is a context on the default device. */
static inline int set_up_context(void **state) {
  moecl_context *context = NULL;
  int status = (int)moecl_context_create(NULL, &context);
  *state = context;
  return status;
}
static inline int tear_down_context(void **state) {
  moecl_context *context = *state;
  moecl_context_destroy(&context);
  return 0;
}

#endif
