// SPDX-License-Identifier: MIT
/* A clock for how long something takes. */
#ifndef MOECTL_CLOCK_H
#define MOECTL_CLOCK_H

/* Seconds since some moment in the past; never goes back. */
double seconds_now(void);

#endif
