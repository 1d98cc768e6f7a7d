// SPDX-License-Identifier: MIT
/* moectl compare: results of runs side by side. */
#include "cli/moectl.h"
#include "report/compare.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* NaN where it was not given. Returns false, with a message, if it is not a ratio. */
static bool read_below(const options *options, double *below) {
  char *end = NULL;
  *below = options->below ? strtod(options->below, &end) : NAN;
  if (!options->below || (*end == '\0' && *below > 0 && isfinite(*below))) return true;
  complain("--fail-below: expected a ratio greater than 0, e.g. 0.95, found '%s'", options->below);
  return false;
}

/* ---- the gate ---- */

enum { MOST_LISTED = 20 }; /* a sweep may have thousands */

static void report_below(const run_ratio *speed, double below, char letter, const char *what) {
  complain("%s of %c: speed %.3g (%.3g to %.3g) is below %g", what, letter, speed->ratio,
           speed->low, speed->high, below);
}

/* Is no point, nor the mean, below? Reports those that are. */
static bool is_fast_enough(const measured_run *first, const other_run *other, char letter,
                           double below) {
  size_t slower = 0;
  for (size_t i = 0; i < other->num_matched; i++) {
    char label[512];
    const matched_points *match = &other->matched[i];
    if (!compare_is_below(&match->speed, below) || slower++ >= MOST_LISTED) continue;
    compare_point_label(first, match->before, label, sizeof label);
    report_below(&match->speed, below, letter, label);
  }
  if (slower > MOST_LISTED)
    complain("and so are %zu more points of %c", slower - MOST_LISTED, letter);
  const bool mean = compare_is_below(&other->mean, below);
  if (mean) report_below(&other->mean, below, letter, "the mean");
  return slower == 0 && !mean;
}

/* Does the run pass? Reports each point that does not. */
static bool passes(const measured_run *first, const other_run *other, char letter, double below) {
  const bool fast = is_fast_enough(first, other, letter, below);
  const bool ended = !measured_is_unfinished(other->run) || other->missing == 0;
  const bool judged = other->unknown < other->num_matched;
  if (other->failed > 0)
    complain("%c: %zu of the points that ran in A failed", letter, other->failed);
  if (!ended)
    complain("%c: %zu of A's points are missing, and the run did not end", letter, other->missing);
  if (other->unknown > 0)
    complain("%c: %zu of the points could not be judged: time at least %d forwards", letter,
             other->unknown, ENOUGH_FORWARDS);
  return fast && ended && judged && other->failed == 0;
}

static int gate(const run_comparison *all, double below) {
  int code = EXIT_ALL_OK;
  for (size_t i = 0; i + 1 < all->num_runs && !isnan(below); i++)
    if (!passes(&all->runs[0], &all->others[i], compare_letter(i + 1), below)) code = EXIT_GATE;
  return code;
}

/* ---- the command ---- */

static bool write_files(const run_comparison *all, const char *folder) {
  char *note = NULL, *error = NULL;
  const bool ok = compare_write(all, folder, &note, &error);
  if (note) complain("%s", note);
  if (!ok) complain("%s", error ? error : "no memory");
  else printf("\ncomparison: %s\n", folder);
  free(note);
  free(error);
  return ok;
}

/* Reports runs that share no work with A; returns whether there are any. */
static bool report_refused(const run_comparison *all) {
  bool refused = false;
  for (size_t i = 0; i + 1 < all->num_runs; i++) {
    if (!all->others[i].reason) continue;
    complain("%s cannot be compared with %s: %s", all->others[i].run->path, all->runs[0].path,
             all->others[i].reason);
    refused = true;
  }
  return refused;
}

int compare_and_print(const measured_run *runs, size_t count, const char *out, double below) {
  run_comparison all;
  if (!compare_runs(runs, count, &all)) {
    complain("no memory");
    compare_release(&all);
    return EXIT_POINT_FAILED;
  }
  bool any = false;
  for (size_t i = 0; i + 1 < count; i++) any |= all.others[i].num_matched > 0;
  if (any) compare_print(&all, stdout);
  const bool written = !any || !out || write_files(&all, out);
  int code = report_refused(&all) ? EXIT_USAGE : !written ? EXIT_POINT_FAILED : EXIT_ALL_OK;
  if (code == EXIT_ALL_OK) code = gate(&all, below);
  compare_release(&all);
  return code;
}

int command_compare(const options *options) {
  double below;
  if (!read_below(options, &below)) return EXIT_USAGE;
  if (options->num_files < 2 || options->num_files > MOST_RUNS) {
    complain("'moectl compare' takes 2 to %d results folders, found %zu; see 'moectl help compare'",
             MOST_RUNS, options->num_files);
    return EXIT_USAGE;
  }
  measured_run runs[MOST_RUNS];
  char *error = NULL;
  size_t count = 0;
  while (count < options->num_files && measured_load(options->files[count], &runs[count], &error))
    count++;
  if (count < options->num_files) complain("%s", error ? error : "no memory");
  const int code =
      count < options->num_files ? EXIT_USAGE : compare_and_print(runs, count, options->out, below);
  free(error);
  for (size_t i = 0; i < count; i++) measured_release(&runs[i]);
  return code;
}
