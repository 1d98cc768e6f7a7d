// SPDX-License-Identifier: MIT
/* A group whose members are parts of one device, which a program made by clCreateSubDevices. */
#include "group_compare.h"
#include <CL/cl.h>

static cl_device_id whole, parts[2];

/* Why there are none; NULL: there are two of as many compute units. */
static const char *make_parts(void) {
  moecl_context *first = NULL;
  cl_uint units = 0, most = 0, made = 0;
  assert_ok(moecl_context_create(NULL, &first));
  whole = first->device;
  moecl_context_destroy(&first);
  if (clGetDeviceInfo(whole, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL) !=
          CL_SUCCESS ||
      units < 2)
    return "it has one compute unit";
  /* Where there are none the call itself may be missing. */
  if (clGetDeviceInfo(whole, CL_DEVICE_PARTITION_MAX_SUB_DEVICES, sizeof most, &most, NULL) !=
          CL_SUCCESS ||
      most < 2)
    return "it has no sub-devices";
  const cl_device_partition_property halves[] = {CL_DEVICE_PARTITION_BY_COUNTS, units / 2,
                                                 units / 2, CL_DEVICE_PARTITION_BY_COUNTS_LIST_END,
                                                 0};
  if (clCreateSubDevices(whole, halves, 2, parts, &made) != CL_SUCCESS || made != 2)
    return "it is not divided by clCreateSubDevices";
  return NULL;
}

static void make_members(void) {
  static const char *const names[MOST_MEMBERS] = {"0", "1", "2", "3"};
  for (int m = 0; m < MOST_MEMBERS; m++) {
    const moecl_context_params params = {.log = log_problem, .log_user = (void *)names[m]};
    cl_int code;
    cl_context cl = clCreateContext(NULL, 1, &parts[m % 2], NULL, NULL, &code);
    assert_int_equal(code, CL_SUCCESS);
    assert_ok(moecl_context_create_from_cl(cl, parts[m % 2], NULL, &params, &contexts[m]));
    clReleaseContext(cl);
  }
}

static void test_parts(void **state) {
  static const int64_t split[] = {70, 0, 80};
  const moecl_group_layer_params with = {.chunks = 2};
  (void)state;
  problem p = make_problem(&plain, TOKENS);
  for (int members = 2; members <= 3; members++) {
    const int64_t two[] = {60, 90};
    compare(&p, &with, members, members == 2 ? two : split, "parts of a device");
  }
  free_problem(&p);
}

/* What a context says of its part, and that commands are for that. */
static void test_context(void **state) {
  cl_uint units;
  cl_device_id device;
  (void)state;
  assert_int_equal(clGetDeviceInfo(whole, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL),
                   CL_SUCCESS);
  for (int m = 0; m < 2; m++) {
    const moecl_device_info *info = moecl_context_device(contexts[m]);
    assert_int_equal(info->compute_units, units / 2);
    assert_true(info->platform_index == -1 && info->device_index == -1);
    assert_int_equal(clGetCommandQueueInfo(moecl_context_cl_queue(contexts[m]), CL_QUEUE_DEVICE,
                                           sizeof device, &device, NULL),
                     CL_SUCCESS);
    assert_ptr_equal(device, parts[m]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_context), cmocka_unit_test(test_parts)};
  skip_without_device();
  const char *why = make_parts();
  if (why) {
    printf("SKIP: the device has no parts: %s\n", why);
    return 77;
  }
  make_members();
  const int failed = cmocka_run_group_tests_name("group_parts", tests, NULL, NULL);
  destroy_contexts();
  for (int i = 0; i < 2; i++) clReleaseDevice(parts[i]);
  return failed;
}
