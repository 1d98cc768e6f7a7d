// SPDX-License-Identifier: MIT
/* Grouped GEMM of int8 codes, of weights and of rows, by the dot products of fours of AVX-512
 * (vpdpbusd). Those take unsigned bytes times signed ones: weights are packed as code + 128, and
 * 128 times what a row's codes add up to is subtracted again. Products are summed as integers as
 * far as scales reach, then scaled and added in fp32. What it has in common with the others of
 * processors' units, and the defines: grouped_gemm/cpu_steps_gemm.clh. */
#include "common/cpu_dot.clh"
#include "grouped_gemm/cpu_steps.clh"

#if !CODED
#error "products of bytes alone"
#endif

/* Rows whose sums fit in registers: 24 of 32, the panel's two vectors and a row's four. */
#define GROUP_ROWS 12
#define GROUPS_AT_ONCE 1
#define UNSIGNED_WEIGHTS

typedef struct unit_t {
  int none;
} unit_t;
static inline void unit_begin(unit_t *unit, int height) {}
static inline void unit_end(unit_t *unit) {}

/* What a group of rows has of `steps` steps. */
typedef struct scaled_t {
  const float *row_scales;
  const int *row_sums;
  float16 low, high; /* of columns */
} scaled_t;

/* micro_M: a group of M rows, of which products are added to sums. `lines` of what comes next are
 * brought near in each step. */
#define DEFINE_MICRO(M)                                                                            \
  static __attribute__((noinline)) void micro_##M(                                                 \
      const uchar *rows, const __global uchar *w, int steps, const scaled_t *scaled, bool first,   \
      const __global uchar *ahead, int lines, float *sums) {                                       \
    int16 low[M], high[M];                                                                         \
    _Pragma("unroll") for (int i = 0; i < M; i++) low[i] = high[i] =                               \
        (int16)(-128 * scaled->row_sums[i]);                                                       \
    for (int s = 0; s < steps; s++) {                                                              \
      const __global uint *words = (const __global uint *)w;                                       \
      for (int p = 0; p < 16; p++) {                                                               \
        const uint16 wl = vload16(p, words), wh = vload16(16 + p, words);                          \
        _Pragma("unroll") for (int i = 0; i < M; i++) {                                            \
          const uint16 x = ((const uint *)rows)[i * 16 + p];                                       \
          DOT_INT8(low[i], wl, x);                                                                 \
          DOT_INT8(high[i], wh, x);                                                                \
        }                                                                                          \
      }                                                                                            \
      for (int i = 0; i < lines; i++) PREFETCH(ahead + i * LINE);                                  \
      ahead += lines * LINE;                                                                       \
      rows += M * LINE;                                                                            \
      w += STEP_BYTES;                                                                             \
    }                                                                                              \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      add_scaled(convert_float16(low[i]), scaled->row_scales[i] * scaled->low, first,              \
                 sums + i * 16);                                                                   \
      add_scaled(convert_float16(high[i]), scaled->row_scales[i] * scaled->high, first,            \
                 sums + (M + i) * 16);                                                             \
    }                                                                                              \
  }

FOR_HEIGHTS(DEFINE_MICRO)

#define CASE_MICRO(M)                                                                              \
  case M: micro_##M(rows, w + s * STEP_BYTES, steps, &scaled, first, ahead, lines, sums); break;

/* sums (+)= a block of rows times its steps of a panel; `ahead` is what will be read next, as long
 * as they are. */
static inline void multiply(unit_t *unit, const block_t *block, const __global uchar *w,
                            const __global float *scales, const __global uchar *ahead,
                            float *sums) {
  const int lines = (PACKED_LINES + block->groups - 1) / block->groups, height = block->height;
  const int each = HAS_BLOCKS ? SCALE_STEPS : block->steps;
  for (int g = 0; g < block->groups; g++, sums += 2 * height * 16)
    for (int s = 0, scale = 0; s < block->steps; s += each, scale++) {
      const int steps = min(each, block->steps - s);
      const uchar *rows = block->rows + (g * block->steps + s) * height * LINE;
      const bool first = block->first && scale == 0;
      const int row = (scale * block->groups + g) * height;
      const long i = block->first_scale + scale;
      const scaled_t scaled = {block->row_scales + row, block->row_sums + row,
                               column_scales(scales, i, 0), column_scales(scales, i, 1)};
      switch (height) { FOR_HEIGHTS(CASE_MICRO) }
      ahead += steps * lines * LINE;
    }
}

#include "grouped_gemm/cpu_steps_gemm.clh"
