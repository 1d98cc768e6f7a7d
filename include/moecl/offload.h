// SPDX-License-Identifier: MIT
/* A layer whose experts do not fit into the device's memory: expert_cache of moecl_layer_params.
 *
 * All experts' packed matrices are in the host's memory, pinned, or where no more can be pinned in
 * plain memory, with a warning; the device has places for some.
 * A forward routes, reads on the host which experts have tokens, and computes in rounds: first
 * those that are on the device, then the others, in the order of their numbers, a round's matrices
 * being copied while the round before is computed. A round's experts are computed as they would be
 * on a device that has all: the output has the same bits, with the same variants. The exception are
 * kernels for few tokens, which want all their experts at once: with fewer places than tokens times
 * K a layer on a GPU takes the general way instead, as it does everywhere with batch_invariant.
 * With an activation_format every round rounds all activated rows anew. */
#ifndef MOECL_OFFLOAD_H
#define MOECL_OFFLOAD_H

#include "moecl/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What became of experts that forwards wanted: those with tokens, after drops. */
typedef struct moecl_offload_counts {
  int64_t forwards; /* that had tokens */
  int64_t hits;     /* experts that were on the device */
  int64_t misses;   /* that had to be brought */
  int64_t rounds;
  uint64_t bytes;       /* copied to the device */
  uint64_t reserved[4]; /* zeros: see moecl.h */
} moecl_offload_counts;

typedef struct moecl_offload_statistics {
  moecl_offload_counts latest; /* the latest forward */
  moecl_offload_counts all;    /* all since the layer was made */
  int64_t places;              /* experts that the device has room for, */
  int64_t filled;              /* and those that are there */
  /* Of the latest forward, by the device's clock, in milliseconds: NaN where it was not measured
   * (moecl_forward_params), the driver gives no times, or some experts are in plain memory, no more
   * having been pinned. */
  double transfer_ms;   /* in which matrices were copied */
  double hidden_ms;     /* of those: in which a kernel ran as well */
  uint64_t reserved[8]; /* zeros: see moecl.h */
} moecl_offload_statistics;

/* Waits for the latest forward. Errors: MOECL_ERROR_INVALID_ARGUMENT (a NULL, or a layer without
 * expert_cache). *statistics is zeros on failure. Thread: the context's. */
MOECL_API moecl_status moecl_layer_offload_statistics_wait(moecl_layer *layer,
                                                           moecl_offload_statistics *statistics);

/* Host bytes that the layer holds for its experts; 0 for NULL, and without expert_cache. Thread:
 * the context's. */
MOECL_API uint64_t moecl_layer_host_bytes(const moecl_layer *layer);

#ifdef __cplusplus
}
#endif
#endif
