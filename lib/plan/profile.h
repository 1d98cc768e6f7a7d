// SPDX-License-Identifier: MIT
/* Stage and kernel times of one forward, from its launches' events. */
#ifndef MOECL_LIB_PLAN_PROFILE_H
#define MOECL_LIB_PLAN_PROFILE_H

#include "moecl/layer.h"
#include "ocl/ocl.h"

/* A kernel that was enqueued; `step` is static. */
typedef struct profile_launch {
  cl_event event;
  moecl_stage stage;
  const char *step;
  char kernel[64];
  int64_t enqueued_ns; /* the host's clock when the call was back */
} profile_launch;

/* Keeps each stage's first and last event, and where that is asked for each kernel's; labels of
 * the chain are stages. */
struct moecl_profile {
  ocl_observer observer; /* first: a pointer to one is a pointer to the other */
  moecl_context *context;
  bool layer_only, keeps_kernels;
  bool incomplete; /* a kernel could not be kept */
  profile_launch *launches;
  size_t num_launches, room;
  int64_t begun_ns; /* the host's clock before the forward was enqueued */
  cl_event first[MOECL_STAGE_COUNT], last[MOECL_STAGE_COUNT];
};

/* Forgets what was recorded: a forward begins. */
void plan_profile_reset(moecl_profile *profile);

#endif
