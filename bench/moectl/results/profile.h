// SPDX-License-Identifier: MIT
/* What moectl profile measured: for each point router, layer and block, by stage and by kernel. */
#ifndef MOECTL_PROFILE_H
#define MOECTL_PROFILE_H

#include "results/results.h"

/* The three that are profiled. */
typedef enum profile_part_kind {
  PROFILE_ROUTER = 0, /* a layer of the same router whose experts have an intermediate size of 8:
                         its router and permutation */
  PROFILE_LAYER,
  PROFILE_BLOCK,
  PROFILE_PARTS
} profile_part_kind;
extern const char *const profile_part_names[PROFILE_PARTS]; /* "router", ... */

/* A kernel. Microseconds. */
typedef struct profile_kernel {
  char name[64], step[32];
  moecl_stage stage;
  double enqueued_us;      /* the host's clock, from the forward's call */
  double queued_us;        /* the same by the device's; NaN: not known */
  double start_us, end_us; /* in the forward that the timeline shows, from its first start */
  /* Medians over all forwards: what it took, and that nothing ran before it. */
  double us, gap_us;
} profile_kernel;

typedef struct profile_stage {
  size_t kernels;      /* 0: the forward has no such stage */
  double us;           /* the sum of its kernels' */
  double flops, bytes; /* counted from the shapes */
  bool matrix;         /* on the device's matrix units */
  sample_summary over; /* its kernels' microseconds, over all forwards */
} profile_stage;

/* Device memory in bytes. */
typedef struct profile_memory {
  uint64_t weights, workspace, cache;
  uint64_t hidden; /* of an input, and again of the output */
  uint64_t inputs; /* forwards take turns with several; and the context, with what its steps take to
                      fill the cache */
  uint64_t activations; /* what the workspace would be if nothing shared it; 0: not known */
  /* Weights, workspace, cache, inputs and the output, as they were known before anything was
   * allocated. */
  uint64_t predicted;
  uint64_t bf16_saves; /* what the experts' weights would take less as bf16; 0: they are no fp32 */
  uint64_t seen;       /* the most that buffers took at once */
} profile_memory;

/* Rounds at most. */
enum { PROFILE_ROUNDS = 16 };

typedef struct profile_part {
  bool ran;     /* else `why` says why not, malloc'ed; NULL: it was interrupted */
  bool skipped; /* it did not run as there is no such part, which is no failure */
  bool timed;   /* the driver's event times are credible */
  char *why;
  char *note; /* what it is, in a sentence, malloc'ed; NULL: nothing to say */
  int64_t forwards;
  sample_summary alone_us; /* device time with an event at both ends only; NaN: the router's */
  sample_summary span_us;  /* with an event for each kernel; of the router its kernels and gaps */
  double host_us;          /* median that enqueueing one took, without an event for each kernel;
                              of the router with one, until the last of its kernels */
  double total_us;         /* the sum of the kernels' times and gaps, which the stages share out */
  double gaps_us;          /* of it, the gaps */
  profile_kernel *kernels;
  size_t num_kernels;
  profile_stage stages[MOECL_STAGE_COUNT];
  profile_memory memory;
  double host_began_us;  /* of the shown forward, since the profile began */
  moecl_routing routing; /* of the first input: counts and statistics alone */
  /* Medians of a whole forward, round by round, and what making it ready for one more takes. */
  double round_us[PROFILE_ROUNDS];
  size_t num_rounds;
  double again_seconds;
  double padding_waste; /* the share of the rows of the experts' tiles that are none */
} profile_part;

/* What the host did, microseconds since the profile began: for the timeline. */
typedef struct profile_span {
  char name[64];
  double begin_us, end_us;
} profile_span;

/* A variant of the router, against the reference in double precision. */
typedef struct profile_variant {
  char name[32];
  bool ran, chosen;
  char *why; /* it did not run, malloc'ed */
  verify_result verify;
  sample_summary us; /* its router stage */
} profile_variant;

/* Who serves an operation. */
typedef struct profile_operation {
  char *name, *reason; /* malloc'ed */
  /* What the plan chooses before anything is built, and what it would choose were the sizes
   * rounded up; "": not known. */
  char planned[32], rounded[32];
} profile_operation;

typedef struct profile_point {
  size_t index; /* of the experiment */
  bool ran;
  profile_part parts[PROFILE_PARTS];
  profile_operation operations[NUM_LAYER_OPERATIONS]; /* in the order of measure_operations */
  char *warnings; /* the library's while it was made, a line each; NULL: none */
  int64_t rounded_hidden, rounded_intermediate; /* sizes that tuned variants take */
  int64_t tile_rows;         /* of the experts' tiles that are computed whole; 0: none are */
  profile_variant *variants; /* the router's */
  size_t num_variants;
  double reference_us; /* of plain C in double precision for all tokens, one thread; NaN: no time */
  int64_t reference_tokens; /* how many of them it was measured on */
} profile_point;

typedef struct profile {
  const experiment *experiment;
  moecl_device_info device;
  device_peaks peaks;           /* measured[0] is '\0': there are none */
  char measured[TIME_SIZE];     /* when it began */
  double least_load, most_load; /* averages of a minute, while it ran; NaN: not known */
  bool whole;                   /* every point ended and none failed: it can be a baseline */
  profile_point *points;
  size_t num_points;
  profile_span *spans;
  size_t num_spans;
} profile;

bool profile_open(const experiment *experiment, const moecl_device_info *device,
                  const device_peaks *peaks, profile *profile);
void profile_release(profile *profile);

/* What the work of a point is: every parameter that makes it another one, "hidden_size=64, ...",
 * malloc'ed; NULL without memory. */
char *profile_work(const experiment_point *point);

/* Keeps a span of the host's; without memory it is left out. */
void profile_add_span(profile *profile, const char *name, double begin_us, double end_us);

/* The time of a whole forward: without an event for each kernel where that was measured. */
const sample_summary *profile_whole(const profile_part *part);

/* Fills total_us, gaps_us, and the stages' kernels and times from the kernels'. */
void profile_sum(profile_part *part);

/* ---- profile_json.c: profile.json, which later profiles are compared with ---- */

#define PROFILE_SCHEMA "moecl-profile/1"

/* The whole file, malloc'ed; NULL without memory. */
char *profile_json(const profile *profile);

/* What such a file says of the times, for comparison. */
typedef struct profile_record {
  char *label; /* the point's; "": nothing was swept */
  char *work;  /* profile_work's */
  struct {
    bool ran;
    sample_summary whole_us; /* profile_whole's */
    double round_us[PROFILE_ROUNDS];
    size_t num_rounds;
    struct {
      bool there;
      sample_summary us;
    } stages[MOECL_STAGE_COUNT];
  } parts[PROFILE_PARTS];
} profile_record;

typedef struct profile_baseline {
  char *measured, *device, *version, *commit; /* who measured it, and when */
  double least_load, most_load;
  profile_record *records;
  size_t num_records;
} profile_baseline;

/* Of the text of a profile.json; false with a malloc'ed message, and nothing to release. */
bool profile_baseline_read(const char *text, size_t size, const char *path,
                           profile_baseline *baseline, char **error);
void profile_baseline_release(profile_baseline *baseline);
/* The record of the same work as point `index` of the experiment; NULL: there is none. */
const profile_record *profile_baseline_find(const profile_baseline *baseline,
                                            const experiment *experiment, size_t index);

#endif
