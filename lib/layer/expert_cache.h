// SPDX-License-Identifier: MIT
/* Which experts have a place on the device, and whose place one that is brought gets. Numbers
 * alone: it knows no device. */
#ifndef MOECL_LIB_LAYER_EXPERT_CACHE_H
#define MOECL_LIB_LAYER_EXPERT_CACHE_H

#include "moecl/layer.h"

enum { EXPERT_CACHE_NONE = -1 };

typedef struct expert_cache {
  int64_t experts, places;
  moecl_eviction eviction;
  int64_t kept;       /* of the experts that were wanted last, so many keep their place */
  int32_t *expert_at; /* [places], or NONE */
  int32_t *place_of;  /* [experts], or NONE */
  uint64_t *used;     /* [places]: when its expert was wanted, by a clock of expert after expert */
  double *often;      /* [experts]: forwards that wanted it, old ones counting less */
  bool *wanted;       /* [experts]: by this forward */
  uint64_t clock;
} expert_cache;

/* False: no memory; what there is, is released all the same. `kept` is less than `places`. */
bool expert_cache_make(expert_cache *cache, int64_t experts, int64_t places,
                       moecl_eviction eviction, int64_t kept);
void expert_cache_release(expert_cache *cache); /* zeros are allowed */

/* A forward wants these experts. */
void expert_cache_begin(expert_cache *cache, const int32_t *wanted, size_t count);
/* Its place; NONE: it has to be brought. */
int32_t expert_cache_find(expert_cache *cache, int32_t expert);
/* The place that one gets which has none: an empty one, else of an expert that this forward does
 * not want, else of one that it has computed with, but of those that were wanted last. */
int32_t expert_cache_bring(expert_cache *cache, int32_t expert);
/* What is there is no expert's any more. */
void expert_cache_forget(expert_cache *cache, int32_t place);
void expert_cache_forget_all(expert_cache *cache);
int64_t expert_cache_filled(const expert_cache *cache);

#endif
