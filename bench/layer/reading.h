// SPDX-License-Identifier: MIT
/* How fast plain code reads memory: what one row per expert is bounded by. */
#ifndef MOECL_BENCH_READING_H
#define MOECL_BENCH_READING_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum { READING_MAX_THREADS = 256 };

typedef float reading_vector __attribute__((vector_size(32)));
typedef struct reading_share {
  const float *from;
  size_t count;       /* a multiple of 32 */
  reading_vector sum; /* keeps the reads */
} reading_share;

static inline double reading_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void *reading_all(void *argument) {
  reading_share *r = argument;
  reading_vector sum[4] = {{0}};
  for (size_t i = 0; i < r->count; i += 32) {
    const reading_vector *v = (const reading_vector *)(r->from + i);
    __builtin_prefetch(r->from + i + 1024);
    __builtin_prefetch(r->from + i + 1040);
    for (int j = 0; j < 4; j++) sum[j] += v[j];
  }
  r->sum = sum[0] + sum[1] + sum[2] + sum[3];
  return NULL;
}

/* GB/s of `threads` threads, at most READING_MAX_THREADS, that read `count` floats at 32 bytes'
 * alignment; 0 where there are no threads to be had. */
static inline double reading_rate(const float *data, int64_t count, int threads) {
  static reading_share shares[READING_MAX_THREADS];
  pthread_t ids[READING_MAX_THREADS];
  const size_t share = (size_t)count / (size_t)threads / 32 * 32;
  const double start = reading_clock();
  int begun = 1;
  for (int t = 0; t < threads; t++)
    shares[t] = (reading_share){.from = data + (size_t)t * share, .count = share};
  while (begun < threads && !pthread_create(&ids[begun], NULL, reading_all, &shares[begun]))
    begun++;
  reading_all(&shares[0]);
  for (int t = 1; t < begun; t++) pthread_join(ids[t], NULL);
  if (begun < threads) return 0;
  return (double)share * threads * sizeof(float) / (reading_clock() - start) * 1e-9;
}
#endif
