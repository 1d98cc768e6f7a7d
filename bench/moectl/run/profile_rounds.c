// SPDX-License-Identifier: MIT
/* Rounds of a profile: all parts of all points in turn, timed once more, so that a later profile
 * can tell a difference from what the machine does meanwhile. */
#define _DEFAULT_SOURCE /* getloadavg */
#include "results/rounds.h"
#include "run/profiler.h"
#include <math.h>
#include <stdlib.h>

void profiler_see_load(profiler *profiler) {
  profile *all = profiler->profile;
  double load;
  if (getloadavg(&load, 1) != 1) return;
  all->least_load = fmin(all->least_load, load);
  all->most_load = fmax(all->most_load, load);
}

static experiment_point part_point(const experiment_point *point, profile_part_kind kind) {
  experiment_point layer = *point;
  if (kind == PROFILE_BLOCK) return profile_block_point(point);
  layer.what = WHAT_LAYER;
  return kind == PROFILE_ROUTER ? profile_router_point(&layer) : layer;
}

/* As many as are asked for; else three of what is soon made again. */
static int64_t rounds_of(const experiment *experiment, const profile_part *part) {
  const int64_t wanted = experiment->rounds > 0                 ? experiment->rounds
                         : part->again_seconds <= ROUND_SECONDS ? DEFAULT_ROUNDS
                                                                : 1;
  return wanted < PROFILE_ROUNDS ? wanted : PROFILE_ROUNDS;
}

/* A round that fails is one less: the part ran before. */
static void time_part(profiler *profiler, size_t index, profile_part_kind kind, int64_t round) {
  profile_part *part = &profiler->profile->points[index].parts[kind];
  const int64_t rounds = rounds_of(profiler->experiment, part);
  const int64_t forwards = rounds_share(part->forwards, rounds, round);
  const experiment_point point = part_point(&profiler->experiment->points[index], kind);
  profile_forwards made = {0};
  double us = NAN;
  if (!part->ran || round >= rounds || forwards == 0) return;
  moecl_status status = profile_forwards_make(profiler, &point, &made);
  made.router_alone = kind == PROFILE_ROUTER;
  if (status == MOECL_OK) status = profiler_time_round(profiler, &made, (size_t)forwards, &us);
  if (status == MOECL_OK && isfinite(us)) part->round_us[part->num_rounds++] = us;
  profile_forwards_release(&made);
}

void profiler_run_rounds(profiler *profiler) {
  for (int64_t round = 1; round < PROFILE_ROUNDS; round++)
    for (size_t i = 0; i < profiler->profile->num_points; i++)
      for (int kind = 0; kind < PROFILE_PARTS && !*profiler->interrupted; kind++) {
        if (!profiler->profile->points[i].ran) continue;
        profiler_see_load(profiler);
        time_part(profiler, i, (profile_part_kind)kind, round);
      }
}
