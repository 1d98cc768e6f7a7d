// SPDX-License-Identifier: MIT
/* What members did in the latest forward: times of kernels and copies, by each device's clock. */
#include "base/base.h"
#include "group/group.h"
#include "plan/profile.h"
#include <math.h>
#include <stdlib.h>

/* ---- while it runs ---- */

static bool profile_wants(const group_watch *watch, bool last) {
  return watch->profile && watch->profile->observer.wants(&watch->profile->observer, last);
}

static bool wants(ocl_observer *observer, bool last) {
  group_watch *watch = (group_watch *)observer;
  watch->tells = profile_wants(watch, last);
  return watch->tells || watch->keeps;
}

/* An event that cannot be kept is missing in the sums: the forward goes on. */
static void keep(cl_event **events, size_t *count, size_t *room, cl_event event) {
  if (*count == *room) {
    const size_t more = *room ? 2 * *room : 64;
    cl_event *grown = realloc(*events, more * sizeof *grown);
    if (!grown) return;
    *events = grown;
    *room = more;
  }
  (*events)[*count] = NULL;
  if (ocl_event_keep(&(*events)[*count], event)) ++*count;
}

static void record(ocl_observer *observer, const ocl_launched *launched) {
  group_watch *watch = (group_watch *)observer;
  if (watch->tells) watch->profile->observer.record(&watch->profile->observer, launched);
  if (watch->keeps)
    keep(&watch->kernels, &watch->num_kernels, &watch->kernels_room, launched->event);
}

void group_watch_copy(group_watch *watch, cl_event event) {
  if (watch->keeps) keep(&watch->copies, &watch->num_copies, &watch->copies_room, event);
}

static void forget(group_watch *watch) {
  for (size_t i = 0; i < watch->num_kernels; i++) ocl_event_let_go(&watch->kernels[i]);
  for (size_t i = 0; i < watch->num_copies; i++) ocl_event_let_go(&watch->copies[i]);
  watch->num_kernels = watch->num_copies = 0;
}

void group_watch_begin(group_watch *watch, moecl_profile *profile, bool keeps) {
  forget(watch);
  watch->observer = (ocl_observer){wants, record};
  watch->profile = profile;
  watch->keeps = keeps;
  if (profile) plan_profile_reset(profile);
}

void group_watch_release(group_watch *watch) {
  forget(watch);
  free(watch->kernels);
  free(watch->copies);
}

/* ---- afterwards ---- */

typedef struct span {
  double begin, end; /* nanoseconds */
} span;

static int by_begin(const void *a, const void *b) {
  const span *x = a, *y = b;
  return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Sorted, and joined where they overlap; returns how many are left. `missing` where a driver gives
 * no times. Waits. */
static size_t read_spans(const cl_event *events, size_t count, span *spans, bool *missing) {
  size_t read = 0, joined = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t start, end;
    if (!ocl_event_times(events[i], &start, &end)) *missing = true;
    else spans[read++] = (span){(double)start, (double)end};
  }
  qsort(spans, read, sizeof *spans, by_begin);
  for (size_t i = 0; i < read; i++) {
    if (joined > 0 && spans[i].begin <= spans[joined - 1].end)
      spans[joined - 1].end = fmax(spans[joined - 1].end, spans[i].end);
    else spans[joined++] = spans[i];
  }
  return joined;
}

static double length_of(const span *spans, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += spans[i].end - spans[i].begin;
  return sum * 1e-6;
}

static double overlap_of(const span *a, size_t count_a, const span *b, size_t count_b) {
  double sum = 0;
  for (size_t i = 0, j = 0; i < count_a && j < count_b;) {
    sum += fmax(0, fmin(a[i].end, b[j].end) - fmax(a[i].begin, b[j].begin));
    if (a[i].end < b[j].end) i++;
    else j++;
  }
  return sum * 1e-6;
}

static moecl_status read_times(const group_watch *watch, moecl_group_statistics *statistics) {
  bool missing = false;
  span *kernels = calloc(watch->num_kernels + watch->num_copies + 1, sizeof *kernels);
  span *copies = kernels + watch->num_kernels;
  if (!kernels) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  const size_t ran = read_spans(watch->kernels, watch->num_kernels, kernels, &missing);
  const size_t copied = read_spans(watch->copies, watch->num_copies, copies, &missing);
  if (!missing) {
    statistics->layer_ms = ran ? (kernels[ran - 1].end - kernels[0].begin) * 1e-6 : 0;
    statistics->kernels_ms = length_of(kernels, ran);
    statistics->transfer_ms = length_of(copies, copied);
    statistics->hidden_ms = overlap_of(kernels, ran, copies, copied);
  }
  free(kernels);
  return MOECL_OK;
}

static moecl_status read_member(const moecl_group_layer *layer, size_t m,
                                moecl_group_statistics *read) {
  const group_watch *watch = &layer->member[m].watch;
  *read = layer->member[m].statistics;
  read->layer_ms = read->kernels_ms = read->transfer_ms = read->hidden_ms = NAN;
  MOECL_TRY(moecl_context_finish_wait(layer->group->device[m].context));
  return watch->keeps ? read_times(watch, read) : MOECL_OK;
}

moecl_status moecl_group_layer_statistics_wait(moecl_group_layer *layer, size_t member,
                                               moecl_group_statistics *statistics) {
  if (!statistics) return MOECL_ERROR_INVALID_ARGUMENT;
  *statistics = (moecl_group_statistics){0};
  if (!layer) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_group *group = layer->group;
  if (member >= (size_t)group->count)
    return log_error(group_log(group), MOECL_ERROR_INVALID_ARGUMENT,
                     "group_layer: there is no member %llu", (unsigned long long)member);
  if (!layer->ran)
    return log_error(group_log(group), MOECL_ERROR_NOT_READY, "group_layer: there was no forward");
  moecl_group_statistics read = {0};
  const bool own = group_has(group, (int)member);
  MOECL_TRY(ranks_agree(group->ranks, own ? read_member(layer, member, &read) : MOECL_OK,
                        "group_statistics"));
  MOECL_TRY(ranks_broadcast(group->ranks, group->device[member].rank, &read, sizeof read));
  *statistics = read;
  return MOECL_OK;
}
