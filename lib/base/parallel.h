// SPDX-License-Identifier: MIT
/* Work on several processors whose result does not depend on how many. */
#ifndef MOECL_LIB_BASE_PARALLEL_H
#define MOECL_LIB_BASE_PARALLEL_H

#include <stdint.h>

enum { BASE_MOST_THREADS = 64 };

/* How many threads serve where `asked` were asked for; 0: one a processor. */
int base_threads(int asked);

/* Calls body for `threads` (1 to BASE_MOST_THREADS) ranges that make up 0 to
 * count-1, with the range's number, and returns when all are done. The body must
 * make of an element what it makes of it in any other range. Where no thread can
 * be had, the caller's does its work. */
typedef void (*base_body)(void *user, int part, int64_t first, int64_t end);
void base_parallel(int threads, int64_t count, base_body body, void *user);

#endif
