// SPDX-License-Identifier: MIT
#include "base/parallel.h"
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

int base_threads(int asked) {
  const long count = asked > 0 ? asked : sysconf(_SC_NPROCESSORS_ONLN);
  return count < 1 ? 1 : count > BASE_MOST_THREADS ? BASE_MOST_THREADS : (int)count;
}

typedef struct range {
  base_body body;
  void *user;
  int part;
  int64_t first, end;
  pthread_t thread;
  bool started;
} range;

static void *run(void *user) {
  range *range = user;
  range->body(range->user, range->part, range->first, range->end);
  return NULL;
}

/* The first `count % threads` ranges have one element more. */
static int64_t range_first(int64_t count, int threads, int part) {
  const int64_t more = count % threads;
  return count / threads * part + (part < more ? part : more);
}

void base_parallel(int threads, int64_t count, base_body body, void *user) {
  range ranges[BASE_MOST_THREADS];
  for (int i = 0; i < threads; i++) {
    ranges[i] = (range){.body = body,
                        .user = user,
                        .part = i,
                        .first = range_first(count, threads, i),
                        .end = range_first(count, threads, i + 1)};
    /* The last one is the caller's own. */
    ranges[i].started =
        i + 1 < threads && pthread_create(&ranges[i].thread, NULL, run, &ranges[i]) == 0;
    if (!ranges[i].started) run(&ranges[i]);
  }
  for (int i = 0; i < threads; i++)
    if (ranges[i].started) pthread_join(ranges[i].thread, NULL);
}
