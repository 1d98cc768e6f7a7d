// SPDX-License-Identifier: MIT
/* Runs one point: layer, weights, inputs, timing, verification, dump. */
#ifndef MOECTL_RUNNER_H
#define MOECTL_RUNNER_H

#include "results/results.h"
#include "run/workload.h"
#include <signal.h>

/* Kept from point to point, so that a sweep over num_tokens packs its weights
 * once. All zeros but for context and experiment to begin with. */
typedef struct runner {
  moecl_context *context;
  const experiment *experiment;
  const recording *recording;         /* NULL without a file workload */
  volatile sig_atomic_t *interrupted; /* set by Ctrl-C */
  moecl_block *block;                 /* of points that measure one; else NULL */
  struct together *together;          /* of points on several devices; else NULL (together.h) */
  moecl_layer *layer;                 /* the block's, or its own; NULL: there is none yet */
  experiment_point of;           /* whose weights the layer holds; meaningful when layer is there */
  moecl_offload_statistics warm; /* of a cache of experts, when the layer was timed */
  double weights_seconds;        /* what drawing or loading and packing them took */
  bool bad_input;                /* some point's weights could not be read from its checkpoint */
} runner;

/* Device memory a point on one device takes (several: memory.h), known before anything is
 * allocated: weights, workspace, input sets, output, a block's cache and the hidden states that it
 * was filled from, and one tensor of one expert in passing, once more where verification or a dump
 * draws the weights again. */
typedef struct runner_memory {
  uint64_t bytes;          /* at the peak; UINT64_MAX: does not fit 64 bits */
  uint64_t largest_buffer; /* the largest single one */
  uint64_t host_bytes;     /* of the host, for experts that are there */
} runner_memory;
moecl_status runner_memory_needed(moecl_context *context, const experiment_point *point,
                                  bool draws_again, runner_memory *needed);

/* How many inputs the timed forwards take in turn. */
int runner_input_sets(const experiment_point *point);
/* How many tokens at a time fill the cache before a point's forwards: multiples of them lie
 * `alignment` bytes apart. */
int64_t runner_context_step(const experiment_point *point, uint64_t alignment);
/* Do two points have the same weights, in the same layer or block? */
bool runner_same_layer(const experiment_point *a, const experiment_point *b);

/* Runs point `index` into *result, which is always usable: on failure status
 * POINT_ERROR with a sentence. `dump_path` NULL: no dump. False when it was
 * interrupted before all was done: the result is then not to be kept. An
 * interruption that comes when the times are there lets the point be finished. */
bool runner_run_point(runner *runner, size_t index, const char *dump_path, point_result *result);

/* Times the point's round `round` (from 1) of `rounds`, with the inputs of the first.
 * False when it was interrupted before it was done: the round is then not to be kept.
 * *failure, malloc'ed, says why there are no times; else it is NULL. */
bool runner_repeat_point(runner *runner, size_t index, int64_t round, int64_t rounds,
                         point_round *result, char **failure);
void runner_release(runner *runner);

/* Sorts `samples`; all NaN where one of them is, or there are none. */
sample_summary runner_summarize(double *samples, size_t count);

/* verify.c: samples tokens so that the check takes a few seconds at most. */
typedef struct verify_input {
  moecl_context *context;
  const experiment_point *point;
  double roundoff, output_roundoff; /* moecl_layer_roundoff, ..._output_roundoff */
  const moecl_routing *routing;
  const moecl_buffer *hidden_states, *output;
  const moecl_buffer *context_states; /* of a block's cached tokens; NULL: there are none */
} verify_input;
int64_t verify_sample_size(const experiment_point *point); /* how many tokens */
moecl_status verify_point(const verify_input *input, verify_result *result);

/* dump_point.c: false, with nothing left at `path`, also when interrupted. */
typedef struct dump_input {
  moecl_context *context;
  const experiment_point *point;
  const moecl_routing *routing;
  const moecl_buffer *hidden_states, *output;
  const moecl_buffer *context_states; /* as verify_input's */
  volatile sig_atomic_t *interrupted;
} dump_input;
bool dump_point(const dump_input *input, const char *path, char **error);

#endif
