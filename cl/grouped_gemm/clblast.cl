// SPDX-License-Identifier: MIT
/* What surrounds CLBlast's fp32 GEMM when it serves as a baseline: weights as
 * fp32, rows gathered, bias and activation afterwards.
 * Defines: WEIGHTS, BIASES, ROUNDED, ACTIVATION, GATED, BIAS, GATHER; EXPERT_ALIGN, of which an
 * expert's place among the packed weights is a multiple, in elements. */
#include "common/types.clh"
#include "common/activation.clh"

/* Consecutive experts' weights into their place, [n][k] each, row-major on both
 * sides. Second dimension: the expert; the first strides over its elements. */
__kernel void pack(const __global ELEMENT_T(WEIGHTS) * src, ulong src_offset, __global float *dst,
                   ulong dst_offset, long n, long k) {
  const ulong count = (ulong)n * (ulong)k;
  src_offset += get_global_id(1) * count;
  dst_offset += get_global_id(1) * ((count + EXPERT_ALIGN - 1) / EXPERT_ALIGN * EXPERT_ALIGN);
  for (ulong i = get_global_id(0); i < count; i += get_global_size(0))
    dst[dst_offset + i] = ELEMENT_LOAD(WEIGHTS)(src, src_offset + i);
}

/* Row slot_token[s] of `a` to row s of `out`. */
__kernel void gather(const __global float *a, const __global int *slot_token, __global float *out,
                     long rows, long k) {
  const ulong count = (ulong)rows * (ulong)k;
  for (ulong i = get_global_id(0); i < count; i += get_global_size(0)) {
    const ulong row = i / (ulong)k;
    out[i] = a[(size_t)slot_token[row] * (size_t)k + (size_t)(i - row * (ulong)k)];
  }
}

/* One expert's raw products (gated: I gate columns, then I up columns a row),
 * from raw_offset on, to its activated rows, the first of which is first_row. */
__kernel void activate_rows(const __global float *raw, ulong raw_offset,
                            const __global ELEMENT_T(BIASES) * bias, ulong bias_offset,
                            __global float *out, ulong first_row, long rows, long n) {
  const ulong count = (ulong)rows * (ulong)n;
  const ulong width = (ulong)(GATED ? 2 * n : n);
  for (ulong i = get_global_id(0); i < count; i += get_global_size(0)) {
    const ulong row = i / (ulong)n, column = i % (ulong)n;
    const __global float *product = raw + raw_offset + row * width + column;
    float v = product[0];
#if BIAS
    v += ELEMENT_LOAD(BIASES)(bias, bias_offset + column);
#endif
#if GATED
    float u = product[n];
#if BIAS
    u += ELEMENT_LOAD(BIASES)(bias, bias_offset + (ulong)n + column);
#endif
    v = activate_gated(v, u);
#else
    v = activate(v);
#endif
    out[first_row * (ulong)n + i] = ELEMENT_ROUND(ROUNDED)(v);
  }
}
