// SPDX-License-Identifier: MIT
/* moectl suite: several experiments one after the other, and a page that sums them up. */
#include "base/files.h"
#include "base/shell.h"
#include "base/wrap.h"
#include "cli/interrupt.h"
#include "cli/moectl.h"
#include "cli/prepare.h"
#include "cli/run_devices.h"
#include "cli/run_part.h"
#include "cli/suite_files.h"
#include "report/index.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One experiment of the suite, and what came of it. */
typedef struct suite_part {
  experiment experiment;
  recording recording;
  char *folder;
  size_t number;      /* among those that run */
  bool ran, complete; /* this time; by its results nothing is left to do */
  int code;
} suite_part;

typedef struct suite {
  const options *options;
  picture_choice pictures;
  suite_files files;
  suite_part *parts;        /* [files.count] */
  index_part *index;        /* likewise */
  const experiment **plans; /* those of the parts that run, for the time left */
  size_t num_plans;
  size_t running; /* which part */
  char *folder;
  char *only;             /* the parts that the page has, as --only names them; NULL: all */
  char *command, *resume; /* that runs it again; that goes on with it */
  bool noted;             /* a part's note was said, as of a missing gnuplot: not again */
} suite;

/* ---- before anything runs ---- */

/* "moectl suite --full --set 'a=b'": what runs the same again, malloc'ed; with a folder, what goes
 * on with it. NULL: no memory. */
static char *command_text(const options *options, const char *only, const char *resume) {
  const struct {
    const char *name, *value;
  } given[] = {{"--from", options->from},
               {"--only", only},
               {"--device", options->device},
               {"--pictures", options->pictures},
               {"--resume", resume}};
  char *text = NULL;
  size_t size;
  FILE *file = open_memstream(&text, &size);
  if (!file) return NULL;
  fprintf(file, "moectl suite%s%s", options->full ? " --full" : "",
          options->ignore_memory_limit ? " --ignore-memory-limit" : "");
  for (size_t i = 0; i < options->num_overrides; i++) {
    fputs(" --set ", file);
    shell_quote(file, options->overrides[i].assignment);
  }
  for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
    if (!given[i].value) continue;
    fprintf(file, " %s ", given[i].name);
    shell_word(file, given[i].value);
  }
  fclose(file);
  return text;
}

/* Of the parts that are on the page, since the page's commands are for all of them; false: no
 * memory. */
static bool set_only(suite *suite) {
  size_t size;
  FILE *file = suite->options->only ? open_memstream(&suite->only, &size) : NULL;
  for (size_t i = 0; file && i < suite->files.count; i++)
    fprintf(file, "%s%s", i > 0 ? "," : "", suite->files.list[i].name);
  return (!file || fclose(file) == 0) && (suite->only || !suite->options->only);
}

/* All of them, so that a mistake in the last one is found before the first has run. */
static bool load_parts(suite *suite) {
  bool ok = true;
  for (size_t i = 0; i < suite->files.count; i++) {
    options one = *suite->options;
    suite_part *part = &suite->parts[i];
    one.file = suite->files.list[i].path;
    if (!prepare_load(&one, &part->experiment, &part->recording)) {
      ok = false;
      continue;
    }
    part->number = suite->num_plans;
    if (suite->files.list[i].chosen) suite->plans[suite->num_plans++] = &part->experiment;
    part->experiment.command = shell_command(one.words, one.num_words);
    suite->index[i].name = format_text("%s", suite->files.list[i].name);
    if (suite->files.list[i].question)
      suite->index[i].question = format_text("%s", suite->files.list[i].question);
    if (!suite->index[i].name) {
      complain("no memory");
      return false;
    }
  }
  return ok;
}

static bool has_file(const suite_part *part, const char *name) {
  char *path = format_text("%s/%s", part->folder, name);
  const bool found = path && access(path, F_OK) == 0;
  free(path);
  return found;
}

/* Refuses a folder that already holds results, or, resuming, another suite's. */
static bool check_folders(const suite *suite) {
  if (suite->options->resume) return suite_files_fit(&suite->files, suite->folder);
  for (size_t i = 0; i < suite->files.count && suite->options->out; i++) {
    if (!has_file(&suite->parts[i], "results.json")) continue;
    char *word = shell_text(suite->folder);
    complain("%s already holds results; go on with them with --resume %s, or choose another "
             "folder with --out",
             suite->parts[i].folder, word ? word : "DIR");
    free(word);
    return false;
  }
  return true;
}

/* Nothing is left to do: every point ran, in all its rounds. */
static bool is_complete(const results *results, size_t points) {
  for (size_t i = 0; i < points; i++)
    if (results_rounds_left(results, i) != 0) return false;
  return true;
}

/* What the folder of a part says of it, for the index; false, complained about: it cannot be gone
 * on with. */
static bool look_at(suite *suite, size_t number, moecl_context *context) {
  suite_part *part = &suite->parts[number];
  index_part *index = &suite->index[number];
  char *error = NULL;
  kernel_origin kernels = {.dir = moecl_context_kernel_dir(context)};
  results *found = NULL;
  if (moecl_context_kernel_hash(context, kernels.hash) == MOECL_OK)
    found = results_look(&part->experiment, moecl_context_device(context), &kernels, part->folder,
                         &error);
  if (!found) {
    complain("%s", error ? error : "no memory");
    free(error);
    return false;
  }
  const device_peaks peaks = peaks_load(context);
  results_set_peaks(found, &peaks);
  index_part_set(index, found);
  index->has_report = has_file(part, "report.html");
  part->complete = is_complete(found, part->experiment.num_points);
  if (!part->complete && !suite->files.list[number].chosen)
    index->problem = format_text("it is not finished: points have not run, or failed");
  results_destroy(&found);
  return true;
}

/* Opens each device that is asked for once, so that one that is not there is found before anything
 * is written; and resuming, looks at what all parts have. An exit code. */
static int look_at_all(suite *suite) {
  moecl_context *context = NULL;
  const char *open = NULL; /* the context's device */
  int code = EXIT_ALL_OK;
  for (size_t i = 0; i < suite->files.count && code == EXIT_ALL_OK; i++) {
    const suite_part *part = &suite->parts[i];
    const char *own = part->experiment.device;
    const char *device = suite->options->device ? suite->options->device : own;
    if (context && strcmp(device ? device : "", open ? open : "") != 0)
      moecl_context_destroy(&context);
    open = device;
    if (!context) code = open_context(suite->options, device, &context);
    if (code == EXIT_ALL_OK && suite->options->resume && has_file(part, "results.json") &&
        !look_at(suite, i, context))
      code = EXIT_USAGE;
  }
  moecl_context_destroy(&context);
  return code;
}

/* ---- while it runs ---- */

static bool is_done(const suite *suite) {
  for (size_t i = 0; i < suite->files.count; i++)
    if (!suite->parts[i].complete) return false;
  return true;
}

static bool write_index(const suite *suite) {
  char *error = NULL;
  const report_index index = {.folder = suite->folder,
                              .command = suite->command,
                              .resume = is_done(suite) ? NULL : suite->resume,
                              .parts = suite->index,
                              .count = suite->files.count};
  const bool ok = report_index_write(&index, &error);
  if (!ok) complain("%s", error ? error : "no memory");
  free(error);
  return ok;
}

static void on_results(void *user, const results *results, const char *note) {
  suite *suite = user;
  index_part_set(&suite->index[suite->running], results);
  suite->parts[suite->running].ran = true;
  if (note && !suite->noted) complain("%s", note);
  suite->noted = suite->noted || note;
}

static void on_refused(void *user, const char *why) {
  suite *suite = user;
  free(suite->index[suite->running].problem);
  suite->index[suite->running].problem = format_text("%s", why);
}

/* Why a part did not end well that did not say so itself. */
static const char *problem_of(const suite_part *part) {
  if (interrupt_came) return "interrupted";
  if (part->ran) return "its results could not be written";
  if (part->code == EXIT_USAGE)
    return "it cannot run on the device, by what was printed of variants and memory";
  return "the device could not be opened again, or there was no memory";
}

/* "decode", and below it what was found. */
static void print_part(const suite *suite, size_t number) {
  const index_part *part = &suite->index[number];
  char *finding = part->finding ? format_text("%s", part->finding) : NULL;
  const char *said = finding         ? index_plain_text(finding)
                     : part->problem ? part->problem
                                     : "there is nothing to say";
  const int width = isatty(STDOUT_FILENO) == 1 ? terminal_width(STDOUT_FILENO) : TEXT_WIDTH;
  printf("%s\n", part->name);
  wrap_text(stdout, said, 2, width);
  fflush(stdout);
  free(finding);
}

static void run_part_of(suite *suite, size_t number) {
  suite_part *part = &suite->parts[number];
  index_part *index = &suite->index[number];
  options one = *suite->options;
  one.file = suite->files.list[number].path;
  const run_part run = {.options = &one,
                        .folder = part->folder,
                        .resumes = suite->options->resume && has_file(part, "results.json"),
                        .resume = suite->resume,
                        .pictures = suite->pictures,
                        .place = {.name = index->name,
                                  .number = part->number + 1,
                                  .count = suite->num_plans,
                                  .later = suite->plans + part->number + 1,
                                  .num_later = suite->num_plans - part->number - 1},
                        .done = on_results,
                        .refused = on_refused,
                        .user = suite};
  suite->running = number;
  part->code = run_part_run(&run, &part->experiment, &part->recording);
  if (part->code != EXIT_ALL_OK && !index->problem)
    index->problem = format_text("%s", problem_of(part));
  part->complete = part->code == EXIT_ALL_OK;
  index->has_report = index->has_report || has_file(part, "report.html"); /* an earlier one's */
  print_part(suite, number);
}

/* ---- and at the end ---- */

/* Parts that did not end well are named; 0, or where some did run 1, else the first one's. */
static int sum_up(const suite *suite) {
  int code = EXIT_ALL_OK, first = EXIT_ALL_OK;
  bool any = false;
  for (size_t i = 0; i < suite->files.count; i++) {
    const index_part *part = &suite->index[i];
    any = any || suite->parts[i].ran;
    if (suite->parts[i].code == EXIT_ALL_OK) continue;
    if (first == EXIT_ALL_OK) first = suite->parts[i].code;
    code = EXIT_POINT_FAILED;
    complain("%s: %s", part->name, part->problem ? part->problem : "no memory");
  }
  return any ? code : first;
}

static void print_caution(const suite *suite) {
  const char *caution = index_caution(suite->index, suite->files.count);
  char *text = caution ? format_text("%s", caution) : NULL;
  char *end = text ? strstr(index_plain_text(text), ". ") : NULL; /* of its first sentence */
  if (end) *end = '\0';
  if (text) complain("%s; times may be due to them: repeat it on a quiet machine", text);
  free(text);
}

static int run_all(suite *suite) {
  bool written = write_index(suite);
  for (size_t i = 0; i < suite->files.count && written && !interrupt_came; i++) {
    if (!suite->files.list[i].chosen) continue;
    run_part_of(suite, i);
    written = write_index(suite);
  }
  interrupt_say_no_more();
  printf("suite: %s/index.html\n", suite->folder);
  flush_output(suite->folder);
  print_caution(suite);
  const int code = sum_up(suite);
  if (interrupt_came || !written)
    complain("%s; go on with: %s", interrupt_came ? "interrupted" : "not finished", suite->resume);
  return interrupt_came || !written ? EXIT_POINT_FAILED : code;
}

/* Takes `folder` over. */
static bool set_folder(suite *suite, char *folder) {
  suite->folder = folder;
  bool ok = folder != NULL;
  for (size_t i = 0; i < suite->files.count && ok; i++) {
    suite->parts[i].folder = format_text("%s/%s", folder, suite->files.list[i].name);
    ok = suite->parts[i].folder != NULL;
  }
  if (!ok) complain("no memory");
  return ok;
}

/* The folder that was named, if one was; it need not be there unless resuming. */
static bool name_folder(suite *suite) {
  const options *options = suite->options;
  if (options->resume && access(options->resume, F_OK) != 0) {
    complain("%s cannot be resumed: there is no such folder", options->resume);
    return false;
  }
  const char *named = options->resume ? options->resume : options->out;
  return !named || set_folder(suite, format_text("%s", named));
}

static bool make_folder(suite *suite) {
  char *error = NULL, *made = suite->folder ? NULL : results_new_folder("suite", &error);
  const bool ok = suite->folder ? make_directories(suite->folder, &error) : made != NULL;
  if (!ok) complain("%s", error ? error : "no memory");
  free(error);
  return ok && (!made || set_folder(suite, made));
}

/* Reads what was asked for; false: complained about. */
static bool prepare(suite *suite) {
  const options *options = suite->options;
  if (options->out && options->resume) {
    complain("--out and --resume exclude each other: --resume names the folder to go on in");
    return false;
  }
  if (devices_are_several(options->device)) {
    complain("--device: a suite runs on one device; run it on each, and compare its parts with "
             "'moectl compare'");
    return false;
  }
  if (!run_read_pictures(options, &suite->pictures) ||
      !suite_files_find(options->from, options->full, options->only, options->resume,
                        &suite->files))
    return false;
  suite->parts = calloc(suite->files.count, sizeof *suite->parts);
  suite->index = calloc(suite->files.count, sizeof *suite->index);
  suite->plans = calloc(suite->files.count, sizeof *suite->plans);
  if (set_only(suite)) suite->command = command_text(options, suite->only, NULL);
  if (suite->parts && suite->index && suite->plans && suite->command) return true;
  complain("no memory");
  return false;
}

static void release(suite *suite) {
  for (size_t i = 0; i < suite->files.count; i++) {
    if (suite->parts) {
      recording_destroy(&suite->parts[i].recording);
      experiment_destroy(&suite->parts[i].experiment);
      free(suite->parts[i].folder);
    }
    if (suite->index) index_part_release(&suite->index[i]);
  }
  free(suite->parts);
  free(suite->index);
  free(suite->plans);
  free(suite->folder);
  free(suite->only);
  free(suite->command);
  free(suite->resume);
  suite_files_release(&suite->files);
}

/* Once nothing stands against it. */
static int make_and_run(suite *suite) {
  if (!make_folder(suite)) return EXIT_USAGE;
  suite->resume = command_text(suite->options, suite->only, suite->folder);
  if (suite->resume) return run_all(suite);
  complain("no memory");
  return EXIT_POINT_FAILED;
}

int command_suite(const options *options) {
  suite suite = {.options = options};
  int code = EXIT_USAGE;
  if (prepare(&suite) && load_parts(&suite) && name_folder(&suite) && check_folders(&suite))
    code = look_at_all(&suite);
  if (code == EXIT_ALL_OK) code = make_and_run(&suite);
  release(&suite);
  return code;
}
