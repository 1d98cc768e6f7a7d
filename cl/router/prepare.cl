// SPDX-License-Identifier: MIT
/* The router's input in fp32: hidden states converted, and jittered if asked.
 * Defines: DTYPE; JITTER 0 or 1; BLOCKS, the Philox blocks of a work-item: 8 where
 * it has vector units of its own, else 1, so that neighbours read together. */
#include "common/types.clh"
#include "common/vectors.clh"
#define ELEMENTS (4 * BLOCKS) /* of a work-item */
#if BLOCKS == 8
DEFINE_STORAGE_VECTORS(16)
#define STEP 16
typedef float16 floatv;
#define storage_loadv storage_load16
#define vloadv vload16
#define vstorev vstore16
#else
DEFINE_STORAGE_VECTORS(4)
#define STEP 4
typedef float4 floatv;
#define storage_loadv storage_load4
#define vloadv vload4
#define vstorev vstore4
#endif

#if JITTER
#include "common/philox.clh"
#pragma OPENCL FP_CONTRACT OFF
#define TAG 0x4a495454u
#define TIMES(x, factor) ((x) * (factor))
#define SPREAD(u) (2.0f * (u)-1.0f) /* from [0,1) to [-1,1) */

/* The factor for element `lane` (0..3) of a Philox block: uniform in
 * [1-jitter, 1+jitter]. The fma is written out, so that every device rounds
 * alike; moecl_reference_jitter is the same rule in C. */
#if BLOCKS == 8
/* Two words side by side in memory. */
#ifdef __ENDIAN_LITTLE__
#define PAIRS(first, second) (((first)&0xffffffffu) | (second) << 32)
#else
#define PAIRS(first, second) (((second)&0xffffffffu) | (first) << 32)
#endif
static inline float16 jitter_factor(uint16 word, float jitter) {
  const float16 u = convert_float16(as_int16(word >> 8)) * 0x1p-24f;
  return fma((float16)(jitter), SPREAD(u), (float16)(1.0f));
}
#else
static inline float4 jitter_factor(uint4 word, float jitter) {
  const float4 u = convert_float4(as_int4(word >> 8)) * 0x1p-24f;
  return fma((float4)(jitter), SPREAD(u), (float4)(1.0f));
}
#endif

/* Factors of a token's elements from block `quad` on. */
static inline void draw_factors(ulong token, uint quad, float jitter, ulong seed, float *factor) {
  const uint2 key = (uint2)((uint)seed, (uint)(seed >> 32));
#if BLOCKS == 8
  ulong8 x = (ulong8)(token), y = (ulong8)(token >> 32);
  ulong8 z = quad + (ulong8)(0, 1, 2, 3, 4, 5, 6, 7), w = (ulong8)(TAG);
  philox4x32_wide(&x, &y, &z, &w, key);
  const ulong8 xy = PAIRS(x, y), zw = PAIRS(z, w);
  ulong8 first, second; /* x0 y0 z0 w0 x1 ..: the order of the elements */
  first.even = xy.lo;
  first.odd = zw.lo;
  second.even = xy.hi;
  second.odd = zw.hi;
  vstore16(jitter_factor(as_uint16(first), jitter), 0, factor);
  vstore16(jitter_factor(as_uint16(second), jitter), 1, factor);
#else
  const uint4 counter = (uint4)((uint)token, (uint)(token >> 32), quad, TAG);
  vstore4(jitter_factor(philox4x32(counter, key), jitter), 0, factor);
#endif
}
#else
#define TIMES(x, factor) (x)
#endif

/* One work-item makes ELEMENTS consecutive elements of one row. Global size:
 * num_tokens * ceil(hidden_size / ELEMENTS), rounded up. */
__kernel void prepare(const __global storage_t *hidden_states, __global float *out, long num_tokens,
                      long hidden_size, float jitter, ulong seed, ulong first_token) {
  const ulong parts = ((ulong)hidden_size + ELEMENTS - 1) / ELEMENTS;
  const ulong item = get_global_id(0);
  const ulong token = item / parts;
  const ulong part = item - token * parts;
  if (token >= (ulong)num_tokens) return;
  const ulong left = (ulong)hidden_size - part * ELEMENTS;
  hidden_states += token * (ulong)hidden_size + part * ELEMENTS;
  out += token * (ulong)hidden_size + part * ELEMENTS;
#if JITTER
  float factor[ELEMENTS];
  draw_factors(first_token + token, (uint)part * BLOCKS, jitter, seed, factor);
#endif
  if (left >= ELEMENTS) {
#pragma unroll
    for (uint i = 0; i < ELEMENTS / STEP; i++)
      vstorev(TIMES(storage_loadv(hidden_states + i * STEP), vloadv(i, factor)), i, out);
  } else {
    for (uint i = 0; i < (uint)left; i++) out[i] = TIMES(storage_load(hidden_states, i), factor[i]);
  }
}
