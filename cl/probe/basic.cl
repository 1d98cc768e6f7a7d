/* Proves what every kernel takes for granted: storage conversions that round
 * to nearest even, a true fma, and local memory behind a barrier. Work-item i
 * of a group of 64 writes out[i]; the host knows what must be there. */
#define DTYPE 1
#include "common/types.clh"

__kernel void basic(__global uint *out, __global storage_t *halves) {
  __local uint exchange[64];
  uint i = (uint)get_local_id(0);
  /* 1 + i/4096: 11 bits of fraction and one more, so that ties happen. */
  float x = 1.0f + (float)i * (1.0f / 4096.0f);
  vstore_half_rte(x, i, halves);
  uint half_bits = (uint)((vload_half(i, halves) - 1.0f) * 1024.0f);
  uint bf16_bits = float_to_bf16(1.0f + (float)i * (1.0f / 256.0f));
  /* (1+2^-12)^2 - 1 - 2^-11 is 2^-24 when fused and 0 otherwise. */
  float e = 1.0f + 1.0f / 4096.0f;
  uint fused = fma(e, e, -(1.0f + 1.0f / 2048.0f)) > 0.0f;
  exchange[i] = half_bits | bf16_bits << 8 | fused << 24;
  barrier(CLK_LOCAL_MEM_FENCE);
  out[i] = exchange[63 - i];
}
