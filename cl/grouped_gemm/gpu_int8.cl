// SPDX-License-Identifier: MIT
/* The grouped GEMM of int8 codes by int8 codes for any device that multiplies four bytes at once
 * (cl_khr_integer_dot_product).
 *
 * moecl-cl-std: CL3.0
 *
 * Defines: those of generic.cl, whose kernels' meaning these have; BLOCK and INPUT_BLOCK are 128 or
 * 0, k is a multiple of 16.
 *
 * A step is 128 codes of TILE_N weight rows and of TILE_M rows in local memory, in words of
 * four, transposed; of gated layers of as many up rows. A work-item makes 4 x 4 sums at a stride
 * of 16. A step's sums are ints, and where scales are of 128 columns go to fp32 ones with its
 * scales; else they go on, and scales multiply at the end. */
#ifdef cl_khr_integer_dot_product
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#endif
#include "common/types.clh"
#include "common/activation.clh"
#include "common/quantized.clh"
#include "grouped_gemm/tiles.clh"
#define TILE_M 64
#define TILE_N 64
#define TILE_K 128
#define WORDS (TILE_K / 4)
#define SIDE 16 /* work-items along each side of a tile */
#define PAD 1   /* keeps the transposing stores off one bank */
#define GROUPED (BLOCK || INPUT_BLOCK)
#if WEIGHTS != ELEMENT_INT8 || INPUT != ELEMENT_INT8
#error "codes of these formats"
#endif

typedef ELEMENT_T(BIASES) bias_t;
typedef ELEMENT_T(OUTPUT) output_t;
#define bias_load ELEMENT_LOAD(BIASES)

/* What is stored as its own element is rounded by being stored. */
static inline void output_store(float v, __global output_t *p, size_t i) {
#if ROUNDED != OUTPUT
  v = ELEMENT_ROUND(ROUNDED)(v);
#endif
  ELEMENT_STORE(OUTPUT)(v, p, i);
}

/* 16 codes of a row to where they stand, one word a column of the tile. */
static inline void put(__local uint (*tile)[TILE_N + PAD], uint r, uint chunk, uint4 codes) {
  tile[4 * chunk][r] = codes.x;
  tile[4 * chunk + 1][r] = codes.y;
  tile[4 * chunk + 2][r] = codes.z;
  tile[4 * chunk + 3][r] = codes.w;
}

/* A step of weight rows from `first` on; zeros beyond `rows` and k. */
static inline void load_weights(__local uint (*tile)[TILE_N + PAD], const __global uchar *w,
                                long first, long rows, long at_k, long k, uint lid) {
  for (uint i = lid; i < TILE_N * TILE_K / 16; i += SIDE * SIDE) {
    const uint r = i / (TILE_K / 16), chunk = i % (TILE_K / 16);
    const long column = at_k + chunk * 16;
    const bool inside = first + r < rows && column < k;
    put(tile, r, chunk,
        inside ? *(const __global uint4 *)(w + (first + r) * k + column) : (uint4)(0u));
  }
}

/* The scales of four weight rows, 16 apart, in a step. */
static inline float4 weight_scales(const __global uchar *w, long row, long rows, long at_k,
                                   long k) {
  const __global float *scales = (const __global float *)(w + scales_at(rows, k));
  const long columns = (long)scale_columns(k), column = BLOCK ? at_k / TILE_K : 0, last = rows - 1;
  return (float4)(scales[min(row, last) * columns + column],
                  scales[min(row + SIDE, last) * columns + column],
                  scales[min(row + 2 * SIDE, last) * columns + column],
                  scales[min(row + 3 * SIDE, last) * columns + column]);
}

/* The products of a step's words, added to four by four sums. */
static inline void multiply(int4 *sum, __local uint (*a)[TILE_M + PAD],
                            __local uint (*w)[TILE_N + PAD], uint x, uint y) {
  for (uint c = 0; c < WORDS; c++) {
    const uint w0 = w[c][x], w1 = w[c][x + SIDE], w2 = w[c][x + 2 * SIDE], w3 = w[c][x + 3 * SIDE];
    for (uint i = 0; i < 4; i++) {
      const uint v = a[c][y + i * SIDE];
      sum[i] += (int4)(dot_4x8packed_ss_int(v, w0), dot_4x8packed_ss_int(v, w1),
                       dot_4x8packed_ss_int(v, w2), dot_4x8packed_ss_int(v, w3));
    }
  }
}

/* A step's sums, or all, with scales. */
static inline void scale(float4 *sum, int4 *products, float4 weights, const float *rows) {
  for (uint i = 0; i < 4; i++) {
    sum[i] += convert_float4(products[i]) * weights * rows[i];
    products[i] = (int4)(0);
  }
}

__kernel __attribute__((reqd_work_group_size(SIDE * SIDE, 1, 1))) void
gemm(const __global uchar *a, const __global int *slot_token, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global uchar *w, const __global bias_t *bias,
     __global output_t *out, long k, long n, int num_experts, ulong input_scales) {
  __local uint tile_a[WORDS][TILE_M + PAD], tile_w[WORDS][TILE_N + PAD];
#if GATED
  __local uint tile_u[WORDS][TILE_N + PAD];
#endif
  const uint lid = (uint)get_local_id(0), x = lid % SIDE, y = lid / SIDE;
  const tile_t tile = find_tile(expert_offsets, tile_offsets, num_experts,
                                ((ulong)n + TILE_N - 1) / TILE_N, TILE_M);
  const int rows = tile.rows;
  const long first_column = (long)tile.column_tile * TILE_N;
  const long depth = rows > 0 ? k : 0;
  w += (size_t)tile.expert * (GATED ? 2 : 1) * WEIGHT_MATRIX(n, k);
  const __global uchar *up = w + WEIGHT_MATRIX(n, k);
  const __global float *row_scales = (const __global float *)(a + input_scales);
  const long row_groups = INPUT_BLOCK ? (k + TILE_K - 1) / TILE_K : 1;

  /* Rows that are not there are the last one's. */
  long load_row[2], own_row[4];
  for (uint i = 0; i < 2 + 4; i++) {
    const int r = i < 2 ? (int)(lid / (TILE_K / 16) + i * 32) : (int)(y + (i - 2) * SIDE);
    const int slot = tile.first_slot + min(r, max(rows - 1, 0));
    const long row = rows > 0 ? (GATHER ? slot_token[slot] : slot) : 0;
    if (i < 2) load_row[i] = row;
    else own_row[i - 2] = row;
  }

  int4 products[4] = {(int4)(0), (int4)(0), (int4)(0), (int4)(0)},
       products_u[4] = {(int4)(0), (int4)(0), (int4)(0), (int4)(0)};
  float4 sum[4] = {(float4)(0.0f), (float4)(0.0f), (float4)(0.0f), (float4)(0.0f)},
         sum_u[4] = {(float4)(0.0f), (float4)(0.0f), (float4)(0.0f), (float4)(0.0f)};
  for (long at_k = 0; at_k < depth; at_k += TILE_K) {
    for (uint i = 0; i < 2; i++) {
      const uint chunk = lid % (TILE_K / 16);
      const long column = at_k + chunk * 16;
      put(tile_a, lid / (TILE_K / 16) + i * 32, chunk,
          column < k ? *(const __global uint4 *)(a + load_row[i] * k + column) : (uint4)(0u));
    }
    load_weights(tile_w, w, first_column, n, at_k, k, lid);
#if GATED
    load_weights(tile_u, up, first_column, n, at_k, k, lid);
#endif
    barrier(CLK_LOCAL_MEM_FENCE);
    multiply(products, tile_a, tile_w, x, y);
#if GATED
    multiply(products_u, tile_a, tile_u, x, y);
#endif
    barrier(CLK_LOCAL_MEM_FENCE);
    if (GROUPED || at_k + TILE_K >= depth) {
      float own[4];
      for (uint i = 0; i < 4; i++)
        own[i] = row_scales[own_row[i] * row_groups + (INPUT_BLOCK ? at_k / TILE_K : 0)];
      scale(sum, products, weight_scales(w, first_column + x, n, at_k, k), own);
#if GATED
      scale(sum_u, products_u, weight_scales(up, first_column + x, n, at_k, k), own);
#endif
    }
  }

  for (uint i = 0; i < 4; i++) {
    float v[4], u[4];
    vstore4(sum[i], 0, v);
    vstore4(sum_u[i], 0, u);
    for (uint j = 0; j < 4; j++) {
      const long column = first_column + x + j * SIDE;
      const int r = (int)(y + i * SIDE);
      if (column >= n || r >= rows) continue;
#if BIAS
      bias_t const __global *own = bias + (size_t)tile.expert * (GATED ? 2 : 1) * (size_t)n;
      v[j] += bias_load(own, (size_t)column);
      if (GATED) u[j] += bias_load(own, (size_t)(column + n));
#endif
#if GATED
      v[j] = activate_gated(v[j], u[j]);
#else
      v[j] = activate(v[j]);
#endif
      output_store(v[j], out, (size_t)(tile.first_slot + r) * (size_t)n + (size_t)column);
    }
  }
}

#include "grouped_gemm/as_given.clh"
