// SPDX-License-Identifier: MIT
/* moectl check: validates experiments, and against a device where there is one. */
#include "run/estimate.h"
#include "base/files.h"
#include "cli/prepare.h"
#include "base/wrap.h"
#include "results/results.h"
#include "run/matrix_units.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct check {
  const options *options;
  experiment experiment;
  recording recording;
  moecl_context *context; /* NULL: there is no device at all */
  runner_memory *needed;  /* [num_points]: of the context's device */
  memory_devices devices;
} check;

/* The device that a run would take. Where there is none at all, and none was asked for
 * on the command line, the file alone is checked. */
static int open_device(check *check) {
  moecl_device_info *devices = NULL;
  size_t count = 0;
  const bool none = moecl_devices_list(&devices, &count) != MOECL_OK || count == 0;
  moecl_devices_destroy(&devices);
  if (none && !check->options->device) return EXIT_ALL_OK;
  return open_context(check->options,
                      check->options->device ? check->options->device : check->experiment.device,
                      &check->context);
}

static int check_device(check *check) {
  check->needed = calloc(check->experiment.num_points, sizeof *check->needed);
  if (!check->needed) {
    complain("no memory");
    return EXIT_POINT_FAILED;
  }
  const bool variants = prepare_variants(&check->experiment, check->context);
  /* Without its variant a point takes what nobody knows. */
  return variants && prepare_memory(check->options, &check->experiment, check->context,
                                    &check->devices, check->needed)
             ? EXIT_ALL_OK
             : EXIT_USAGE;
}

/* Rates of each data type, activation and variant that points have, measured once. */
typedef struct known_rates {
  const moecl_layer_params *of;
  device_rates rates;
} known_rates;
enum { MAX_RATES = 16 };

static bool same_kind(const moecl_layer_params *a, const moecl_layer_params *b) {
  const char *one = a->grouped_gemm_variant, *other = b->grouped_gemm_variant;
  return a->dtype == b->dtype && a->weight_format == b->weight_format &&
         a->activation_format == b->activation_format && a->activation == b->activation &&
         (one && other ? strcmp(one, other) == 0 : one == other);
}

static const device_rates *rates_of(check *check, const experiment_point *point,
                                    known_rates known[MAX_RATES], size_t *count) {
  for (size_t i = 0; i < *count; i++)
    if (same_kind(known[i].of, &point->layer)) return &known[i].rates;
  known_rates *next = &known[*count < MAX_RATES ? (*count)++ : MAX_RATES - 1];
  next->of = &point->layer;
  if (rates_measure(check->context, point, &next->rates) != MOECL_OK) return NULL;
  return &next->rates;
}

static void print_point(const check *check, size_t index, double takes) {
  char label[256], memory[32], seconds[32];
  if (takes < 9.95) snprintf(seconds, sizeof seconds, "%.1f s", takes);
  else duration_text(takes, seconds);
  experiment_point_label(&check->experiment, index, label, sizeof label);
  printf("%10s  %12s  %s", bytes_text(check->needed[index].bytes, memory), seconds,
         *label ? label : "the point");
  if (check->needed[index].host_bytes > 0)
    printf(" (and %s of the host's memory)", bytes_text(check->needed[index].host_bytes, memory));
  putchar('\n');
}

/* Beside the context's device the others that a point's members are on, a line each. */
static void print_others(check *check, size_t index) {
  const experiment *experiment = &check->experiment;
  const bool draws_again = experiment->verify || check->options->dump;
  point_devices *point = malloc(sizeof *point);
  if (point && memory_of_point(check->context, experiment, index, draws_again, &check->devices,
                               point) == MOECL_OK)
    for (size_t i = 1; i < point->count; i++) {
      const device_memory *on = &point->device[i];
      const moecl_device_info *device = moecl_context_device(on->context);
      char needed[32], stated[32];
      printf("%10s  %12s  and on %d:%d, %s, with %s: %d of %lld members\n",
             bytes_text(on->needed.bytes, needed), "", (int)device->platform_index,
             (int)device->device_index, device->name,
             bytes_text(device->global_memory_bytes, stated), on->members,
             (long long)experiment_members(&experiment->points[index]));
    }
  free(point);
}

/* Once for all points whose formats are the same. */
static void print_missed(const check *check) {
  const experiment_point *points = check->experiment.points;
  char missed[512];
  for (size_t i = 0; i < check->experiment.num_points; i++) {
    size_t first = 0;
    while (!same_kind(&points[first].layer, &points[i].layer)) first++;
    if (first == i && matrix_units_missed(check->context, &points[i].layer, points[i].num_tokens,
                                          missed, sizeof missed))
      wrap_text(stdout, missed, 0, TEXT_WIDTH);
  }
}

/* What each point takes; false: the small layer that would tell the time did not run. */
static bool print_points(check *check) {
  const moecl_device_info *device = moecl_context_device(check->context);
  known_rates known[MAX_RATES];
  size_t count = 0;
  char text[32];
  double all = 0;
  printf("on %d:%d, %s, with %s of memory as its driver states:\n", device->platform_index,
         device->device_index, device->name, bytes_text(device->global_memory_bytes, text));
  printf("%10s  %12s  point\n", "memory", "about");
  for (size_t i = 0; i < check->experiment.num_points; i++) {
    const device_rates *rates = rates_of(check, &check->experiment.points[i], known, &count);
    if (!rates) return false;
    const point_estimate estimate = estimate_point(&check->experiment, i, rates);
    all += estimate_all(&estimate);
    print_point(check, i, estimate_all(&estimate));
    if (experiment_members(&check->experiment.points[i]) > 0) print_others(check, i);
  }
  printf("in all about %s, by the speed of a small layer\n", duration_text(all, text));
  print_missed(check);
  return true;
}

static int run_check(check *check) {
  const options *options = check->options;
  if (!prepare_load(options, &check->experiment, &check->recording)) return EXIT_USAGE;
  const bool transports = prepare_transports(&check->experiment);
  if (!prepare_devices(&check->experiment) || !transports) return EXIT_USAGE;
  int code = open_device(check);
  if (code == EXIT_ALL_OK && check->context) code = check_device(check);
  if (code != EXIT_ALL_OK) return code;
  printf("%s: ok, experiment '%s' with %zu point%s\n", options->file, check->experiment.name,
         check->experiment.num_points, check->experiment.num_points == 1 ? "" : "s");
  if (!check->context) {
    printf("there is no OpenCL device here: nothing about one was checked\n");
  } else if (!print_points(check)) {
    complain("a small layer, timed to estimate the points, did not run on the device");
    return EXIT_POINT_FAILED;
  }
  return EXIT_ALL_OK;
}

/* The points for another program, without a device: what it has is that program's. */
static int print_points_json(check *check) {
  if (!prepare_load(check->options, &check->experiment, &check->recording)) return EXIT_USAGE;
  char *text = results_to_fill(&check->experiment);
  const int code = text ? EXIT_ALL_OK : EXIT_POINT_FAILED;
  if (text) puts(text);
  else complain("no memory");
  free(text);
  return code;
}

static int check_file(const options *options) {
  check check = {.options = options};
  const int code = options->json ? print_points_json(&check) : run_check(&check);
  free(check.needed);
  memory_devices_release(&check.devices);
  moecl_context_destroy(&check.context);
  recording_destroy(&check.recording);
  experiment_destroy(&check.experiment);
  if (code != EXIT_ALL_OK && options->num_files > 1) complain("%s: not ok", options->file);
  return code;
}

int command_check(const options *options) { return each_file(options, check_file); }
