// SPDX-License-Identifier: MIT
#include "unit.h"
#include "moecl/opencl.h"
#include <sys/wait.h>
#include <unistd.h>

static moecl_device_info fake(int platform, int device, moecl_device_type type, const char *name) {
  moecl_device_info info = {.platform_index = platform, .device_index = device, .type = type};
  snprintf(info.name, sizeof info.name, "%s", name);
  snprintf(info.platform, sizeof info.platform, "Platform of %s", name);
  return info;
}

static void test_choose(void **state) {
  (void)state;
  const moecl_device_info list[] = {
      fake(0, 0, MOECL_DEVICE_CPU, "Slow One"), fake(2, 0, MOECL_DEVICE_OTHER, "Odd"),
      fake(2, 1, MOECL_DEVICE_GPU, "Fast Two"), fake(3, 0, MOECL_DEVICE_GPU, "Fast Three")};
  const struct {
    const char *choice;
    int want; /* -1: none */
  } cases[] = {{NULL, 2},     {"auto", 2},  {"", 2},      {"gpu", 2},         {"CPU", 0},
               {"2:1", 2},    {"3:0", 3},   {"9:9", -1},  {"1:0", -1},        {"fast three", 3},
               {"of odd", 1}, {"2:1x", -1}, {"none", -1}, {"accelerator", -1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t chosen = 99;
    moecl_status status = moecl_device_choose(list, 4, cases[i].choice, &chosen);
    assert_int_equal(status, cases[i].want < 0 ? MOECL_ERROR_NO_DEVICE : MOECL_OK);
    if (cases[i].want >= 0) assert_int_equal(chosen, cases[i].want);
  }
  size_t chosen;
  assert_int_equal(moecl_device_choose(list, 2, "auto", &chosen), MOECL_OK);
  assert_int_equal(chosen, 0);
  assert_int_equal(moecl_device_choose(NULL, 0, "auto", &chosen), MOECL_ERROR_NO_DEVICE);
}

/* In a process of its own, with an ICD folder that has no platform: the
 * loader reads it once. */
static void test_no_platform(void **state) {
  (void)state;
  pid_t child = fork();
  if (child == 0) {
    test_log log = {.level = MOECL_LOG_ERROR};
    moecl_context_params params = {.log = test_log_add, .log_user = &log};
    moecl_context *context = NULL;
    moecl_device_info *devices = NULL;
    size_t count = 9;
    setenv("OCL_ICD_VENDORS", "/nonexistent/", 1);
    setenv("OPENCL_VENDOR_PATH", "/nonexistent/", 1);
    bool ok = moecl_devices_list(&devices, &count) == MOECL_OK && count == 0 &&
              moecl_context_create(&params, &context) == MOECL_ERROR_NO_DEVICE && !context &&
              test_log_has(&log, "pocl-opencl-icd");
    moecl_devices_destroy(&devices);
    base_text_free(&log.text);
    _exit(ok ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}

static void test_list_and_open(void **state) {
  (void)state;
  moecl_device_info *a = NULL, *b = NULL;
  size_t n = 0, m = 0;
  assert_ok(moecl_devices_list(&a, &n));
  assert_ok(moecl_devices_list(&b, &m));
  assert_int_equal(n, m);
  assert_memory_equal(a, b, n * sizeof *a); /* the same order, the same facts */
  for (size_t i = 0; i < n; i++) {
    char place[32];
    moecl_context *context = NULL;
    moecl_context_params params = {.device = place};
    snprintf(place, sizeof place, "%d:%d", a[i].platform_index, a[i].device_index);
    assert_ok(moecl_context_create(&params, &context));
    assert_string_equal(moecl_context_device(context)->name, a[i].name);
    assert_ok(moecl_context_finish_wait(context));
    moecl_context_destroy(&context);
    assert_null(context);
  }
  moecl_devices_destroy(&a);
  moecl_devices_destroy(&b);
  assert_null(a);
}

static void test_no_match(void **state) {
  (void)state;
  test_log log = {.level = MOECL_LOG_ERROR};
  moecl_context *context = NULL;
  moecl_context_params params = {.device = "no such device", .log = test_log_add, .log_user = &log};
  assert_int_equal(moecl_context_create(&params, &context), MOECL_ERROR_NO_DEVICE);
  assert_null(context);
  assert_true(test_log_has(&log, "no such device"));
  assert_true(test_log_has(&log, "0:0"));
  base_text_free(&log.text);
}

static void test_from_cl(void **state) {
  (void)state;
  moecl_context *first = NULL, *second = NULL;
  assert_ok(moecl_context_create(NULL, &first));
  cl_context cl = moecl_context_cl(first);
  cl_command_queue queue = moecl_context_cl_queue(first);
  cl_device_id device;
  assert_int_equal(clGetCommandQueueInfo(queue, CL_QUEUE_DEVICE, sizeof device, &device, NULL),
                   CL_SUCCESS);
  assert_int_equal(moecl_context_create_from_cl(NULL, device, queue, NULL, &second),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_ok(moecl_context_create_from_cl(cl, device, queue, NULL, &second));
  assert_ptr_equal(moecl_context_cl_queue(second), queue);
  assert_memory_equal(moecl_context_device(first), moecl_context_device(second),
                      sizeof(moecl_device_info));
  moecl_context_destroy(&first); /* the second holds what it needs */
  assert_ok(moecl_context_finish_wait(second));
  assert_ok(moecl_context_create_from_cl(moecl_context_cl(second), device, NULL, NULL, &first));
  assert_ptr_not_equal(moecl_context_cl_queue(first), moecl_context_cl_queue(second));
  moecl_context_destroy(&second);
  moecl_context_destroy(&first);
}

int main(void) {
  const struct CMUnitTest hostless[] = {cmocka_unit_test(test_no_platform),
                                        cmocka_unit_test(test_choose)};
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_list_and_open),
                                     cmocka_unit_test(test_no_match),
                                     cmocka_unit_test(test_from_cl)};
  int failed = cmocka_run_group_tests_name("without a device", hostless, NULL, NULL);
  if (failed) return failed;
  skip_without_device();
  return cmocka_run_group_tests_name("with a device", tests, NULL, NULL);
}
