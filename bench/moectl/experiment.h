/* An experiment as YAML describes it, resolved: every point of the sweep with
 * every value filled in. */
#ifndef MOECTL_EXPERIMENT_H
#define MOECTL_EXPERIMENT_H

#include "moecl/moecl.h"

typedef enum workload_kind { WORKLOAD_NORMAL = 0, WORKLOAD_SKEWED, WORKLOAD_FILE } workload_kind;

/* One point: one combination of all swept values. */
typedef struct experiment_point {
  moecl_layer_params layer; /* variant names point into the experiment */
  int64_t num_tokens;
  workload_kind distribution;
  double skew_exponent, skew_noise; /* skewed */
  int64_t skew_clusters;            /* skewed; 0: num_experts */
  uint64_t seed;
} experiment_point;

/* A key that was given a list, for axis labels and file names. */
typedef struct experiment_axis {
  const char *param; /* flat name, e.g. "num_experts", "capacity_factor" */
  size_t count;
} experiment_axis;

typedef struct experiment {
  char *path; /* of the YAML file */
  char *name;
  char *device;      /* "auto" by default; --device overrides it */
  char *input_file;  /* workload file, absolute or relative to the working directory; NULL */
  char *input_tensor; /* name in a safetensors file; NULL: hidden_states, else the only one */
  int64_t warmup, iterations;
  bool verify;
  experiment_point *points; /* in sweep order: the last key in the file varies fastest */
  size_t num_points;
  experiment_axis *axes;
  size_t num_axes;
  char *resolved_json; /* the experiment with defaults filled in and overrides applied, lists kept */
} experiment;

/* "--set layer.top_k=4": dotted key and a YAML value (a list sweeps). */
typedef struct experiment_override {
  const char *assignment;
} experiment_override;

/* Reads, overrides and checks. On failure returns false, and *error is one
 * malloc'ed message "file:line:column: what is wrong, what was expected"
 * (several problems: one a line); *experiment is then all zeros. */
bool experiment_load(const char *path, const experiment_override *overrides, size_t num_overrides,
                     experiment *experiment, char **error);
/* The same from memory; `path` is used in messages and to find the input file. */
bool experiment_parse(const char *text, size_t size, const char *path,
                      const experiment_override *overrides, size_t num_overrides,
                      experiment *experiment, char **error);
void experiment_destroy(experiment *experiment);

#endif
