// SPDX-License-Identifier: MIT
/* A plan: tensors with lives, and the steps that make them, for one number of tokens.
 * What a forward enqueues, the memory it needs, the stages that a profile shows and what
 * `moectl explain` prints are all read off it. Building one touches no device. */
#ifndef MOECL_LIB_PLAN_PLAN_H
#define MOECL_LIB_PLAN_PLAN_H

#include "desc/format.h"
#include "moecl/plan.h"
#include "ocl/ocl.h"

enum { PLAN_MOST_TENSORS = 96, PLAN_MOST_STEPS = 32, PLAN_STEP_TENSORS = 20 };
enum { PLAN_NONE = -1 }; /* no tensor: a step that has no use for that place */

typedef struct plan_tensor {
  const char *name;
  uint64_t rows, columns;
  const desc_format *format;
  moecl_life life;
  uint64_t bytes;
  int first, last; /* steps that use it; PLAN_NONE: none does */
  int block;       /* of the workspace; PLAN_NONE: not in it */
} plan_tensor;

/* Numbers of one forward that its plan does not depend on. */
typedef struct plan_numbers {
  uint64_t seed;
  uint64_t first_token;      /* of all that draw numbers: not 0 where others have tokens before */
  int64_t chosen_rows;       /* what GEMMs choose their kernels by; 0: their own rows */
  int64_t rows;              /* the most that GEMMs compute; 0: their own rows */
  int64_t round;             /* of steps that are run again and again */
  int64_t context, capacity; /* tokens that a cache holds, and that it has room for */
  const struct op_places *places; /* of GEMMs that scatter their rows */
} plan_numbers;

/* What a step's operation is called with. */
typedef struct plan_call {
  const moecl_buffer *buffer[PLAN_STEP_TENSORS]; /* in the order of the step's tensors */
  int64_t num_tokens;
  plan_numbers with;
  int64_t number; /* the step's */
} plan_call;
typedef moecl_status (*plan_enqueue_fn)(void *operation, ocl_chain *chain, const plan_call *call);

typedef struct plan_step {
  const char *name;      /* "gate_up", unique in a plan */
  const char *operation; /* "grouped_gemm" */
  const char *variant;   /* NULL: the operation has none */
  moecl_stage label;     /* what a profile counts it as */
  int device;            /* of the devices that the plan is for, from 0 on */
  uint32_t launches;     /* kernels that it enqueues */
  uint32_t tile_rows;    /* moecl_plan_step's */
  plan_enqueue_fn enqueue;
  /* Which of its kernels and how, for people; NULL: nothing to add. */
  void (*explain)(const void *user, int64_t number, char *text, size_t size);
  /* Has the kernels there that it will launch; NULL: they are. *anew: some turned out not to serve,
   * and the plan would be another one now. While programs are noted, notes those that lack. */
  moecl_status (*prepare)(void *user, int64_t number, bool *anew);
  void *user; /* the operation that was made; of a described plan without kernels */
  int64_t number;
  int kernel; /* which of the operation's will be launched, a number of its own */
  int tensor[PLAN_STEP_TENSORS];
  int num_tensors;
} plan_step;

enum { PLAN_MOST_CHOICES = 8 };

typedef struct plan {
  int64_t num_tokens;
  int key; /* what else it was built for, a number of its owner's */
  plan_tensor tensor[PLAN_MOST_TENSORS];
  plan_step step[PLAN_MOST_STEPS];
  moecl_plan_choice choice[PLAN_MOST_CHOICES];
  int num_tensors, num_steps, num_choices;
  /* The workspace: blocks one after the other, each the memory of tensors of which no
   * two live at once. (Blocks, because views of one buffer must not overlap.) */
  uint64_t block_bytes[PLAN_MOST_TENSORS];
  int num_blocks;
  uint64_t align; /* that blocks begin at a multiple of */
  bool overflows; /* more was added than there is room for: not to be run */
  bool lost;      /* kernels that it would have had do not serve: others may need more memory */
} plan;

void plan_begin(plan *plan, int64_t num_tokens, int key, uint64_t align);
/* Adds a tensor; returns its number. */
int plan_add(plan *plan, moecl_life life, const char *name, const desc_format *format,
             uint64_t rows, uint64_t columns);
/* The same of so many bytes, whatever its shape: packed weights, scratch. */
int plan_add_bytes(plan *plan, moecl_life life, const char *name, const desc_format *format,
                   uint64_t rows, uint64_t columns, uint64_t bytes);
/* Adds a step that uses the `count` tensors, read and written alike. */
void plan_add_step(plan *plan, const plan_step *step, const int *tensors, size_t count);
/* The steps from `first` on and before `end` will be run again and again: what they use lives as
 * long as all of them. */
void plan_repeat(plan *plan, int first, int end);
void plan_add_choice(plan *plan, const char *part, const char *name, const char *why);
/* When all is added: lives and the workspace. */
void plan_arrange(plan *plan);

/* Has all kernels there, which may take a driver's compiler seconds, their programs built several
 * at a time where it can, and waits. *anew: the plan is to be built anew, for some do not serve.
 * While programs are noted to be built ahead (ocl_ahead_begin) it notes them and makes nothing.
 * Errors: lack of memory. */
moecl_status plan_prepare(moecl_context *context, const plan *plan, bool *anew);

uint64_t plan_workspace_bytes(const plan *plan);
/* Bytes that the tensors of the workspace would take if none shared memory. */
uint64_t plan_unshared_bytes(const plan *plan);
uint32_t plan_launches(const plan *plan);

/* Enqueues all steps. `blocks` are the workspace's, bound[tensor] the caller's buffers of
 * inputs and outputs. */
moecl_status plan_run(const plan *plan, ocl_chain *chain, moecl_buffer *const *blocks,
                      const moecl_buffer *const *bound, const plan_numbers *with);
/* The same of the steps from `first` on and before `end` alone. */
moecl_status plan_run_steps(const plan *plan, int first, int end, ocl_chain *chain,
                            moecl_buffer *const *blocks, const moecl_buffer *const *bound,
                            const plan_numbers *with);

#endif
