// SPDX-License-Identifier: MIT
#include "cli/led.h"
#include "cli/prepare.h"
#include "run/follow.h"
#include "run/processes.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool led_serves(const experiment *experiment) {
  for (size_t i = 0; processes_count() > 1 && i < experiment->num_points; i++) {
    const experiment_parallel *parallel = &experiment->points[i].parallel;
    if (parallel->placement == PARALLEL_OFFLOAD) {
      complain("mpirun started %d processes, and parallel.placement is 'offload' at point %zu, "
               "which is of one device: run without mpirun",
               processes_count(), i);
      return false;
    }
    if (parallel->experts > 0) continue;
    complain("mpirun started %d processes, which share the experts of a layer, and "
             "parallel.experts is null at point %zu: say --set parallel.experts=%d, or run "
             "without mpirun",
             processes_count(), i, processes_count());
    return false;
  }
  return true;
}

static int code_of(moecl_status status) {
  if (status == MOECL_ERROR_NO_DEVICE) return EXIT_NO_DEVICE;
  return status == MOECL_ERROR_IO ? EXIT_USAGE : EXIT_POINT_FAILED;
}

int led_open(void) {
  const process_order order = {.kind = ORDER_OPEN};
  char said[2048] = "";
  processes_lead(&order);
  const moecl_status status = processes_conclude(MOECL_OK, said, sizeof said);
  if (status == MOECL_OK) return EXIT_ALL_OK;
  complain("%s", said);
  return code_of(status);
}

/* ---- those that are led ---- */

/* Errors are the leader's to tell. */
static void log_warning(void *user, moecl_log_level level, const char *message) {
  char start[64];
  (void)user;
  if (level != MOECL_LOG_WARNING) return;
  snprintf(start, sizeof start, "moectl: rank %d: warning: ", processes_own());
  put_message(start, message);
}

typedef struct opened {
  experiment experiment;
  recording recording;
  moecl_context *context;
} opened;

static moecl_status open_files(const options *options, opened *opened, char *said, size_t size) {
  char *error = NULL;
  experiment *experiment = &opened->experiment;
  bool ok = experiment_load(options->file, options->overrides, options->num_overrides, experiment,
                            &error);
  if (ok && experiment->input_file)
    ok = recording_load(experiment->input_file, experiment->input_tensor, &opened->recording,
                        &error) &&
         recording_serves(experiment, &opened->recording, &error);
  if (!ok) snprintf(said, size, "%s", error ? error : "no memory");
  free(error);
  return ok ? MOECL_OK : MOECL_ERROR_IO;
}

/* MOECL_ERROR_IO: the experiment cannot be run as it is. */
static moecl_status open_all(const options *options, opened *opened, char *said, size_t size) {
  const moecl_status status = open_files(options, opened, said, size);
  if (status != MOECL_OK) return status;
  const char *device = options->device ? options->device : opened->experiment.device;
  const moecl_context_params params = {.device = device, .log = log_warning};
  const moecl_status context = moecl_context_create(&params, &opened->context);
  if (context != MOECL_OK)
    snprintf(said, size, "the device '%s' could not be opened: %s", device ? device : "auto",
             moecl_status_string(context));
  if (context == MOECL_OK &&
      !prepare_memory_led(options, &opened->experiment, opened->context, said, size))
    return MOECL_ERROR_IO;
  return context;
}

/* A signal that reaches all of them is the leader's to obey. */
static void leave_signals_to_the_leader(void) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], SIG_IGN);
}

int led_run(const options *options) {
  static volatile sig_atomic_t never;
  opened opened = {.context = NULL};
  process_order order;
  char said[2048] = "";
  leave_signals_to_the_leader();
  if (!processes_follow(&order)) return EXIT_ALL_OK;
  const moecl_status status = open_all(options, &opened, said, sizeof said);
  processes_conclude(status, said, sizeof said);
  runner runner = {.context = opened.context,
                   .experiment = &opened.experiment,
                   .recording = &opened.recording,
                   .interrupted = &never};
  follow(&runner);
  moecl_context_destroy(&opened.context);
  recording_destroy(&opened.recording);
  experiment_destroy(&opened.experiment);
  return EXIT_ALL_OK;
}
