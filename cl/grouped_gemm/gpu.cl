// SPDX-License-Identifier: MIT
/* The grouped GEMM for any GPU: fp32 products from tiles in local memory and no
 * instruction that OpenCL 1.2 does not have.
 *
 * Defines: WEIGHTS, OUTPUT, ACTIVATION, GATED, BIAS, GATHER, and TILE_M, the
 * rows of a tile: 128 or 32 for tiles (LOCAL work-items, each with 8 x 8 sums),
 * 8 for few rows an expert (gpu_few.clh). Input and biases are of the weights' element; k
 * and n are multiples of 8.
 *
 * Packed weights. Column tiles of 128, each [k, rounded up to TILE_K][128], zeros
 * where there are no weights. A tile's columns are in two halves: where gated, 64
 * columns' gate and up, else 128 columns. They lie in 16 units of 8, columns 4c
 * to 4c+3 of the first half and the same of the second, so whoever has a unit has
 * gates and what they are multiplied with.
 *
 * Who does what. A step is TILE_K rows of packed weights and as many columns of
 * TILE_M rows: with 16 bytes (a chunk) the unit of loading, one chunk of rows and
 * W_EACH of weights a work-item. They come into registers while the step before
 * is multiplied, and go to the other half of local memory, as fp32, rows
 * transposed, behind its products: one barrier a step. Work-item (x, y) has unit
 * x of the columns, and rows 4y to 4y+3 of the tile's either half: four reads of
 * 16 bytes for 64 fma. Eight neighbours read 128 bytes of weights that lie
 * together and the same rows. */
#define DTYPE WEIGHTS
#include "common/enums.h"
#include "common/types.clh"
#include "common/activation.clh"
#include "grouped_gemm/tiles.clh"
#define TILE_N 128
#define HALF_N (TILE_N / 2)
#define COLUMNS (GATED ? HALF_N : TILE_N) /* of the output */
#define UNIT 8
#if DTYPE == ELEMENT_F32
#define CHUNK 4 /* elements in 16 bytes */
#elif DTYPE == ELEMENT_F16 || DTYPE == ELEMENT_BF16
#define CHUNK 8
#else
#error "chunks of this element"
#endif
#define TILE_K (2 * CHUNK)
#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef ELEMENT_T(OUTPUT) output_t;

/* A chunk's elements. */
ALWAYS_INLINE void unpack(uint4 bits, float *x) {
#if DTYPE == ELEMENT_F32
  vstore4(as_float4(bits), 0, x);
#elif DTYPE == ELEMENT_F16
  vstore8(vload_half8(0, (const half *)&bits), 0, x);
#else
  const float4 low = as_float4(bits << 16), high = as_float4(bits & 0xffff0000u);
  vstore8((float8)(low.x, high.x, low.y, high.y, low.z, high.z, low.w, high.w), 0, x);
#endif
}

ALWAYS_INLINE float4 load4(const __global storage_t *p) {
#if DTYPE == ELEMENT_F32
  return *(const __global float4 *)p;
#elif DTYPE == ELEMENT_F16
  return vload_half4(0, p);
#else
  return as_float4(convert_uint4(*(const __global ushort4 *)p) << 16);
#endif
}

ALWAYS_INLINE void store4(float4 v, __global output_t *p) {
#if OUTPUT == ELEMENT_F32
  *(__global float4 *)p = v;
#elif OUTPUT == ELEMENT_F16
  vstore_half4_rte(v, 0, p);
#else
  *(__global ushort4 *)p =
      (ushort4)(float_to_bf16(v.x), float_to_bf16(v.y), float_to_bf16(v.z), float_to_bf16(v.w));
#endif
}

/* Where a slot's row begins in the input. */
ALWAYS_INLINE size_t row_start(const __global int *slot_token, int slot, long k) {
#if GATHER
  return (size_t)slot_token[slot] * (size_t)k;
#else
  return (size_t)slot * (size_t)k;
#endif
}

ALWAYS_INLINE float finish(float gate, float up) {
#if GATED
  return activate_gated(gate, up);
#else
  return activate(gate);
#endif
}

ALWAYS_INLINE float4 finish4(float4 gate, float4 up) {
  return (float4)(finish(gate.x, up.x), finish(gate.y, up.y), finish(gate.z, up.z),
                  finish(gate.w, up.w));
}

/* A unit's columns: the first of the output, and both halves' bias. */
typedef struct unit_t {
  long column;
  float4 low, high;
} unit_t;

ALWAYS_INLINE unit_t find_unit(const __global storage_t *bias, int expert, long column, long n) {
  unit_t u;
  u.column = column;
  u.low = u.high = (float4)(0.0f);
#if BIAS
  bias += (size_t)expert * (GATED ? 2 : 1) * (size_t)n + (size_t)column;
  const bool there = GATED ? column < n : column + HALF_N < n;
  if (column < n) u.low = load4(bias);
  if (there) u.high = load4(bias + (GATED ? n : HALF_N));
#endif
  return u;
}

/* A row's sums of a unit, with bias and activation, into row `slot` of `out`. */
ALWAYS_INLINE void store_unit(float4 low, float4 high, unit_t u, __global output_t *out, int slot,
                              long n) {
  out += (size_t)slot * (size_t)n + (size_t)u.column;
#if GATED
  if (u.column < n) store4(finish4(low + u.low, high + u.high), out);
#else
  if (u.column < n) store4(finish4(low + u.low, low), out);
  if (u.column + HALF_N < n) store4(finish4(high + u.high, high), out + HALF_N);
#endif
}

#if TILE_M == 8
#include "grouped_gemm/gpu_few.clh"
#else
#define LOCAL (2 * TILE_M)
#define W_EACH (TILE_K * TILE_N / CHUNK / LOCAL)

/* What a work-item has fetched of a step. */
typedef struct step_t {
  uint4 a, w[W_EACH];
} step_t;

/* Chunk number i of a step's weights: neighbours write neighbouring columns of
 * local memory. Its elements' place in packed memory. */
ALWAYS_INLINE uint chunk_place(uint i) {
#if DTYPE == ELEMENT_F32
  return i / 32 * TILE_N + i % 16 * UNIT + i / 16 % 2 * 4;
#else
  return i * CHUNK;
#endif
}

/* `there`: do the chunk's columns exist? Beyond k the packed weights are zeros,
 * but the rows' memory may hold anything. */
ALWAYS_INLINE step_t fetch(const __global storage_t *a, const __global storage_t *w, bool there,
                           uint lid) {
  step_t s;
  s.a = (uint4)(0u);
  if (there) s.a = *(const __global uint4 *)a;
#pragma unroll
  for (uint j = 0; j < W_EACH; j++)
    s.w[j] = *(const __global uint4 *)(w + chunk_place(lid + j * LOCAL));
  return s;
}

ALWAYS_INLINE void put(step_t s, __local float *tile_a, __local float4 *tile_w, uint lid) {
  float x[8];
  unpack(s.a, x);
  tile_a += lid / TILE_M * CHUNK * TILE_M + lid % TILE_M;
#pragma unroll
  for (uint i = 0; i < CHUNK; i++) tile_a[i * TILE_M] = x[i];
#pragma unroll
  for (uint j = 0; j < W_EACH; j++) {
    const uint at = lid + j * LOCAL;
    unpack(s.w[j], x);
#if DTYPE == ELEMENT_F32
    tile_w[at] = vload4(0, x);
#else
    tile_w[at / 16 * (TILE_N / 4) + at % 16] = vload4(0, x);
    tile_w[at / 16 * (TILE_N / 4) + at % 16 + HALF_N / 4] = vload4(1, x);
#endif
  }
}

/* Pointers are the work-item's own. */
ALWAYS_INLINE void multiply(float (*sum)[8], const __local float4 *a, const __local float4 *w) {
#pragma unroll
  for (uint c = 0; c < TILE_K; c++) {
    float va[8], vw[8];
    vstore4(a[c * (TILE_M / 4)], 0, va);
    vstore4(a[c * (TILE_M / 4) + TILE_M / 8], 1, va);
    vstore4(w[c * (TILE_N / 4)], 0, vw);
    vstore4(w[c * (TILE_N / 4) + HALF_N / 4], 1, vw);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) sum[i][j] = fma(va[i], vw[j], sum[i][j]);
  }
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global storage_t *a, const __global int *slot_token,
     const __global int *expert_offsets, const __global int *tile_offsets,
     const __global storage_t *w, const __global storage_t *bias, __global output_t *out, long k,
     long n, int num_experts) {
  __local float4 tile_a[2][TILE_K * TILE_M / 4], tile_w[2][TILE_K * TILE_N / 4];
  const uint lid = (uint)get_local_id(0);
  const uint x = lid / 32 % 2 * 8 + lid % 8, y = lid / 64 * 4 + lid / 8 % 4;

  const ulong column_tiles = ((ulong)n + COLUMNS - 1) / COLUMNS;
  const tile_t tile = find_tile(expert_offsets, tile_offsets, num_experts, column_tiles, TILE_M);
  const int rows = tile.rows;
  const uint steps = rows > 0 ? (uint)((k + TILE_K - 1) / TILE_K) : 0;
  w += ((ulong)tile.expert * column_tiles + tile.column_tile) * (ulong)steps * (TILE_K * TILE_N);

  /* Rows that are not there are read from the last one, and not written. */
  const uint first_k = lid / TILE_M * CHUNK;
  const uint steps_there = (uint)((k - first_k + TILE_K - 1) / TILE_K);
  if (rows > 0)
    a += row_start(slot_token, tile.first_slot + min((int)(lid % TILE_M), rows - 1), k) + first_k;
  float sum[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) sum[i][j] = 0.0f;

  if (steps > 0) put(fetch(a, w, steps_there > 0, lid), (__local float *)tile_a[0], tile_w[0], lid);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint step = 1; step <= steps; step++) {
    const bool more = step < steps;
    const uint now = 1 - step % 2;
    step_t next;
    a += TILE_K;
    w += TILE_K * TILE_N;
    if (more) next = fetch(a, w, step < steps_there, lid);
    multiply(sum, tile_a[now] + y, tile_w[now] + x);
    if (more) put(next, (__local float *)tile_a[1 - now], tile_w[1 - now], lid);
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  const unit_t unit =
      find_unit(bias, tile.expert, (long)tile.column_tile * COLUMNS + x * 4, rows > 0 ? n : 0);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = (int)y * 4 + i % 4 + i / 4 * (TILE_M / 2);
    if (row < rows)
      store_unit(vload4(0, sum[i]), vload4(1, sum[i]), unit, out, tile.first_slot + row, n);
  }
}
#endif

/* Consecutive experts' weights, [n][k] each (gated: all gate rows, then all up
 * rows), into the layout above. Second dimension: the expert; the first strides
 * over its packed elements. */
__kernel void pack(const __global storage_bits_t *src, ulong src_offset,
                   __global storage_bits_t *dst, ulong dst_offset, long n, long k) {
  const ulong columns = GATED ? (ulong)n / 2 : (ulong)n; /* of the output */
  const ulong depth = ((ulong)k + TILE_K - 1) / TILE_K * TILE_K;
  const ulong count = (columns + COLUMNS - 1) / COLUMNS * depth * TILE_N;
  src_offset += get_global_id(1) * (ulong)n * (ulong)k;
  dst_offset += get_global_id(1) * count;
  for (ulong i = get_global_id(0); i < count; i += get_global_size(0)) {
    const ulong at = i % TILE_N, c = i / TILE_N % depth, half_no = at / 4 % 2;
    const ulong column = i / TILE_N / depth * COLUMNS + at / UNIT * 4 + at % 4;
    const ulong row = column + half_no * (GATED ? columns : HALF_N);
    const bool inside = c < (ulong)k && (GATED ? column : row) < columns;
    dst[dst_offset + i] = inside ? src[src_offset + row * (ulong)k + c] : (storage_bits_t)0;
  }
}
