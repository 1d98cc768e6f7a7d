// SPDX-License-Identifier: MIT
/* A point's router against the reference. */
#include "cases.h"
#include "moecl/reference.h"
#include "run/verify_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUTER_TOLERANCE 1e-4 /* fp32 sums and exponentials, with room */

/* Of logits: a block's are of hidden states that its kernels made and rounded. */
static double logits_tolerance(const verify_input *input) {
  const double rounded = moe_tolerance(input->roundoff);
  return input->point->what == WHAT_BLOCK && rounded > ROUTER_TOLERANCE ? rounded
                                                                        : ROUTER_TOLERANCE;
}

/* The router's tensors, NULL where it has no such one. */
typedef struct router {
  double *weight, *bias, *noise, *correction_bias;
} router;

static void router_release(router *router) {
  free(router->weight);
  free(router->bias);
  free(router->noise);
  free(router->correction_bias);
}

static moecl_status router_make(const verify_input *input, const weights *weights, router *router) {
  moecl_status status = verify_draw_doubles(input, weights, MOECL_ROUTER_WEIGHT, &router->weight);
  if (status == MOECL_OK)
    status = verify_draw_doubles(input, weights, MOECL_ROUTER_BIAS, &router->bias);
  if (status == MOECL_OK)
    status = verify_draw_doubles(input, weights, MOECL_ROUTER_NOISE_WEIGHT, &router->noise);
  if (status == MOECL_OK)
    status =
        verify_draw_doubles(input, weights, MOECL_SCORE_CORRECTION_BIAS, &router->correction_bias);
  return status;
}

/* A sampled token's logits from what the router reads; `scratch` has room for as many. */
static void expected_logits(const verify_input *input, const sample *sample, const router *router,
                            int64_t i, double *logits, double *scratch) {
  const moecl_layer_params *layer = &input->point->layer;
  const uint64_t seed = input->point->seed;
  const int64_t token = sample->tokens[i];
  const double *hidden = sample->hidden + i * layer->hidden_size;
  moecl_reference_logits(layer, hidden, router->weight, router->bias, seed, token, logits);
  if (!router->noise) return;
  moecl_reference_logits(layer, hidden, router->noise, NULL, seed, token, scratch);
  moecl_reference_add_noise(layer, scratch, seed, token, logits);
}

/* What logits are at least taken for. Of a block they are off by a share of what they are summed
 * up from, which is not smaller where a token's own happen to be: so by their usual size. */
static double logits_floor(const verify_input *input, const double *logits, size_t count) {
  double squares = 0;
  if (input->point->what == WHAT_LAYER) return moecl_relative_error_floor(MOECL_F32);
  for (size_t i = 0; i < count; i++) squares += logits[i] * logits[i];
  return count > 0 ? sqrt(squares / (double)count) : 0;
}

/* Sampled tokens' logits. */
static moecl_status check_logits(const verify_input *input, const sample *sample,
                                 const router *router, verify_result *result) {
  const size_t experts = (size_t)input->point->layer.num_experts;
  const size_t count = (size_t)sample->count * experts;
  double *want = malloc((count + experts) * sizeof *want);
  if (!want) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  double *got = want + count;
  for (int64_t i = 0; i < sample->count; i++)
    expected_logits(input, sample, router, i, want + (size_t)i * experts, got);
  const double floor = logits_floor(input, want, count);
  for (int64_t i = 0; i < sample->count; i++) {
    moecl_to_double(MOECL_F32, input->routing->router_logits + (size_t)sample->tokens[i] * experts,
                    experts, got);
    result->topk_mismatches +=
        !(moecl_relative_error_above(got, want + (size_t)i * experts, experts, floor) <=
          logits_tolerance(input));
  }
  free(want);
  return MOECL_OK;
}

/* One token's choice from the device's logits. */
static bool choice_differs(const verify_input *input, const router *router, int64_t token,
                           double *logits) {
  const moecl_layer_params *layer = &input->point->layer;
  const int64_t first = token * layer->top_k;
  moecl_to_double(MOECL_F32, input->routing->router_logits + token * layer->num_experts,
                  (size_t)layer->num_experts, logits);
  return case_choice_differs(layer, logits, router->correction_bias, input->point->seed, token,
                             input->routing->topk_ids + first, input->routing->topk_weights + first,
                             ROUTER_TOLERANCE) >= 0;
}

/* One token's priority, where the layer has them, from the device's logits. */
static bool priority_differs(const verify_input *input, int64_t token, double *logits) {
  const moecl_routing *routing = input->routing;
  if (!routing->token_priority) return false;
  moecl_to_double(MOECL_F32, routing->router_logits + token * routing->num_experts,
                  (size_t)routing->num_experts, logits);
  const double want = moecl_reference_priority(logits, routing->num_experts);
  return !(fabs((double)routing->token_priority[token] - want) <= ROUTER_TOLERANCE * want);
}

/* All tokens, or where that is too much work evenly spread ones; and the counts
 * before capacity. */
static moecl_status check_choices(const verify_input *input, const router *router,
                                  verify_result *result) {
  const moecl_routing *routing = input->routing;
  const double each = (double)routing->num_experts * (double)routing->top_k;
  const double share = (double)routing->num_tokens * each / 1e9;
  const int64_t stride = share > 1 ? (int64_t)ceil(share) : 1;
  const size_t experts = (size_t)routing->num_experts;
  const bool by_chance = input->point->layer.second_choice == MOECL_SECOND_RANDOM;
  double *logits = malloc(experts * sizeof *logits);
  int64_t *counts = calloc(experts, sizeof *counts);
  const moecl_status status = logits && counts ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int64_t t = 0; status == MOECL_OK && t < routing->num_tokens; t += stride)
    result->topk_mismatches +=
        choice_differs(input, router, t, logits) || priority_differs(input, t, logits);
  for (int64_t i = 0; status == MOECL_OK && i < routing->num_tokens * routing->top_k; i++) {
    const int32_t id = routing->topk_ids[i];
    const bool not_kept = id == -1 && by_chance && i % routing->top_k > 0;
    if (id >= 0 && id < routing->num_experts) counts[id]++;
    else if (!not_kept) result->topk_mismatches++;
  }
  for (size_t e = 0; status == MOECL_OK && e < experts; e++)
    result->topk_mismatches += counts[e] != routing->tokens_per_expert[e];
  free(logits);
  free(counts);
  return status;
}

static moecl_status check_capacity(const verify_input *input, verify_result *result) {
  const moecl_routing *routing = input->routing;
  const size_t slots = (size_t)(routing->num_tokens * routing->top_k);
  uint8_t *kept = malloc(slots + 1);
  int64_t *counts = calloc((size_t)routing->num_experts, sizeof *counts);
  moecl_status status =
      kept && counts
          ? moecl_reference_capacity(&input->point->layer, routing->num_tokens, routing->topk_ids,
                                     routing->topk_weights, routing->token_priority, kept)
          : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) {
    for (size_t i = 0; i < slots; i++)
      if (kept[i]) counts[routing->topk_ids[i]]++;
    result->capacity_ok = memcmp(kept, routing->kept, slots) == 0 &&
                          memcmp(counts, routing->tokens_per_expert_after_capacity,
                                 (size_t)routing->num_experts * sizeof *counts) == 0;
  }
  free(kept);
  free(counts);
  return status;
}

moecl_status verify_router(const verify_input *input, const sample *sample, const weights *weights,
                           verify_result *result) {
  router router = {0};
  moecl_status status = router_make(input, weights, &router);
  if (status == MOECL_OK) status = check_logits(input, sample, &router, result);
  if (status == MOECL_OK) status = check_choices(input, &router, result);
  /* It indexes by the device's ids. */
  if (status == MOECL_OK && result->topk_mismatches == 0) status = check_capacity(input, result);
  router_release(&router);
  return status;
}
