/* What a run says while it runs: one line redrawn on a terminal, plain lines
 * otherwise. On stderr: stdout is for the results. */
#ifndef MOECTL_PROGRESS_H
#define MOECTL_PROGRESS_H

#include "results.h"

typedef struct progress progress;
/* `to_run`: how many points will be begun, the others having been finished in an
 * earlier run. NULL is usable: says nothing. */
progress *progress_open(const experiment *experiment, size_t to_run, bool quiet);
void progress_begin(progress *progress, size_t index);
/* `result` NULL: a later round of a point. */
void progress_end(progress *progress, size_t index, const point_result *result);
/* Round `round` (from 0) of `rounds` begins, with so many points. Of later ones than the
 * first only a terminal is told; progress_end is then without a result. */
void progress_round(progress *progress, int64_t round, int64_t rounds, size_t to_run);
void progress_close(progress **progress);

#endif
