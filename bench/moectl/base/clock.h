// SPDX-License-Identifier: MIT
/* How long something takes, and what time it is. */
#ifndef MOECTL_CLOCK_H
#define MOECTL_CLOCK_H

#include <stdbool.h>

/* Seconds since some moment in the past; never goes back. */
double seconds_now(void);

/* The local time: for programs, "2026-11-29T09:27:31+0000"; and for people, "2026-11-29 09:27:31
 * +0000". False, and `text` as it was, where it can't be known. */
enum { TIME_SIZE = 40 };
bool time_stamp(char text[TIME_SIZE]);
bool time_text(char text[TIME_SIZE]);

#endif
