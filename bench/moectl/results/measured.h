// SPDX-License-Identifier: MIT
/* results.json of any run (another version's, another machine's, a peer's), to be compared: who
 * measured, what the work was, and how long it took. */
#ifndef MOECTL_MEASURED_H
#define MOECTL_MEASURED_H

#include "experiment/schema.h"
#include "results/results.h"

typedef struct measured_point {
  point_result result; /* index, status, error, variants, times, rounds and parallel.transport */
  char *values[KEY_COUNT]; /* of the keys that are parameters of a point, as YAML writes them */
} measured_point;

typedef struct measured_run {
  char *path; /* as it was given */
  /* Who measured; "not recorded" where the file does not say. Version and commit are moecl's, or
   * those of another program, whose name `system` is then. */
  char *device, *platform, *driver, *system, *version, *commit, *kernels;
  char *values[KEY_COUNT]; /* of the other keys: one for the whole experiment */
  measured_point *points;
  size_t num_points;
  size_t num_planned; /* of the experiment's points */
  bool has_journal;   /* there is a results.jsonl beside it, whose points are not here */
} measured_run;

/* Did the run end before it had all of its points? */
static inline bool measured_is_unfinished(const measured_run *run) {
  return run->has_journal || run->num_points < run->num_planned;
}

/* `path`: a results folder, or a results.json of any name. A key that the file lacks had its
 * default, as a file of an earlier version did; one that is unknown here is refused, since what it
 * means for the work is not known. On failure false with a malloc'ed message, and nothing to
 * release. */
bool measured_load(const char *path, measured_run *run, char **error);
void measured_release(measured_run *run);

/* The value of a key that a point has; files and folders by their last name alone, since they
 * lie elsewhere on another machine. */
const char *measured_value(const measured_run *run, size_t point, schema_id key);

#endif
