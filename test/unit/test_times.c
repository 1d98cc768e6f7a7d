// SPDX-License-Identifier: MIT
/* Event times that are no times: clGetEventProfilingInfo, as the library calls it,
 * is this file's (linked with --wrap). */
#include "small_layer.h"
#include "moecl/opencl.h"
#include <math.h>

typedef enum fault {
  FAULT_NONE = 0,
  FAULT_SWAP,      /* each end lies 5 us before its start */
  FAULT_SWAP_ONCE, /* that of the third event asked for */
  FAULT_NOTHING,   /* success, and nothing is written */
  FAULT_NO_START,  /* the start is not written */
  FAULT_NO_END,    /* the end is not written */
  FAULT_EQUAL,     /* each end is its start */
  FAULT_FROZEN,    /* all are one number */
  FAULT_HUGE,      /* each end is an hour late */
  FAULT_FAILS,     /* CL_PROFILING_INFO_NOT_AVAILABLE */
  FAULT_COUNT
} fault;
static const char *const fault_names[FAULT_COUNT] = {
    "none",   "swap", "swap once", "nothing written", "no start", "no end", "equal",
    "frozen", "huge", "fails"};
static fault mode;
static int ends;

cl_int __real_clGetEventProfilingInfo(cl_event event, cl_profiling_info what, size_t size,
                                      void *value, size_t *needed);
cl_int __wrap_clGetEventProfilingInfo(cl_event event, cl_profiling_info what, size_t size,
                                      void *value, size_t *needed);

cl_int __wrap_clGetEventProfilingInfo(cl_event event, cl_profiling_info what, size_t size,
                                      void *value, size_t *needed) {
  const bool end = what == CL_PROFILING_COMMAND_END;
  cl_ulong start = 0, time = 0;
  if (mode == FAULT_FAILS) return CL_PROFILING_INFO_NOT_AVAILABLE;
  const cl_int code = __real_clGetEventProfilingInfo(event, what, size, &time, needed);
  if (code != CL_SUCCESS || mode == FAULT_NOTHING || (mode == FAULT_NO_START && !end) ||
      (mode == FAULT_NO_END && end))
    return code;
  __real_clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL);
  if (end && (mode == FAULT_SWAP || (mode == FAULT_SWAP_ONCE && ++ends == 3))) time = start - 5000;
  if (end && mode == FAULT_EQUAL) time = start;
  if (end && mode == FAULT_HUGE) time += UINT64_C(3600000000000);
  if (mode == FAULT_FROZEN) time = 1;
  memcpy(value, &time, sizeof time);
  return code;
}

static void measure(moecl_context *context, moecl_layer *layer, bool layer_only,
                    double ms[MOECL_STAGE_COUNT]) {
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_profile *profile = NULL;
  assert_ok(moecl_profile_create(context, &profile));
  moecl_profile_layer_only(profile, layer_only);
  assert_ok(small_forward(context, layer, profile, output));
  ends = 0;
  assert_ok(moecl_profile_read_wait(profile, ms, MOECL_STAGE_COUNT));
  moecl_profile_destroy(&profile);
}

/* Whatever the driver says: a time that can be, or NaN, and all or none. */
static void test_faults(void **state) {
  moecl_context *context = *state;
  moecl_layer *layer = NULL;
  double ms[MOECL_STAGE_COUNT];
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  mode = FAULT_NONE;
  measure(context, layer, false, ms);
  const bool credible = !isnan(ms[MOECL_STAGE_LAYER]);
  if (!credible) printf("SKIP: this device's times are not credible without a fault either\n");
  for (int f = 0; f < 2 * FAULT_COUNT; f++) {
    const bool layer_only = f >= FAULT_COUNT;
    mode = (fault)(f % FAULT_COUNT);
    measure(context, layer, layer_only, ms);
    /* Of the layer alone two events are asked for; equal ones are right for a
     * stage of one kernel, and for none that has several. */
    const bool fine = mode == FAULT_NONE || (layer_only && mode == FAULT_SWAP_ONCE);
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
      const bool none = isnan(ms[stage]);
      if (!none && !(ms[stage] >= 0 && ms[stage] < 60000))
        fail_msg("%s: %s takes %g ms", fault_names[mode], moecl_stage_name((moecl_stage)stage),
                 ms[stage]);
      if (!none && !fine && mode != FAULT_EQUAL)
        fail_msg("%s: %s takes %g ms, expected NaN", fault_names[mode],
                 moecl_stage_name((moecl_stage)stage), ms[stage]);
    }
    if (credible && fine) assert_false(isnan(ms[MOECL_STAGE_LAYER]));
  }
  mode = FAULT_NONE;
  moecl_layer_destroy(&layer);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_faults, set_up_context, tear_down_context)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
