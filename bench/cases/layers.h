// SPDX-License-Identifier: MIT
/* Layers that tests and benchmarks run: random and extreme shapes, routings and
 * options, their tensors, and what the reference makes of them. */
#ifndef MOECL_BENCH_LAYERS_H
#define MOECL_BENCH_LAYERS_H

#include "moecl/moecl.h"

/* How hidden states and router weights are drawn. Where a routing is forced,
 * element 0 of every hidden state is 2 and the router weights' column 0
 * carries the decision, so that no bias is needed. */
typedef enum case_fill {
  CASE_NORMAL = 0,
  CASE_SKEWED,    /* clustered hidden states: uneven loads */
  CASE_HOT,       /* the middle expert is every token's first choice */
  CASE_EMPTY,     /* experts of odd id get nothing; needs K <= E/2 */
  CASE_IDENTICAL, /* all tokens alike: every weight of a choice is a tie */
  CASE_TIED       /* router rows alike in pairs: experts' logits are ties */
} case_fill;

typedef struct moe_case {
  const char *name;
  moecl_layer_params layer; /* dtype and variants are set by who runs it */
  int64_t num_tokens;
  case_fill fill;
} moe_case;

extern const moe_case moe_cases[];
extern const size_t moe_case_count;

const moe_case *case_find(const char *name); /* NULL: there is none */

/* $MOECL_TEST_SEED, else a constant. */
uint64_t case_seed(void);

/* A case's tensors in their storage type and as the doubles these stand for.
 * Tensors that the layer does not have are NULL. */
typedef struct case_data {
  const moe_case *source;
  moecl_layer_params layer; /* the case's, with the dtype */
  uint64_t seed;
  void *hidden, *tensor[MOECL_TENSOR_COUNT];
  double *hidden_values, *values[MOECL_TENSOR_COUNT];
} case_data;

/* False when there is no memory; nothing is then to be released. */
bool case_make(const moe_case *source, moecl_dtype dtype, uint64_t seed, case_data *data);
void case_release(case_data *data);

size_t case_hidden_bytes(const case_data *data);

/* The reference's router logits [T,E] and its output [T,H] for the routing
 * given (ids, weights, kept); the caller frees them. NULL: no memory. */
double *case_reference_logits(const case_data *data);
double *case_reference_output(const case_data *data, const moecl_routing *routing);

/* Compares `count` numbers, relative to the size of the whole: true within the
 * tolerance. Otherwise prints seed, case, dtype, variant and tensor, the error,
 * and the first element that is off by more than its share. */
bool case_compare(const case_data *data, const char *variant, const char *tensor, const double *got,
                  const double *want, size_t count, double tolerance);

/* The same print for one element that had to be exact. Returns false. */
bool case_differs(const case_data *data, const char *variant, const char *tensor, int64_t index,
                  double got, double want);

/* Everything the routing says, against the reference: logits, top-k, weights,
 * capacity, counts. Prints the first mismatch of each. */
bool case_check_routing(const case_data *data, const char *variant, const moecl_routing *routing);

#endif
