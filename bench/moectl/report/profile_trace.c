// SPDX-License-Identifier: MIT
/* The timeline of a profile in the trace-event format ("Trace Event Format", the Chromium
 * project): what the host did, the queue's kernels, a track for each stage, and the experts' loads
 * as counters. Events of a track are in order, each begin followed by its end. */
#include "base/files.h"
#include "base/json_text.h"
#include "report/profile_reports.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Processes and threads of the timeline; a stage's track is FIRST_STAGE and its number. */
enum { HOST = 1, DEVICE = 2 };
enum { HOST_WORK = 1, HOST_ENQUEUES = 2, QUEUE = 1, FIRST_STAGE = 10 };
/* Of more experts there is a summary alone: each is a track of its own in the viewers. */
enum { MOST_EXPERTS = 64 };

typedef struct trace {
  json_t *events;
} trace;

/* A track, and where its latest event ended: none begins before. */
typedef struct track {
  trace *trace;
  int process, thread;
  double end_us;
} track;

static json_t *time_json(double us) { return json_real(round(us * 1000) / 1000); }

static void name_it(trace *trace, const char *what, int process, int thread, const char *name) {
  json_array_append_new(trace->events,
                        json_pack("{s:s, s:s, s:i, s:i, s:{s:o}}", "ph", "M", "name", what, "pid",
                                  process, "tid", thread, "args", "name", json_words(name)));
}

static void put_edge(const track *track, const char *phase, const char *name, const char *category,
                     double us, json_t *arguments) {
  json_t *event =
      json_pack("{s:s, s:o, s:s, s:i, s:i, s:o}", "ph", phase, "name", json_words(name), "cat",
                category, "pid", track->process, "tid", track->thread, "ts", time_json(us));
  if (arguments) json_object_set_new(event, "args", arguments);
  json_array_append_new(track->trace->events, event);
}

/* `arguments` may be NULL; taken over. */
static void put_span(track *track, const char *name, const char *category, double begin_us,
                     double end_us, json_t *arguments) {
  const double begin = fmax(begin_us, track->end_us), end = fmax(end_us, begin);
  put_edge(track, "B", name, category, begin, arguments);
  put_edge(track, "E", name, category, end, NULL);
  track->end_us = end;
}

static void put_host(trace *trace, const profile *all) {
  track work = {trace, HOST, HOST_WORK, 0};
  for (size_t i = 0; i < all->num_spans; i++)
    put_span(&work, all->spans[i].name, "host", all->spans[i].begin_us, all->spans[i].end_us, NULL);
}

/* The moment of the device's zero, the first kernel's start, by the host's clock. */
static double origin_of(const profile_part *part) {
  const profile_kernel *first = &part->kernels[0];
  const double waited = isfinite(first->queued_us) ? fmax(-first->queued_us, 0) : 0;
  return part->host_began_us + first->enqueued_us + waited;
}

static json_t *describe(const profile_kernel *kernel) {
  return json_pack("{s:s, s:s, s:o}", "step", kernel->step, "stage",
                   moecl_stage_name(kernel->stage), "median_us", time_json(kernel->us));
}

static void put_kernels(track *enqueues, track *queue, const profile_part *part) {
  const double origin = origin_of(part);
  double before = part->host_began_us;
  for (size_t i = 0; i < part->num_kernels; i++) {
    const profile_kernel *kernel = &part->kernels[i];
    const double enqueued = part->host_began_us + kernel->enqueued_us;
    put_span(enqueues, kernel->name, "enqueue", before, enqueued, NULL);
    put_span(queue, kernel->name, "kernel", origin + kernel->start_us, origin + kernel->end_us,
             describe(kernel));
    before = enqueued;
  }
}

/* From the first start of the stage's kernels to their last end. */
static void put_stage(track *track, const profile_part *part, moecl_stage stage) {
  double begin = NAN, end = NAN;
  for (size_t i = 0; i < part->num_kernels; i++) {
    if (part->kernels[i].stage != stage) continue;
    if (isnan(begin)) begin = part->kernels[i].start_us;
    end = fmax(part->kernels[i].end_us, end);
  }
  if (isnan(begin)) return;
  const profile_stage *of = &part->stages[stage];
  put_span(track, moecl_stage_name(stage), "stage", origin_of(part) + begin, origin_of(part) + end,
           json_pack("{s:o, s:o, s:o}", "kernels_us", time_json(of->us), "flops",
                     json_real(of->flops), "bytes", json_real(of->bytes)));
}

/* ---- loads ---- */

static json_t *loads_json(const int64_t *rows, int64_t count, bool zero) {
  json_t *loads = json_object();
  char name[32];
  for (int64_t e = 0; e < count; e++) {
    snprintf(name, sizeof name, "expert %lld", (long long)e);
    json_object_set_new(loads, name, json_integer(zero ? 0 : rows[e]));
  }
  return loads;
}

static json_t *summary_json(const int64_t *rows, int64_t count, bool zero) {
  int64_t least = rows[0], most = rows[0];
  double sum = 0;
  for (int64_t e = 0; e < count; e++) {
    least = rows[e] < least ? rows[e] : least;
    most = rows[e] > most ? rows[e] : most;
    sum += (double)rows[e];
  }
  return json_pack("{s:o, s:o, s:o}", "least", json_integer(zero ? 0 : least), "mean",
                   json_real(zero ? 0 : sum / (double)count), "most",
                   json_integer(zero ? 0 : most));
}

static void put_counter(trace *trace, const char *name, double us, json_t *values) {
  json_array_append_new(trace->events,
                        json_pack("{s:s, s:s, s:i, s:i, s:o, s:o}", "ph", "C", "name", name, "pid",
                                  DEVICE, "tid", QUEUE, "ts", time_json(us), "args", values));
}

/* From the layer's beginning to its end. */
static void put_loads(trace *trace, const profile_part *part) {
  const moecl_routing *routing = &part->routing;
  const int64_t count = routing->num_experts - routing->num_identity_experts;
  const int64_t *const rows[] = {routing->tokens_per_expert,
                                 routing->tokens_per_expert_after_capacity};
  static const char *const names[] = {"tokens per expert", "tokens per expert after capacity"};
  static const char *const summaries[] = {"expert load", "expert load after capacity"};
  if (!rows[0] || !rows[1] || count < 1) return; /* of the router alone none is kept */
  const double begin = origin_of(part), end = begin + part->kernels[part->num_kernels - 1].end_us;
  for (int i = 0; i < 2; i++)
    for (int zero = 0; zero < 2; zero++) {
      put_counter(trace, summaries[i], zero ? end : begin, summary_json(rows[i], count, zero));
      if (count <= MOST_EXPERTS)
        put_counter(trace, names[i], zero ? end : begin, loads_json(rows[i], count, zero));
    }
}

/* ---- all ---- */

static void name_tracks(trace *trace, const profile *all) {
  name_it(trace, "process_name", HOST, 0, "host");
  name_it(trace, "process_name", DEVICE, 0, all->device.name);
  name_it(trace, "thread_name", HOST, HOST_WORK, "moectl");
  name_it(trace, "thread_name", HOST, HOST_ENQUEUES, "enqueues");
  name_it(trace, "thread_name", DEVICE, QUEUE, "queue");
  for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
    if (stage != MOECL_STAGE_LAYER)
      name_it(trace, "thread_name", DEVICE, FIRST_STAGE + stage,
              moecl_stage_name((moecl_stage)stage));
}

static void put_device(trace *trace, const profile *all) {
  track enqueues = {trace, HOST, HOST_ENQUEUES, 0}, queue = {trace, DEVICE, QUEUE, 0};
  track stages[MOECL_STAGE_COUNT];
  for (int i = 0; i < MOECL_STAGE_COUNT; i++)
    stages[i] = (track){trace, DEVICE, FIRST_STAGE + i, 0};
  for (size_t i = 0; i < all->num_points; i++) {
    for (int kind = 0; all->points[i].ran && kind < PROFILE_PARTS; kind++) {
      const profile_part *part = &all->points[i].parts[kind];
      if (!part->ran || !part->timed || part->num_kernels == 0) continue;
      put_kernels(&enqueues, &queue, part);
      for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
        put_stage(&stages[stage], part, (moecl_stage)stage);
      put_loads(trace, part);
    }
  }
}

char *profile_trace_json(const profile *all) {
  trace trace = {json_array()};
  name_tracks(&trace, all);
  put_host(&trace, all);
  put_device(&trace, all);
  json_t *json = json_pack("{s:o, s:s}", "traceEvents", trace.events, "displayTimeUnit", "ns");
  char *text = json ? json_text(json, 0) : NULL;
  json_decref(json);
  return text;
}

bool profile_trace_write(const profile *all, const char *path, char **error) {
  char *text = profile_trace_json(all);
  const bool ok = text ? replace_file(path, text, strlen(text), error)
                       : fail_text(error, "no memory for %s", path);
  free(text);
  return ok;
}
