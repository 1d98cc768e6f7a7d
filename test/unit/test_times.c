// SPDX-License-Identifier: MIT
/* Event times that are no times: clGetEventProfilingInfo, as the library calls it,
 * is this file's (linked with --wrap). */
#include "small_layer.h"
#include "moecl/opencl.h"
#include <math.h>
#include <time.h>

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
  FAULT_HUGE_ONCE, /* that of the sixth event asked for */
  FAULT_FAILS,     /* CL_PROFILING_INFO_NOT_AVAILABLE */
  FAULT_COUNT
} fault;
static const char *const fault_names[FAULT_COUNT] = {
    "none",  "swap",   "swap once", "nothing written", "no start", "no end",
    "equal", "frozen", "huge",      "huge once",       "fails"};
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
  if (end && (mode == FAULT_HUGE || (mode == FAULT_HUGE_ONCE && ++ends == 6)))
    time += UINT64_C(3600000000000);
  if (mode == FAULT_FROZEN) time = 1;
  memcpy(value, &time, sizeof time);
  return code;
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static double begun_ms; /* before the latest forward that was measured */

/* Nothing in it took longer than it has, by clocks that may differ a little. */
static bool can_be(double ms) { return ms >= 0 && ms <= 1.25 * (now_ms() - begun_ms) + 2; }

static void measure(moecl_context *context, moecl_layer *layer, bool layer_only,
                    double ms[MOECL_STAGE_COUNT]) {
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_profile *profile = NULL;
  begun_ms = now_ms();
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
    const bool fine =
        mode == FAULT_NONE || (layer_only && (mode == FAULT_SWAP_ONCE || mode == FAULT_HUGE_ONCE));
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
      const bool none = isnan(ms[stage]);
      if (!none && !can_be(ms[stage]))
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

/* ---- kernels ---- */

enum { MOST_KERNELS = 64 };

typedef struct kernel_list {
  moecl_kernel_times times[MOST_KERNELS];
  size_t count;
  double stage_ms[MOECL_STAGE_COUNT];
} kernel_list;

/* One forward of which the kernels are kept; the profile is left with it. */
static moecl_profile *measure_kernels(moecl_context *context, moecl_layer *layer, bool layer_only,
                                      kernel_list *list) {
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_profile *profile = NULL;
  assert_ok(moecl_profile_create(context, &profile));
  moecl_profile_layer_only(profile, layer_only);
  moecl_profile_keep_kernels(profile, true);
  /* A first forward of so many rows may write lists of them. */
  assert_ok(small_forward(context, layer, NULL, output));
  begun_ms = now_ms();
  assert_ok(small_forward(context, layer, profile, output));
  ends = 0;
  assert_ok(moecl_profile_kernels_wait(profile, list->times, MOST_KERNELS, &list->count));
  ends = 0;
  assert_ok(moecl_profile_read_wait(profile, list->stage_ms, MOECL_STAGE_COUNT));
  return profile;
}

/* The kernels are the plan's: its steps in their order, as many as each launches. */
static void check_steps(moecl_context *context, const kernel_list *list) {
  moecl_plan *plan = NULL;
  moecl_plan_step steps[32];
  size_t at = 0;
  assert_ok(moecl_plan_create(context, &small_params, SMALL_TOKENS, &plan));
  const size_t count = moecl_plan_steps(plan, steps, 32);
  for (size_t i = 0; i < count; i++)
    for (uint32_t n = 0; n < steps[i].launches; n++, at++) {
      assert_true(at < list->count);
      assert_string_equal(list->times[at].step, steps[i].name);
      assert_int_equal(list->times[at].stage, steps[i].stage);
      assert_true(*list->times[at].kernel);
    }
  assert_int_equal(at, list->count);
  moecl_plan_destroy(&plan);
}

/* From the first start of a stage to its last end, as moecl_profile_read_wait has it. */
static void check_stage(const kernel_list *list, moecl_stage stage) {
  double first = NAN, last = NAN;
  for (size_t i = 0; i < list->count; i++) {
    if (stage != MOECL_STAGE_LAYER && list->times[i].stage != stage) continue;
    if (isnan(first)) first = list->times[i].start_ms;
    last = list->times[i].end_ms;
  }
  if (isnan(first)) assert_true(isnan(list->stage_ms[stage]));
  else assert_true(fabs(last - first - list->stage_ms[stage]) < 1e-6);
}

static void test_kernels(void **state) {
  moecl_context *context = *state;
  moecl_layer *layer = NULL;
  kernel_list list;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  moecl_profile *profile = measure_kernels(context, layer, false, &list);
  check_steps(context, &list);
  for (size_t i = 0; i < list.count; i++) {
    const moecl_kernel_times *one = &list.times[i];
    assert_true(can_be(one->enqueued_ms) && (i == 0 || one->enqueued_ms >= one[-1].enqueued_ms));
    if (isnan(one->start_ms)) continue; /* no times on this device */
    assert_true(one->end_ms >= one->start_ms);
    assert_true(i ? one->start_ms >= one[-1].end_ms : one->start_ms == 0);
    assert_false(one->queued_ms > one->start_ms);
  }
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    if (!isnan(list.stage_ms[MOECL_STAGE_LAYER])) check_stage(&list, (moecl_stage)stage);
  /* There are as many, however few are asked for. */
  moecl_kernel_times two[2];
  size_t count = 0;
  assert_ok(moecl_profile_kernels_wait(profile, two, 2, &count));
  assert_int_equal(count, list.count);
  assert_string_equal(two[1].step, list.times[1].step);
  moecl_profile_keep_kernels(profile, false);
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  assert_ok(small_forward(context, layer, profile, output));
  assert_ok(moecl_profile_kernels_wait(profile, NULL, 0, &count));
  assert_int_equal(count, 0);
  moecl_profile_destroy(&profile);
  moecl_layer_destroy(&layer);
}

/* All kernels have times that can be, or none has any. */
static void test_kernel_faults(void **state) {
  moecl_context *context = *state;
  moecl_layer *layer = NULL;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  for (int f = FAULT_SWAP; f < 2 * FAULT_COUNT; f++) {
    kernel_list list;
    mode = (fault)(f % FAULT_COUNT);
    moecl_profile *profile = measure_kernels(context, layer, f >= FAULT_COUNT, &list);
    size_t none = 0;
    for (size_t i = 0; i < list.count; i++) {
      none += isnan(list.times[i].start_ms);
      assert_int_equal(isnan(list.times[i].start_ms), isnan(list.times[i].end_ms));
      if (!isnan(list.times[i].start_ms))
        assert_true(list.times[i].end_ms >= list.times[i].start_ms && can_be(list.times[i].end_ms));
    }
    assert_true(list.count > 3);
    if (none != list.count && (none != 0 || (mode != FAULT_EQUAL && mode != FAULT_NONE)))
      fail_msg("%s: %zu of %zu kernels have no times", fault_names[mode], none, list.count);
    moecl_profile_destroy(&profile);
  }
  mode = FAULT_NONE;
  moecl_layer_destroy(&layer);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_faults, set_up_context, tear_down_context),
      cmocka_unit_test_setup_teardown(test_kernels, set_up_context, tear_down_context),
      cmocka_unit_test_setup_teardown(test_kernel_faults, set_up_context, tear_down_context)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
