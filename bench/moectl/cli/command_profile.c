// SPDX-License-Identifier: MIT
/* moectl profile: where the time and the memory of an experiment's points go. */
#include "base/clock.h"
#include "base/files.h"
#include "cli/interrupt.h"
#include "cli/moectl.h"
#include "cli/prepare.h"
#include "report/profile_reports.h"
#include "run/profiler.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* More make no report that anybody reads. */
enum { MOST_POINTS = 16 };

typedef struct profile_run {
  const options *options;
  experiment experiment;
  recording recording;
  moecl_context *context;
  char *warnings; /* the library's, a line each, of the point that runs; NULL: none */
  char *folder;
  profile profile;
  profile_baseline baseline;
  bool has_baseline;
  char *new_baseline; /* the text that --baseline names; NULL: none */
  size_t new_baseline_size;
} profile_run;

static int report_error(char *error) {
  complain("%s", error ? error : "no memory");
  free(error);
  return EXIT_USAGE;
}

/* A message on one line: its first one, and of a build log the first error. */
static char *short_message(const char *message) {
  const int first = (int)strcspn(message, "\n");
  const char *error = strstr(message + first, "error: ");
  return error ? format_text("%.*s; %.*s", first, message, (int)strcspn(error, "\n"), error)
               : format_text("%.*s", first, message);
}

/* Warnings say which variants were set aside: reports have them too. */
static void keep_warning(void *user, moecl_log_level level, const char *message) {
  profile_run *run = user;
  char *line = level == MOECL_LOG_WARNING ? short_message(message) : NULL;
  char *grown = line ? format_text("%s%s\n", run->warnings ? run->warnings : "", line) : NULL;
  if (grown) {
    free(run->warnings);
    run->warnings = grown;
  }
  free(line);
  log_to_stderr((void *)run->options, level, message);
}

/* ---- before ---- */

/* The peaks that are kept, or measured now and kept. */
static device_peaks provide_peaks(const profile_run *run) {
  device_peaks peaks = peaks_load(run->context);
  char *error = NULL;
  if (peaks.measured[0]) return peaks;
  if (!run->options->quiet) fputs("moectl: measuring the device's peaks\n", stderr);
  if (peaks_measure(run->context, &peaks) != MOECL_OK) return peaks;
  if (!peaks_save(run->context, &peaks, &error))
    put_message("moectl: warning: the peaks are not kept: ", error ? error : "no memory");
  free(error);
  return peaks;
}

/* Reads a profile as the baseline; a path that is not there is one only if it was asked for. */
static bool read_baseline(profile_run *run, const char *path, bool asked, char **error) {
  size_t size = 0;
  char *text = read_whole_file(path, &size);
  if (!text && !asked && errno == ENOENT) return true;
  if (!text)
    return fail_text(error, "%s cannot be read: %s; --baseline takes the folder of a profile", path,
                     strerror(errno));
  run->has_baseline = profile_baseline_read(text, size, path, &run->baseline, error);
  if (asked) run->new_baseline = text, run->new_baseline_size = size;
  else free(text);
  return run->has_baseline;
}

/* That of --baseline, else the one that the folder keeps. */
static bool provide_baseline(profile_run *run, char **error) {
  const char *asked = run->options->baseline;
  struct stat info;
  const bool folder = !asked || (stat(asked, &info) == 0 && S_ISDIR(info.st_mode));
  char *path = asked ? format_text("%s%s", asked, folder ? "/profile.json" : "")
                     : format_text("%s/baseline.json", run->folder);
  const bool ok =
      path ? read_baseline(run, path, asked != NULL, error) : fail_text(error, "no memory");
  free(path);
  return ok;
}

static bool provide_folder(profile_run *run, char **error) {
  const char *out = run->options->out;
  run->folder = out ? format_text("%s", out) : results_new_folder(run->experiment.name, error);
  if (out && run->folder) return make_directories(out, error);
  return run->folder || fail_text(error, "%s", *error ? *error : "no memory");
}

/* Before anything runs: can the timeline be written? */
static bool try_trace(const char *path, char **error) {
  struct stat info;
  if (!path) return true;
  const bool is_new = stat(path, &info) != 0;
  FILE *file = fopen(path, "a");
  if (!file) return fail_text(error, "--trace: %s cannot be written: %s", path, strerror(errno));
  fclose(file);
  if (is_new) remove(path);
  return true;
}

/* ---- after ---- */

static bool write_json(const profile_run *run, char **error) {
  char *text = profile_json(&run->profile);
  char *path = format_text("%s/profile.json", run->folder);
  char *kept = format_text("%s/baseline.json", run->folder);
  bool ok = text && path && kept ? replace_file(path, text, strlen(text), error)
                                 : fail_text(error, "no memory for profile.json");
  /* Kept in the folder, for those that come after this one; what was interrupted or failed is
   * nothing to compare with. */
  if (ok && run->new_baseline)
    ok = replace_file(kept, run->new_baseline, run->new_baseline_size, error);
  else if (ok && !run->has_baseline && run->profile.whole)
    ok = replace_file(kept, text, strlen(text), error);
  free(kept);
  free(path);
  free(text);
  return ok;
}

static bool write_all(const profile_run *run, char **error) {
  const char *trace = run->options->trace;
  return profile_reports_write(&run->profile, run->has_baseline ? &run->baseline : NULL,
                               run->folder, error) &&
         write_json(run, error) && (!trace || profile_trace_write(&run->profile, trace, error));
}

/* ---- the points ---- */

static bool part_failed(const profile_point *point) {
  for (int part = 0; part < PROFILE_PARTS; part++)
    if (!point->parts[part].ran && !point->parts[part].skipped) return true;
  return false;
}

static bool variant_is_wrong(const profile_point *point) {
  for (size_t i = 0; i < point->num_variants; i++)
    if (point->variants[i].ran && !point->variants[i].verify.ok) return true;
  return false;
}

/* True: a point failed. */
static bool run_points(profile_run *run) {
  profiler profiler = {.context = run->context,
                       .experiment = &run->experiment,
                       .recording = &run->recording,
                       .interrupted = &interrupt_came,
                       .profile = &run->profile,
                       .began = seconds_now()};
  bool failed = false;
  for (size_t i = 0; i < run->experiment.num_points && !interrupt_came; i++) {
    profile_point *point = &run->profile.points[i];
    char label[256];
    experiment_point_label(&run->experiment, i, label, sizeof label);
    if (!run->options->quiet)
      fprintf(stderr, "moectl: profiling %zu/%zu%s%s\n", i + 1, run->experiment.num_points,
              *label ? " " : "", label);
    const bool ended = profiler_run_point(&profiler, i);
    point->warnings = run->warnings;
    run->warnings = NULL;
    if (!ended) break;
    for (int part = 0; part < PROFILE_PARTS; part++)
      if (!point->parts[part].ran && !point->parts[part].skipped && point->parts[part].why)
        complain("point %zu, %s: %s", i, profile_part_names[part], point->parts[part].why);
    if (variant_is_wrong(point)) complain("point %zu: a variant of the router is wrong", i);
    failed = failed || part_failed(point) || variant_is_wrong(point);
  }
  if (!interrupt_came && !run->options->quiet)
    fputs("moectl: timing all parts again, in rounds\n", stderr);
  profiler_run_rounds(&profiler);
  return failed;
}

static bool any_ended(const profile *all) {
  for (size_t i = 0; i < all->num_points; i++)
    if (all->points[i].ran) return true;
  return false;
}

/* Prints first: what was measured is seen, whatever cannot be written. */
static bool show_all(const profile_run *run) {
  char *error = NULL;
  profile_print(&run->profile, stdout);
  if (!write_all(run, &error)) {
    flush_output(run->folder);
    report_error(error);
    return false;
  }
  printf("profile: %s/docs/consolidated_profiling_report.md\n", run->folder);
  if (run->options->trace)
    printf("timeline: %s (open it at ui.perfetto.dev or chrome://tracing)\n", run->options->trace);
  flush_output(run->folder);
  return true;
}

static int profile_all(profile_run *run) {
  char *error = NULL;
  if (!try_trace(run->options->trace, &error)) return report_error(error);
  const device_peaks peaks = provide_peaks(run);
  if (!provide_folder(run, &error) || !provide_baseline(run, &error)) return report_error(error);
  if (!profile_open(&run->experiment, moecl_context_device(run->context), &peaks, &run->profile))
    return report_error(NULL);
  interrupt_catch("the same command");
  const bool failed = run_points(run);
  if (!any_ended(&run->profile)) { /* what an earlier profile wrote stays */
    if (!run->options->out) rmdir(run->folder);
    complain("no point ended, so nothing is written");
    return EXIT_POINT_FAILED;
  }
  run->profile.whole = !failed && !interrupt_came;
  return show_all(run) && run->profile.whole ? EXIT_ALL_OK : EXIT_POINT_FAILED;
}

/* A profile is of one device's kernels. */
static bool is_on_one_device(const experiment *experiment) {
  for (size_t i = 0; i < experiment->num_points; i++)
    if (experiment_members(&experiment->points[i]) > 0) {
      complain("parallel.experts is %lld at point %zu, and a profile is of one device: --set "
               "parallel.experts=null; 'moectl run' tells what each device did",
               (long long)experiment->points[i].parallel.experts, i);
      return false;
    }
  return true;
}

static int profile_on_device(profile_run *run) {
  const options *options = run->options;
  if (!is_on_one_device(&run->experiment)) return EXIT_USAGE;
  if (run->experiment.num_points > MOST_POINTS) {
    complain("the experiment has %zu points, and a profile is of %d at most: choose some with "
             "--set, e.g. --set workload.num_tokens=64",
             run->experiment.num_points, MOST_POINTS);
    return EXIT_USAGE;
  }
  int code = open_context_with(
      keep_warning, run, options->device ? options->device : run->experiment.device, &run->context);
  if (code != EXIT_ALL_OK) return code;
  if (!prepare_variants(&run->experiment, run->context) ||
      !prepare_memory(options, &run->experiment, run->context, NULL, NULL))
    return EXIT_USAGE;
  return profile_all(run);
}

int command_profile(const options *options) {
  profile_run run = {.options = options};
  int code = EXIT_USAGE;
  if (prepare_load(options, &run.experiment, &run.recording)) code = profile_on_device(&run);
  profile_release(&run.profile);
  profile_baseline_release(&run.baseline);
  moecl_context_destroy(&run.context);
  recording_destroy(&run.recording);
  experiment_destroy(&run.experiment);
  free(run.new_baseline);
  free(run.warnings);
  free(run.folder);
  return code;
}
