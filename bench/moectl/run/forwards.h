// SPDX-License-Identifier: MIT
/* What a point's forwards need: its layer or block with weights, inputs, an output, a cache. */
#ifndef MOECTL_FORWARDS_H
#define MOECTL_FORWARDS_H

#include "run/runner.h"

#define TRY(expression)                                                                            \
  do {                                                                                             \
    const moecl_status try_status = (expression);                                                  \
    if (try_status != MOECL_OK) return try_status;                                                 \
  } while (0)

/* Forwards rotate among this many inputs: fresh ones, not the rows that the forward before left in
 * a cache. */
enum { INPUT_SETS = 3 };

typedef struct point_buffers {
  moecl_buffer *hidden[INPUT_SETS], *output;
  int sets;
  moecl_buffer *context; /* hidden states that the cache was filled from; NULL: no cache */
  moecl_cache *cache;
  double fill_seconds;       /* what filling it takes */
  struct together *together; /* the runner's, whose members have buffers of their own */
} point_buffers;

/* The runner's layer, in a block where the point measures one, without weights. */
moecl_status forwards_create_layer(runner *runner, const experiment_point *point);
/* The runner's layer is then the point's, drawn or loaded, unless it was before. Waits. */
moecl_status forwards_provide_layer(runner *runner, const experiment_point *point);
void forwards_release_layer(runner *runner);

/* What serves the runner's layer or block, on several devices the first's. */
const char *forwards_variant(const runner *runner, const char *operation, const char **reason);
/* Of a layer or block on one device: its weights, and a forward's workspace with these buffers. */
uint64_t forwards_weight_bytes(const runner *runner);
uint64_t forwards_workspace_bytes(const runner *runner, const experiment_point *point,
                                  const point_buffers *buffers);
/* moecl_layer_roundoff, or of outputs; of several devices the largest. */
double forwards_roundoff(const runner *runner, bool of_outputs);

/* For forwards of the runner's layer; the caller releases them, also where some could not be had.
 */
moecl_status forwards_provide_buffers(runner *runner, const experiment_point *point,
                                      point_buffers *buffers);
void forwards_release_buffers(point_buffers *buffers);

/* Enqueues one with input `set`; `profile` may be NULL. A block's comes after the same cached
 * tokens each time. */
moecl_status forwards_enqueue(runner *runner, const experiment_point *point,
                              const point_buffers *buffers, int set, moecl_profile *profile);

/* Timed forwards follow each other in the queue, so many at most, so that a short one is not timed
 * with the host's pauses in it. A long one is waited for: an interrupt then need not wait for
 * several. `latest_ms`: of the latest that was waited for; NaN: none was, or it is not known. */
enum { FORWARDS_IN_FLIGHT = 4 };
bool forwards_have_room(size_t in_flight, double latest_ms);

#endif
