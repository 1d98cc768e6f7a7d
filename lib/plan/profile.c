// SPDX-License-Identifier: MIT
/* Stage times from profiling events. */
#include "base/base.h"
#include "base/grow.h"
#include "plan/profile.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static bool wants(ocl_observer *observer, bool last) {
  const moecl_profile *profile = (moecl_profile *)observer;
  return !profile->layer_only || profile->keeps_kernels || !profile->first[MOECL_STAGE_LAYER] ||
         last;
}

static int64_t host_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Room for one more; NULL without memory. */
static profile_launch *next_launch(moecl_profile *profile) {
  profile_launch *grown =
      base_grow(profile->launches, profile->num_launches + 1, &profile->room, sizeof *grown);
  if (!grown) return NULL;
  profile->launches = grown;
  return &grown[profile->num_launches];
}

/* Likewise of an event that cannot be kept. */
static void keep_kernel(moecl_profile *profile, const ocl_launched *launched) {
  profile_launch *kept = next_launch(profile);
  profile->incomplete = profile->incomplete || !kept;
  if (!kept) return;
  *kept = (profile_launch){
      .stage = (moecl_stage)launched->label, .step = launched->step, .enqueued_ns = host_ns()};
  ocl_event_keep(&kept->event, launched->event);
  snprintf(kept->kernel, sizeof kept->kernel, "%s", launched->kernel);
  profile->num_launches++;
}

/* Where an event cannot be kept, the stage reads as NaN. */
static void record(ocl_observer *observer, const ocl_launched *launched) {
  moecl_profile *profile = (moecl_profile *)observer;
  const uint32_t stage = launched->label;
  cl_event event = launched->event;
  if (profile->keeps_kernels) keep_kernel(profile, launched);
  if (!profile->layer_only) {
    if (!profile->first[stage]) ocl_event_keep(&profile->first[stage], event);
    ocl_event_keep(&profile->last[stage], event);
  }
  if (!profile->first[MOECL_STAGE_LAYER]) ocl_event_keep(&profile->first[MOECL_STAGE_LAYER], event);
  ocl_event_keep(&profile->last[MOECL_STAGE_LAYER], event);
}

moecl_status moecl_profile_create(moecl_context *context, moecl_profile **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_profile *profile = calloc(1, sizeof *profile);
  if (!profile) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  profile->observer = (ocl_observer){wants, record};
  profile->context = ocl_context_retain(context);
  *out = profile;
  return MOECL_OK;
}

void plan_profile_reset(moecl_profile *profile) {
  profile->begun_ns = host_ns();
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    ocl_event_keep(&profile->first[stage], NULL);
    ocl_event_keep(&profile->last[stage], NULL);
  }
  for (size_t i = 0; i < profile->num_launches; i++)
    ocl_event_keep(&profile->launches[i].event, NULL);
  profile->num_launches = 0;
  profile->incomplete = false;
}

void moecl_profile_destroy(moecl_profile **handle) {
  if (!handle || !*handle) return;
  moecl_profile *profile = *handle;
  *handle = NULL;
  plan_profile_reset(profile);
  free(profile->launches);
  moecl_context_destroy(&profile->context);
  free(profile);
}

void moecl_profile_layer_only(moecl_profile *profile, bool layer_only) {
  if (profile) profile->layer_only = layer_only;
}

void moecl_profile_keep_kernels(moecl_profile *profile, bool keep) {
  if (profile) profile->keeps_kernels = keep;
}

/* From the start of one event to the end of another, within `most_ns`; NaN where
 * that is no time: none written, an end before a start, more than there was. */
static double between(moecl_profile *profile, cl_event first, cl_event last, uint64_t most_ns) {
  uint64_t start = 0, first_end = 0, last_start = 0, end = 0;
  if (ocl_event_times(first, &start, &first_end) && ocl_event_times(last, &last_start, &end) &&
      start <= end && end - start <= most_ns)
    return (double)(end - start) * 1e-6;
  log_write(
      &profile->context->log, MOECL_LOG_DEBUG,
      "event times are not credible: %llu to %llu ns, then %llu to %llu ns, in %llu ns of the "
      "host's at most",
      (unsigned long long)start, (unsigned long long)first_end, (unsigned long long)last_start,
      (unsigned long long)end, (unsigned long long)most_ns);
  return NAN;
}

/* No event of the forward lies further from another one. The clocks may differ a little. */
static uint64_t most_passed(const moecl_profile *profile) {
  const uint64_t passed = (uint64_t)(host_ns() - profile->begun_ns);
  return passed + passed / 8 + 1000000;
}

static void set_all(double *milliseconds, size_t count, double value) {
  for (size_t stage = 0; stage < count; stage++) milliseconds[stage] = value;
}

moecl_status moecl_profile_read_wait(moecl_profile *profile, double *milliseconds, size_t count) {
  if (!profile || (!milliseconds && count > 0)) return MOECL_ERROR_INVALID_ARGUMENT;
  set_all(milliseconds, count, NAN);
  cl_event end = profile->last[MOECL_STAGE_LAYER];
  if (!end) return MOECL_OK; /* nothing was enqueued: T = 0 */
  MOECL_TRY(ocl_event_await(profile->context, end));
  const uint64_t most_ns = most_passed(profile);
  bool credible = true;
  for (size_t stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    if (!profile->first[stage]) continue;
    const double time = between(profile, profile->first[stage], profile->last[stage], most_ns);
    /* Some drivers' event times are no times (Mesa's rusticl 22.3 says 1 ns):
     * no layer ends within a microsecond. A clock that is wrong once is no clock. */
    credible = credible && (stage == MOECL_STAGE_LAYER ? time >= 1e-3 : !isnan(time));
    if (stage < count) milliseconds[stage] = time;
  }
  if (!credible) set_all(milliseconds, count, NAN);
  return MOECL_OK;
}

/* ---- kernels ---- */

/* Times of launch i from `origin` on, by the device's clock; false: they are not credible. */
static bool read_kernel(moecl_profile *profile, size_t i, uint64_t origin, uint64_t most_ns,
                        moecl_kernel_times *times) {
  uint64_t start, end, queued;
  const profile_launch *launch = &profile->launches[i];
  if (!ocl_event_times(launch->event, &start, &end) || start < origin || end - origin > most_ns)
    return false;
  times->start_ms = (double)(start - origin) * 1e-6;
  times->end_ms = (double)(end - origin) * 1e-6;
  if (ocl_event_queued(launch->event, &queued) && queued <= start && start - queued <= most_ns)
    times->queued_ms = times->start_ms - (double)(start - queued) * 1e-6;
  return true;
}

/* Writes what the host knows. */
static void describe_kernels(const moecl_profile *profile, moecl_kernel_times *kernels,
                             size_t count) {
  for (size_t i = 0; i < count; i++) {
    const profile_launch *launch = &profile->launches[i];
    kernels[i] = (moecl_kernel_times){.kernel = launch->kernel,
                                      .step = launch->step,
                                      .stage = launch->stage,
                                      .enqueued_ms =
                                          (double)(launch->enqueued_ns - profile->begun_ns) * 1e-6,
                                      .queued_ms = NAN,
                                      .start_ms = NAN,
                                      .end_ms = NAN};
  }
}

/* All of them have times, or none. */
static void read_kernels(moecl_profile *profile, moecl_kernel_times *kernels, size_t count) {
  uint64_t origin = 0, end = 0;
  const uint64_t most_ns = most_passed(profile);
  bool credible = ocl_event_times(profile->launches[0].event, &origin, &end);
  for (size_t i = 0; i < profile->num_launches; i++) {
    moecl_kernel_times ignored;
    credible =
        credible && read_kernel(profile, i, origin, most_ns, i < count ? &kernels[i] : &ignored);
  }
  if (!credible) describe_kernels(profile, kernels, count);
}

moecl_status moecl_profile_kernels_wait(moecl_profile *profile, moecl_kernel_times *kernels,
                                        size_t capacity, size_t *count) {
  if (count) *count = 0;
  if (!profile || !count || (!kernels && capacity > 0)) return MOECL_ERROR_INVALID_ARGUMENT;
  if (profile->incomplete)
    return log_error(&profile->context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY,
                     "no host memory for the times of each kernel");
  const size_t all = profile->num_launches, written = all < capacity ? all : capacity;
  double layer_ms[MOECL_STAGE_LAYER + 1];
  if (all > 0) { /* its times are credible where the layer's are */
    MOECL_TRY(moecl_profile_read_wait(profile, layer_ms, MOECL_STAGE_LAYER + 1));
    describe_kernels(profile, kernels, written);
    if (!isnan(layer_ms[MOECL_STAGE_LAYER])) read_kernels(profile, kernels, written);
  }
  *count = all;
  return MOECL_OK;
}
