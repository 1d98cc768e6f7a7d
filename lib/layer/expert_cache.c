// SPDX-License-Identifier: MIT
#include "layer/expert_cache.h"
#include <stdlib.h>

bool expert_cache_make(expert_cache *cache, int64_t experts, int64_t places,
                       moecl_eviction eviction, int64_t kept) {
  const size_t all = (size_t)experts, some = (size_t)places;
  *cache = (expert_cache){.experts = experts,
                          .places = places,
                          .eviction = eviction,
                          .kept = kept,
                          .expert_at = malloc(some * sizeof *cache->expert_at),
                          .place_of = malloc(all * sizeof *cache->place_of),
                          .used = calloc(some, sizeof *cache->used),
                          .often = calloc(all, sizeof *cache->often),
                          .wanted = calloc(all, sizeof *cache->wanted)};
  const bool ok =
      cache->expert_at && cache->place_of && cache->used && cache->often && cache->wanted;
  if (ok) expert_cache_forget_all(cache);
  else expert_cache_release(cache);
  return ok;
}

void expert_cache_release(expert_cache *cache) {
  free(cache->expert_at);
  free(cache->place_of);
  free(cache->used);
  free(cache->often);
  free(cache->wanted);
  *cache = (expert_cache){0};
}

void expert_cache_begin(expert_cache *cache, const int32_t *wanted, size_t count) {
  for (int64_t e = 0; e < cache->experts; e++) {
    cache->often[e] -= cache->often[e] / 64;
    cache->wanted[e] = false;
  }
  for (size_t i = 0; i < count; i++) {
    cache->often[wanted[i]] += 1;
    cache->wanted[wanted[i]] = true;
  }
}

int32_t expert_cache_find(expert_cache *cache, int32_t expert) {
  const int32_t place = cache->place_of[expert];
  if (place != EXPERT_CACHE_NONE) cache->used[place] = ++cache->clock;
  return place;
}

/* Empty places first, then what nobody waits for. */
static int rank_of(const expert_cache *cache, int32_t place) {
  const int32_t expert = cache->expert_at[place];
  if (expert == EXPERT_CACHE_NONE) return 0;
  return cache->wanted[expert] ? 2 : 1;
}

/* Is place a given up before place b? */
static bool goes_before(const expert_cache *cache, int32_t a, int32_t b) {
  const int rank_a = rank_of(cache, a), rank_b = rank_of(cache, b);
  if (rank_a != rank_b) return rank_a < rank_b;
  if (rank_a > 0 && cache->eviction == MOECL_EVICT_LFU) {
    const double often_a = cache->often[cache->expert_at[a]];
    const double often_b = cache->often[cache->expert_at[b]];
    if (often_a != often_b) return often_a < often_b;
  }
  return rank_a > 0 && cache->used[a] < cache->used[b];
}

static bool keeps_place(const expert_cache *cache, int32_t place) {
  return rank_of(cache, place) == 2 && cache->used[place] + (uint64_t)cache->kept > cache->clock;
}

int32_t expert_cache_bring(expert_cache *cache, int32_t expert) {
  int32_t best = EXPERT_CACHE_NONE;
  for (int32_t p = 0; p < cache->places; p++)
    if (!keeps_place(cache, p) && (best == EXPERT_CACHE_NONE || goes_before(cache, p, best)))
      best = p;
  expert_cache_forget(cache, best);
  cache->expert_at[best] = expert;
  cache->place_of[expert] = best;
  cache->used[best] = ++cache->clock;
  return best;
}

void expert_cache_forget(expert_cache *cache, int32_t place) {
  const int32_t expert = cache->expert_at[place];
  if (expert != EXPERT_CACHE_NONE) cache->place_of[expert] = EXPERT_CACHE_NONE;
  cache->expert_at[place] = EXPERT_CACHE_NONE;
}

void expert_cache_forget_all(expert_cache *cache) {
  for (int64_t e = 0; e < cache->experts; e++) cache->place_of[e] = EXPERT_CACHE_NONE;
  for (int64_t p = 0; p < cache->places; p++) cache->expert_at[p] = EXPERT_CACHE_NONE;
}

int64_t expert_cache_filled(const expert_cache *cache) {
  int64_t filled = 0;
  for (int64_t p = 0; p < cache->places; p++) filled += cache->expert_at[p] != EXPERT_CACHE_NONE;
  return filled;
}
