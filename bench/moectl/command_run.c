/* moectl run: every point of an experiment, results written as they come. */
#include "moectl.h"
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
  char *error = NULL;
  const options *options = run->options;
  if (!experiment_load(options->file, options->overrides, options->num_overrides, &run->experiment,
                       &error)) {
    fprintf(stderr, "%s\n", error ? error : "no memory");
    free(error);
    return false;
  }
  if (run->experiment.warnings) fprintf(stderr, "%s\n", run->experiment.warnings);
  run->experiment.options = options_text(options);
  run->experiment.command = shell_command(options->words, options->num_words);
  if (!run->experiment.input_file ||
      (recording_load(run->experiment.input_file, run->experiment.input_tensor, &run->recording,
                      &error) &&
       recording_serves(&run->experiment, &run->recording, &error)))
    return true;
  tell(error);
  return false;
}

/* A variant asked for by name that isn't there is found before anything runs. */
static bool variant_serves(const run *run, const char *key, const char *operation,
                           const char *asked, moecl_dtype dtype) {
  const char *names[32];
  if (!asked) return true;
  size_t count = moecl_variants_available(run->context, operation, dtype, names, 32);
  for (size_t i = 0; i < count && i < 32; i++)
    if (strcmp(names[i], asked) == 0) return true;
  fprintf(stderr, "moectl: %s: '%s' does not serve %s on this device; expected ", key, asked,
          moecl_dtype_name(dtype));
  for (size_t i = 0; i < count && i < 32; i++) fprintf(stderr, "%s%s", i ? ", " : "", names[i]);
  fprintf(stderr, " or auto\n");
  return false;
}

static bool variants_serve(const run *run) {
  for (size_t i = 0; i < run->experiment.num_points; i++) {
    const moecl_layer_params *layer = &run->experiment.points[i].layer;
    if (!variant_serves(run, "layer.variant", "grouped_gemm", layer->grouped_gemm_variant,
                        layer->dtype) ||
        !variant_serves(run, "layer.router.variant", "router", layer->router_variant,
                        layer->dtype))
      return false;
  }
  return true;
}

/* "point 3 (top_k=2) needs 81.2 GiB of memory" and what to do about it. */
static bool refuse_memory(const run *run, size_t index, uint64_t bytes, const char *as,
                          uint64_t limit, const char *has) {
  const double gib = 1u << 30;
  char label[256];
  experiment_point_label(&run->experiment, index, label, sizeof label);
  complain("point %zu%s%s%s needs %.2f GiB of memory%s, %s %s %.2f GiB: choose fewer experts, "
           "smaller sizes, fewer tokens, another variant or another device",
           index, *label ? " (" : "", label, *label ? ")" : "", (double)bytes / gib, as,
           moecl_context_device(run->context)->name, has, (double)limit / gib);
  return false;
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

/* Refused before anything runs: what the device cannot hold. */
static bool memory_suffices(const run *run) {
  const moecl_device_info *device = moecl_context_device(run->context);
  const bool draws_again = run->experiment.verify || run->options->dump;
  uint64_t given = device->max_allocation_bytes;
  for (size_t i = 0; i < run->experiment.num_points; i++) {
    runner_memory needed;
    const moecl_status status = runner_memory_needed(run->context, &run->experiment.points[i],
                                                     draws_again, &needed);
    if (status != MOECL_OK) {
      complain("point %zu: its memory cannot be told: %s", i, moecl_status_string(status));
      return false;
    }
    if (needed.bytes > device->global_memory_bytes)
      return refuse_memory(run, i, needed.bytes, "", device->global_memory_bytes, "has");
    if (needed.largest_buffer <= given) continue;
    if (!gives_buffer(run->context, needed.largest_buffer))
      return refuse_memory(run, i, needed.largest_buffer, " in one buffer",
                           device->max_allocation_bytes, "states at most");
    given = needed.largest_buffer;
  }
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
  if (code == EXIT_ALL_OK && !(variants_serve(&run) && memory_suffices(&run))) code = EXIT_USAGE;
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
