// SPDX-License-Identifier: MIT
/* Events of the kernels and the copies of one measured forward, and how much of the one was under
 * way during the other. All zeros is empty. */
#ifndef MOECL_LIB_PLAN_WATCH_H
#define MOECL_LIB_PLAN_WATCH_H

#include "moecl/layer.h"
#include "ocl/ocl.h"

typedef struct plan_watch {
  ocl_observer observer;  /* first: a pointer to one is a pointer to the other */
  moecl_profile *profile; /* is told as well; NULL: there is none */
  bool keeps, tells;      /* events; the profile, of the launch to come */
  bool untimed;           /* there was a copy that has no event */
  bool copying;           /* launches are copies, not kernels; the profile is told all the same */
  cl_event *kernels, *copies;
  size_t num_kernels, num_copies, kernels_room, copies_room;
} plan_watch;

/* A forward begins; what its kernels and copies are told to. */
void plan_watch_begin(plan_watch *watch, moecl_profile *profile, bool keeps);
/* NULL: it has none. One at a time, but beside launches. */
void plan_watch_copy(plan_watch *watch, cl_event event);
void plan_watch_release(plan_watch *watch);

/* By the device's clock, in milliseconds: NaN where no events were kept, or the driver gives no
 * times; of copies, where one has no event. */
typedef struct plan_watched {
  double all_ms;      /* from the first kernel's start to the last one's end */
  double kernels_ms;  /* in which a kernel ran */
  double transfer_ms; /* in which something was copied */
  double hidden_ms;   /* of those: in which a kernel ran as well */
} plan_watched;
/* Waits. */
moecl_status plan_watch_read(const plan_watch *watch, plan_watched *times);

#endif
