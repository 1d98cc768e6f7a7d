// SPDX-License-Identifier: MIT
/* What is measured at a point, as data: results.json, results.csv, report.md
 * and the closing table write, and --resume reads, what this table lists, so
 * that a new measure is one row. */
#ifndef MOECTL_MEASURES_H
#define MOECTL_MEASURES_H

#include "results/results.h"

/* An object of results.json; where it isn't there, nor are its measures. */
typedef enum measure_group {
  MEASURE_RUN = 0, /* the point itself, before its times */
  MEASURE_RATE,    /* the point itself, after them */
  MEASURE_ROUTING,
  MEASURE_VERIFY,
  MEASURE_PARALLEL, /* of several devices */
  MEASURE_OFFLOAD,  /* of experts in the host's memory */
  MEASURE_GROUP_COUNT
} measure_group;

typedef enum measure_kind {
  MEASURE_COUNT = 0, /* int64_t or uint64_t */
  MEASURE_LIMIT,     /* int64_t; negative: no limit, which is written as null */
  MEASURE_REAL,      /* double; not finite: null */
  MEASURE_SHARE,     /* a double that tables show in percent */
  MEASURE_FLAG       /* bool */
} measure_kind;

typedef struct measure {
  measure_group group;
  const char *name; /* in results.json; in results.csv after the group's prefix */
  measure_kind kind;
  size_t offset;       /* in point_result */
  const char *heading; /* of tables, with the unit if it has one; NULL: in none */
  bool repeated; /* a parameter once more, in results.json to be read beside the rest; neither in
                    results.csv, which has it, nor read back */
  bool newer;    /* results of earlier versions lack it: there it is not known */
} measure;

/* In the order of the files, by group; .name is NULL at the end. */
extern const measure measures[];
const measure *measure_find(const char *name);

/* "verify_" of verify_ok. */
const char *measure_prefix(measure_group group);
/* Whether the point has the group's object. */
bool measure_group_present(measure_group group, const point_result *point);

typedef struct measure_value {
  bool present; /* false: null, an empty cell, "n/a" */
  int64_t whole;
  double real; /* of every kind */
} measure_value;
measure_value measure_get(const measure *measure, const point_result *point);
/* Takes a value over; one that isn't present is what measure_get takes for it. */
void measure_set(const measure *measure, measure_value value, point_result *point);

/* The operations with variants, and a stage's summary, likewise. */
enum { NUM_SUMMARIES = 3 };
extern const char *const measure_operations[NUM_OPERATIONS];
/* The operation whose variant says which units do a stage's arithmetic; NULL: none has others than
 * fp32's. Of LAYER, the whole, that of most of it. */
const char *measure_arithmetic_operation(moecl_stage stage);
extern const char *const measure_summaries[NUM_SUMMARIES]; /* "median", ... */
double *measure_summary(sample_summary *times, size_t index);

#endif
