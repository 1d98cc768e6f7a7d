// SPDX-License-Identifier: MIT
/* Runs side by side: which of their points are the same work, and how fast one run was beside the
 * first, the baseline.
 *
 * Points are the same work if all keys of the experiment agree but those that the schema marks
 * NOT_WORK: what is compared is the device, the version, the kernels. Variants that were asked for
 * are compared too, but where a run has several points of one work that differ in them, each is
 * matched with the one that asked for the same. */
#ifndef MOECTL_COMPARE_H
#define MOECTL_COMPARE_H

#include "results/measured.h"
#include "results/rounds.h"

/* A point of the baseline and one of the other run that are the same work and ran. */
typedef struct matched_points {
  size_t before, after; /* into the runs' points */
  run_ratio speed;      /* above 1: the other run is faster */
} matched_points;

typedef struct other_run {
  const measured_run *run;
  matched_points *matched;
  size_t num_matched;
  run_ratio mean; /* the geometric mean of the matched points' speeds; its interval is that of the
                     lower ends to that of the upper ends, since errors of one run are not
                     independent: a machine that was slow was slow for all of them */
  size_t faster, slower, unknown; /* of the matched points: beyond noise; without an interval */
  size_t failed;   /* points that are the same work, ran in the baseline and failed here */
  size_t missing;  /* points of the baseline that have no partner here */
  char **left_out; /* a sentence each: points that have no partner and why, those that failed */
  size_t num_left_out;
  char *reason; /* nothing is matched: why; else NULL */
} other_run;

typedef struct run_comparison {
  const measured_run *runs; /* the caller's; the first is the baseline */
  size_t num_runs;
  other_run *others; /* [num_runs - 1] */
} run_comparison;

enum { MOST_RUNS = 26 };
/* What a run is called: 'A' the first. */
static inline char compare_letter(size_t run) { return (char)('A' + run); }

/* False: no memory; released in either case. */
bool compare_runs(const measured_run *runs, size_t count, run_comparison *comparison);
void compare_release(run_comparison *comparison);

/* "faster", "slower", "within noise", or "unknown" without an interval. */
const char *compare_verdict(const run_ratio *speed);
/* Is the speed below `least`, and that not by noise? It is below, and either slower beyond noise
 * or with all its interval below `least`. */
bool compare_is_below(const run_ratio *speed, double least);

/* compare_work.c: the keys that tell a run's points apart. Returns how many. */
size_t compare_varying(const measured_run *run, schema_id keys[KEY_COUNT]);
/* "point 3 (top_k=2)". Returns `text`. */
const char *compare_point_label(const measured_run *run, size_t point, char *text, size_t size);
/* What is compared: "device (A, B); commit (1, 2)", transports that served included; "" where
 * nothing that is recorded differs.
 * malloc'ed; NULL: no memory. */
char *compare_subject(const measured_run *a, const measured_run *b);
/* Pairs points that are the same work: partners[i] of a's points is one of b's, or SIZE_MAX. False:
 * no memory. */
bool compare_match(const measured_run *a, const measured_run *b, size_t *partners);
/* Why point i of `run` has no partner in `other`: values that the other has nowhere, else that it
 * lacks the combination, or that several of its points may be meant. malloc'ed; NULL: no memory. */
char *compare_why_alone(const measured_run *run, size_t point, const measured_run *other);
/* The keys in which no value is in both runs, each with its values; NULL: no memory. */
char *compare_disjoint(const measured_run *a, const measured_run *b);

/* compare_text.c: on a terminal, or in Markdown, with the picture where there is one. */
void compare_print(const run_comparison *comparison, FILE *file);
void compare_print_markdown(const run_comparison *comparison, bool picture, FILE *file);

/* compare_files.c: compare.md, compare.csv, compare.gp, compare.dat and, where gnuplot is there,
 * compare.png into the folder, which is made. `note` (malloc'ed, or NULL) is for the user. */
bool compare_write(const run_comparison *comparison, const char *folder, char **note, char **error);

#endif
