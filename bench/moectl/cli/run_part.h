// SPDX-License-Identifier: MIT
/* An experiment that is a part of a suite: it runs as `moectl run` runs it, and says as little. */
#ifndef MOECTL_RUN_PART_H
#define MOECTL_RUN_PART_H

#include "cli/moectl.h"
#include "cli/progress.h"
#include "run/workload.h"

typedef struct run_part {
  const options *options; /* the command line's; its file is the part's */
  const char *folder;     /* of its results */
  bool resumes;           /* goes on with what the folder has */
  const char *resume;     /* the command that goes on with the suite */
  picture_choice pictures;
  progress_place place;
  /* Called once where there are results, when all of the folder is written. `note`: a line for
   * the user, or NULL. */
  void (*done)(void *user, const results *results, const char *note);
  /* Called once where the folder could not be had, with what is complained about. */
  void (*refused)(void *user, const char *why);
  void *user;
} run_part;

/* Runs a loaded experiment, which stays the caller's; an exit code. */
int run_part_run(const run_part *part, experiment *experiment, const recording *recording);

/* --pictures; false, complained about: no such choice. */
bool run_read_pictures(const options *options, picture_choice *pictures);

#endif
