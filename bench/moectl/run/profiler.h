// SPDX-License-Identifier: MIT
/* Runs a point for moectl profile: router, layer and block by stage and by kernel. */
#ifndef MOECTL_PROFILER_H
#define MOECTL_PROFILER_H

#include "results/profile.h"
#include "run/workload.h"
#include <signal.h>

typedef struct profiler {
  moecl_context *context;
  const experiment *experiment;
  const recording *recording;
  volatile sig_atomic_t *interrupted;
  profile *profile;
  double began; /* seconds_now() */
} profiler;

/* Profiles point `index` into its place of the profile. What could not run says why in its part.
 * False where it was interrupted: the point is then not to be kept. */
bool profiler_run_point(profiler *profiler, size_t index);

/* ---- the parts, for one another ---- */

enum { PROFILE_INPUTS = 3 };

/* What is profiled: forwards of one kind, over so many inputs in turn. */
typedef struct profile_subject {
  moecl_status (*forward)(void *user, int input, moecl_profile *profile);
  void *user;
  int inputs;
  const char *name; /* for the timeline */
} profile_subject;

/* Microseconds since the profile began. */
double profiler_now(const profiler *profiler);

/* Warms up and times: fills the part's times, kernels and stages' times. */
moecl_status profiler_measure(profiler *profiler, const profile_subject *subject,
                              profile_part *part);
/* The part has failed: what, and what the library said of it. */
void profiler_fail(profiler *profiler, profile_part *part, const char *what, moecl_status status);

/* A layer that is ready to run, with inputs and an output. */
typedef struct profile_layer {
  moecl_layer *layer;
  moecl_buffer *hidden[PROFILE_INPUTS], *output;
  const experiment_point *point;
} profile_layer;

moecl_status profile_layer_make(profiler *profiler, const experiment_point *point,
                                profile_layer *made);
void profile_layer_release(profile_layer *made);
moecl_status profile_layer_forward(void *made, int input, moecl_profile *profile);

/* Reads the routing of the layer's latest forward into the part, and counts what its stages had to
 * do. `block`: without heads it is a layer alone. Waits. */
moecl_status profiler_count(const moecl_block_params *block, int64_t context, int64_t tile_rows,
                            moecl_layer *layer, profile_part *part);

/* profile_block.c: a block around the point's layer. */
void profile_run_block(profiler *profiler, const experiment_point *point, profile_point *result);
/* profile_router.c: the router alone, and each of its variants. */
void profile_run_router(profiler *profiler, const experiment_point *point, profile_point *result);

#endif
