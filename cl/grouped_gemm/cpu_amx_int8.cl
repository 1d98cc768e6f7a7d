// SPDX-License-Identifier: MIT
/* Grouped GEMM of int8 codes of weights on the tile unit of x86 processors, by int8 codes of rows,
 * or by bf16 rows: then codes become bf16, which has them all. Products are summed as far as scales
 * reach, as integers or fp32, then scaled and added. What it has in common with the others of
 * processors' units, and the defines: grouped_gemm/cpu_steps_gemm.clh. */
#include "common/cpu_dot.clh"
#include "common/cpu_tiles.clh"
#include "grouped_gemm/cpu_steps.clh"

#if CODED
typedef int product_t;
#define TILE_PRODUCTS TILE_INT8
#define load_products(i, p) convert_float16(vload16(i, p))
#elif DECODED
typedef float product_t;
#define TILE_PRODUCTS TILE_BF16
#define load_products(i, p) vload16(i, p)
#else
#error "products without scales"
#endif

#define GROUP_ROWS 16
#define GROUPS_AT_ONCE 2

typedef struct unit_t {
  tiles_t tiles;
  product_t products[4][16 * 16] __attribute__((aligned(64)));
#if DECODED
  uchar decoded[BLOCK_STEPS * STEP_BYTES] __attribute__((aligned(64)));
  int kept;     /* steps of the panel that stay in `decoded`, a power of two and more than one */
  bool decodes; /* for the first groups of rows, which others come after */
#endif
} unit_t;
static inline void unit_begin(unit_t *unit, int height) { tiles_configure(&unit->tiles, height); }
static inline void unit_end(unit_t *unit) { tiles_release(&unit->tiles); }

/* Step s of a panel, as the unit multiplies it: codes become bf16 one step before. */
#if DECODED
static inline uchar *weights(unit_t *unit, const __global uchar *w, int s) {
  return unit->decoded + (s & (unit->kept - 1)) * STEP_BYTES;
}
static inline void decode(unit_t *unit, const __global uchar *w, int s, int end) {
  const __global char *codes = (const __global char *)w + s * PACKED_STEP;
  uint *to = (uint *)weights(unit, w, s);
  if (!unit->decodes || s >= end) return;
  for (int i = 0; i < STEP_BYTES / LINE; i++) {
    uint16 words;
    TO_BF16(words, convert_float16(vload16(2 * i, codes)),
            convert_float16(vload16(2 * i + 1, codes)));
    vstore16(words, i, to);
  }
}
#else
static inline const __global uchar *weights(unit_t *unit, const __global uchar *w, int s) {
  return w + s * STEP_BYTES;
}
static inline void decode(unit_t *unit, const __global uchar *w, int s, int end) {}
#endif

#if DECODED
/* The same of few rows without the tile unit, which takes longer to be given their weights: in
 * fp32, straight from codes. */
#define FEW_ROWS (INVARIANT ? 0 : 4)
#define DEFINE_FEW(M)                                                                              \
  static __attribute__((noinline)) void few_##M(const uchar *rows, const __global uchar *codes,    \
                                                int steps, const __global uchar *ahead,            \
                                                float *low_sums, float *high_sums) {               \
    float16 low[M], high[M];                                                                       \
    _Pragma("unroll") for (int i = 0; i < M; i++) low[i] = high[i] = 0.0f;                         \
    for (int s = 0; s < steps; s++) {                                                              \
      for (int p = 0; p < 16; p++) {                                                               \
        const int16 l = convert_int16(vload16(p, (const __global short *)codes));                  \
        const int16 h =                                                                            \
            convert_int16(vload16(p, (const __global short *)(codes + PACKED_STEP / 2)));          \
        const float16 low_even = convert_float16(l << 24 >> 24),                                   \
                      low_odd = convert_float16(l >> 8);                                           \
        const float16 high_even = convert_float16(h << 24 >> 24);                                  \
        const float16 high_odd = convert_float16(h >> 8);                                          \
        _Pragma("unroll") for (int i = 0; i < M; i++) {                                            \
          const uint word = ((const uint *)rows)[i * 16 + p];                                      \
          const float even = as_float(word << 16), odd = as_float(word & 0xffff0000u);             \
          low[i] = fma((float16)(odd), low_odd, fma((float16)(even), low_even, low[i]));           \
          high[i] = fma((float16)(odd), high_odd, fma((float16)(even), high_even, high[i]));       \
        }                                                                                          \
      }                                                                                            \
      for (int i = 0; i < PACKED_LINES; i++) PREFETCH(ahead + i * LINE);                           \
      ahead += PACKED_STEP;                                                                        \
      rows += M * LINE;                                                                            \
      codes += PACKED_STEP;                                                                        \
    }                                                                                              \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      vstore16(low[i], i, low_sums);                                                               \
      vstore16(high[i], i, high_sums);                                                             \
    }                                                                                              \
  }
DEFINE_FEW(1)
DEFINE_FEW(2)
DEFINE_FEW(3)
DEFINE_FEW(4)

#define CASE_FEW(M)                                                                                \
  case M:                                                                                          \
    few_##M(rows, w + s * PACKED_STEP, end - s, ahead, unit->products[0], unit->products[1]);      \
    break;
static inline void multiply_few(unit_t *unit, const uchar *rows, int height,
                                const __global uchar *w, int s, int end,
                                const __global uchar *ahead) {
  switch (height) {
    CASE_FEW(1)
    CASE_FEW(2)
    CASE_FEW(3)
    CASE_FEW(4)
  }
}
#else
#define FEW_ROWS 0
#define multiply_few multiply_one
#endif

/* The products of one group, or of two, from step s of the panel to `end`. */
static inline void multiply_one(unit_t *unit, const uchar *rows, int height,
                                const __global uchar *w, int s, int end,
                                const __global uchar *ahead) {
  tiles_t *t = &unit->tiles;
  TILE_ZERO(t, 0);
  TILE_ZERO(t, 1);
  for (decode(unit, w, s, end); s < end; s++) {
    decode(unit, w, s + 1, end);
    TILE_LOAD(t, 4, rows, LINE);
    TILE_LOAD(t, 6, weights(unit, w, s), LINE);
    TILE_PRODUCTS(t, 0, 4, 6);
    TILE_LOAD(t, 7, weights(unit, w, s) + STEP_BYTES / 2, LINE);
    TILE_PRODUCTS(t, 1, 4, 7);
    for (int i = 0; i < PACKED_LINES; i++) PREFETCH(ahead + i * LINE);
    ahead += PACKED_STEP;
    rows += height * LINE;
  }
  TILE_STORE(t, 0, unit->products[0], LINE);
  TILE_STORE(t, 1, unit->products[1], LINE);
}

static inline void multiply_two(unit_t *unit, const uchar *rows, const uchar *next_rows, int height,
                                const __global uchar *w, int s, int end,
                                const __global uchar *ahead, int lines) {
  tiles_t *t = &unit->tiles;
  TILE_ZERO(t, 0);
  TILE_ZERO(t, 1);
  TILE_ZERO(t, 2);
  TILE_ZERO(t, 3);
  for (decode(unit, w, s, end); s < end; s++) {
    decode(unit, w, s + 1, end);
    TILE_LOAD(t, 6, weights(unit, w, s), LINE);
    TILE_LOAD(t, 4, rows, LINE);
    TILE_PRODUCTS(t, 0, 4, 6);
    TILE_LOAD(t, 5, next_rows, LINE);
    TILE_PRODUCTS(t, 2, 5, 6);
    TILE_LOAD(t, 7, weights(unit, w, s) + STEP_BYTES / 2, LINE);
    TILE_PRODUCTS(t, 1, 4, 7);
    TILE_PRODUCTS(t, 3, 5, 7);
    for (int i = 0; i < lines; i++) PREFETCH(ahead + i * LINE);
    ahead += lines * LINE;
    rows += height * LINE;
    next_rows += height * LINE;
  }
  TILE_STORE(t, 0, unit->products[0], LINE);
  TILE_STORE(t, 1, unit->products[1], LINE);
  TILE_STORE(t, 2, unit->products[2], LINE);
  TILE_STORE(t, 3, unit->products[3], LINE);
}

/* sums (+)= a block of rows times its steps of a panel; `ahead` is what will be read next, as long
 * as they are. */
static inline void multiply(unit_t *unit, const block_t *block, const __global uchar *w,
                            const __global float *scales, const __global uchar *ahead,
                            float *sums) {
  const int height = block->height, at_once = min(block->groups, GROUPS_AT_ONCE);
  const int group = block->steps * height * LINE;
  const int lines = (PACKED_LINES * at_once + block->groups - 1) / block->groups;
  const int each = HAS_BLOCKS ? SCALE_STEPS : block->steps;
#if DECODED
  unit->kept = block->groups > at_once ? BLOCK_STEPS : 4; /* rows that come again; or near */
#endif
  for (int g = 0; g < block->groups; g += at_once) {
#if DECODED
    unit->decodes = g == 0;
#endif
    for (int s = 0, scale = 0; s < block->steps; s += each, scale++) {
      const int end = min(s + each, block->steps);
      const uchar *rows = block->rows + g * group + s * height * LINE;
      if (at_once == 1 && height <= FEW_ROWS) multiply_few(unit, rows, height, w, s, end, ahead);
      else if (at_once == 1) multiply_one(unit, rows, height, w, s, end, ahead);
      else multiply_two(unit, rows, rows + group, height, w, s, end, ahead, lines);
      ahead += (end - s) * lines * LINE;
      for (int i = 0; i < 2 * at_once; i++) { /* tiles of sums */
        const float16 columns = column_scales(scales, block->first_scale + scale, i % 2);
        const int row = (scale * block->groups + g + i / 2) * height;
        for (int r = 0; r < height; r++)
          add_scaled(load_products(r, unit->products[i]),
                     CODED ? block->row_scales[row + r] * columns : columns,
                     block->first && scale == 0, sums + ((2 * g + i) * height + r) * 16);
      }
    }
  }
}

#include "grouped_gemm/cpu_steps_gemm.clh"
