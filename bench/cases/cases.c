// SPDX-License-Identifier: MIT
#include "cases.h"
#include <float.h>
#include <math.h>

/* Multiply-adds of one assignment's expert that is no identity. */
static double expert_size(const moecl_layer_params *params) {
  return (moecl_activation_is_gated(params->activation) ? 3.0 : 2.0) * (double)params->hidden_size *
         (double)params->intermediate_size;
}

/* The same of the shared expert and its gate, for one token; also its weights. */
static double shared_size(const moecl_layer_params *params) {
  return (moecl_activation_is_gated(params->activation) ? 3.0 : 2.0) * (double)params->hidden_size *
             (double)params->shared_intermediate_size +
         (params->shared_gate ? (double)params->hidden_size : 0.0);
}

double moe_flops(const moecl_layer_params *params, int64_t kept_assignments, int64_t num_tokens) {
  const double router =
      (double)num_tokens * (double)params->hidden_size * (double)params->num_experts;
  return 2.0 * (router + (double)kept_assignments * expert_size(params) +
                (double)num_tokens * shared_size(params));
}

static double tensor_bytes(const moecl_layer_params *params, moecl_tensor tensor) {
  return (double)moecl_layer_tensor_bytes(params, tensor);
}

double moe_bytes(const moecl_layer_params *params, int64_t active_experts, int64_t num_tokens) {
  const double hidden = (double)params->hidden_size;
  const double gate = params->shared_gate ? hidden : 0.0;
  const double experts = (double)active_experts * (tensor_bytes(params, MOECL_GATE_UP_PROJ) +
                                                   tensor_bytes(params, MOECL_DOWN_PROJ)) +
                         tensor_bytes(params, MOECL_SHARED_GATE_UP_PROJ) +
                         tensor_bytes(params, MOECL_SHARED_DOWN_PROJ);
  const double others =
      gate + hidden * (double)params->num_experts + 2.0 * (double)num_tokens * hidden;
  return experts + others * (double)moecl_dtype_size(params->dtype);
}

double block_query_size(const moecl_block_params *params) {
  return (double)moecl_block_tensor_size(params, MOECL_O_PROJ) / (double)params->layer.hidden_size;
}
double block_key_size(const moecl_block_params *params) {
  const moecl_attention_params *attention = &params->attention;
  const int64_t heads = attention->num_kv_heads ? attention->num_kv_heads : attention->num_heads;
  return block_query_size(params) * (double)heads / (double)attention->num_heads;
}

/* The sum of 1 to n. */
static double sum_to(double n) { return n > 0 ? n * (n + 1) / 2 : 0; }

/* Of tokens `from` to `end` - 1, each with those
 * before it and itself, at most `window` of them. */
static double causal_pairs(double from, double end, double window) {
  const double all = sum_to(end) - sum_to(from);
  return window > 0 ? all - (sum_to(end - window) - sum_to(from - window)) : all;
}

double block_attention_pairs(const moecl_block_params *params, int64_t num_tokens,
                             int64_t context) {
  const double from = (double)context, end = from + (double)num_tokens;
  const double window = (double)params->attention.sliding_window;
  const double before = causal_pairs(from, end, window);
  if (!params->attention.not_causal) return before;
  /* And those after it: as seen from the end, every token but itself. */
  return before + causal_pairs(0, end - from, window) - (end - from);
}

double block_own_flops(const moecl_block_params *params, int64_t num_tokens, int64_t context) {
  const double weights = (double)(moecl_block_tensor_size(params, MOECL_QKV_PROJ) +
                                  moecl_block_tensor_size(params, MOECL_O_PROJ));
  return 2 * (double)num_tokens * weights +
         4 * block_query_size(params) * block_attention_pairs(params, num_tokens, context);
}

double block_context_seen(const moecl_block_params *params, int64_t context) {
  const int64_t window = params->attention.sliding_window;
  return (double)(window > 0 && context >= window ? window - 1 : context);
}

double block_own_bytes(const moecl_block_params *params, int64_t num_tokens, int64_t context) {
  const double looked_at = block_context_seen(params, context);
  const double written = context > 0 ? (double)num_tokens : 0;
  double elements = 2 * block_key_size(params) * (looked_at + written);
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++)
    elements += (double)moecl_block_tensor_size(params, (moecl_block_tensor)i);
  return elements * (double)moecl_dtype_size(params->layer.dtype);
}

double moe_tolerance(double roundoff) { return roundoff < 0x1p-20 ? 1e-5 : 1e-2; }

static bool is_near(float got, double want, double tolerance, double least) {
  return fabs((double)got - want) <= tolerance * want + least;
}

/* Does the choice hang on numbers that the device has rounded, beside the logits? */
static bool is_rounded(const moecl_layer_params *layer) {
  return layer->score_correction_bias || layer->scoring == MOECL_SCORING_SPARSEMIXER ||
         layer->second_choice != MOECL_SECOND_ALL ||
         (layer->topk_group < layer->num_expert_group &&
          layer->group_score == MOECL_GROUP_TOP2_SUM);
}

/* A device may take numbers below the least normal one for 0: writes `logits` so into
 * `flushed`. False: there is none. */
static bool flush_denormals(const double *logits, int64_t count, double *flushed) {
  bool any = false;
  for (int64_t e = 0; e < count; e++) {
    const bool denormal = logits[e] != 0 && fabs(logits[e]) < FLT_MIN;
    flushed[e] = denormal ? 0 : logits[e];
    any = any || denormal;
  }
  return any;
}

/* Where among the K choices the expert stands; K: nowhere. */
static int64_t find_choice(const int32_t *ids, int64_t top_k, int32_t expert) {
  int64_t k = 0;
  while (k < top_k && ids[k] != expert) k++;
  return k;
}

static int64_t choice_differs(const moecl_layer_params *layer, const double *logits,
                              const double *correction_bias, uint64_t seed, int64_t token,
                              const int32_t *ids, const float *weights, double tolerance) {
  int32_t want_ids[MOECL_MAX_TOP_K];
  double want[MOECL_MAX_TOP_K];
  const int64_t top_k = layer->top_k;
  const double gap =
      moecl_reference_topk(layer, logits, correction_bias, seed, token, want_ids, want, NULL);
  const double least = moecl_reference_weight_floor(layer);
  const bool rounded = is_rounded(layer);
  if (rounded && gap <= 1e-5) return -1;
  for (int64_t k = 0; k < top_k; k++) {
    const int64_t at = rounded ? find_choice(ids, top_k, want_ids[k]) : k;
    if (at == top_k || ids[at] != want_ids[k] || !is_near(weights[at], want[k], tolerance, least))
      return k;
  }
  return -1;
}

int64_t case_choice_differs(const moecl_layer_params *layer, const double *logits,
                            const double *correction_bias, uint64_t seed, int64_t token,
                            const int32_t *ids, const float *weights, double tolerance) {
  double flushed[MOECL_MAX_EXPERTS];
  const int64_t differs =
      choice_differs(layer, logits, correction_bias, seed, token, ids, weights, tolerance);
  if (differs < 0 || !flush_denormals(logits, layer->num_experts, flushed)) return differs;
  const int64_t then =
      choice_differs(layer, flushed, correction_bias, seed, token, ids, weights, tolerance);
  return then < 0 ? -1 : differs;
}
