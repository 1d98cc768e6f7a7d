// SPDX-License-Identifier: MIT
#include "results/profile.h"
#include "base/clock.h"
#include "experiment/schema.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const profile_part_names[PROFILE_PARTS] = {"router", "layer", "block"};

bool profile_open(const experiment *experiment, const moecl_device_info *device,
                  const device_peaks *peaks, profile *all) {
  *all = (profile){.experiment = experiment,
                   .device = *device,
                   .peaks = *peaks,
                   .least_load = NAN,
                   .most_load = NAN};
  time_stamp(all->measured);
  all->points = calloc(experiment->num_points, sizeof *all->points);
  all->num_points = all->points ? experiment->num_points : 0;
  for (size_t i = 0; i < all->num_points; i++) all->points[i].index = i;
  return all->points != NULL;
}

static void release_point(profile_point *point) {
  for (int part = 0; part < PROFILE_PARTS; part++) {
    free(point->parts[part].why);
    free(point->parts[part].note);
    moecl_routing_destroy(&point->parts[part].routing);
    free(point->parts[part].kernels);
  }
  for (int i = 0; i < NUM_LAYER_OPERATIONS; i++) {
    free(point->operations[i].name);
    free(point->operations[i].reason);
  }
  for (size_t i = 0; i < point->num_variants; i++) free(point->variants[i].why);
  free(point->variants);
  free(point->warnings);
}

void profile_release(profile *all) {
  for (size_t i = 0; i < all->num_points; i++) release_point(&all->points[i]);
  free(all->points);
  free(all->spans);
  *all = (profile){0};
}

char *profile_work(const experiment_point *point) {
  char *text = NULL, value[96];
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (!file) return NULL;
  const char *comma = "";
  for (int i = 0; i < KEY_COUNT; i++) {
    const schema_key *key = schema_get((schema_id)i);
    if (!schema_param(key) || (key->flags & NOT_WORK) || !schema_applies(key, point)) continue;
    fprintf(file, "%s%s=%s", comma, schema_param(key),
            schema_point_text(key, point, value, sizeof value));
    comma = ", ";
  }
  if (fclose(file) == 0) return text;
  free(text);
  return NULL;
}

void profile_add_span(profile *all, const char *name, double begin_us, double end_us) {
  profile_span *grown = realloc(all->spans, (all->num_spans + 1) * sizeof *grown);
  if (!grown) return;
  all->spans = grown;
  profile_span *span = &grown[all->num_spans++];
  *span = (profile_span){.begin_us = begin_us, .end_us = end_us};
  snprintf(span->name, sizeof span->name, "%s", name);
}

const sample_summary *profile_whole(const profile_part *part) {
  return isfinite(part->alone_us.median) ? &part->alone_us : &part->span_us;
}

void profile_sum(profile_part *part) {
  part->total_us = part->gaps_us = 0;
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
    part->stages[stage].kernels = 0;
    part->stages[stage].us = 0;
  }
  for (size_t i = 0; i < part->num_kernels; i++) {
    const profile_kernel *kernel = &part->kernels[i];
    profile_stage *stage = &part->stages[kernel->stage];
    stage->kernels++;
    stage->us += kernel->us;
    part->gaps_us += kernel->gap_us;
    part->total_us += kernel->us + kernel->gap_us;
  }
}
