// SPDX-License-Identifier: MIT
/* Stage times of one forward, from its launches' events. */
#ifndef MOECL_LIB_PLAN_PROFILE_H
#define MOECL_LIB_PLAN_PROFILE_H

#include "moecl/layer.h"
#include "ocl/ocl.h"

/* Keeps each stage's first and last event; labels of the chain are stages. */
struct moecl_profile {
  ocl_observer observer; /* first: a pointer to one is a pointer to the other */
  moecl_context *context;
  bool layer_only;
  int64_t begun_ns; /* the host's clock before the forward was enqueued */
  cl_event first[MOECL_STAGE_COUNT], last[MOECL_STAGE_COUNT];
};

/* Forgets what was recorded: a forward begins. */
void plan_profile_reset(moecl_profile *profile);

#endif
