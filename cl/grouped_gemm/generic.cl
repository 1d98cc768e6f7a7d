// SPDX-License-Identifier: MIT
/* The portable grouped GEMM: every expert's rows times its weights, tiled
 * through local memory. Accepts everything the operation accepts.
 *
 * Defines: WEIGHTS, BIASES, INPUT, OUTPUT, ROUNDED, ACTIVATION, GATED, BIAS, GATHER, SCATTER; of
 * weights with scales those of common/quantized.clh; of rows of codes INPUT_BLOCK, the columns that
 * share a scale, 0 for all.
 * Weights stay as they come: a matrix [N][K] per expert (gated: gate's, then up's), so that
 * packing is a copy.
 *
 * Expert e owns slots expert_offsets[e] .. expert_offsets[e+1]-1; slot s reads
 * row slot_token[s] of `a` (GATHER) or row s, and writes row s of `out`, or where
 * grouped_gemm/places.clh says (SCATTER). A work-group makes one TILE_M x TILE_N tile of the output
 * (of both gate and up where gated); a work-item 4x4 of it, at a stride of 16 so that neighbours
 * read neighbouring words of local memory. */
#include "common/types.clh"
#include "common/activation.clh"
#include "common/quantized.clh"
#include "grouped_gemm/tiles.clh"
#include "grouped_gemm/places.clh"
#define TILE_M 64
#define TILE_N 64
#define TILE_K 16
#define SIDE 16 /* work-items along each side of a tile */
#define PAD 1   /* keeps the transposing stores off one bank */

typedef ELEMENT_T(BIASES) bias_t;
typedef ELEMENT_T(OUTPUT) output_t;
#define bias_load ELEMENT_LOAD(BIASES)

/* Element `column` of the row that begins at element `row` of the input. */
#ifdef INPUT_BLOCK
typedef uchar input_t;
#define SCALES_ARGUMENT , ulong input_scales /* bytes from `a` to the scales of its rows */
#define INPUT_LOAD(row, column) input_load(a, input_scales, row, column, k)
static inline float input_load(const __global uchar *a, ulong scales, size_t row, long column,
                               long k) {
  const size_t block = INPUT_BLOCK ? INPUT_BLOCK : (size_t)k;
  const size_t scale = row / (size_t)k * (((size_t)k + block - 1) / block) + (size_t)column / block;
  return CODE(INPUT)(a[row + (size_t)column]) * ((const __global float *)(a + scales))[scale];
}
#else
typedef ELEMENT_T(INPUT) input_t;
#define SCALES_ARGUMENT
#define INPUT_LOAD(row, column) ELEMENT_LOAD(INPUT)(a, (row) + (size_t)(column))
#endif

/* What is stored as its own element is rounded by being stored. */
static inline void output_store(float v, __global output_t *p, size_t i) {
#if ROUNDED != OUTPUT
  v = ELEMENT_ROUND(ROUNDED)(v);
#endif
  ELEMENT_STORE(OUTPUT)(v, p, i);
}

#if SCATTER
DEFINE_PLACE_OF(output_t)
#define OUTPUT_ROW(slot) place_of(slot_place[slot], n, PLACES_HERE)
#else
#define OUTPUT_ROW(slot) (out + (size_t)(slot) * (size_t)n)
#endif

/* TILE_K columns of TILE_N weight rows from row `first` on, transposed. Rows
 * past `rows` and columns past `k` read as zero. */
static inline void load_weights(__local float (*tile)[TILE_N + PAD], const __global weight_t *w,
                                long first, long rows, long at_k, long k, int lid) {
  for (int i = lid; i < TILE_N * TILE_K; i += SIDE * SIDE) {
    const int r = i / TILE_K, c = i % TILE_K;
    const bool inside = first + r < rows && at_k + c < k;
    tile[c][r] = inside ? WEIGHT_LOAD(w, first + r, at_k + c, rows, k) : 0.0f;
  }
}

__kernel __attribute__((reqd_work_group_size(SIDE * SIDE, 1, 1))) void
gemm(const __global input_t *a, const __global int *slot_token, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global weight_t *w, const __global bias_t *bias,
     __global output_t *out, long k, long n,
     int num_experts SCALES_ARGUMENT PLACES_ARGUMENTS(output_t)) {
  __local float tile_a[TILE_K][TILE_M + PAD];
  __local float tile_w[TILE_K][TILE_N + PAD];
#if GATED
  __local float tile_u[TILE_K][TILE_N + PAD];
#endif
  const int lid = (int)get_local_id(0);
  const int x = lid % SIDE, y = lid / SIDE;

  const tile_t tile = find_tile(expert_offsets, tile_offsets, num_experts,
                                ((ulong)n + TILE_N - 1) / TILE_N, TILE_M);
  const int rows = tile.rows, first_slot = tile.first_slot;
  const long first_column = (long)tile.column_tile * TILE_N;
  const long depth = rows > 0 ? k : 0;
  const long weight_rows = GATED ? 2 * n : n;
  w += (size_t)tile.expert * (GATED ? 2 : 1) * WEIGHT_MATRIX(n, k);

  /* Each work-item loads column `load_k` of rows load_row, +16, +32, +48. */
  const int load_k = lid % TILE_K, load_row = lid / TILE_K;
  size_t source[TILE_M / SIDE];
  for (int i = 0; i < TILE_M / SIDE; i++) {
    const int r = load_row + i * SIDE;
#if GATHER /* rows that aren't there are the last one's: a condition for each costs a fifth */
    const int slot = first_slot + min(r, max(rows - 1, 0));
    source[i] = rows > 0 ? (size_t)slot_token[slot] * (size_t)k : 0;
#else
    source[i] = (size_t)(first_slot + r) * (size_t)k;
#endif
  }

  float sum[4][4] = {{0}};
#if GATED
  float sum_u[4][4] = {{0}};
#endif
  for (long at_k = 0; at_k < depth; at_k += TILE_K) {
    for (int i = 0; i < TILE_M / SIDE; i++) {
      const int r = load_row + i * SIDE;
      const bool inside = r < rows && at_k + load_k < k;
      tile_a[load_k][r] = inside ? INPUT_LOAD(source[i], at_k + load_k) : 0.0f;
    }
    load_weights(tile_w, w, first_column, n, at_k, k, lid);
#if GATED
    load_weights(tile_u, w + WEIGHT_MATRIX(n, k), first_column, n, at_k, k, lid);
#endif
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int c = 0; c < TILE_K; c++) {
      float va[4], vw[4];
      for (int i = 0; i < 4; i++) va[i] = tile_a[c][y + i * SIDE];
      for (int j = 0; j < 4; j++) vw[j] = tile_w[c][x + j * SIDE];
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = fma(va[i], vw[j], sum[i][j]);
#if GATED
      for (int j = 0; j < 4; j++) vw[j] = tile_u[c][x + j * SIDE];
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum_u[i][j] = fma(va[i], vw[j], sum_u[i][j]);
#endif
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  for (int j = 0; j < 4; j++) {
    const long column = first_column + x + j * SIDE;
    if (column >= n || y >= rows) continue;
#if BIAS
    const float add = bias_load(bias, (size_t)(tile.expert * weight_rows + column));
#if GATED
    const float add_u = bias_load(bias, (size_t)(tile.expert * weight_rows + n + column));
#endif
#endif
    for (int i = 0; i < 4; i++) {
      const int r = y + i * SIDE;
      if (r >= rows) continue;
      float v = sum[i][j];
#if BIAS
      v += add;
#endif
#if GATED
      float u = sum_u[i][j];
#if BIAS
      u += add_u;
#endif
      v = activate_gated(v, u);
#else
      v = activate(v);
#endif
      output_store(v, OUTPUT_ROW(first_slot + r), (size_t)column);
    }
  }
}

#include "grouped_gemm/as_given.clh"
