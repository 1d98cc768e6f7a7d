#include "moecl/reference.h"
#include <Random123/philox.h>
#include <math.h>

#define JITTER_COUNTER 0x4a495454u /* "JITT": a counter no other use of the seed reaches */

float moecl_reference_jitter(uint64_t seed, uint64_t token, uint32_t element, float jitter) {
  philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  philox4x32_ctr_t counter = {
      {(uint32_t)token, (uint32_t)(token >> 32), element / 4, JITTER_COUNTER}};
  uint32_t word = philox4x32(counter, key).v[element % 4];
  /* 24 bits: u and 2u - 1 are exact in fp32, so only fmaf rounds. */
  float u = (float)(word >> 8) * 0x1p-24f;
  return fmaf(jitter, 2.0f * u - 1.0f, 1.0f);
}

/* Element `i` of the router's input. The product of two fp32 numbers is exact
 * in double, so it is rounded once, to fp32, as on the device. */
static double router_input(const moecl_layer_params *params, const double *hidden, uint64_t seed,
                           int64_t token, int64_t i) {
  if (!(params->jitter > 0)) return hidden[i];
  float factor = moecl_reference_jitter(seed, (uint64_t)token, (uint32_t)i, params->jitter);
  return (float)(hidden[i] * (double)factor);
}

void moecl_reference_logits(const moecl_layer_params *params, const double *hidden,
                            const double *weight, const double *bias, uint64_t seed, int64_t token,
                            double *logits) {
  enum { PART = 512 }; /* elements at a time, so that each jitter factor is drawn once */
  double input[PART];
  const int64_t experts = params->num_experts, width = params->hidden_size;
  for (int64_t e = 0; e < experts; e++)
    logits[e] = bias ? bias[e] : 0;
  for (int64_t first = 0; first < width; first += PART) {
    const int64_t count = width - first < PART ? width - first : PART;
    for (int64_t i = 0; i < count; i++)
      input[i] = router_input(params, hidden, seed, token, first + i);
    for (int64_t e = 0; e < experts; e++) {
      const double *row = weight + e * width + first;
      for (int64_t i = 0; i < count; i++)
        logits[e] += input[i] * row[i];
    }
  }
}

/* Logits are kept as fp32: what is finite in double but not there counts as
 * infinite. */
static bool all_finite(const double *logits, int64_t count) {
  for (int64_t e = 0; e < count; e++)
    if (!isfinite((float)logits[e])) return false;
  return true;
}

/* The expert that follows `previous` (-1: the first) in the order of falling
 * logits, equal ones by rising id; -1 when there is none. */
static int32_t next_expert(const double *logits, int64_t experts, int32_t previous) {
  int32_t best = -1;
  for (int64_t e = 0; e < experts; e++) {
    bool later = previous < 0 || logits[e] < logits[previous] ||
                 (logits[e] == logits[previous] && e > previous);
    if (later && (best < 0 || logits[e] > logits[best])) best = (int32_t)e;
  }
  return best;
}

static double exp_sum(const double *logits, int64_t experts, double max) {
  double sum = 0;
  for (int64_t e = 0; e < experts; e++)
    sum += exp(logits[e] - max);
  return sum;
}

static double route_nowhere(const moecl_layer_params *params, int32_t *ids, double *weights,
                            double *scores) {
  for (int64_t k = 0; k < params->top_k; k++) {
    ids[k] = -1;
    weights[k] = 0;
  }
  for (int64_t e = 0; scores && e < params->num_experts; e++)
    scores[e] = 0;
  return INFINITY; /* there is nothing to be confused about */
}

double moecl_reference_topk(const moecl_layer_params *params, const double *logits, int32_t *ids,
                            double *weights, double *scores) {
  const int64_t experts = params->num_experts, top_k = params->top_k;
  if (!all_finite(logits, experts)) return route_nowhere(params, ids, weights, scores);
  /* Chosen by logit: the softmax keeps the order but for far-off experts whose
   * scores underflow and would tie. */
  for (int64_t k = 0; k < top_k; k++)
    ids[k] = next_expert(logits, experts, k == 0 ? -1 : ids[k - 1]);
  const double max = logits[ids[0]], sum = exp_sum(logits, experts, max);
  double chosen_sum = 0;
  for (int64_t k = 0; k < top_k; k++) {
    weights[k] = exp(logits[ids[k]] - max) / sum;
    chosen_sum += weights[k];
  }
  for (int64_t k = 0; params->renormalize && k < top_k; k++)
    weights[k] /= chosen_sum;
  for (int64_t e = 0; scores && e < experts; e++)
    scores[e] = exp(logits[e] - max) / sum;
  if (top_k == experts) return INFINITY;
  double left_out = logits[next_expert(logits, experts, ids[top_k - 1])];
  return -expm1(left_out - logits[ids[top_k - 1]]);
}
