// SPDX-License-Identifier: MIT
/* Proves what every kernel takes for granted: storage conversions that round
 * to nearest even, a true fma, and local memory behind a barrier. Work-item i
 * of a group of 64 writes out[i], or one of LOCAL every LOCAL-th, where groups are
 * smaller; the host knows what must be there. */
#define DTYPE ELEMENT_F16
#include "common/enums.h"
#include "common/types.clh"

static uint convert(uint i, __global storage_t *halves) {
  /* 1 + i/4096: 11 bits of fraction and one more, so that ties happen. */
  float x = 1.0f + (float)i * (1.0f / 4096.0f);
  vstore_half_rte(x, i, halves);
  uint half_bits = (uint)((vload_half(i, halves) - 1.0f) * 1024.0f);
  uint bf16_bits = float_to_bf16(1.0f + (float)i * (1.0f / 256.0f));
  /* (1+2^-12)^2 - 1 - 2^-11 is 2^-24 when fused and 0 otherwise. */
  float e = 1.0f + 1.0f / 4096.0f;
  uint fused = fma(e, e, -(1.0f + 1.0f / 2048.0f)) > 0.0f;
  return half_bits | bf16_bits << 8 | fused << 24;
}

__kernel void basic(__global uint *out, __global storage_t *halves) {
  __local uint exchange[64];
  const uint lid = (uint)get_local_id(0);
  for (uint i = lid; i < 64; i += LOCAL) exchange[i] = convert(i, halves);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint i = lid; i < 64; i += LOCAL) out[i] = exchange[63 - i];
}
