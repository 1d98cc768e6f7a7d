// SPDX-License-Identifier: MIT
/* How long a run will take still: what is left of its points' work, at the speed that
 * those that ended have shown. */
#ifndef MOECTL_TIME_LEFT_H
#define MOECTL_TIME_LEFT_H

#include "run/estimate.h"
#include <stddef.h>

typedef struct time_left time_left;

/* Nothing is left to begin with. NULL: no memory. */
time_left *time_left_open(const experiment *experiment, const device_rates *rates);
void time_left_close(time_left **left);

/* Point `index` is still to run: its first round or not, and so many later ones;
 * negative: as many as are estimated. */
void time_left_expect(time_left *left, size_t index, bool first, int64_t later_rounds);
/* Another experiment runs after this one, all of it, at the speed that this one's points show. */
void time_left_expect_after(time_left *left, const experiment *experiment,
                            const device_rates *rates);
/* A round of the point ended, after so many seconds; `forward_ms` is a forward's median
 * (NaN: not known). `later_rounds`: how many it has left. */
void time_left_ended(time_left *left, size_t index, double seconds, double forward_ms,
                     int64_t later_rounds);
/* NaN before a point has ended. */
double time_left_seconds(const time_left *left);

#endif
