// SPDX-License-Identifier: MIT
/* Results made up without a device, for tests of the report and the pictures. */
#ifndef MOECL_TEST_MADE_UP_H
#define MOECL_TEST_MADE_UP_H

#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/files.h"
#include "report/gnuplot.h"
#include "report/grid.h"
#include "report/pictures.h"
#include "report/report.h"
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYER "layer: {hidden_size: 64, intermediate_size: 128, "

/* A results folder as results.c makes one, and its experiment. */
typedef struct made_up {
  experiment experiment;
  struct results results;
} made_up;

static inline void free_point(point_result *point) {
  free(point->error);
  free(point->rounds);
  free(point->parallel.members);
  for (int j = 0; j < NUM_OPERATIONS; j++) {
    free(point->variants[j]);
    free(point->variant_reasons[j]);
  }
  free(point->routing.tokens_per_expert);
  free(point->routing.tokens_per_expert_after_capacity);
}

/* Rounds of so much the point's times: the machine drifts, for all points alike. */
static inline void make_rounds(point_result *to, const double *factors, size_t count) {
  free(to->rounds);
  to->rounds = calloc(count, sizeof *to->rounds);
  assert_non_null(to->rounds);
  to->num_rounds = count;
  to->rounds_planned = (int64_t)count;
  for (size_t r = 0; r < count; r++) {
    to->rounds[r] =
        (point_round){.iterations = to->iterations / (int64_t)count, .load_average = 0.5};
    for (int stage = 0; stage < RESULTS_STAGES; stage++) {
      const sample_summary *all = &to->time_ms[stage];
      to->rounds[r].time_ms[stage] =
          (sample_summary){factors[r] * all->median, factors[r] * all->min, factors[r] * all->p90};
    }
  }
}

/* Each point takes 1 ms for 256 assignments; expert 0 is the busiest. */
static inline void make_point(made_up *fixture, size_t index) {
  const experiment_point *from = &fixture->experiment.points[index];
  point_result *to = &fixture->results.points[index];
  moecl_routing *routing = &to->routing;
  const int64_t experts = from->layer.num_experts, k = from->layer.top_k;
  *to = (point_result){.index = index, .status = POINT_OK, .iterations = 20};
  *routing = (moecl_routing){.num_tokens = from->num_tokens, .num_experts = experts, .top_k = k};
  const double ms = (double)(from->num_tokens * k) / 256;
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    to->time_ms[stage] = (sample_summary){ms / 6, ms / 7, ms / 5};
  for (int stage = MOECL_STAGE_LAYER + 1; from->what == WHAT_LAYER && stage < RESULTS_STAGES;
       stage++)
    to->time_ms[stage] = (sample_summary){NAN, NAN, NAN};
  to->time_ms[MOECL_STAGE_LAYER] = (sample_summary){ms, 0.96 * ms, 1.1 * ms};
  to->time_ms[MOECL_STAGE_GATE_UP] = (sample_summary){ms / 2, ms / 2, ms / 2};
  to->time_ms[MOECL_STAGE_COMBINE] = (sample_summary){NAN, NAN, NAN};
  if (from->layer.shared_intermediate_size == 0)
    to->time_ms[MOECL_STAGE_SHARED] = (sample_summary){NAN, NAN, NAN};
  static const double drift[] = {1, 0.9, 1.5};
  make_rounds(to, drift, 3);
  to->tokens_per_s = 1e3 * (double)from->num_tokens / ms;
  to->tflops = 0.1;
  to->gbytes_per_s = 10;
  to->memory_bytes = (3 + 2 * index) << 19; /* 1.5 MiB, 2.5 MiB, ... */
  to->verify = (verify_result){.ran = true,
                               .ok = true,
                               .error = 2e-7,
                               .tolerance = 1e-5,
                               .tokens_checked = 16,
                               .experts_checked = experts,
                               .capacity_ok = true};
  for (int i = 0; i < (from->what == WHAT_BLOCK ? NUM_OPERATIONS : NUM_LAYER_OPERATIONS); i++) {
    to->variants[i] = format_text("generic");
    to->variant_reasons[i] = format_text("serves | everywhere");
  }
  routing->tokens_per_expert = calloc((size_t)experts, sizeof(int64_t));
  routing->tokens_per_expert_after_capacity = calloc((size_t)experts, sizeof(int64_t));
  assert_true(routing->tokens_per_expert && routing->tokens_per_expert_after_capacity);
  routing->capacity = moecl_expert_capacity(&from->layer, from->num_tokens);
  int64_t total = from->num_tokens * k, kept = 0;
  for (int64_t e = 0; e < experts; e++) {
    const int64_t even = from->num_tokens * k / experts;
    const int64_t load =
        e + 1 == experts ? total : even + even * (experts - 1 - 2 * e) / (2 * experts);
    routing->tokens_per_expert[e] = load;
    routing->tokens_per_expert_after_capacity[e] =
        routing->capacity >= 0 && load > routing->capacity ? routing->capacity : load;
    kept += routing->tokens_per_expert_after_capacity[e];
    total -= load;
  }
  routing->statistics.dropped_fraction = 1 - (double)kept / (double)(from->num_tokens * k);
  routing->statistics.max_mean_imbalance =
      (double)routing->tokens_per_expert[0] / ((double)(from->num_tokens * k) / (double)experts);
  routing->statistics.load_balancing_loss = 1.125 * (double)k;
  routing->statistics.entropy = 1.5;
}

static inline void set_up(made_up *fixture, const char *yaml) {
  char *error = NULL;
  memset(fixture, 0, sizeof *fixture);
  if (!experiment_parse(yaml, strlen(yaml), "configs/made up.yaml", NULL, 0, &fixture->experiment,
                        &error))
    fail_msg("%s", error);
  struct results *all = &fixture->results;
  const char *where = getenv("MOECL_TEST_DIR");
  all->folder = format_text("%s/report-it's \"$(a)\" `b`-XXXXXX", where ? where : "/tmp");
  assert_non_null(all->folder);
  assert_non_null(mkdtemp(all->folder));
  all->experiment = &fixture->experiment;
  snprintf(all->device.name, sizeof all->device.name, "A device's name");
  all->device.global_memory_bytes = 16 << 20;
  all->kernels = (kernel_origin){NULL, "0123456789abcdef0123456789abcdef"};
  all->points = calloc(fixture->experiment.num_points, sizeof *all->points);
  all->have = calloc(fixture->experiment.num_points, sizeof *all->have);
  assert_true(all->points && all->have);
  for (size_t i = 0; i < fixture->experiment.num_points; i++) {
    make_point(fixture, i);
    all->have[i] = true;
  }
}

static inline void remove_folder(const char *folder) {
  if (getenv("MOECL_TEST_KEEP")) return; /* to look at the pictures */
  DIR *files = opendir(folder);
  for (const struct dirent *file; files && (file = readdir(files));) {
    char *path = format_text("%s/%s", folder, file->d_name);
    if (path && file->d_name[0] != '.') unlink(path);
    free(path);
  }
  if (files) closedir(files);
  rmdir(folder);
}

static inline void tear_down(made_up *fixture) {
  remove_folder(fixture->results.folder);
  for (size_t i = 0; i < fixture->experiment.num_points; i++)
    free_point(&fixture->results.points[i]);
  free(fixture->results.points);
  free(fixture->results.have);
  free(fixture->results.folder);
  experiment_destroy(&fixture->experiment);
}

static inline char *read_text(const made_up *fixture, const char *name) {
  size_t size = 0;
  char *path = format_text("%s/%s", fixture->results.folder, name);
  char *text = read_whole_file(path, &size);
  free(path);
  return text;
}

static inline char *report(const made_up *fixture) {
  char *error = NULL;
  if (!report_write(&fixture->results, &error)) fail_msg("%s", error);
  char *text = read_text(fixture, "report.md");
  assert_non_null(text);
  return text;
}

static inline void has(const char *text, const char *part) {
  assert_non_null(text);
  if (text && !strstr(text, part)) fail_msg("\"%s\" is not in:\n%s", part, text);
}
static inline void has_not(const char *text, const char *part) {
  assert_non_null(text);
  if (text && strstr(text, part)) fail_msg("\"%s\" is in:\n%s", part, text);
}

static inline bool exists(const made_up *fixture, const char *name) {
  char *path = format_text("%s/%s", fixture->results.folder, name);
  const bool found = access(path, R_OK) == 0;
  free(path);
  return found;
}
static inline void assert_file(const made_up *fixture, const char *name) {
  if (!exists(fixture, name)) fail_msg("there is no %s", name);
}

/* Runs plots_write with another PATH; returns its note. */
static inline char *plots_with_path(const made_up *fixture, const char *path) {
  const char *was = getenv("PATH");
  char *old = format_text("%s", was ? was : ""), *note = NULL, *error = NULL;
  assert_non_null(old);
  setenv("PATH", path, 1);
  const bool ok = plots_write(&fixture->results, &note, &error);
  setenv("PATH", old, 1);
  free(old);
  if (!ok) fail_msg("%s", error);
  return note;
}

static inline void set_times(made_up *fixture, size_t index, double median, double min,
                             double p90) {
  fixture->results.points[index].time_ms[MOECL_STAGE_LAYER] = (sample_summary){median, min, p90};
}

static const char sweep[] =
    LAYER "num_experts: 8, top_k: [1, 4], capacity: {capacity_factor: [1.0, null]}}\n"
          "workload: {num_tokens: 256}\nname: made-up\n";

#endif
