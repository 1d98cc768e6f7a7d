// SPDX-License-Identifier: MIT
/* The parts of verify.c: a point against the double-precision reference. */
#ifndef MOECTL_VERIFY_PARTS_H
#define MOECTL_VERIFY_PARTS_H

#include "run/runner.h"

enum { VERIFY_MOST_TOKENS = 256 };

/* Some of the point's tokens. */
typedef struct sample {
  int64_t count;
  int64_t *tokens;  /* [count], ascending */
  double *hidden;   /* [count, H]: what the layer reads */
  double *expected; /* [count, H]: of a block to begin with the sum that the layer's output is
                       added to, else 0 */
} sample;

/* Room for one item of each tensor of an expert, and for its way from the
 * device; the same for all experts. */
enum { EXPERT_TENSORS = MOECL_DOWN_BIAS + 1 - MOECL_GATE_UP_PROJ };
typedef struct weights {
  moecl_buffer *staging;
  void *expert[EXPERT_TENSORS]; /* in the layer's dtype; NULL where it has no such tensor */
  double *hidden, *output;      /* [sample,H]: of the tokens that reach the expert */
} weights;

/* Room for `count` tokens, and for the weights' way to them. What failed is released as
 * what did not. */
moecl_status verify_sample_make(const experiment_point *point, int64_t count, sample *sample);
void verify_sample_release(sample *sample);
moecl_status verify_weights_make(const verify_input *input, const sample *sample, weights *weights);
void verify_weights_release(weights *weights);

/* Bytes of one item of a tensor; 0: the layer has none. */
size_t verify_item_bytes(const experiment_point *point, moecl_tensor tensor);
/* One item of a tensor, drawn again, into `values`. Waits. */
moecl_status verify_draw(const verify_input *input, const weights *weights, moecl_tensor tensor,
                         int64_t item, void *values);
/* A tensor of one item as doubles, malloc'ed; NULL where the layer has no such tensor. Waits. */
moecl_status verify_draw_doubles(const verify_input *input, const weights *weights,
                                 moecl_tensor tensor, double **values);
/* The sampled tokens' rows of a buffer [T,H]. Waits. */
moecl_status verify_read_rows(const experiment_point *point, const moecl_buffer *buffer,
                              const sample *sample, double *rows);

/* verify_block.c: a block's sample, by the reference: hidden and expected. */
moecl_status verify_block(const verify_input *input, sample *sample);
/* Fills in hidden and expected of a sample whose tokens are there. Waits. */
moecl_status verify_sample_fill(const verify_input *input, sample *sample);

/* verify_router.c: logits of the sample, choices and counts of all tokens; whether
 * `kept` is as it should be, which is looked at where the choices are right. */
moecl_status verify_router(const verify_input *input, const sample *sample, const weights *weights,
                           verify_result *result);

/* verify_experts.c: adds what the experts make of the sample, by the reference, to
 * `expected`. `overflow` NULL, or notes the numbers that come by. */
typedef struct overflow overflow;
moecl_status verify_experts(const verify_input *input, sample *sample, weights *weights,
                            overflow *overflow, int64_t *experts_reached);

/* verify_weights.c: what the weights' format does to the sample, whose `expected` is there. */
moecl_status verify_weight_format(const verify_input *input, const sample *sample,
                                  verify_result *result);

/* verify_overflow.c: the largest numbers of each kind that the exact computation of
 * some tokens comes by, beside the largest one of the layer's data type. */
typedef enum overflow_tensor {
  OVERFLOW_INPUT = 0, /* of an expert, with weight_on_input times its weight */
  OVERFLOW_INTERMEDIATE,
  OVERFLOW_EXPERT_OUTPUT,
  OVERFLOW_SHARED_INTERMEDIATE,
  OVERFLOW_SHARED_OUTPUT,
  OVERFLOW_OUTPUT,
  OVERFLOW_TENSORS
} overflow_tensor;
double overflow_limit(moecl_dtype dtype); /* that number */
/* Of `count` tokens, of a layer that keeps experts' outputs as `output_dtype` until they
 * are combined. NULL: no memory. */
overflow *overflow_create(moecl_dtype dtype, moecl_dtype output_dtype, int64_t count);
void overflow_destroy(overflow *overflow);
/* `count` numbers of token i; expert -1: of none. */
void overflow_note(overflow *overflow, int64_t i, overflow_tensor tensor, int64_t expert,
                   const double *values, int64_t count);
/* A sentence that says why outputs are not finite: those of the tokens noted, whose
 * numbers are `tokens`, and of `nonfinite` in all. An engine may be off by `tolerance`.
 * True: as each of these tokens has exact numbers that do not fit. */
bool overflow_describe(const overflow *overflow, const int64_t *tokens, int64_t nonfinite,
                       int64_t num_tokens, double tolerance, char *text, size_t size);

#endif
