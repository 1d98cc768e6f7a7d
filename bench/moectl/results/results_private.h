// SPDX-License-Identifier: MIT
/* What the writers of a results folder share. */
#ifndef MOECTL_RESULTS_PRIVATE_H
#define MOECTL_RESULTS_PRIVATE_H

#include "results/results.h"
#include <jansson.h>
#include <stdio.h>

#define RESULTS_SCHEMA "moecl-results/1"

struct results {
  const experiment *experiment; /* the caller's */
  moecl_device_info device;
  device_peaks peaks;
  kernel_origin kernels;
  json_t *runs;     /* an array: who measured, a run each, this one last (provenance.h) */
  json_t *this_run; /* not among them yet; else NULL */
  char *folder;
  struct folder_lock *lock; /* of the folder (lock.h) */
  picture_choice pictures;
  picture_watch watch; /* NULL: nobody does */
  void *watch_user;
  point_result *points; /* [experiment->num_points]; meaningful where `have` */
  bool *have;           /* [experiment->num_points] */
  int journal;          /* results.jsonl while it is written, else -1 */
  size_t folded;        /* entries (added points) that results.json had when it was last written */
  size_t entries;       /* since then */
};

const char *point_status_name(point_status status); /* "ok", "verify_failed", ... */

/* results_json.c: the whole of results.json, or a point as a line of
 * results.jsonl, as text; NULL without memory. */
char *results_json(const results *results);
char *results_json_line(const results *results, size_t index);
/* Takes over the finished points that ran and verified from an earlier run's
 * `text`; `path` names it in messages. */
bool results_json_read(results *results, const char *path, const char *text, size_t size,
                       char **error);

/* Likewise the lines of results.jsonl, each in place of what was there of its
 * point. A last line without its end is left out: a crash cut it off. */
bool results_journal_read(results *results, const char *path, const char *text, size_t size,
                          char **error);

/* A point of any run: its index, status, error, and where it ran its variants, times, rounds and
 * the transport of a group, but no routing, members or verification. Returns the key that is wrong,
 * with nothing to destroy; NULL: all is well. */
const char *results_point_read(const json_t *point, point_result *result);

/* results_journal.c: results.jsonl, which holds the points added since
 * results.json was written. Appends a point and brings it to the disk; on failure
 * the file is as it was. */
bool journal_append(results *results, size_t index, char **error);
/* Takes over what an earlier run left in it. */
bool journal_resume(results *results, char **error);
/* Closes and removes it: results.json has it all. */
void journal_remove(results *results);
void journal_close(results *results);

/* results_csv.c: the whole of results.csv. */
char *results_csv(const results *results);

/* A member's numbers, as results.json has them. */
typedef struct results_member_field {
  const char *name;
  size_t offset; /* in point_member */
  bool newer;    /* results of earlier versions lack it: 0 there */
} results_member_field;
enum { RESULTS_MEMBER_COUNTS = 10, RESULTS_MEMBER_TIMES = 4 };
extern const results_member_field results_member_counts[RESULTS_MEMBER_COUNTS]; /* int64_t */
extern const results_member_field results_member_times[RESULTS_MEMBER_TIMES];   /* double */

#endif
