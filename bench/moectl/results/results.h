// SPDX-License-Identifier: MIT
/* What a run writes: results.json, results.csv, dumps; report/ makes report.md and pictures of it.
 */
#ifndef MOECTL_RESULTS_H
#define MOECTL_RESULTS_H

#include "experiment/experiment.h"
#include "results/peaks.h"

typedef struct sample_summary { /* of device-event milliseconds over the iterations */
  double median, min, p90;      /* NaN: the variant fuses this stage into another */
} sample_summary;

typedef struct verify_result {
  bool ran, ok;
  double error, tolerance; /* relative, of the output */
  int64_t tokens_checked;  /* of num_tokens: the sample */
  int64_t experts_checked; /* all that any sampled token reached */
  int64_t topk_mismatches; /* sampled tokens with wrong logits; tokens whose choices do not follow
                              from the device's logits, in order where those decide; wrong ids and
                              counts */
  bool capacity_ok;        /* `kept` and the counts equal the reference's */
  bool overflows;          /* outputs are not finite, as exact numbers do not fit the dtype */
  char cause[640];         /* why outputs are not finite; "" where they are */
  /* Of a layer whose experts' weights, or the rows that they read, have a format other than
   * dtype's, else NaN: the sample's exact outputs with these, against those in dtype, relative and
   * as cosine; and bits of a weight, scales included. */
  double weight_error, weight_cosine, weight_bits;
} verify_result;

typedef enum point_status {
  POINT_OK = 0,
  POINT_UNVERIFIED_OK,
  POINT_VERIFY_FAILED,
  POINT_ERROR
} point_status;

/* The stages of a forward; those after MOECL_STAGE_LAYER, the whole, are a block's alone. */
enum { RESULTS_STAGES = MOECL_STAGE_COUNT, RESULTS_PARTS = MOECL_STAGE_COUNT - 1 };
/* All but the whole, in the order in which a block runs them. */
extern const moecl_stage results_parts[RESULTS_PARTS];

/* The operations with variants: a layer's, then those that a block alone has. */
enum { NUM_LAYER_OPERATIONS = 4, NUM_OPERATIONS = 8 };

/* One round's share of a point's timed forwards. */
typedef struct point_round {
  sample_summary time_ms[RESULTS_STAGES];
  double host_ms, load_average; /* of the last minute, as the round began; NaN: not known */
  int64_t iterations;
} point_round;

/* A member of a point's group in one forward; times are its own device's. */
typedef struct point_member {
  char device[128];
  char grouped_gemm_variant[64]; /* "": not known, in results of earlier versions */
  int64_t experts, num_tokens, rows, bytes_sent, bytes_received, choice_bytes_sent,
      choice_bytes_received, copied_bytes, stored_bytes;
  int64_t memory_bytes; /* that it has on its device: weights, workspace, rows, input, output, in
                           buffers that earlier points may have left larger; 0: not known */
  double layer_ms, kernels_ms, transfer_ms, hidden_ms; /* moecl_group_statistics */
} point_member;

/* Of a point whose experts are on several devices. */
typedef struct point_parallel {
  size_t num_members; /* 0: it is on one alone */
  point_member *members;
  char transport[64];                  /* moecl_group_transport */
  int64_t chunks, sent_bytes;          /* of all members */
  int64_t row_bytes, output_row_bytes; /* of a row on its way to experts, and back */
  double transfer_ms;                  /* of copies, the mean of members */
  double hidden_share;                 /* of that: while a kernel ran on the same device */
  double member_imbalance;             /* the busiest member's rows over the mean */
} point_parallel;
/* Were its members in several processes? */
bool results_of_processes(const point_parallel *parallel);

/* Of a point whose experts are in the host's memory. */
typedef struct point_offload {
  int64_t places; /* experts that the device has room for; 0: all are there */
  int64_t host_bytes;
  double hit_rate;          /* experts that were there of those that warm forwards wanted */
  double moved_bytes;       /* a forward, the mean of the same */
  double copy_ms;           /* of one forward's copies */
  double copy_hidden_share; /* of that: while a kernel ran */
} point_offload;

typedef struct point_result {
  size_t index; /* into experiment.points */
  point_status status;
  char *error;                    /* POINT_ERROR, POINT_VERIFY_FAILED: one sentence; else NULL */
  char *variants[NUM_OPERATIONS]; /* names, by measure_operations; NULL: it has none */
  char *variant_reasons[NUM_OPERATIONS];
  sample_summary time_ms[RESULTS_STAGES]; /* of all rounds (rounds_add) */
  int64_t iterations;                     /* likewise */
  point_round *rounds;
  size_t num_rounds;
  int64_t rounds_planned;
  double tokens_per_s, tflops, gbytes_per_s; /* of the layer at its median time */
  double host_ms; /* median of what enqueueing one forward took the host; on several devices, all
                     until the outputs are there */
  uint64_t memory_bytes; /* weights, workspace, cache, input and output on the device; on several,
                            of all members (point_member) */
  moecl_routing
      routing; /* only counts, capacity and statistics are kept; the [T,*] arrays may be NULL */
  verify_result verify;

  point_parallel parallel;
  point_offload offload;
  double changed_choices; /* the share of T*K choices that are others without jitter; NaN: none */
} point_result;

void point_result_destroy(point_result *result);

/* Which kernels ran, of one run's context; the text is the context's. */
typedef struct kernel_origin {
  const char *dir; /* the folder they were read from; NULL: those built in */
  char hash[33];   /* of all their sources */
} kernel_origin;

/* A results folder, written as points come. */
typedef struct results results;

/* `out`: the folder, or NULL for results/<name>-<YYYYmmdd-HHMMSS>/. With
 * `resume` the folder must hold a results.json of the same resolved
 * experiment, device and kernels, whose finished points, and those of its
 * results.jsonl, are taken over. On failure returns NULL
 * with one malloc'ed message in *error: so also where another run has the folder,
 * which is locked until results_destroy. */
results *results_open(const experiment *experiment, const moecl_device_info *device,
                      const kernel_origin *kernels, const char *out, bool resume, char **error);
/* What such a folder has, to be read: as with `resume`, refused likewise, but nothing in it is
 * written, and nothing may be added. */
results *results_look(const experiment *experiment, const moecl_device_info *device,
                      const kernel_origin *kernels, const char *folder, char **error);

/* Makes results/<name>-<YYYYmmdd-HHMMSS>/ for an experiment of that name: its path, malloc'ed;
 * NULL with a message. */
char *results_new_folder(const char *experiment, char **error);

/* Which pictures report_finish draws; few where nothing was said. */
typedef enum picture_choice { PICTURES_FEW = 0, PICTURES_ALL, PICTURES_NONE } picture_choice;
void results_choose_pictures(results *results, picture_choice pictures);
bool results_has(const results *results, size_t index); /* finished in an earlier run */
const char *results_folder(const results *results);
/* What reports hold times against; results.json keeps them. */
void results_set_peaks(results *results, const device_peaks *peaks);

/* Adds a point (takes it over, also on failure): a line of results.jsonl, or, each
 * time there is twice as much as they hold, results.json and results.csv, replaced
 * whole. false with a message when the folder can't be written (disk full); what was
 * written before stays intact. */
bool results_add(results *results, point_result *result, char **error);

/* Does a round (from 0) of the point lack? Later ones only of points that ran. */
bool results_wants(const results *results, size_t index, int64_t round);
int64_t results_rounds_planned(const results *results, size_t index); /* of a point that is there */
/* Later rounds that a point lacks; -1: it has not run. */
int64_t results_rounds_left(const results *results, size_t index);
/* The most rounds that a point has planned; 0: none is known yet. */
int64_t results_rounds(const results *results);
/* Adds a later round to a point, as results_add. `failure` (malloc'ed, taken over) in
 * place of times: it failed this time, and so has the point. */
bool results_add_round(results *results, size_t index, const point_round *round, char *failure,
                       char **error);

/* For another program that measures the experiment: {"defaults": of each parameter of a point that
 * has one, "results": results.json with all points in it, of which none is measured}. malloc'ed;
 * NULL without memory. */
char *results_to_fill(const experiment *experiment);

/* Called before each picture is drawn, and perhaps once behind the last; false: it and
 * the others are left out. */
typedef bool (*picture_watch)(void *user, size_t done, size_t count);
void results_watch_pictures(results *results, picture_watch watch, void *user);

/* Writes results.json and results.csv with all there is. */
bool results_write(results *results, char **error);

/* Worst status of all points: drives the exit code. */
point_status results_worst(const results *results);
void results_destroy(results **results);

/* One point's tensors to `<folder>/point-NNN.safetensors`. Streams: tensors are
 * declared first, then written in the same order, piece by piece, so that
 * weights never have to be in host memory at once. */
typedef struct dump dump;
typedef struct dump_tensor {
  const char *name;
  const char *dtype; /* safetensors' names: F32 F16 BF16 I32 I64 U8 */
  int64_t shape[3];
  int num_dims;
} dump_tensor;
dump *dump_open(const char *path, const dump_tensor *tensors, size_t count, char **error);
bool dump_write(dump *dump, const void *data, size_t bytes, char **error);
/* Checks that everything declared was written, then renames into place. */
bool dump_close(dump **dump, char **error);

#endif
