// SPDX-License-Identifier: MIT
/* What a forward of so many tokens would do: steps, tensors and memory, and why. Read
 * before anything is built or allocated; a layer's forwards run the same plans. */
#ifndef MOECL_PLAN_H
#define MOECL_PLAN_H

#include "moecl/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_plan moecl_plan;

/* Plans a forward on the context's device, with the variants that would serve where none
 * fails its build or self-check. Builds no kernel and allocates no device memory.
 * On failure *plan is NULL.
 * Errors: those of moecl_layer_memory, MOECL_ERROR_OUT_OF_HOST_MEMORY.
 * Thread: the context's. */
MOECL_API moecl_status moecl_plan_create(moecl_context *context, const moecl_layer_params *params,
                                         int64_t num_tokens, moecl_plan **plan);
/* Thread: the context's. */
MOECL_API void moecl_plan_destroy(moecl_plan **plan);

/* Where a forward has several ways to the same result, the one that is taken. All strings
 * here and below live as long as the plan. */
typedef struct moecl_plan_choice {
  const char *part; /* "routing" */
  const char *name; /* "fused" */
  const char *why;
  uint64_t reserved[4]; /* zeros: see moecl.h */
} moecl_plan_choice;

typedef struct moecl_plan_step {
  const char *name;      /* "gate_up", unique in the plan */
  const char *operation; /* "grouped_gemm" */
  const char *variant;   /* "cpu"; NULL: the operation has none */
  const char *detail;    /* "tiles of 64 rows"; "": nothing to add */
  moecl_stage stage;     /* what its time counts as */
  uint32_t
      launches; /* kernels that it enqueues; a library GEMM counts as one, however many it needs */
  uint32_t tile_rows; /* of a grouped GEMM whose tiles are computed whole: the rows of one, so that
                         an expert's last tile takes as long as a full one; 0: of all others */
  uint64_t reserved[7]; /* zeros: see moecl.h */
} moecl_plan_step;

typedef enum moecl_life {
  MOECL_LIFE_WEIGHT = 0, /* the layer's, packed */
  MOECL_LIFE_INPUT,      /* the caller's, read */
  MOECL_LIFE_OUTPUT,     /* the caller's, written */
  MOECL_LIFE_TEMPORARY,  /* in the workspace from first_step to last_step */
  MOECL_LIFE_SAVED,      /* in the workspace from first_step on: moecl_layer_read_routing_wait */
  MOECL_LIFE_COUNT
} moecl_life;

typedef struct moecl_plan_tensor {
  const char *name;   /* "activated" */
  const char *format; /* "bf16" */
  uint64_t rows, columns;
  uint64_t bytes; /* as it is kept: of packed weights with their padding */
  moecl_life life;
  int32_t first_step, last_step; /* of moecl_plan_steps; -1: of weights */
  int32_t block;        /* of the workspace: tensors of one block share its memory; -1: not in it */
  uint64_t reserved[8]; /* zeros: see moecl.h */
} moecl_plan_tensor;

/* Write at most `capacity` items (to an array that may be NULL) and return how many there
 * are; 0 for NULL. Thread-safe. */
MOECL_API size_t moecl_plan_choices(const moecl_plan *plan, moecl_plan_choice *choices,
                                    size_t capacity);
MOECL_API size_t moecl_plan_steps(const moecl_plan *plan, moecl_plan_step *steps, size_t capacity);
/* Those that no step uses are left out. Thread-safe. */
MOECL_API size_t moecl_plan_tensors(const moecl_plan *plan, moecl_plan_tensor *tensors,
                                    size_t capacity);

/* The sums: moecl_layer_memory of the same layer, and what its workspace would take if no
 * two tensors shared memory; in bytes, 0 for NULL. Thread-safe. */
MOECL_API moecl_memory moecl_plan_memory(const moecl_plan *plan);
MOECL_API uint64_t moecl_plan_unshared_workspace_bytes(const moecl_plan *plan);

/* "weight", "input", "output", "temporary", "saved"; "?" for another value. A static
 * string. Thread-safe. */
MOECL_API const char *moecl_life_name(moecl_life life);

#ifdef __cplusplus
}
#endif
#endif
