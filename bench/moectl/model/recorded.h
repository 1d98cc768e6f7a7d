// SPDX-License-Identifier: MIT
/* What somebody else recorded of a layer, and how ours compares with it:
 * recorded_file.c reads it, recorded_choice.c judges a token's experts and weights,
 * recorded_output.c computes what follows from others than ours, recorded_rows.c
 * compares rows of numbers. */
#ifndef MOECTL_RECORDED_H
#define MOECTL_RECORDED_H

#include "moecl/checkpoint.h"
#include "moecl/safetensors.h"
#include <stdbool.h>

/* What a recording may have, each [T, columns]. */
typedef enum quantity { LOGITS = 0, IDS, WEIGHTS, OUTPUT, QUANTITIES } quantity;
const char *quantity_name(quantity q); /* the tensor's */
int64_t quantity_columns(const moecl_layer_params *params, quantity q);

typedef struct recorded {
  int64_t num_tokens;
  double *hidden;             /* [T,H] */
  double *values[QUANTITIES]; /* NULL: not in the file */
} recorded;

/* Reads what the file has of a layer; of one that is not MoE only the output. False:
 * bad input, which is complained about. Either way recorded_release frees it. */
bool recorded_read(const moecl_safetensors *file, const moecl_layer_params *params, bool is_moe,
                   recorded *recorded);
void recorded_release(recorded *recorded);

/* ---- rows ---- */

typedef struct row_rule {
  double tolerance;       /* of all rows together: ||ours - recorded|| / ||recorded|| */
  double token_tolerance; /* of one token's */
  const bool *skip;       /* [T] tokens that are left out; NULL: none */
} row_rule;

typedef struct comparison {
  double error;          /* of all rows together; of ids: the share of tokens that differ */
  int64_t differ, first; /* tokens; the first of them, -1: none */
} comparison;

/* A token differs where its row is further off than token_tolerance of its own
 * length, or of the usual row's where that is longer (the median: one row may be a
 * thousand times as long); where none is and yet all together are further off than
 * tolerance, the one that is furthest off does. False: no memory. */
bool compare_rows(const row_rule *rule, int64_t num_tokens, int64_t columns, const double *ours,
                  const double *theirs, comparison *result);
/* sqrt of the sum of squares of a - b; b NULL: of a. */
double row_distance(const double *a, const double *b, int64_t count);
/* The one in the middle; sorts them. */
double median_of(double *values, int64_t count);

/* ---- choices ---- */

typedef struct choice_case {
  const moecl_layer_params *params;
  const double *correction_bias; /* [E], NULL: none */
  double tolerance;              /* what rounding may make of a number, relatively */
  int64_t token;
  const double *logits, *ids, *weights;                   /* ours: [E], [K], [K] */
  const double *their_logits, *their_ids, *their_weights; /* NULL: not recorded */
} choice_case;

/* In what a recorded choice is another than ours: bits. */
enum {
  CHOICE_OTHER = 1,      /* other experts, or in another order where that means something */
  CHOICE_REORDERED = 2,  /* the same experts, listed in another order than by score */
  CHOICE_WEIGHTLESS = 4, /* others, but those that were exchanged have weight 0 on both sides */
  CHOICE_TIE = 8,        /* others that rounding may prefer, by their scores or their groups' */
  CHOICE_MASK = 16,      /* weights that sparsemixer gives where an expert at its limit falls on
                            the other side of it */
  CHOICE_ROUNDED = 32    /* weights that follow from the recorded logits, which are ours but for
                            rounding */
};
/* The output that follows from these is not ours. */
enum { CHOICE_NOT_OURS = CHOICE_TIE | CHOICE_MASK | CHOICE_ROUNDED };

/* Judges one token. `expected` [K]: the weights, in the order of the recorded ids,
 * that the recorded ones are to be compared with. */
unsigned compare_choice(const choice_case *choice, double *expected);

/* ---- outputs ---- */

typedef struct output_case {
  moecl_context *context;
  moecl_checkpoint *checkpoint;
  int64_t index;                    /* the layer's */
  const moecl_layer_params *params; /* without a capacity */
  const moecl_block_params *block;  /* around it, of the same layer; NULL: the layer alone */
  int64_t num_tokens;
  const double *hidden, *ids, *weights; /* [T,H], [T,K], [T,K] */
  const bool *wanted;                   /* [T] */
} output_case;

/* recorded_output.c: by the reference, the outputs [T,H] of the tokens that are wanted;
 * others are not touched. Weights come from the checkpoint. Waits. */
moecl_status recorded_outputs(const output_case *of, double *outputs);

#endif
