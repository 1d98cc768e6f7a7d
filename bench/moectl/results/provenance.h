// SPDX-License-Identifier: MIT
/* Who measured: what a reader needs to judge figures or to get them again. */
#ifndef MOECTL_PROVENANCE_H
#define MOECTL_PROVENANCE_H

#include "experiment/experiment.h"
#include <jansson.h>

/* One run's record for results.json: when it began, host, system, processors, load
 * averages (null where the system tells none), command line, number of processes, version,
 * commit and compiler. NULL without memory. */
json_t *provenance_now(const experiment *experiment);
/* How many processes ran it: 1 where a run of an earlier version does not say. */
int64_t provenance_processes(const json_t *run);
/* The commit this program was built from, with "-dirty" where it was changed;
 * "unknown" outside a repository. */
const char *provenance_commit(void);
const char *provenance_compiler(void);

#endif
