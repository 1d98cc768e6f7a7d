// SPDX-License-Identifier: MIT
/* Noisy top-k (Shazeer et al. 2017, equation 4): logits[i] gets a normal number
 * times softplus of noise[i], both [tokens, num_experts]. */
#include "router/draws.clh"

__kernel void add_noise(__global float *logits, const __global float *noise, ulong count,
                        int num_experts, ulong seed, ulong first_token) {
  const ulong i = get_global_id(0);
  if (i >= count) return;
  const ulong token = i / (ulong)num_experts;
  const float x = noise[i];
  const float softplus = fmax(x, 0.0f) + log1p(exp(-fabs(x)));
  logits[i] = fma(draw_noise(seed, first_token + token, (uint)(i - token * (ulong)num_experts)),
                  softplus, logits[i]);
}
