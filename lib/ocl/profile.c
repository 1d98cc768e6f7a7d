/* Stage times from profiling events. */
#include "base/base.h"
#include "ocl/ocl.h"
#include <math.h>
#include <stdlib.h>

moecl_status moecl_profile_create(moecl_context *context, moecl_profile **out) {
  if (!out) return MOECL_ERROR_INVALID_ARGUMENT;
  *out = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_profile *profile = calloc(1, sizeof *profile);
  if (!profile) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  profile->context = ocl_context_retain(context);
  *out = profile;
  return MOECL_OK;
}

void ocl_profile_reset(moecl_profile *profile) {
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    if (profile->first[stage]) clReleaseEvent(profile->first[stage]);
    if (profile->last[stage]) clReleaseEvent(profile->last[stage]);
    profile->first[stage] = profile->last[stage] = NULL;
  }
}

void moecl_profile_destroy(moecl_profile **handle) {
  if (!handle || !*handle) return;
  moecl_profile *profile = *handle;
  *handle = NULL;
  ocl_profile_reset(profile);
  moecl_context_destroy(&profile->context);
  free(profile);
}

static void remember(cl_event *slot, cl_event event) {
  if (clRetainEvent(event) != CL_SUCCESS) return; /* the stage then reads as NaN */
  if (*slot) clReleaseEvent(*slot);
  *slot = event;
}

void moecl_profile_layer_only(moecl_profile *profile, bool layer_only) {
  if (profile) profile->layer_only = layer_only;
}

bool ocl_profile_wants(const ocl_chain *chain) {
  const moecl_profile *profile = chain->profile;
  return profile && (!profile->layer_only || !profile->first[MOECL_STAGE_LAYER] || chain->last);
}

void ocl_profile_record(moecl_profile *profile, moecl_stage stage, cl_event event) {
  if (!profile || !event) return;
  if (!profile->layer_only) {
    if (!profile->first[stage]) remember(&profile->first[stage], event);
    remember(&profile->last[stage], event);
  }
  if (!profile->first[MOECL_STAGE_LAYER]) remember(&profile->first[MOECL_STAGE_LAYER], event);
  remember(&profile->last[MOECL_STAGE_LAYER], event);
}

moecl_status moecl_profile_read_wait(moecl_profile *profile,
                                     double milliseconds[MOECL_STAGE_COUNT]) {
  if (!profile || !milliseconds) return MOECL_ERROR_INVALID_ARGUMENT;
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) milliseconds[stage] = NAN;
  cl_event end = profile->last[MOECL_STAGE_LAYER];
  if (!end) return MOECL_OK; /* nothing was enqueued: T = 0 */
  MOECL_TRY(ocl_check(profile->context, clWaitForEvents(1, &end), "clWaitForEvents"));
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    uint64_t start_ns, end_ns, unused;
    if (!profile->first[stage]) continue;
    if (ocl_event_times(profile->first[stage], &start_ns, &unused) &&
        ocl_event_times(profile->last[stage], &unused, &end_ns))
      milliseconds[stage] = (double)(end_ns - start_ns) * 1e-6;
  }
  /* Some drivers' event times are no times (Mesa's rusticl 22.3 says 1 ns):
   * no layer ends within a microsecond. Better none than those. */
  if (!(milliseconds[MOECL_STAGE_LAYER] >= 1e-3))
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) milliseconds[stage] = NAN;
  return MOECL_OK;
}
