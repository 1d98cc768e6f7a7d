// SPDX-License-Identifier: MIT
#include "plan/watch.h"
#include "base/grow.h"
#include "plan/profile.h"
#include <math.h>
#include <stdlib.h>

/* ---- while it runs ---- */

static bool profile_wants(const plan_watch *watch, bool last) {
  return watch->profile && watch->profile->observer.wants(&watch->profile->observer, last);
}

static bool wants(ocl_observer *observer, bool last) {
  plan_watch *watch = (plan_watch *)observer;
  watch->tells = profile_wants(watch, last);
  return watch->tells || watch->keeps;
}

/* An event that cannot be kept is missing in the sums: the forward goes on. */
static void keep(cl_event **events, size_t *count, size_t *room, cl_event event) {
  cl_event *grown = base_grow(*events, *count + 1, room, sizeof *grown);
  if (!grown) return;
  *events = grown;
  grown[*count] = NULL;
  if (ocl_event_keep(&(*events)[*count], event)) ++*count;
}

void plan_watch_copy(plan_watch *watch, cl_event event) {
  watch->untimed |= !event;
  if (watch->keeps && event) keep(&watch->copies, &watch->num_copies, &watch->copies_room, event);
}

static void record(ocl_observer *observer, const ocl_launched *launched) {
  plan_watch *watch = (plan_watch *)observer;
  if (watch->tells) watch->profile->observer.record(&watch->profile->observer, launched);
  if (watch->copying) plan_watch_copy(watch, launched->event);
  else if (watch->keeps)
    keep(&watch->kernels, &watch->num_kernels, &watch->kernels_room, launched->event);
}

static void forget(plan_watch *watch) {
  for (size_t i = 0; i < watch->num_kernels; i++) ocl_event_let_go(&watch->kernels[i]);
  for (size_t i = 0; i < watch->num_copies; i++) ocl_event_let_go(&watch->copies[i]);
  watch->num_kernels = watch->num_copies = 0;
}

void plan_watch_begin(plan_watch *watch, moecl_profile *profile, bool keeps) {
  forget(watch);
  watch->observer = (ocl_observer){wants, record};
  watch->profile = profile;
  watch->keeps = keeps;
  watch->untimed = false;
  watch->copying = false;
  if (profile) plan_profile_reset(profile);
}

void plan_watch_release(plan_watch *watch) {
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

moecl_status plan_watch_read(const plan_watch *watch, plan_watched *times) {
  bool missing = !watch->keeps;
  *times = (plan_watched){NAN, NAN, NAN, NAN};
  span *kernels = calloc(watch->num_kernels + watch->num_copies + 1, sizeof *kernels);
  if (!kernels) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  span *copies = kernels + watch->num_kernels;
  const size_t ran = read_spans(watch->kernels, watch->num_kernels, kernels, &missing);
  const size_t copied = read_spans(watch->copies, watch->num_copies, copies, &missing);
  if (!missing)
    *times = (plan_watched){.all_ms = ran ? (kernels[ran - 1].end - kernels[0].begin) * 1e-6 : 0,
                            .kernels_ms = length_of(kernels, ran),
                            .transfer_ms = length_of(copies, copied),
                            .hidden_ms = overlap_of(kernels, ran, copies, copied)};
  if (watch->untimed) times->transfer_ms = times->hidden_ms = NAN;
  free(kernels);
  return MOECL_OK;
}
