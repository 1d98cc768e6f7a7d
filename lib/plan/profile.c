// SPDX-License-Identifier: MIT
/* Stage times from profiling events. */
#include "base/base.h"
#include "plan/profile.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

static bool wants(ocl_observer *observer, bool last) {
  const moecl_profile *profile = (moecl_profile *)observer;
  return !profile->layer_only || !profile->first[MOECL_STAGE_LAYER] || last;
}

/* Where an event cannot be kept, the stage reads as NaN. */
static void record(ocl_observer *observer, uint32_t stage, cl_event event) {
  moecl_profile *profile = (moecl_profile *)observer;
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

static int64_t host_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void plan_profile_reset(moecl_profile *profile) {
  profile->begun_ns = host_ns();
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    ocl_event_keep(&profile->first[stage], NULL);
    ocl_event_keep(&profile->last[stage], NULL);
  }
}

void moecl_profile_destroy(moecl_profile **handle) {
  if (!handle || !*handle) return;
  moecl_profile *profile = *handle;
  *handle = NULL;
  plan_profile_reset(profile);
  moecl_context_destroy(&profile->context);
  free(profile);
}

void moecl_profile_layer_only(moecl_profile *profile, bool layer_only) {
  if (profile) profile->layer_only = layer_only;
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

static void set_all(double *milliseconds, size_t count, double value) {
  for (size_t stage = 0; stage < count; stage++) milliseconds[stage] = value;
}

moecl_status moecl_profile_read_wait(moecl_profile *profile, double *milliseconds, size_t count) {
  if (!profile || (!milliseconds && count > 0)) return MOECL_ERROR_INVALID_ARGUMENT;
  set_all(milliseconds, count, NAN);
  cl_event end = profile->last[MOECL_STAGE_LAYER];
  if (!end) return MOECL_OK; /* nothing was enqueued: T = 0 */
  MOECL_TRY(ocl_event_await(profile->context, end));
  /* The clocks may differ a little. */
  const uint64_t passed = (uint64_t)(host_ns() - profile->begun_ns);
  const uint64_t most_ns = passed + passed / 8 + 1000000;
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
