// SPDX-License-Identifier: MIT
/* moectl run: every point of an experiment, results written as they come. */
#include "cli/interrupt.h"
#include "cli/led.h"
#include "cli/moectl.h"
#include "cli/prepare.h"
#include "cli/progress.h"
#include "cli/run_devices.h"
#include "cli/run_part.h"
#include "report/report.h"
#include "run/processes.h"
#include "run/runner.h"
#include "base/files.h"
#include "base/shell.h"
#include "base/wrap.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool run_read_pictures(const options *options, picture_choice *pictures) {
  static const char *const names[] = {"few", "all", "none"};
  *pictures = PICTURES_FEW;
  for (int i = 0; i < 3 && options->pictures; i++) {
    if (strcmp(options->pictures, names[i]) != 0) continue;
    *pictures = (picture_choice)i;
    return true;
  }
  if (options->pictures)
    complain("--pictures: expected few, all or none, found '%s'", options->pictures);
  return !options->pictures;
}

/* False, complained about: no such choice. */
static bool read_format(const options *options, report_format *format) {
  static const char *const names[] = {"table", "csv", "json", "markdown"};
  *format = FORMAT_TABLE;
  for (int i = 0; i < 4 && options->format; i++) {
    if (strcmp(options->format, names[i]) != 0) continue;
    *format = (report_format)i;
    return true;
  }
  if (options->format)
    complain("--format: expected table, csv, json or markdown, found '%s'", options->format);
  return !options->format;
}

/* Prints and frees a message from a call that failed. */
static void report_error(char *error) {
  complain("%s", error ? error : "no memory");
  free(error);
}

typedef struct run {
  const options *options;
  const char *device; /* NULL: the experiment's */
  const char *folder; /* of the results; NULL: a new one */
  bool resumes;       /* goes on with what the folder has */
  /* with several devices: the folder that holds each device's; else NULL */
  const char *parent_folder;
  const run_part *part; /* of a suite; NULL: an experiment by itself */
  experiment experiment;
  recording recording;
  moecl_context *context;
  results *results;
  runner runner;
  picture_choice pictures;
  report_format format;
  progress *progress;
  char *resume; /* the command that goes on with it */
} run;

/* " --set 'a=b' --device 'cpu'": quoted for a shell; NULL: nothing, or no memory. */
static char *options_text(const options *options, const char *device) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (!file) return NULL;
  for (size_t i = 0; i <= options->num_overrides; i++) {
    const bool set = i < options->num_overrides;
    const char *value = set ? options->overrides[i].assignment : device;
    if (!value) continue;
    fputs(set ? " --set " : " --device ", file);
    shell_quote(file, value);
  }
  if (fclose(file) == 0 && size > 0) return text;
  free(text);
  return NULL;
}

static bool load(run *run) {
  const options *options = run->options;
  if (!prepare_load(options, &run->experiment, &run->recording) || !led_serves(&run->experiment))
    return false;
  char launcher[SHELL_LAUNCHER_SIZE], *words = shell_command(options->words, options->num_words);
  run->experiment.processes = processes_count();
  if (words)
    run->experiment.command =
        format_text("%s%s", shell_launcher(run->experiment.processes, launcher), words);
  free(words);
  return true;
}

static int open_device(run *run) {
  return open_context(run->options, run->device ? run->device : run->experiment.device,
                      &run->context);
}

static int open_results(run *run) {
  char *error = NULL;
  kernel_origin kernels = {.dir = moecl_context_kernel_dir(run->context)};
  if (moecl_context_kernel_hash(run->context, kernels.hash) != MOECL_OK) {
    report_error(NULL);
    return EXIT_POINT_FAILED;
  }
  run->results = results_open(&run->experiment, moecl_context_device(run->context), &kernels,
                              run->folder, run->resumes, &error);
  if (run->results) {
    const device_peaks peaks = peaks_load(run->context);
    results_set_peaks(run->results, &peaks);
    return EXIT_ALL_OK;
  }
  if (run->part && error) run->part->refused(run->part->user, error);
  report_error(error);
  return EXIT_USAGE;
}

/* "mpirun -n 2 moectl run FILE --set 'a=b' --resume DIR", quoted for a shell, malloc'ed; NULL: no
 * memory. */
static char *resume_text(const run *run) {
  if (run->part) return format_text("%s", run->part->resume);
  char launcher[SHELL_LAUNCHER_SIZE];
  char *text = NULL, *options = options_text(run->options, run->options->device);
  size_t size;
  FILE *file = open_memstream(&text, &size);
  if (file) {
    fprintf(file, "%smoectl run ", shell_launcher(run->experiment.processes, launcher));
    shell_word(file, run->options->file);
    fprintf(file, "%s --resume ", options ? options : "");
    shell_word(file, run->parent_folder ? run->parent_folder : results_folder(run->results));
    fclose(file);
  }
  free(options);
  return text;
}

/* Point `index` for the first time: everything. False when results could not be written
 * or it was interrupted: then --resume runs it again. */
static bool run_first(run *run, size_t index) {
  char path[4096], *error = NULL;
  point_result result;
  snprintf(path, sizeof path, "%s/point-%03zu.safetensors", results_folder(run->results), index);
  if (!runner_run_point(&run->runner, index, run->options->dump ? path : NULL, &result)) {
    point_result_destroy(&result);
    return true;
  }
  progress_end(run->progress, index, &result);
  if (results_add(run->results, &result, &error)) return true;
  report_error(error);
  return false;
}

/* Its times once more, in a later round. */
static bool run_again(run *run, size_t index, int64_t round) {
  char *error = NULL, *failure = NULL;
  point_round times;
  const int64_t planned = results_rounds_planned(run->results, index);
  if (!runner_repeat_point(&run->runner, index, round, planned, &times, &failure)) return true;
  progress_end_round(run->progress, index, &times, failure ? 0 : planned - 1 - round);
  if (results_add_round(run->results, index, &times, failure, &error)) return true;
  report_error(error);
  return false;
}

/* One round over all points that lack it, every second one backwards: a machine that
 * grows slower all the time is then as slow for the first as for the last. */
static bool run_round(run *run, int64_t round) {
  const size_t count = run->experiment.num_points;
  progress_round(run->progress, round, results_rounds(run->results));
  bool written = true;
  for (size_t n = 0; n < count && written && !interrupt_came; n++) {
    const size_t i = round % 2 ? count - 1 - n : n;
    if (!results_wants(run->results, i, round)) continue;
    progress_begin(run->progress, i);
    written = round == 0 ? run_first(run, i) : run_again(run, i, round);
  }
  return written;
}

/* Runs what is missing. False when results could not be written. */
static bool run_points(run *run) {
  const experiment *experiment = &run->experiment;
  size_t to_run = 0;
  for (size_t i = 0; i < experiment->num_points; i++) {
    const bool first = !results_has(run->results, i);
    to_run += first;
    progress_expect(run->progress, i, first, results_rounds_left(run->results, i));
  }
  if (run->options->dump && to_run < experiment->num_points)
    fprintf(stderr,
            "moectl: %zu points were finished before: --dump writes only those that run now\n",
            experiment->num_points - to_run);
  bool written = run_round(run, 0);
  for (int64_t round = 1; written && round < results_rounds(run->results); round++)
    written = run_round(run, round);
  return written;
}

/* Pictures of an interrupted run are drawn too, but a signal while they are is the end
 * of it. */
typedef struct picture_state {
  run *run;
  bool interrupted_before;
} picture_state;

static bool on_picture(void *user, size_t done, size_t count) {
  const picture_state *state = user;
  if (interrupt_came && !state->interrupted_before) return false;
  if (done < count) progress_picture(state->run->progress, done, count);
  return true;
}

static bool write_all(run *run, char **note) {
  char *error = NULL;
  picture_state state = {run, interrupt_came != 0};
  results_watch_pictures(run->results, on_picture, &state);
  const bool written = report_finish(run->results, note, &error);
  results_watch_pictures(run->results, NULL, NULL);
  progress_clear(run->progress);
  if (!written) report_error(error);
  return written;
}

/* The table, or what else was asked for, and where everything is; false: it could not be said. */
static bool print_results(const run *run, bool written, const char *note) {
  const int width = isatty(STDOUT_FILENO) == 1 ? terminal_width(STDOUT_FILENO) : 0;
  if (!report_print(run->results, run->format, stdout, width)) {
    complain("no memory to print the results");
    written = false;
  }
  if (note) complain("%s", note);
  /* What a pipe gets of other formats is that alone. */
  if (run->format == FORMAT_TABLE || !run->options->quiet)
    fprintf(run->format == FORMAT_TABLE ? stdout : stderr, "results: %s\n",
            results_folder(run->results));
  flush_output(results_folder(run->results));
  if (interrupt_came || !written)
    complain("%s; go on with: %s", interrupt_came ? "interrupted" : "not finished",
             run->resume ? run->resume : "--resume");
  return written;
}

static int finish(run *run, bool written) {
  char *note = NULL;
  progress_clear(run->progress);
  if (written) written = write_all(run, &note);
  if (run->part) {
    run->part->done(run->part->user, run->results, note);
  } else {
    interrupt_say_no_more();
    written = print_results(run, written, note);
  }
  free(note);
  if (run->runner.bad_input && written && !interrupt_came) return EXIT_USAGE;
  const point_status worst = results_worst(run->results);
  return written && !interrupt_came && (worst == POINT_OK || worst == POINT_UNVERIFIED_OK)
             ? EXIT_ALL_OK
             : EXIT_POINT_FAILED;
}

/* From where there are results to keep. */
static int run_all(run *run) {
  run->resume = resume_text(run);
  interrupt_catch(run->resume ? run->resume : "--resume");
  if (processes_count() > 1) interrupt_end_at_once();
  results_choose_pictures(run->results, run->pictures);
  run->runner = (runner){.context = run->context,
                         .experiment = &run->experiment,
                         .recording = &run->recording,
                         .interrupted = &interrupt_came};
  run->progress = progress_open(&run->experiment, moecl_context_device(run->context),
                                report_pictures_expected(run->results), run->options->quiet);
  if (run->part) progress_set_place(run->progress, &run->part->place);
  const int code = finish(run, run_points(run));
  progress_close(&run->progress);
  return code;
}

/* The loaded experiment on one device; *ran: there are results. */
static int run_on_one(run *run, bool *ran) {
  free(run->experiment.options);
  run->experiment.options = options_text(run->options, run->device);
  int code = open_device(run);
  if (code == EXIT_ALL_OK &&
      !(prepare_transports(&run->experiment) && prepare_variants(&run->experiment, run->context) &&
        prepare_memory(run->options, &run->experiment, run->context, NULL, NULL)))
    code = EXIT_USAGE;
  if (code == EXIT_ALL_OK) code = led_open();
  if (code == EXIT_ALL_OK) code = open_results(run);
  *ran = code == EXIT_ALL_OK;
  if (code == EXIT_ALL_OK) code = run_all(run);
  free(run->resume);
  run->resume = NULL;
  runner_release(&run->runner);
  results_destroy(&run->results);
  moecl_context_destroy(&run->context);
  return code;
}

static int run_on_device(void *user, const char *device, const char *folder, bool resumes,
                         bool *ran) {
  run *run = user;
  run->device = device;
  run->folder = folder;
  run->resumes = resumes;
  return run_on_one(run, ran);
}

/* The folder of all devices' results: the one that was named, or a new one. */
static int run_on_several(run *run) {
  const options *options = run->options;
  const char *named = options->resume ? options->resume : options->out;
  char *error = NULL;
  if (run->format != FORMAT_TABLE) {
    complain("--format %s is of one device; of several, results.csv, results.json and report.md "
             "are in a folder each, and compare.csv and compare.md beside them",
             options->format);
    return EXIT_USAGE;
  }
  char *folder =
      named ? format_text("%s", named) : results_new_folder(run->experiment.name, &error);
  if (!folder) {
    report_error(error);
    return EXIT_USAGE;
  }
  run->parent_folder = folder;
  const int code =
      run_on_each(options->device, folder, options->resume != NULL, run_on_device, run);
  run->parent_folder = NULL;
  free(folder);
  return code;
}

int run_part_run(const run_part *part, experiment *experiment, const recording *recording) {
  run run = {.options = part->options,
             .device = part->options->device,
             .folder = part->folder,
             .resumes = part->resumes,
             .part = part,
             .experiment = *experiment,
             .recording = *recording,
             .pictures = part->pictures};
  bool ran;
  const int code = run_on_one(&run, &ran);
  *experiment = run.experiment; /* its options are told anew */
  return code;
}

/* The process that leads, or the only one. */
static int run_leading(const options *options) {
  run run = {.options = options, .device = options->device};
  if (options->out && options->resume) {
    complain("--out and --resume exclude each other: --resume names the folder to go on in");
    return EXIT_USAGE;
  }
  int code = EXIT_USAGE;
  bool ran;
  run.folder = options->resume ? options->resume : options->out;
  run.resumes = options->resume != NULL;
  if (run_read_pictures(options, &run.pictures) && read_format(options, &run.format) && load(&run))
    code = devices_are_several(options->device) ? run_on_several(&run) : run_on_one(&run, &ran);
  recording_destroy(&run.recording);
  experiment_destroy(&run.experiment);
  return code;
}

int command_run(const options *options) {
  if (!processes_begin()) return EXIT_USAGE;
  if (processes_count() > 1 && devices_are_several(options->device)) {
    if (processes_own() == 0)
      complain("--device %s runs the experiment on one device after the other, in one process: "
               "without mpirun; or devices names the members' devices",
               options->device);
    processes_end();
    return EXIT_USAGE;
  }
  const int code = processes_own() == 0 ? run_leading(options) : led_run(options);
  processes_end();
  return code;
}
