// SPDX-License-Identifier: MIT
/* A results folder: made, gone on with, and kept up to date point by point: a line
 * a point in results.jsonl, results.json and results.csv whole now and then. */
#include "base/files.h"
#include "results/lock.h"
#include "results/provenance.h"
#include "results/results_private.h"
#include "results/rounds.h"
#include "base/shell.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

void point_result_destroy(point_result *result) {
  if (!result) return;
  free(result->error);
  for (int i = 0; i < NUM_OPERATIONS; i++) {
    free(result->variants[i]);
    free(result->variant_reasons[i]);
  }
  free(result->rounds);
  free(result->parallel.members);
  moecl_routing_destroy(&result->routing);
  *result = (point_result){0};
}

const char *point_status_name(point_status status) {
  switch (status) {
  case POINT_OK: return "ok";
  case POINT_UNVERIFIED_OK: return "ok_unverified";
  case POINT_VERIFY_FAILED: return "verify_failed";
  case POINT_ERROR: return "error";
  }
  return "?";
}

/* A name becomes one path component: no slashes, no leading dot, no blanks. */
static char *safe_name(const char *name) {
  char *safe = format_text("%.100s", name && *name ? name : "experiment");
  for (char *c = safe; c && *c; c++) {
    const bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                       (*c >= '0' && *c <= '9') || *c == '_' || *c == '-' ||
                       (*c == '.' && c > safe);
    if (!plain) *c = '-';
  }
  return safe;
}

/* From here on no other run writes into the folder. */
static bool lock_folder(results *all, char **error) {
  all->lock = folder_lock_take(all->folder, error);
  return all->lock != NULL;
}

/* With a number where two runs begin in one second: mkdir decides which of them has the
 * name. */
char *results_new_folder(const char *experiment, char **error) {
  const time_t now = time(NULL);
  struct tm local;
  char stamp[32] = "", *folder = NULL;
  if (localtime_r(&now, &local)) strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local);
  char *name = safe_name(experiment);
  bool ok = name ? make_directories("results", error) : fail_text(error, "no memory");
  for (int number = 1; ok; number++) {
    char suffix[16] = "";
    if (number > 1) snprintf(suffix, sizeof suffix, "-%d", number);
    free(folder);
    folder = format_text("results/%s-%s%s", name, stamp, suffix);
    if (!folder) {
      ok = fail_text(error, "no memory");
    } else if (mkdir(folder, 0777) == 0) {
      break;
    } else if (errno != EEXIST) {
      ok = fail_text(error, "the folder %s could not be made: %s", folder, strerror(errno));
    }
  }
  free(name);
  if (ok) return folder;
  free(folder);
  return NULL;
}

static bool make_default_folder(results *all, char **error) {
  all->folder = results_new_folder(all->experiment->name, error);
  return all->folder && lock_folder(all, error);
}

/* A folder that the user named. One with results in it is not written over. */
static bool make_named_folder(results *all, const char *out, char **error) {
  struct stat info;
  all->folder = format_text("%s", out);
  char *path = format_text("%s/results.json", out);
  bool ok = all->folder && path ? make_directories(out, error) && lock_folder(all, error)
                                : fail_text(error, "no memory");
  if (ok && stat(path, &info) == 0) {
    char *word = shell_text(out);
    ok = fail_text(error,
                   "%s already holds results; go on with them with --resume %s, or choose another "
                   "folder with --out",
                   out, word ? word : "DIR");
    free(word);
  }
  free(path);
  return ok;
}

bool results_of_processes(const point_parallel *parallel) {
  return strncmp(parallel->transport, "mpi", strlen("mpi")) == 0;
}

/* An earlier version's run, which does not say how many, and had messages between several. */
static bool is_of_unknown_processes(const results *all, const json_t *run) {
  bool messages = false;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    messages = messages || (all->have[i] && results_of_processes(&all->points[i].parallel));
  return messages && !json_object_get(run, "processes");
}

/* A group's rounds are of one kind: its members' processes decide how rows go between them. */
static bool check_processes(const results *all, char **error) {
  const experiment *plan = all->experiment;
  const json_t *last = json_array_get(all->runs, json_array_size(all->runs) - 1);
  const int64_t were = provenance_processes(last), are = plan->processes > 1 ? plan->processes : 1;
  char launcher[SHELL_LAUNCHER_SIZE];
  bool groups = false;
  for (size_t i = 0; i < plan->num_points; i++)
    groups = groups || (all->have[i] && all->points[i].parallel.num_members > 0);
  if (!groups || were == are || is_of_unknown_processes(all, last)) return true;
  char *file = shell_text(plan->path), *folder = shell_text(all->folder);
  fail_text(error,
            "%s was measured by %" PRId64 " process%s, and now there %s %" PRId64
            ", which would measure other rounds of its groups in another way; go on with: "
            "%smoectl run %s%s --resume %s",
            all->folder, were, were > 1 ? "es" : "", are > 1 ? "are" : "is", are,
            shell_launcher(were, launcher), file ? file : "FILE",
            plan->options ? plan->options : "", folder ? folder : "DIR");
  free(file);
  free(folder);
  return false;
}

static bool resume_folder(results *all, const char *folder, char **error) {
  struct stat info;
  if (stat(folder, &info) != 0)
    return fail_text(error, "%s cannot be resumed: %s", folder, strerror(errno));
  if (!S_ISDIR(info.st_mode))
    return fail_text(error, "%s cannot be resumed: it is not a folder", folder);
  all->folder = format_text("%s", folder);
  char *path = format_text("%s/results.json", folder);
  if (!all->folder || !path) {
    free(path);
    return fail_text(error, "no memory");
  }
  if (!lock_folder(all, error)) {
    free(path);
    return false;
  }
  size_t size = 0;
  char *text = read_whole_file(path, &size);
  const bool ok =
      text ? results_json_read(all, path, text, size, error)
           : fail_text(error, "%s cannot be resumed: %s: %s", folder, path, strerror(errno));
  free(text);
  free(path);
  if (!ok || !journal_resume(all, error) || !check_processes(all, error)) return false;
  for (size_t i = 0; i < all->experiment->num_points; i++) all->entries += all->have[i];
  return true;
}

static bool begin_file(const results *all, const char *name, char *text, pending_file *pending,
                       char **error) {
  char *path = format_text("%s/%s", all->folder, name);
  const bool ok = (path && text ? pending_open(pending, path, error)
                                : fail_text(error, "no memory for %s", name)) &&
                  pending_write(pending, text, strlen(text), error) && pending_sync(pending, error);
  free(path);
  free(text);
  return ok;
}

/* Both files are on the disk before either replaces its predecessor, so that a
 * full disk leaves the two that belong together. */
static bool write_files(const results *all, char **error) {
  pending_file json = {0}, csv = {0};
  if (!begin_file(all, "results.json", results_json(all), &json, error) ||
      !begin_file(all, "results.csv", results_csv(all), &csv, error)) {
    pending_discard(&json);
    pending_discard(&csv);
    return false;
  }
  if (pending_commit(&json, error)) return pending_commit(&csv, error);
  pending_discard(&csv);
  return false;
}

/* results.json and results.csv with all there is; the journal has had its use. */
static bool fold(results *all, char **error) {
  if (!write_files(all, error)) return false;
  journal_remove(all);
  all->folded += all->entries;
  all->entries = 0;
  return true;
}

/* This run among those that measured: one that is resumed with nothing left to do does not. */
static bool enter_run(results *all, char **error) {
  json_t *run = all->this_run;
  all->this_run = NULL;
  return json_array_append_new(all->runs, run) == 0 ||
         fail_text(error, "no memory for the results");
}

/* A new folder has its (empty) results at once: one that can't be written is
 * found before anything is measured, and --resume works from the start. A resumed
 * one has what its journal held. */
static bool open_folder(results *all, const char *out, bool resume, char **error) {
  if (resume && !out) return fail_text(error, "--resume needs the folder of the earlier run");
  const bool ok = resume ? resume_folder(all, out, error)
                  : out  ? make_named_folder(all, out, error)
                         : make_default_folder(all, error);
  all->this_run = provenance_now(all->experiment);
  if (ok && !all->this_run) return fail_text(error, "no memory for the results");
  return ok && (resume || enter_run(all, error)) && fold(all, error);
}

/* Without a folder; NULL with a message: no memory. */
static results *make_results(const experiment *plan, const moecl_device_info *device,
                             const kernel_origin *kernels, char **error) {
  *error = NULL;
  results *all = calloc(1, sizeof *all);
  if (all) {
    all->experiment = plan;
    all->device = *device;
    all->kernels = *kernels;
    all->journal = -1;
    all->runs = json_array();
    all->points = calloc(plan->num_points + 1, sizeof *all->points);
    all->have = calloc(plan->num_points + 1, sizeof *all->have);
  }
  if (all && all->points && all->have && all->runs) return all;
  fail_text(error, "no memory for the results");
  results_destroy(&all);
  return NULL;
}

results *results_open(const experiment *plan, const moecl_device_info *device,
                      const kernel_origin *kernels, const char *out, bool resume, char **error) {
  results *all = make_results(plan, device, kernels, error);
  if (all && !open_folder(all, out, resume, error)) results_destroy(&all);
  return all;
}

results *results_look(const experiment *plan, const moecl_device_info *device,
                      const kernel_origin *kernels, const char *folder, char **error) {
  results *all = make_results(plan, device, kernels, error);
  if (all && !resume_folder(all, folder, error)) results_destroy(&all);
  return all;
}

bool results_has(const results *all, size_t index) {
  return index < all->experiment->num_points && all->have[index];
}

void results_choose_pictures(results *all, picture_choice pictures) { all->pictures = pictures; }

void results_watch_pictures(results *all, picture_watch watch, void *user) {
  all->watch = watch;
  all->watch_user = user;
}

const char *results_folder(const results *all) { return all->folder; }

void results_set_peaks(results *all, const device_peaks *peaks) { all->peaks = *peaks; }

/* The [T,*] arrays would add up to gigabytes over a sweep, and no file of the
 * folder shows them (a dump has been written by now). */
static void drop_arrays(moecl_routing *routing) {
  moecl_routing tokens = *routing; /* every array but the two that stay */
  tokens.tokens_per_expert = tokens.tokens_per_expert_after_capacity = NULL;
  moecl_routing_destroy(&tokens);
  routing->router_logits = NULL;
  routing->topk_ids = NULL;
  routing->topk_weights = NULL;
  routing->kept = NULL;
  routing->token_priority = NULL;
}

/* A line of the journal; results.json and results.csv each time there is twice as
 * much, so that all that is ever written of them is about twice the last. */
static bool keep_entry(results *all, size_t index, char **error) {
  const bool first = all->this_run != NULL;
  all->entries++;
  if (first && !enter_run(all, error)) return false;
  if (first || all->entries >= all->folded) return fold(all, error);
  if (journal_append(all, index, error)) return true;
  all->folded = 0; /* it isn't in the journal: with the next one all is written */
  return false;
}

bool results_add(results *all, point_result *result, char **error) {
  *error = NULL;
  const size_t index = result->index;
  if (index >= all->experiment->num_points) {
    point_result_destroy(result);
    return fail_text(error, "there is no point %zu", index);
  }
  if (all->have[index]) point_result_destroy(&all->points[index]);
  all->points[index] = *result;
  all->have[index] = true;
  *result = (point_result){0};
  drop_arrays(&all->points[index].routing);
  return keep_entry(all, index, error);
}

bool results_wants(const results *all, size_t index, int64_t round) {
  const point_result *point = &all->points[index];
  if (round == 0) return !results_has(all, index);
  return results_has(all, index) && point->status <= POINT_UNVERIFIED_OK &&
         (int64_t)point->num_rounds == round && round < point->rounds_planned;
}

int64_t results_rounds_planned(const results *all, size_t index) {
  return all->points[index].rounds_planned;
}

int64_t results_rounds_left(const results *all, size_t index) {
  if (!results_has(all, index)) return -1;
  const point_result *point = &all->points[index];
  const int64_t left = point->rounds_planned - (int64_t)point->num_rounds;
  return point->status <= POINT_UNVERIFIED_OK && left > 0 ? left : 0;
}

int64_t results_rounds(const results *all) {
  int64_t most = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (all->have[i] && all->points[i].rounds_planned > most) most = all->points[i].rounds_planned;
  return most;
}

bool results_add_round(results *all, size_t index, const point_round *round, char *failure,
                       char **error) {
  point_result *point = &all->points[index];
  *error = NULL;
  if (failure) {
    point->status = POINT_ERROR;
    free(point->error);
    point->error = failure;
  } else if (!rounds_add(point, round)) {
    return fail_text(error, "no memory for a round of point %zu", index);
  }
  return keep_entry(all, index, error);
}

bool results_write(results *all, char **error) {
  *error = NULL;
  return fold(all, error);
}

point_status results_worst(const results *all) {
  point_status worst = POINT_OK;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (all->have[i] && all->points[i].status > worst) worst = all->points[i].status;
  return worst;
}

void results_destroy(results **all) {
  if (!all || !*all) return;
  struct results *r = *all;
  journal_close(r);
  for (size_t i = 0; r->have && r->points && i < r->experiment->num_points; i++)
    if (r->have[i]) point_result_destroy(&r->points[i]);
  free(r->points);
  free(r->have);
  json_decref(r->runs);
  json_decref(r->this_run);
  folder_lock_release(&r->lock);
  free(r->folder);
  free(r);
  *all = NULL;
}
