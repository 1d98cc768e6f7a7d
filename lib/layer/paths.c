// SPDX-License-Identifier: MIT
/* The ways a forward can take, in one table. */
#include "layer/layer.h"
#include <math.h>

static bool has_jitter(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer->params.jitter > 0;
}

static bool converts(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer->has_convert;
}

static bool routes_at_once(const moecl_layer *layer, int64_t num_tokens) {
  return op_route_serves(&layer->route, num_tokens);
}

static bool fuses(const moecl_layer *layer, int64_t num_tokens) {
  return op_router_can_permute(layer->router.driver, layer->permute.driver, num_tokens);
}

static bool is_counted(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer->router.driver->by_block && layer->permute.driver->counts;
}

static bool drops(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer->params.capacity_factor > 0;
}

static bool keeps_weights(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer->params.renormalize_after_capacity;
}

/* Bytes of weights that few tokens read more than once: an expert's for each
 * further token that chooses it, as if choices were random. */
static double bytes_again(const moecl_layer *layer, int64_t num_tokens) {
  const moecl_layer_params *params = &layer->params;
  const double experts = (double)params->num_experts, tokens = (double)num_tokens;
  const double share = (double)params->top_k / experts;
  const double reached = experts * (1 - pow(1 - share, tokens));
  const double expert = (double)moecl_layer_tensor_bytes(params, MOECL_GATE_UP_PROJ) +
                        (double)moecl_layer_tensor_bytes(params, MOECL_DOWN_PROJ);
  const double shared = (double)moecl_layer_tensor_bytes(params, MOECL_SHARED_GATE_UP_PROJ) +
                        (double)moecl_layer_tensor_bytes(params, MOECL_SHARED_DOWN_PROJ);
  return (tokens * (double)params->top_k - reached) * expert + (tokens - 1) * shared;
}

/* Nothing is dropped but whole tokens, all experts have weights, nothing is weighted
 * otherwise than those kernels do it, and the GEMMs have kernels for few tokens; they spare
 * launches that take an H100 as long as some 64 MB of weights. */
bool layer_takes_few_tokens_path(const moecl_layer *layer, int64_t num_tokens) {
  enum { WORTH_BYTES = 64000000 };
  const moecl_layer_params *params = &layer->params;
  if (!op_gemm_serves_few_tokens(layer->gate_up, num_tokens) ||
      !op_gemm_serves_few_tokens(layer->down, num_tokens))
    return false;
  return !(params->capacity_factor > 0) && params->second_choice != MOECL_SECOND_RANDOM &&
         params->num_identity_experts == 0 && !params->weight_on_input &&
         !params->renormalize_after_capacity && bytes_again(layer, num_tokens) <= WORTH_BYTES;
}

static bool offloads(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer_offloads(layer);
}

/* Their kernels want all experts at once. */
static bool brings_few_tokens(const moecl_layer *layer, int64_t num_tokens) {
  return layer_offloads(layer) && num_tokens * layer->params.top_k <= layer->places &&
         layer_takes_few_tokens_path(layer, num_tokens);
}

static bool weights_inputs(const moecl_layer *layer, int64_t num_tokens) {
  (void)num_tokens;
  return layer->params.weight_on_input;
}

static const char INPUT[] = "router input", ROUTING[] = "routing", WEIGHTS[] = "weights",
                  EXPERTS[] = "experts";

const layer_path layer_paths[] = {
    {INPUT, "jitter", "the layer has jitter: its factors are drawn into a copy", has_jitter,
     layer_build_jitter},
    {INPUT, "converted", "the variant reads fp32, and hidden states are stored as less", converts,
     layer_build_convert},
    {INPUT, "as stored", "the variant reads hidden states as they are stored", NULL, NULL},

    {ROUTING, "at once", "few tokens: the last work-group to make logits chooses and permutes",
     routes_at_once, layer_build_routing_at_once},
    {ROUTING, "fused", "few tokens: one work-group chooses and permutes, which spares a launch",
     fuses, layer_build_fused_routing},
    {ROUTING, "counted", "the router counts for the permutation, which then needs one launch",
     is_counted, layer_build_counted_routing},
    {ROUTING, "with capacity", "experts have a capacity: lists are sorted, then cut", drops,
     layer_build_routing},
    {ROUTING, "separate", "the variants of router and permutation do not work together", NULL,
     layer_build_routing},

    {WEIGHTS, "renormalized", "the layer renormalizes what capacity kept", keeps_weights,
     layer_build_kept_weights},
    {WEIGHTS, "the router's", "weights are as the router makes them", NULL, NULL},

    {EXPERTS, "few tokens, brought",
     "experts are brought when tokens choose them; so few have places for all of theirs",
     brings_few_tokens, layer_build_few_tokens_brought},
    {EXPERTS, "in rounds", "experts are brought when tokens choose them: some while others compute",
     offloads, layer_build_rounds},
    {EXPERTS, "few tokens",
     "so few tokens that streaming weights for each choice costs less than lists and tiles",
     layer_takes_few_tokens_path, layer_build_few_tokens_experts},
    {EXPERTS, "grouped, weighted inputs", "rows are multiplied by their weights before the experts",
     weights_inputs, layer_build_experts},
    {EXPERTS, "grouped", "each expert's rows as tiles of one GEMM", NULL, layer_build_experts},
    {NULL, NULL, NULL, NULL, NULL}};
