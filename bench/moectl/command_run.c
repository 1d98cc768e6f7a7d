/* moectl run: every point of an experiment, results written as they come. */
#include "moectl.h"
#include "prepare.h"
#include "progress.h"
#include "runner.h"
#include "shell.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ctrl-C: the first one lets the forward in flight end, or the verification, and
 * writes the results, a second one kills (the handler is reset). */
static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

static void catch_interrupts(void) {
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

/* False, complained about: no such choice. */
static bool read_pictures(const options *options, picture_choice *pictures) {
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

/* Prints and frees a message from a call that failed. */
static void tell(char *error) {
  complain("%s", error ? error : "no memory");
  free(error);
}

typedef struct run {
  const options *options;
  experiment experiment;
  recording recording;
  moecl_context *context;
  results *results;
  runner runner;
  picture_choice pictures;
} run;

/* " --set 'a=b' --device 'cpu'": quoted for a shell; NULL: nothing, or no memory. */
static char *options_text(const options *options) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  if (!file) return NULL;
  for (size_t i = 0; i <= options->num_overrides; i++) {
    const bool set = i < options->num_overrides;
    const char *value = set ? options->overrides[i].assignment : options->device;
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
  if (!prepare_load(options, &run->experiment, &run->recording)) return false;
  run->experiment.options = options_text(options);
  run->experiment.command = shell_command(options->words, options->num_words);
  return true;
}

static int open_device(run *run) {
  const char *device = run->options->device ? run->options->device : run->experiment.device;
  return open_context(run->options, device, &run->context);
}

static int open_results(run *run) {
  const options *options = run->options;
  char *error = NULL;
  kernel_origin kernels = {.dir = moecl_context_kernel_dir(run->context)};
  if (moecl_context_kernel_hash(run->context, kernels.hash) != MOECL_OK) {
    tell(NULL);
    return EXIT_POINT_FAILED;
  }
  run->results = results_open(&run->experiment, moecl_context_device(run->context), &kernels,
                              options->resume ? options->resume : options->out,
                              options->resume != NULL, &error);
  if (run->results) return EXIT_ALL_OK;
  tell(error);
  return EXIT_USAGE;
}

/* Point `index` for the first time: everything. False when results could not be written
 * or it was interrupted: then --resume runs it again. */
static bool run_first(run *run, progress *progress, size_t index) {
  char path[4096], *error = NULL;
  point_result result;
  snprintf(path, sizeof path, "%s/point-%03zu.safetensors", results_folder(run->results), index);
  if (!runner_run_point(&run->runner, index, run->options->dump ? path : NULL, &result)) {
    point_result_destroy(&result);
    return true;
  }
  progress_end(progress, index, &result);
  if (results_add(run->results, &result, &error)) return true;
  tell(error);
  return false;
}

/* Its times once more, in a later round. */
static bool run_again(run *run, progress *progress, size_t index, int64_t round) {
  char *error = NULL, *failure = NULL;
  point_round times;
  const int64_t planned = results_rounds_planned(run->results, index);
  if (!runner_repeat_point(&run->runner, index, round, planned, &times, &failure)) return true;
  progress_end(progress, index, NULL);
  if (results_add_round(run->results, index, &times, failure, &error)) return true;
  tell(error);
  return false;
}

/* One round over all points that lack it, every second one backwards: a machine that
 * grows slower all the time is then as slow for the first as for the last. */
static bool run_round(run *run, progress *progress, int64_t round) {
  const size_t count = run->experiment.num_points;
  size_t to_run = 0;
  for (size_t i = 0; i < count; i++) to_run += results_wants(run->results, i, round);
  progress_round(progress, round, results_rounds(run->results), to_run);
  bool written = true;
  for (size_t n = 0; n < count && written && !interrupted; n++) {
    const size_t i = round % 2 ? count - 1 - n : n;
    if (!results_wants(run->results, i, round)) continue;
    progress_begin(progress, i);
    written = round == 0 ? run_first(run, progress, i) : run_again(run, progress, i, round);
  }
  return written;
}

/* Runs what is missing. False when results could not be written. */
static bool run_points(run *run) {
  const experiment *experiment = &run->experiment;
  size_t to_run = 0;
  for (size_t i = 0; i < experiment->num_points; i++) to_run += !results_has(run->results, i);
  if (run->options->dump && to_run < experiment->num_points)
    fprintf(stderr, "moectl: %zu points were finished before: --dump writes only those that run now\n",
            experiment->num_points - to_run);
  progress *progress = progress_open(experiment, to_run, run->options->quiet);
  bool written = run_round(run, progress, 0);
  for (int64_t round = 1; written && round < results_rounds(run->results); round++)
    written = run_round(run, progress, round);
  progress_close(&progress);
  return written;
}

static void tell_resume(const run *run) {
  char *file = shell_text(run->options->file), *folder = shell_text(results_folder(run->results));
  complain("interrupted; go on with: moectl run %s%s --resume %s", file ? file : "FILE.yaml",
           run->experiment.options ? run->experiment.options : "", folder ? folder : "DIR");
  free(file);
  free(folder);
}

static int finish(run *run, bool written) {
  char *note = NULL, *error = NULL;
  if (written && !results_finish(run->results, &note, &error)) {
    tell(error);
    written = false;
  }
  results_print_table(run->results, stdout);
  if (note) fprintf(stderr, "moectl: %s\n", note);
  free(note);
  printf("results: %s\n", results_folder(run->results));
  if (interrupted) tell_resume(run);
  if (run->runner.bad_input && written && !interrupted) return EXIT_USAGE;
  const point_status worst = results_worst(run->results);
  return written && !interrupted && (worst == POINT_OK || worst == POINT_UNVERIFIED_OK)
             ? EXIT_ALL_OK
             : EXIT_POINT_FAILED;
}

int command_run(const options *options) {
  run run = {.options = options};
  if (options->out && options->resume) {
    complain("--out and --resume exclude each other: --resume names the folder to go on in");
    return EXIT_USAGE;
  }
  int code = EXIT_USAGE;
  if (read_pictures(options, &run.pictures) && load(&run)) code = open_device(&run);
  if (code == EXIT_ALL_OK &&
      !(prepare_variants(&run.experiment, run.context) &&
        prepare_memory(options, &run.experiment, run.context, NULL)))
    code = EXIT_USAGE;
  if (code == EXIT_ALL_OK) code = open_results(&run);
  if (code == EXIT_ALL_OK) {
    catch_interrupts();
    results_choose_pictures(run.results, run.pictures);
    run.runner = (runner){.context = run.context,
                          .experiment = &run.experiment,
                          .recording = &run.recording,
                          .interrupted = &interrupted};
    code = finish(&run, run_points(&run));
  }
  runner_release(&run.runner);
  results_destroy(&run.results);
  moecl_context_destroy(&run.context);
  recording_destroy(&run.recording);
  experiment_destroy(&run.experiment);
  return code;
}
