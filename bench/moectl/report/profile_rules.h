// SPDX-License-Identifier: MIT
/* What a profile's numbers mean: which limit binds a stage, what the bottleneck is, what to try.
 * The rules are in profile_rules.c alone. */
#ifndef MOECTL_PROFILE_RULES_H
#define MOECTL_PROFILE_RULES_H

#include "moecl/moecl.h"
#include <stdio.h>

/* A stage's numbers; kernels 0: there is no such stage. */
typedef struct stage_facts {
  size_t kernels;
  double us, flops, bytes;
  bool matrix; /* its arithmetic is the matrix units' */
} stage_facts;

/* What the rules look at. What is not known is NaN, 0 or NULL, and then no rule speaks of it. */
typedef struct profile_facts {
  double total_us; /* device time from the first kernel's start to the last one's end */
  double gaps_us;  /* of it, that nothing ran */
  double host_us;  /* that enqueueing took */
  size_t kernels;
  stage_facts stages[MOECL_STAGE_COUNT];
  moecl_peaks peaks;

  int64_t experts, rows, active_experts; /* with weights; assignments that were kept, of so many */
  int64_t hottest, hottest_rows;         /* the expert with the most of them */
  double imbalance;                      /* its rows over the mean */
  bool has_capacity;                     /* rows are bounded already */
  bool offloads;                         /* experts are brought from the host's memory */
  double padding_waste;                  /* the share of computed rows that are none: tiles */
  int64_t tile_rows;
  double hidden_bytes; /* of hidden states, and again of the output */

  /* A better variant that was set aside, whose, and why; one that other sizes would let serve. */
  const char *operation, *variant, *set_aside, *why_set_aside;
  const char *kept_out;
  int64_t hidden_size, intermediate_size, rounded_hidden, rounded_intermediate;

  /* Memory */
  double weight_bytes, workspace_bytes, cache_bytes;
  bool fp32_weights; /* the experts' */
  double bf16_saves; /* bytes, were those bf16 */
  int64_t num_tokens;
} profile_facts;

/* What binds a stage, or NONE of these: latency, small tiles. */
typedef enum profile_limit {
  LIMIT_UNKNOWN = 0, /* the peaks or the time are not known */
  LIMIT_ARITHMETIC,
  LIMIT_MEMORY,
  LIMIT_LAUNCHES,
  LIMIT_IMBALANCE,
  LIMIT_NONE,
  LIMIT_COUNT
} profile_limit;
extern const char *const profile_limit_names[LIMIT_COUNT];
profile_limit profile_limit_of(const profile_facts *facts, moecl_stage stage);

/* Operations a second that the stage could do at most. */
double profile_flops_peak(const profile_facts *facts, moecl_stage stage);
/* Shares of the device's measured peaks that a stage reaches; NaN: not known. */
double profile_flops_share(const profile_facts *facts, moecl_stage stage);
double profile_bytes_share(const profile_facts *facts, moecl_stage stage);
/* The least that the stage could take at these peaks, in microseconds. */
double profile_least_us(const profile_facts *facts, moecl_stage stage);

/* One sentence: where most of the time goes, and what binds it. Without times it says so. */
void profile_bottleneck(const profile_facts *facts, FILE *file);
/* What to try: a line of Markdown's list each, the largest effect first; returns how many. */
size_t profile_advice(const profile_facts *facts, FILE *file);
/* What would shrink the memory, likewise. */
size_t profile_memory_advice(const profile_facts *facts, FILE *file);

#endif
