/* The router's input in fp32: hidden states converted, and jittered if asked.
 * Defines: DTYPE; JITTER 0 or 1. */
#include "common/types.clh"
#if JITTER
#include "common/philox.clh"
#pragma OPENCL FP_CONTRACT OFF

/* The factor for element `lane` (0..3) of a Philox block: uniform in
 * [1-jitter, 1+jitter]. The fma is written out, so that every device rounds
 * alike; moecl_reference_jitter is the same rule in C. */
static inline float jitter_factor(uint word, float jitter) {
  float u = (float)(word >> 8) * 0x1p-24f;
  return fma(jitter, 2.0f * u - 1.0f, 1.0f);
}
#endif

/* One work-item makes four consecutive elements of one row: a Philox block's
 * worth. Global size: num_tokens * ceil(hidden_size / 4), rounded up. */
__kernel void prepare(const __global storage_t *hidden_states, __global float *out, long num_tokens,
                      long hidden_size, float jitter, ulong seed) {
  const ulong quads = ((ulong)hidden_size + 3) / 4;
  const ulong item = get_global_id(0);
  const ulong token = item / quads;
  const ulong quad = item - token * quads;
  if (token >= (ulong)num_tokens) return;
#if JITTER
  const uint4 words = philox4x32((uint4)((uint)token, (uint)(token >> 32), (uint)quad, 0x4a495454u),
                                    (uint2)((uint)seed, (uint)(seed >> 32)));
  const float factor[4] = {jitter_factor(words.x, jitter), jitter_factor(words.y, jitter),
                           jitter_factor(words.z, jitter), jitter_factor(words.w, jitter)};
#endif
  for (uint i = 0; i < 4; i++) {
    const ulong column = quad * 4 + i;
    if (column >= (ulong)hidden_size) break;
    const size_t at = (size_t)(token * (ulong)hidden_size + column);
    float x = storage_load(hidden_states, at);
#if JITTER
    x *= factor[i];
#endif
    out[at] = x;
  }
}
