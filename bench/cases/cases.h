// SPDX-License-Identifier: MIT
/* Shapes, counts and tolerances that tests and benchmarks share. */
#ifndef MOECL_BENCH_CASES_H
#define MOECL_BENCH_CASES_H

#include "moecl/moecl.h"

/* Floating-point operations of one forward, 2 a multiply-add: the router's
 * logits for num_tokens, and gate/up and down for the surviving assignments. */
double moe_flops(const moecl_layer_params *params, int64_t kept_assignments, int64_t num_tokens);

/* The least bytes one forward must move: each weight of the experts with at
 * least one surviving assignment once, the router's weights, input, output. */
double moe_bytes(const moecl_layer_params *params, int64_t active_experts, int64_t num_tokens);

/* Elements of a token's queries, and of its keys: as many as of its values. */
double block_query_size(const moecl_block_params *params);
double block_key_size(const moecl_block_params *params);
/* Of `context` cached tokens those that some token after them looks at. */
double block_context_seen(const moecl_block_params *params, int64_t context);
/* Pairs of a query and a key that it looks at, of one head: num_tokens queries after `context`
 * cached tokens. */
double block_attention_pairs(const moecl_block_params *params, int64_t num_tokens, int64_t context);

/* What a block has to do beside its layer, whose work the two above count: the projections, and
 * the products of num_tokens queries after `context` cached tokens with the keys and values that
 * they look at. */
double block_own_flops(const moecl_block_params *params, int64_t num_tokens, int64_t context);
/* The same of bytes: the block's weights once, cached keys and values that some token looks at
 * read, and with a cache new ones written. */
double block_own_bytes(const moecl_block_params *params, int64_t num_tokens, int64_t context);

/* The relative error a correct variant stays under, by moecl_layer_roundoff. */
double moe_tolerance(double roundoff);

/* One token's choice, ids and weights [K], beside the reference's for its logits
 * [E], which are the device's own: choices by logit are exact then, ties and order
 * too, of the logits as they are or with denormals taken for 0. Choices by rounded scores may come
 * in another order where the order hangs on the rounding, and be others where the reference's gap
 * does. Returns the first of the reference's choices that is not there with its weight, within
 * `tolerance` of it; -1: all are. */
int64_t case_choice_differs(const moecl_layer_params *layer, const double *logits,
                            const double *correction_bias, uint64_t seed, int64_t token,
                            const int32_t *ids, const float *weights, double tolerance);

#endif
