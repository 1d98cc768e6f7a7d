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

/* The relative error a correct variant stays under, by moecl_layer_roundoff. */
double moe_tolerance(double roundoff);

#endif
