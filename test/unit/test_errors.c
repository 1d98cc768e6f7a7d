// SPDX-License-Identifier: MIT
/* OpenCL's codes by the names and numbers of its specification, what becomes of them,
 * and what a context keeps of what went wrong. */
#include "ocl/ocl.h"
#include "unit.h"

/* The specification's, written out here: not this library's, nor a header's. */
static const struct {
  int code;
  const char *name;
  moecl_status status;
} codes[] = {
    {-1, "CL_DEVICE_NOT_FOUND", MOECL_ERROR_DEVICE},
    {-2, "CL_DEVICE_NOT_AVAILABLE", MOECL_ERROR_DEVICE},
    {-3, "CL_COMPILER_NOT_AVAILABLE", MOECL_ERROR_DEVICE},
    {-4, "CL_MEM_OBJECT_ALLOCATION_FAILURE", MOECL_ERROR_OUT_OF_DEVICE_MEMORY},
    {-5, "CL_OUT_OF_RESOURCES", MOECL_ERROR_DEVICE},
    {-6, "CL_OUT_OF_HOST_MEMORY", MOECL_ERROR_OUT_OF_HOST_MEMORY},
    {-7, "CL_PROFILING_INFO_NOT_AVAILABLE", MOECL_ERROR_DEVICE},
    {-8, "CL_MEM_COPY_OVERLAP", MOECL_ERROR_DEVICE},
    {-11, "CL_BUILD_PROGRAM_FAILURE", MOECL_ERROR_BUILD},
    {-12, "CL_MAP_FAILURE", MOECL_ERROR_DEVICE},
    {-13, "CL_MISALIGNED_SUB_BUFFER_OFFSET", MOECL_ERROR_DEVICE},
    {-14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST", MOECL_ERROR_DEVICE},
    {-15, "CL_COMPILE_PROGRAM_FAILURE", MOECL_ERROR_BUILD},
    {-16, "CL_LINKER_NOT_AVAILABLE", MOECL_ERROR_DEVICE},
    {-17, "CL_LINK_PROGRAM_FAILURE", MOECL_ERROR_BUILD},
    {-19, "CL_KERNEL_ARG_INFO_NOT_AVAILABLE", MOECL_ERROR_DEVICE},
    {-30, "CL_INVALID_VALUE", MOECL_ERROR_DEVICE},
    {-31, "CL_INVALID_DEVICE_TYPE", MOECL_ERROR_DEVICE},
    {-32, "CL_INVALID_PLATFORM", MOECL_ERROR_DEVICE},
    {-33, "CL_INVALID_DEVICE", MOECL_ERROR_DEVICE},
    {-34, "CL_INVALID_CONTEXT", MOECL_ERROR_DEVICE},
    {-35, "CL_INVALID_QUEUE_PROPERTIES", MOECL_ERROR_DEVICE},
    {-36, "CL_INVALID_COMMAND_QUEUE", MOECL_ERROR_DEVICE},
    {-37, "CL_INVALID_HOST_PTR", MOECL_ERROR_DEVICE},
    {-38, "CL_INVALID_MEM_OBJECT", MOECL_ERROR_DEVICE},
    {-42, "CL_INVALID_BINARY", MOECL_ERROR_DEVICE},
    {-43, "CL_INVALID_BUILD_OPTIONS", MOECL_ERROR_DEVICE},
    {-44, "CL_INVALID_PROGRAM", MOECL_ERROR_DEVICE},
    {-45, "CL_INVALID_PROGRAM_EXECUTABLE", MOECL_ERROR_DEVICE},
    {-46, "CL_INVALID_KERNEL_NAME", MOECL_ERROR_DEVICE},
    {-47, "CL_INVALID_KERNEL_DEFINITION", MOECL_ERROR_DEVICE},
    {-48, "CL_INVALID_KERNEL", MOECL_ERROR_DEVICE},
    {-49, "CL_INVALID_ARG_INDEX", MOECL_ERROR_DEVICE},
    {-50, "CL_INVALID_ARG_VALUE", MOECL_ERROR_DEVICE},
    {-51, "CL_INVALID_ARG_SIZE", MOECL_ERROR_DEVICE},
    {-52, "CL_INVALID_KERNEL_ARGS", MOECL_ERROR_DEVICE},
    {-53, "CL_INVALID_WORK_DIMENSION", MOECL_ERROR_DEVICE},
    {-54, "CL_INVALID_WORK_GROUP_SIZE", MOECL_ERROR_DEVICE},
    {-55, "CL_INVALID_WORK_ITEM_SIZE", MOECL_ERROR_DEVICE},
    {-56, "CL_INVALID_GLOBAL_OFFSET", MOECL_ERROR_DEVICE},
    {-57, "CL_INVALID_EVENT_WAIT_LIST", MOECL_ERROR_DEVICE},
    {-58, "CL_INVALID_EVENT", MOECL_ERROR_DEVICE},
    {-59, "CL_INVALID_OPERATION", MOECL_ERROR_DEVICE},
    {-61, "CL_INVALID_BUFFER_SIZE", MOECL_ERROR_OUT_OF_DEVICE_MEMORY},
    {-63, "CL_INVALID_GLOBAL_WORK_SIZE", MOECL_ERROR_DEVICE},
    {-64, "CL_INVALID_PROPERTY", MOECL_ERROR_DEVICE},
    {-66, "CL_INVALID_COMPILER_OPTIONS", MOECL_ERROR_DEVICE},
    {-67, "CL_INVALID_LINKER_OPTIONS", MOECL_ERROR_DEVICE},
    {-1001, "CL_PLATFORM_NOT_FOUND_KHR", MOECL_ERROR_DEVICE},
    {-12345, "unknown OpenCL error", MOECL_ERROR_DEVICE},
    {17, "unknown OpenCL error", MOECL_ERROR_DEVICE},
};

static void test_codes(void **state) {
  test_log log = {.level = MOECL_LOG_ERROR};
  moecl_context context = {.log = {test_log_add, &log, NULL}};
  (void)state;
  assert_ok(ocl_check(&context, 0, "clFinish"));
  assert_null(log.text.data);
  for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
    char want[128];
    snprintf(want, sizeof want, "0 clFinish failed: %s (%d)\n", codes[i].name, codes[i].code);
    const moecl_status status = ocl_check(&context, codes[i].code, "clFinish");
    if (status != codes[i].status)
      fprintf(stderr, "%d is %s, expected %s\n", codes[i].code, moecl_status_string(status),
              moecl_status_string(codes[i].status));
    assert_int_equal(status, codes[i].status);
    assert_string_equal(log.text.data, want);
    base_text_free(&log.text);
  }
}

/* ---- what a context keeps ---- */

static void test_kept(void **state) {
  char text[4096];
  moecl_context context = {.log = {NULL, NULL, &context.errors}};
  (void)state;
  assert_int_equal(moecl_context_take_errors(NULL, text, sizeof text), 0);
  assert_int_equal(moecl_context_take_errors(&context, text, sizeof text), 0);
  assert_string_equal(text, "");
  log_write(&context.log, MOECL_LOG_WARNING, "no error");
  ocl_check(&context, -5, "clFinish");
  log_error(&context.log, MOECL_ERROR_BUILD, "a second of %d lines\nof one message", 2);
  const char *const want = "clFinish failed: CL_OUT_OF_RESOURCES (-5)\n"
                           "a second of 2 lines\nof one message";
  assert_int_equal(moecl_context_take_errors(&context, text, sizeof text), strlen(want));
  assert_string_equal(text, want);
  assert_int_equal(moecl_context_take_errors(&context, text, sizeof text), 0); /* taken */
  log_error(&context.log, MOECL_ERROR_BUILD, "abcdef");
  memset(text, 'x', sizeof text);
  assert_int_equal(moecl_context_take_errors(&context, text, 4), 6);
  assert_memory_equal(text, "abc\0x", 5);
  log_error(&context.log, MOECL_ERROR_BUILD, "abcdef");
  assert_int_equal(moecl_context_take_errors(&context, NULL, 0), 6);
  assert_int_equal(moecl_context_take_errors(&context, text, sizeof text), 0);
}

/* However much is said, the latest is there, and a long one does not take the place of
 * the call before it. */
static void test_full(void **state) {
  static char text[4096], log[9001];
  moecl_context context = {.log = {NULL, NULL, &context.errors}};
  (void)state;
  for (int i = 0; i < 1000; i++) log_error(&context.log, MOECL_ERROR_DEVICE, "error %d", i);
  const size_t size = moecl_context_take_errors(&context, text, sizeof text);
  assert_true(size > 1900 && size <= 2048 && size == strlen(text));
  int first, next = 0, used;
  assert_int_equal(sscanf(text, "error %d", &first), 1); /* a line is whole, and they follow */
  for (const char *at = text; *at; next++) {
    int number;
    assert_int_equal(sscanf(at, "error %d%n", &number, &used), 1);
    assert_int_equal(number, first + next);
    at += used + (at[used] == '\n');
  }
  assert_int_equal(first + next, 1000);
  memset(log, 'l', sizeof log - 1);
  log_error(&context.log, MOECL_ERROR_BUILD, "kernel.cl did not compile: %s", log);
  log_error(&context.log, MOECL_ERROR_BUILD, "variant 'x' cannot serve");
  moecl_context_take_errors(&context, text, sizeof text);
  assert_memory_equal(text, "kernel.cl did not compile: lll", 30);
  assert_non_null(strstr(text, "l\nvariant 'x' cannot serve"));
  for (int i = 0; i < 5; i++) log_error(&context.log, MOECL_ERROR_BUILD, "%s", log);
  assert_true(moecl_context_take_errors(&context, text, sizeof text) < 2048);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes), cmocka_unit_test(test_kept),
                                     cmocka_unit_test(test_full)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
