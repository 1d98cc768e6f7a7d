// SPDX-License-Identifier: MIT
/* An experiment as YAML describes it, resolved: every point of the sweep with
 * every value filled in. */
#ifndef MOECTL_EXPERIMENT_H
#define MOECTL_EXPERIMENT_H

#include "experiment/placement_file.h"
#include "moecl/moecl.h"
#include <stdio.h>

/* An experiment is a page of text, and a larger sweep a mistake more often than a
 * plan: it would run for days. The list's length also bounds the search for repeated
 * values. */
enum {
  EXPERIMENT_MAX_FILE = 1 << 20, /* bytes */
  EXPERIMENT_MAX_LIST = 1000,    /* values of a swept key */
  EXPERIMENT_MAX_POINTS = 10000
};

typedef enum experiment_what { WHAT_LAYER = 0, WHAT_BLOCK, WHAT_COUNT } experiment_what;

typedef enum workload_kind { WORKLOAD_NORMAL = 0, WORKLOAD_SKEWED, WORKLOAD_FILE } workload_kind;

/* The layer of a checkpoint that an experiment is about. */
typedef struct checkpoint_source {
  moecl_checkpoint *checkpoint;
  int64_t layer;
  char *message; /* the library's latest error; NULL: none */
} checkpoint_source;

/* The section `block`, as its keys say it; experiment_block_params makes the library's of it. */
typedef struct experiment_block {
  moecl_attention_params attention; /* not_causal and rope.not_truncated are said below */
  bool causal, rope_truncate;
  moecl_norm_params norm; /* of both norms */
  const char *attention_variant;
} experiment_block;

/* The section `parallel`: the layer's experts on several devices, or contexts of one. */
typedef enum parallel_placement {
  PARALLEL_EVEN = 0,
  PARALLEL_BY_COMPUTE,
  PARALLEL_BY_MEMORY,
  PARALLEL_FROM_FILE,
  PARALLEL_OFFLOAD, /* on one device, which has some of the experts at a time */
  PARALLEL_PLACEMENTS
} parallel_placement;
typedef struct experiment_parallel {
  int64_t experts;     /* members of the group; 0: none, one device alone */
  const char *devices; /* NULL: the experiment's, for all; else names, separated by blanks or
                          commas, taken in turns */
  parallel_placement placement;
  int64_t replicas;      /* so many experts, the most loaded, are on all members */
  int64_t chunks;        /* 0: as many as pay */
  const char *transport; /* NULL: the best that serves */
  moecl_format dispatch_format;
  double cache; /* PARALLEL_OFFLOAD: below 1 a share of the experts, else so many; 0: what fits */
  moecl_eviction eviction;
} experiment_parallel;

/* One point: one combination of all swept values. */
typedef struct experiment_point {
  experiment_what what;
  moecl_layer_params layer;        /* variant names point into the experiment */
  moecl_scale_search scale_search; /* of weights with scales, as they are drawn */
  experiment_block block;          /* WHAT_BLOCK */
  experiment_parallel parallel;
  int64_t num_tokens;
  int64_t context; /* WHAT_BLOCK: tokens in the cache before them */
  workload_kind distribution;
  double skew_exponent, skew_noise; /* skewed */
  int64_t skew_clusters;            /* skewed; 0: num_experts */
  uint64_t seed;
  const checkpoint_source *source; /* of the weights, the experiment's; NULL: they are drawn */
} experiment_point;

/* A key that was given a list of two or more values, for axis labels and file
 * names. The flat names are those of results.json, and besides them
 * skew_exponent, skew_clusters, skew_noise, gate_up_bias, down_bias,
 * router_bias, the router's rule, grouped_gemm_variant and router_variant. */
typedef struct experiment_axis {
  const char *param; /* flat name, e.g. "num_experts", "capacity_factor"; static */
  size_t count;
} experiment_axis;

typedef struct experiment {
  char *path;    /* of the YAML file */
  char *options; /* what the command line added (--set, --device), quoted for a shell, each with a
                    space before it; NULL: nothing. The command's to set, freed with the rest. */
  char *command; /* the whole command line that runs it, quoted for a shell; likewise */
  int processes; /* that run it together; 0 as 1. The command's to set */
  char *name;
  char *device;             /* "auto" by default; --device overrides it */
  char *input_file;         /* workload file, absolute or relative to the working directory; NULL */
  char *input_tensor;       /* name in a safetensors file; NULL: hidden_states, else the only one */
  char *placement_path;     /* of parallel.placement_file, as input_file; NULL */
  placement_file placement; /* what it holds; zeros without one */
  int64_t warmup, iterations;
  int64_t rounds; /* 0: chosen by point (rounds.h) */
  bool verify;
  experiment_point *points; /* in sweep order: the last key in the file varies fastest */
  size_t num_points;
  experiment_axis *axes;
  size_t num_axes;     /* in sweep order too: the last axis varies fastest */
  char *resolved_json; /* the experiment with defaults filled in and overrides applied, lists kept,
                          and "sweep": the swept keys, slowest first. Equal texts: equal points. */
  char *warnings;   /* a line each, as in experiment_load's *error: what was given but has no effect
                       in any point; NULL: nothing */
  char *checkpoint; /* model folder, as input_file; NULL: weights are drawn */
  checkpoint_source *source;
  struct settings *settings; /* owns the texts that points refer to */
} experiment;

/* "--set layer.top_k=4": dotted key and a YAML value (a list sweeps). The last
 * of several for one key counts. */
typedef struct experiment_override {
  const char *assignment;
} experiment_override;

/* Reads, overrides and checks. On failure returns false, and *error is one
 * malloc'ed message "file:line:column: what is wrong, what was expected"
 * (several problems: one a line; NULL if there was no memory even for
 * that); *experiment is then all zeros. On success *error is NULL. */
bool experiment_load(const char *path, const experiment_override *overrides, size_t num_overrides,
                     experiment *experiment, char **error);
/* The same from memory; `path` is used in messages and to find the input file. */
bool experiment_parse(const char *text, size_t size, const char *path,
                      const experiment_override *overrides, size_t num_overrides,
                      experiment *experiment, char **error);
void experiment_destroy(experiment *experiment);

/* The block of a point that measures one, its layer included. */
moecl_block_params experiment_block_params(const experiment_point *point);

/* The section `block` that says the same, where the params' norms are alike. */
experiment_block experiment_block_of(const moecl_block_params *params);

/* What is measured, for texts: "layer", "block", or "forward" where points measure either. */
const char *experiment_measured(const experiment *experiment);
bool experiment_has_blocks(const experiment *experiment); /* does any point measure one? */
/* Members of the point's group; 0: it has none, and is on one device. */
static inline int64_t experiment_members(const experiment_point *point) {
  return point->parallel.placement == PARALLEL_OFFLOAD ? 0 : point->parallel.experts;
}

/* The value a point has for a flat parameter name, as YAML writes it ("4",
 * "1.25", "null" for dropless, "auto" for no variant asked for). Returns
 * `text`, or NULL for an unknown name. */
const char *experiment_param_text(const experiment_point *point, const char *param, char *text,
                                  size_t size);
/* What tells the point from the others: "num_experts=8, top_k=2"; empty when
 * nothing is swept. Returns `text`, cut to `size`. */
const char *experiment_point_label(const experiment *experiment, size_t index, char *text,
                                   size_t size);

/* Every key with type, range, default and meaning, for `moectl help experiment`. */
void experiment_print_keys(FILE *file);

#endif
