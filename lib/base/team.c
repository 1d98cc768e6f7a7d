// SPDX-License-Identifier: MIT
#include "base/team.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* Looks before a thread sleeps: to be woken takes longer than to look for so long. */
enum { LOOKS = 200 };

typedef struct hand {
  base_team *team;
  int part;
  bool works; /* it has a thread */
  pthread_t thread;
} hand;

struct base_team {
  pthread_mutex_t lock; /* of who sleeps */
  pthread_cond_t begins, ends;
  atomic_uint round; /* of the job that there is */
  atomic_int left;   /* threads that are not done with it */
  base_job job;      /* NULL: go home */
  void *user;
  int hired;
  int count;
  hand hand[]; /* [count], of parts from 1 on */
};

/* ---- a thread ---- */

static void await_round(base_team *team, unsigned seen) {
  for (int i = 0; i < LOOKS && atomic_load(&team->round) == seen; i++) sched_yield();
  if (atomic_load(&team->round) != seen) return;
  pthread_mutex_lock(&team->lock);
  while (atomic_load(&team->round) == seen) pthread_cond_wait(&team->begins, &team->lock);
  pthread_mutex_unlock(&team->lock);
}

static void *work(void *user) {
  const hand *hand = user;
  base_team *team = hand->team;
  for (unsigned seen = 0;; seen++) {
    await_round(team, seen);
    if (!team->job) return NULL;
    team->job(team->user, hand->part);
    if (atomic_fetch_sub(&team->left, 1) > 1) continue;
    pthread_mutex_lock(&team->lock); /* else the caller could fall asleep just now */
    pthread_cond_signal(&team->ends);
    pthread_mutex_unlock(&team->lock);
  }
}

/* ---- the caller ---- */

static void announce(base_team *team, base_job job, void *user) {
  team->job = job;
  team->user = user;
  atomic_store(&team->left, team->hired);
  pthread_mutex_lock(&team->lock);
  atomic_fetch_add(&team->round, 1);
  pthread_cond_broadcast(&team->begins);
  pthread_mutex_unlock(&team->lock);
}

static void await_all(base_team *team) {
  for (int i = 0; i < LOOKS && atomic_load(&team->left) > 0; i++) sched_yield();
  if (atomic_load(&team->left) == 0) return;
  pthread_mutex_lock(&team->lock);
  while (atomic_load(&team->left) > 0) pthread_cond_wait(&team->ends, &team->lock);
  pthread_mutex_unlock(&team->lock);
}

void base_team_run(base_team *team, int parts, base_job job, void *user) {
  if (team) announce(team, job, user);
  job(user, 0);
  for (int part = 1; part < parts; part++)
    if (!team || !team->hand[part - 1].works) job(user, part);
  if (team) await_all(team);
}

/* ---- hired, and sent home ---- */

/* Signals are for the program's own threads. */
bool base_thread_begin(pthread_t *thread, void *(*run)(void *), void *user) {
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
  sigset_t all, before;
  sigfillset(&all);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&all, own[i]);
  if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return false;
  const bool begun = pthread_create(thread, NULL, run, user) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return begun;
}

static void hire(base_team *team) {
  for (int i = 0; i < team->count; i++) {
    hand *hand = &team->hand[i];
    *hand = (struct hand){.team = team, .part = i + 1};
    hand->works = base_thread_begin(&hand->thread, work, hand);
    team->hired += hand->works;
  }
}

base_team *base_team_create(int parts) {
#ifdef BASE_TEAM_OF_ONE /* to measure what threads are worth */
  parts = 1;
#endif
  if (parts < 2) return NULL;
  const size_t count = (size_t)parts - 1;
  base_team *team = calloc(1, sizeof *team + count * sizeof *team->hand);
  if (!team) return NULL;
  team->count = (int)count;
  pthread_mutex_init(&team->lock, NULL);
  pthread_cond_init(&team->begins, NULL);
  pthread_cond_init(&team->ends, NULL);
  hire(team);
  if (team->hired == 0) base_team_destroy(&team);
  return team;
}

void base_team_destroy(base_team **handle) {
  base_team *team = *handle;
  *handle = NULL;
  if (!team) return;
  if (team->hired > 0) announce(team, NULL, NULL);
  for (int i = 0; i < team->count; i++)
    if (team->hand[i].works) pthread_join(team->hand[i].thread, NULL);
  pthread_cond_destroy(&team->ends);
  pthread_cond_destroy(&team->begins);
  pthread_mutex_destroy(&team->lock);
  free(team);
}
