// SPDX-License-Identifier: MIT
#include "moecl/reference.h"
#include <Random123/philox.h>
#include <math.h>

/* The last word of a counter, which keeps what the seed is used for apart. */
enum { JITTER = 0x4a495454, NOISE = 0x4e4f4953, GUMBEL = 0x47554d42, KEEP = 0x4b454550 };

static philox4x32_ctr_t draw(uint64_t seed, uint64_t token, uint32_t index, uint32_t tag) {
  philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  philox4x32_ctr_t counter = {{(uint32_t)token, (uint32_t)(token >> 32), index / 4, tag}};
  return philox4x32(counter, key);
}

float moecl_reference_jitter(uint64_t seed, uint64_t token, uint32_t element, float jitter) {
  uint32_t word = draw(seed, token, element, JITTER).v[element % 4];
  /* 24 bits: u and 2u - 1 are exact in fp32, so only fmaf rounds. */
  float u = (float)(word >> 8) * 0x1p-24f;
  return fmaf(jitter, 2.0f * u - 1.0f, 1.0f);
}

double moecl_reference_noise(uint64_t seed, uint64_t token, uint32_t expert) {
  const philox4x32_ctr_t words = draw(seed, token, expert, NOISE);
  const uint32_t pair = expert % 4 / 2 * 2;
  const double u = ((words.v[pair] >> 8) + 1) * 0x1p-24, v = (words.v[pair + 1] >> 8) * 0x1p-24;
  const double angle = 2 * 3.14159265358979323846 * v;
  return sqrt(-2 * log(u)) * (expert % 2 ? sin(angle) : cos(angle));
}

double moecl_reference_gumbel(uint64_t seed, uint64_t token, uint32_t expert) {
  const uint32_t word = draw(seed, token, expert, GUMBEL).v[expert % 4];
  return -log(-log(((word >> 9) + 0.5) * 0x1p-23));
}

double moecl_reference_keep(uint64_t seed, uint64_t token, uint32_t choice) {
  return (draw(seed, token, choice, KEEP).v[choice % 4] >> 8) * 0x1p-24;
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
  if (!params || !hidden || !weight || !logits) return;
  double input[PART];
  const int64_t experts = params->num_experts, width = params->hidden_size;
  for (int64_t e = 0; e < experts; e++) logits[e] = bias ? bias[e] : 0;
  for (int64_t first = 0; first < width; first += PART) {
    const int64_t count = width - first < PART ? width - first : PART;
    for (int64_t i = 0; i < count; i++)
      input[i] = router_input(params, hidden, seed, token, first + i);
    for (int64_t e = 0; e < experts; e++) {
      const double *row = weight + e * width + first;
      for (int64_t i = 0; i < count; i++) logits[e] += input[i] * row[i];
    }
  }
}

void moecl_reference_add_noise(const moecl_layer_params *params, const double *noise_logits,
                               uint64_t seed, int64_t token, double *logits) {
  if (!params || !noise_logits || !logits) return;
  for (int64_t e = 0; e < params->num_experts; e++) {
    const double x = noise_logits[e], softplus = fmax(x, 0) + log1p(exp(-fabs(x)));
    logits[e] += moecl_reference_noise(seed, (uint64_t)token, (uint32_t)e) * softplus;
  }
}
