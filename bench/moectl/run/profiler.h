// SPDX-License-Identifier: MIT
/* Runs a point for moectl profile: router, layer and block by stage and by kernel. */
#ifndef MOECTL_PROFILER_H
#define MOECTL_PROFILER_H

#include "results/profile.h"
#include "run/forwards.h"

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

/* profile_rounds.c: times the parts of the points that ran in further rounds, each after all
 * others. */
void profiler_run_rounds(profiler *profiler);

/* ---- the parts, for one another ---- */

/* profile_rounds.c: keeps how busy the machine is. */
void profiler_see_load(profiler *profiler);

/* Microseconds since the profile began. */
double profiler_now(const profiler *profiler);

/* The part has failed: what, and what the library said of it. */
void profiler_fail(profiler *profiler, profile_part *part, const char *what, moecl_status status);

/* A point whose forwards are ready to run. */
typedef struct profile_forwards {
  runner runner;
  point_buffers buffers;
  const experiment_point *point;
  bool router_alone; /* the router's and the permutation's kernels alone are looked at */
} profile_forwards;

/* Builds and checks the kernels first, so that what the context's buffers take at most from then
 * on is what the point takes. */
moecl_status profile_forwards_make(profiler *profiler, const experiment_point *point,
                                   profile_forwards *made);
void profile_forwards_release(profile_forwards *made);
/* Enqueues one with this input; `profile` may be NULL. */
moecl_status profile_forward(profile_forwards *made, int input, moecl_profile *profile);
/* Warms up and times: fills the part's times, kernels and stages' times. `subject` names it in the
 * timeline. */
moecl_status profiler_measure(profiler *profiler, profile_forwards *made, const char *subject,
                              profile_part *part);
/* Warms up and times so many: the median of a whole forward, as profile_whole has it; NaN where it
 * was interrupted. */
moecl_status profiler_time_round(profiler *profiler, profile_forwards *made, size_t forwards,
                                 double *median_us);
/* What the buffers took; `before` is what others took. */
void profile_see_memory(profiler *profiler, const profile_forwards *made, uint64_t before,
                        profile_memory *memory);

/* profile_block.c: the point as one of a block: its own, or, where it measures a layer, a usual one
 * around that. */
experiment_point profile_block_point(const experiment_point *point);
/* A sentence of it for people, malloc'ed; NULL without memory. */
char *profile_block_note(const experiment_point *point, const experiment_point *asked,
                         const moecl_block *block);
/* profile_router.c: the point's router alone, and it and each of its variants profiled. */
experiment_point profile_router_point(const experiment_point *point);
void profile_run_router(profiler *profiler, const experiment_point *point, profile_point *result);

#endif
