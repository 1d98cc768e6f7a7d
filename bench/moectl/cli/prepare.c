// SPDX-License-Identifier: MIT
#include "cli/prepare.h"
#include "experiment/settings.h"
#include "base/list.h"
#include "base/suggest.h"
#include "base/wrap.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* A message at the place of a key, as those about the experiment are. */
__attribute__((format(printf, 3, 4))) static void
complain_at(const experiment *experiment, schema_id key, const char *format, ...) {
  problems problems = {.path = experiment->path};
  char text[8192];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  problem_add(&problems, experiment->settings->keys[key].mark, "%s", text);
  char *message = problems_take(&problems);
  fprintf(stderr, "%s\n", message ? message : "no memory");
  free(message);
}

bool prepare_load(const options *options, experiment *experiment, recording *recording) {
  char *error = NULL;
  if (!experiment_load(options->file, options->overrides, options->num_overrides, experiment,
                       &error)) {
    fprintf(stderr, "%s\n", error ? error : "no memory");
    free(error);
    return false;
  }
  if (experiment->warnings) fprintf(stderr, "%s\n", experiment->warnings);
  if (!experiment->input_file ||
      (recording_load(experiment->input_file, experiment->input_tensor, recording, &error) &&
       recording_serves(experiment, recording, &error)))
    return true;
  complain_at(experiment, KEY_FILE, "workload.file: %s", error ? error : "no memory");
  free(error);
  return false;
}

/* ---- names that were asked for ---- */

enum { MAX_NAMES = 32 };

/* For a name that is none of those there are: "a, b, ", and "; did you mean 'b'?" or nothing. */
typedef struct name_help {
  char expected[512], hint[64];
} name_help;

static bool is_among(const char *asked, const char *const *names, size_t count, name_help *help) {
  suggestion nearest = suggest_begin(asked, strlen(asked));
  *help = (name_help){"", ""};
  for (size_t i = 0, used = 0; i < count && i < MAX_NAMES; i++) {
    if (strcmp(names[i], asked) == 0) return true;
    suggest_try(&nearest, names[i]);
    if (used < sizeof help->expected)
      used +=
          (size_t)snprintf(help->expected + used, sizeof help->expected - used, "%s, ", names[i]);
  }
  if (nearest.best) snprintf(help->hint, sizeof help->hint, "; did you mean '%s'?", nearest.best);
  return false;
}

/* ---- variants ---- */

static bool variant_serves(const experiment *experiment, moecl_context *context, schema_id key,
                           const char *operation, const char *asked, moecl_format format) {
  const char *names[MAX_NAMES];
  name_help help;
  const size_t count = moecl_variants_for_format(context, operation, format, names, MAX_NAMES);
  if (is_among(asked, names, count, &help)) return true;
  complain_at(experiment, key, "%s: '%s' does not serve %s on %s; expected %sor auto%s",
              schema_get(key)->name, asked, moecl_format_name(format),
              moecl_context_device(context)->name, help.expected, help.hint);
  return false;
}

/* The formats that a tensor has in some point of the sweep. */
static void find_formats(const experiment *experiment, moecl_tensor tensor,
                         bool found[MOECL_FORMAT_COUNT]) {
  const setting *dtypes = &experiment->settings->keys[KEY_DTYPE];
  const setting *formats = &experiment->settings->keys[KEY_WEIGHT_FORMAT];
  for (size_t d = 0; d < dtypes->count; d++)
    for (size_t f = 0; f < formats->count; f++) {
      const moecl_layer_params params = {
          .dtype = (moecl_dtype)dtypes->values[d].integer,
          .weight_format = (moecl_format)formats->values[f].integer,
      };
      found[moecl_layer_tensor_format(&params, tensor)] = true;
    }
}

/* A key's variants in each of the formats that the operation's weights have. */
static bool all_serve(const experiment *experiment, moecl_context *context, schema_id key,
                      const char *operation, moecl_tensor weights) {
  const setting *asked = &experiment->settings->keys[key];
  bool all = true, formats[MOECL_FORMAT_COUNT] = {false};
  find_formats(experiment, weights, formats);
  for (size_t i = 0; i < asked->count; i++) {
    if (strcmp(asked->values[i].text, "auto") == 0) continue;
    for (int format = 0; format < MOECL_FORMAT_COUNT; format++)
      if (formats[format])
        all &= variant_serves(experiment, context, key, operation, asked->values[i].text,
                              (moecl_format)format);
  }
  return all;
}

bool prepare_variants(const experiment *experiment, moecl_context *context) {
  const bool experts =
      all_serve(experiment, context, KEY_GROUPED_GEMM_VARIANT, "grouped_gemm", MOECL_DOWN_PROJ);
  /* Attention reads what the router reads, in dtype. */
  const bool attention =
      !experiment_has_blocks(experiment) ||
      all_serve(experiment, context, KEY_ATTENTION_VARIANT, "attention", MOECL_ROUTER_WEIGHT);
  return all_serve(experiment, context, KEY_ROUTER_VARIANT, "router", MOECL_ROUTER_WEIGHT) &&
         experts && attention;
}

/* ---- what groups are made of ---- */

static bool is_transport(const experiment *experiment, const char *asked) {
  const char *names[MAX_NAMES];
  name_help help;
  const size_t count = moecl_group_transports(names, MAX_NAMES);
  if (is_among(asked, names, count, &help)) return true;
  complain_at(experiment, KEY_PARALLEL_TRANSPORT,
              "parallel.transport: there is no transport '%s'; expected %sor auto%s", asked,
              help.expected, help.hint);
  return false;
}

bool prepare_transports(const experiment *experiment) {
  const setting *asked = &experiment->settings->keys[KEY_PARALLEL_TRANSPORT];
  bool all = true;
  for (size_t i = 0; i < asked->count; i++)
    if (!asked->values[i].null && strcmp(asked->values[i].text, "auto") != 0)
      all &= is_transport(experiment, asked->values[i].text);
  return all;
}

static void refuse_device(const experiment *experiment, const char *name,
                          const moecl_device_info *devices, size_t count) {
  char known[2048] = "";
  for (size_t i = 0, used = 0; i < count && used < sizeof known; i++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%d:%d (%s)", i ? ", " : "",
                             (int)devices[i].platform_index, (int)devices[i].device_index,
                             devices[i].name);
  complain_at(experiment, KEY_PARALLEL_DEVICES,
              "devices: there is no device '%s' here; expected auto, all, or of %s", name, known);
}

static bool are_devices(const experiment *experiment, const char *list,
                        const moecl_device_info *devices, size_t count) {
  bool all = true;
  size_t length;
  for (const char *at = list; (at = list_next(at, &length)) != NULL; at += length) {
    char name[256];
    size_t chosen;
    snprintf(name, sizeof name, "%.*s", (int)length, at);
    if (moecl_device_choose(devices, count, name, &chosen) == MOECL_OK) continue;
    refuse_device(experiment, name, devices, count);
    all = false;
  }
  return all;
}

/* Where no point is shared a list of devices has no effect, which a warning says. */
static bool has_groups(const experiment *experiment) {
  bool has = false;
  for (size_t i = 0; i < experiment->num_points; i++)
    has |= experiment_members(&experiment->points[i]) != 0;
  return has;
}

bool prepare_devices(const experiment *experiment) {
  const setting *asked = &experiment->settings->keys[KEY_PARALLEL_DEVICES];
  moecl_device_info *devices = NULL;
  size_t count = 0;
  bool all = true;
  const bool listed =
      has_groups(experiment) && moecl_devices_list(&devices, &count) == MOECL_OK && count > 0;
  for (size_t i = 0; listed && i < asked->count; i++) {
    const value *value = &asked->values[i];
    if (!value->null && strcmp(value->text, "auto") != 0 && strcmp(value->text, "all") != 0)
      all &= are_devices(experiment, value->text, devices, count);
  }
  moecl_devices_destroy(&devices);
  return all;
}

/* ---- memory ---- */

/* What was found while points were checked; `said` has the first refusal where another process is
 * to tell it, and is NULL where they are complained about. */
typedef struct memory_check {
  const experiment *experiment;
  char *said;
  size_t size, refused;
} memory_check;

enum { MOST_LISTED = 5 }; /* a sweep may have thousands */
static const char what_to_do[] =
    "choose fewer experts, smaller sizes, fewer tokens, another variant or another device; spread "
    "the experts over several (parallel.experts, devices); keep some in the host's memory "
    "(parallel.placement: offload, with a smaller parallel.cache); or try it all the same with "
    "--ignore-memory-limit";

__attribute__((format(printf, 2, 3))) static void refuse(const memory_check *check,
                                                         const char *format, ...) {
  char text[2048];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (!check->said) complain("%s", text);
  else if (check->refused == 0) snprintf(check->said, check->size, "%s", text);
}

/* "point 3 (top_k=2)" */
static const char *point_name(const memory_check *check, size_t index, char name[320]) {
  char label[256];
  experiment_point_label(check->experiment, index, label, sizeof label);
  snprintf(name, 320, "point %zu%s%s%s", index, *label ? " (" : "", label, *label ? ")" : "");
  return name;
}

/* " for 2 of 4 members on 0:1", of a group, where it has some; else nothing. */
static void name_members(const memory_check *check, size_t index, const device_memory *on,
                         char text[96]) {
  const moecl_device_info *device = moecl_context_device(on->context);
  const long long members = (long long)experiment_members(&check->experiment->points[index]);
  text[0] = '\0';
  if (members > 0 && on->members == 0)
    snprintf(text, 96, ", in which inputs and weights are drawn,");
  else if (members > 0)
    snprintf(text, 96, " for %d of %lld member%s on %d:%d", on->members, members,
             members == 1 ? "" : "s", (int)device->platform_index, (int)device->device_index);
}

/* "point 3 (top_k=2) needs 81.2 GiB of memory", and whose figure the limit is. */
static void refuse_memory(const memory_check *check, size_t index, const device_memory *on,
                          bool in_one_buffer) {
  const moecl_device_info *device = moecl_context_device(on->context);
  const uint64_t bytes = in_one_buffer ? on->needed.largest_buffer : on->needed.bytes;
  const uint64_t limit = in_one_buffer ? device->max_allocation_bytes : device->global_memory_bytes;
  char name[320], members[96], needed[32], stated[32];
  name_members(check, index, on, members);
  refuse(check, "%s needs %s of memory%s%s, but the driver of %s (%s) states %s%s",
         point_name(check, index, name), bytes_text(bytes, needed),
         in_one_buffer ? " in one buffer" : "", members, device->name, device->platform,
         bytes_text(limit, stated),
         device->type == MOECL_DEVICE_CPU && !in_one_buffer
             ? ", which may be what is free at the moment"
             : "");
}

/* Many drivers give single buffers larger than the largest they state: asking
 * for one is the only way to know. */
static bool gives_buffer(moecl_context *context, uint64_t bytes) {
  moecl_buffer *buffer;
  if (moecl_buffer_create(context, bytes, &buffer) != MOECL_OK) return false;
  const bool given = moecl_buffer_fill_byte(buffer, bytes - 1, 1, 0) == MOECL_OK &&
                     moecl_context_finish_wait(context) == MOECL_OK;
  moecl_buffer_destroy(&buffer);
  return given;
}

/* Single buffers of up to `given` bytes were given, one of `denied` was not. */
static bool buffer_fits(moecl_context *context, uint64_t bytes, memory_limits *limits) {
  if (limits->denied == 0)
    *limits = (memory_limits){moecl_context_device(context)->max_allocation_bytes, UINT64_MAX};
  if (bytes <= limits->given) return true;
  if (bytes >= limits->denied) return false;
  const bool given = gives_buffer(context, bytes);
  *(given ? &limits->given : &limits->denied) = bytes;
  return given;
}

/* On each of its devices. */
static bool point_fits(const memory_check *check, size_t index, const point_devices *devices) {
  bool fits = true;
  for (size_t i = 0; i < devices->count; i++) {
    const device_memory *on = &devices->device[i];
    const bool too_much = on->needed.bytes > moecl_context_device(on->context)->global_memory_bytes;
    if (!too_much && buffer_fits(on->context, on->needed.largest_buffer, on->limits)) continue;
    if (fits && check->refused < MOST_LISTED) refuse_memory(check, index, on, !too_much);
    fits = false;
  }
  return fits;
}

static bool points_fit(memory_check *check, const options *options, moecl_context *context,
                       memory_devices *devices, runner_memory *needed) {
  const experiment *experiment = check->experiment;
  const bool draws_again = experiment->verify || options->dump;
  point_devices *point = malloc(sizeof *point);
  for (size_t i = 0; i < experiment->num_points; i++) {
    char name[320];
    const moecl_status status =
        point ? memory_of_point(context, experiment, i, draws_again, devices, point)
              : MOECL_ERROR_OUT_OF_HOST_MEMORY;
    if (status != MOECL_OK) {
      refuse(check, "%s cannot run here: %s", point_name(check, i, name),
             moecl_status_string(status));
      free(point);
      return false;
    }
    if (needed) needed[i] = point->device[0].needed;
    if (!options->ignore_memory_limit && !point_fits(check, i, point)) check->refused++;
  }
  free(point);
  return check->refused == 0;
}

bool prepare_memory(const options *options, const experiment *experiment, moecl_context *context,
                    memory_devices *devices, runner_memory *needed) {
  memory_check check = {.experiment = experiment};
  memory_devices own = {.list = NULL};
  const bool fits = points_fit(&check, options, context, devices ? devices : &own, needed);
  memory_devices_release(&own);
  if (check.refused > MOST_LISTED)
    complain("and so do %zu more points", check.refused - MOST_LISTED);
  if (check.refused > 0) complain("%s", what_to_do);
  return fits;
}

bool prepare_memory_led(const options *options, const experiment *experiment,
                        moecl_context *context, char *said, size_t size) {
  memory_check check = {.experiment = experiment, .said = said, .size = size};
  memory_devices devices = {.list = NULL};
  const bool fits = points_fit(&check, options, context, &devices, NULL);
  memory_devices_release(&devices);
  const size_t used = strlen(said);
  if (check.refused > 1)
    snprintf(said + used, size - used, " (and so do %zu more points)", check.refused - 1);
  if (check.refused > 0) snprintf(said + strlen(said), size - strlen(said), "; %s", what_to_do);
  return fits;
}
