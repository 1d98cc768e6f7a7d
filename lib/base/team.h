// SPDX-License-Identifier: MIT
/* Threads that stay, for many short jobs one after the other: each has a part of its own. */
#ifndef MOECL_LIB_BASE_TEAM_H
#define MOECL_LIB_BASE_TEAM_H

#include <pthread.h>
#include <stdbool.h>

/* A thread that gets no signals but those that it raises itself; false: none can be had. */
bool base_thread_begin(pthread_t *thread, void *(*run)(void *), void *user);

typedef struct base_team base_team;

/* For jobs of `parts` parts: the first one is the caller's, each other one has a thread. NULL where
 * there is nothing to share, and where no memory or not one thread can be had. */
base_team *base_team_create(int parts);
/* NULL is allowed. */
void base_team_destroy(base_team **team);

/* Calls job(user, part) for parts 0 to parts-1, each in its own thread, and returns when all are
 * done. Without a team (NULL), or where a thread could not be had, the caller does them, in order.
 * Who waits gives its processor away at once, and after some fraction of a millisecond sleeps. */
typedef void (*base_job)(void *user, int part);
void base_team_run(base_team *team, int parts, base_job job, void *user);

#endif
