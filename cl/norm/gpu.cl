// SPDX-License-Identifier: MIT
/* norm.clh for GPUs, a work-group of LOCAL a row, whose size is a multiple of 8 and at most
 * 8 * LOCAL * VECTORS. All is read once and written once, 8 elements at a time, neighbours by
 * neighbouring work-items; the row stays in registers in between. */
#include "common/group_sum.clh"
#include "norm/norm.clh"
#define VECTORS 4
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Eight elements of each kind, aligned as rows of whole eights are. */
ALWAYS_INLINE float8 load8_0(const __global float *p) { return *(const __global float8 *)p; }
ALWAYS_INLINE float8 load8_1(const __global half *p) {
  const uint4 bits = *(const __global uint4 *)p;
  return vload_half8(0, (const half *)&bits);
}
ALWAYS_INLINE float8 load8_2(const __global ushort *p) {
  const uint4 bits = *(const __global uint4 *)p;
  const float4 low = as_float4(bits << 16), high = as_float4(bits & 0xffff0000u);
  return (float8)(low.x, high.x, low.y, high.y, low.z, high.z, low.w, high.w);
}
ALWAYS_INLINE void store8_0(float8 v, __global float *p) { *(__global float8 *)p = v; }
ALWAYS_INLINE void store8_1(float8 v, __global half *p) {
  uint4 bits;
  vstore_half8_rte(v, 0, (half *)&bits);
  *(__global uint4 *)p = bits;
}
ALWAYS_INLINE uint pair_of(float low, float high) {
  return (uint)float_to_bf16(low) | (uint)float_to_bf16(high) << 16;
}
ALWAYS_INLINE void store8_2(float8 v, __global ushort *p) {
  *(__global uint4 *)p =
      (uint4)(pair_of(v.s0, v.s1), pair_of(v.s2, v.s3), pair_of(v.s4, v.s5), pair_of(v.s6, v.s7));
}
#define LOAD8(e) ELEMENT_NAME(load8_, e)
#define STORE8(e) ELEMENT_NAME(store8_, e)

ALWAYS_INLINE float8 round8(float8 v) {
  return (float8)(storage_round(v.s0), storage_round(v.s1), storage_round(v.s2),
                  storage_round(v.s3), storage_round(v.s4), storage_round(v.s5),
                  storage_round(v.s6), storage_round(v.s7));
}

ALWAYS_INLINE float sum8(float8 v) {
  const float4 four = v.lo + v.hi;
  return four.x + four.y + (four.z + four.w);
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
norm(const __global storage_t *x, const __global residual_t *residual, __global storage_t *sum,
     const __global storage_t *weight, const __global storage_t *bias, __global output_t *output,
     long size, float epsilon) {
  __local float part[LOCAL];
  float8 values[VECTORS];
  const int lid = (int)get_local_id(0), behind = (int)size;
  const size_t row = (size_t)get_group_id(0) * (size_t)size;
  float total = 0.0f, squares = 0.0f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = (i * LOCAL + lid) * 8;
    values[i] = 0.0f;
    if (at < behind) {
      values[i] = LOAD8(DTYPE)(x + row + at);
#if ADDS
      values[i] = round8(values[i] + LOAD8(RESIDUAL)(residual + row + at));
      STORE8(DTYPE)(values[i], sum + row + at);
#endif
    }
    total += sum8(values[i]);
    squares += sum8(values[i] * values[i]);
  }
#if NORMALIZES
  float mean = 0.0f;
#if LAYER_NORM
  mean = group_sum(part, lid, total) / (float)size;
  squares = 0.0f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const float8 off = values[i] - mean;
    if ((i * LOCAL + lid) * 8 < behind) squares += sum8(off * off);
  }
#endif
  const float scale = 1.0f / sqrt(group_sum(part, lid, squares) / (float)size + epsilon);
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = (i * LOCAL + lid) * 8;
    if (at < behind) {
      float8 v = (values[i] - mean) * scale;
      v *= LOAD8(DTYPE)(weight + at) + (PLUS_ONE ? 1.0f : 0.0f);
#if BIAS
      v += LOAD8(DTYPE)(bias + at);
#endif
      STORE8(OUTPUT)(v, output + row + at);
    }
  }
#endif
}
