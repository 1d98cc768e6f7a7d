/* The router's oracle: jitter, logits, softmax, top-k. */
#include "moecl/reference.h"
#include <Random123/philox.h>
#include <math.h>

float moecl_reference_jitter(uint64_t seed, uint64_t token, uint32_t element, float jitter) {
  const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  const philox4x32_ctr_t counter = {
      {(uint32_t)token, (uint32_t)(token >> 32), element / 4, 0x4a495454u}};
  const philox4x32_ctr_t words = philox4x32(counter, key);
  const float u = (float)(words.v[element % 4] >> 8) * 0x1p-24f;
  return fmaf(jitter, 2.0f * u - 1.0f, 1.0f);
}

/* Elements [first, first+count) of the router's input: the hidden state, each
 * product with its jitter rounded to fp32 as the rule says. */
static void router_input(const moecl_layer_params *params, const double *hidden, uint64_t seed,
                         int64_t token, int64_t first, int64_t count, double *input) {
  for (int64_t i = 0; i < count; i++) {
    input[i] = hidden[first + i];
    if (params->jitter > 0)
      input[i] = (float)input[i] * moecl_reference_jitter(seed, (uint64_t)token,
                                                          (uint32_t)(first + i), params->jitter);
  }
}

void moecl_reference_logits(const moecl_layer_params *params, const double *hidden,
                            const double *weight, const double *bias, uint64_t seed, int64_t token,
                            double *logits) {
  enum { BLOCK = 256 }; /* the input in pieces: no allocation, weights read in order */
  const int64_t hidden_size = params->hidden_size;
  double input[BLOCK];
  for (int64_t e = 0; e < params->num_experts; e++) logits[e] = bias ? bias[e] : 0.0;
  for (int64_t first = 0; first < hidden_size; first += BLOCK) {
    const int64_t count = hidden_size - first < BLOCK ? hidden_size - first : BLOCK;
    router_input(params, hidden, seed, token, first, count, input);
    for (int64_t e = 0; e < params->num_experts; e++)
      for (int64_t i = 0; i < count; i++) logits[e] += input[i] * weight[e * hidden_size + first + i];
  }
}

/* Fills ids with the K largest logits, ties to the lower id; returns the K+1st
 * logit, or -infinity where there is none. */
static double select_largest(const moecl_layer_params *params, const double *logits, int32_t *ids) {
  double next = -INFINITY;
  int64_t filled = 0;
  for (int64_t e = 0; e < params->num_experts; e++) {
    int64_t at = filled;
    while (at > 0 && logits[ids[at - 1]] < logits[e]) at--;
    if (at == params->top_k) {
      next = fmax(next, logits[e]);
      continue;
    }
    if (filled == params->top_k) next = fmax(next, logits[ids[filled - 1]]);
    else filled++;
    for (int64_t i = filled - 1; i > at; i--) ids[i] = ids[i - 1];
    ids[at] = (int32_t)e;
  }
  return next;
}

double moecl_reference_topk(const moecl_layer_params *params, const double *logits, int32_t *ids,
                            double *weights, double *scores) {
  double maximum = -INFINITY, denominator = 0.0, chosen = 0.0;
  bool finite = true;
  for (int64_t e = 0; e < params->num_experts; e++) {
    finite = finite && isfinite(logits[e]);
    maximum = fmax(maximum, logits[e]);
  }
  for (int64_t k = 0; k < params->top_k; k++) ids[k] = -1, weights[k] = 0.0;
  for (int64_t e = 0; scores && e < params->num_experts; e++) scores[e] = 0.0;
  if (!finite) return 0.0;
  for (int64_t e = 0; e < params->num_experts; e++) denominator += exp(logits[e] - maximum);
  for (int64_t e = 0; scores && e < params->num_experts; e++)
    scores[e] = exp(logits[e] - maximum) / denominator;
  const double next = select_largest(params, logits, ids);
  for (int64_t k = 0; k < params->top_k; k++)
    chosen += weights[k] = exp(logits[ids[k]] - maximum) / denominator;
  for (int64_t k = 0; params->renormalize && k < params->top_k; k++) weights[k] /= chosen;
  /* 1 - s[K+1]/s[K], from the logits, where it does not cancel. */
  return next == -INFINITY ? INFINITY : -expm1(next - logits[ids[params->top_k - 1]]);
}
