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
void progress_end(progress *progress, size_t index, const point_result *result);
void progress_close(progress **progress);

#endif
