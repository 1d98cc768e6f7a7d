/* What the writers of a results folder share. */
#ifndef MOECTL_RESULTS_PRIVATE_H
#define MOECTL_RESULTS_PRIVATE_H

#include "results.h"
#include <stdio.h>

#define RESULTS_SCHEMA "moecl-results/1"

struct results {
  const experiment *experiment; /* the caller's */
  moecl_device_info device;
  kernel_origin kernels;
  char *folder;
  point_result *points; /* [experiment->num_points]; meaningful where `have` */
  bool *have;           /* [experiment->num_points] */
};

const char *point_status_name(point_status status); /* "ok", "verify_failed", ... */

/* results_json.c: the whole of results.json as text, NULL without memory. */
char *results_json(const results *results);
/* Takes over the finished points that ran and verified from an earlier run's
 * `text`; `path` names it in messages. */
bool results_json_read(results *results, const char *path, const char *text, size_t size,
                       char **error);

/* results_csv.c: likewise results.csv. */
char *results_csv(const results *results);

/* report.c, plots.c: into results->folder; false with a malloc'ed message. */
bool report_write(const results *results, char **error);
bool plots_write(const results *results, char **note, char **error);

#endif
