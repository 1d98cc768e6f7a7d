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
} unit_t;
static inline void unit_begin(unit_t *unit, int height) { tiles_configure(&unit->tiles, height); }
static inline void unit_end(unit_t *unit) { tiles_release(&unit->tiles); }

/* The products of `steps` steps of one group, or of two. */
static inline void multiply_one(unit_t *unit, const uchar *rows, int height,
                                const __global uchar *w, int steps, const __global uchar *ahead) {
  tiles_t *t = &unit->tiles;
  TILE_ZERO(t, 0);
  TILE_ZERO(t, 1);
  for (int s = 0; s < steps; s++) {
    TILE_LOAD(t, 4, rows, LINE);
    TILE_LOAD(t, 6, w, LINE);
    TILE_LOAD(t, 7, w + STEP_BYTES / 2, LINE);
    TILE_PRODUCTS(t, 0, 4, 6);
    TILE_PRODUCTS(t, 1, 4, 7);
    for (int i = 0; i < PACKED_LINES; i++) PREFETCH(ahead + i * LINE);
    ahead += PACKED_STEP;
    rows += height * LINE;
    w += STEP_BYTES;
  }
  TILE_STORE(t, 0, unit->products[0], LINE);
  TILE_STORE(t, 1, unit->products[1], LINE);
}

static inline void multiply_two(unit_t *unit, const uchar *rows, const uchar *next_rows, int height,
                                const __global uchar *w, int steps, const __global uchar *ahead,
                                int lines) {
  tiles_t *t = &unit->tiles;
  TILE_ZERO(t, 0);
  TILE_ZERO(t, 1);
  TILE_ZERO(t, 2);
  TILE_ZERO(t, 3);
  for (int s = 0; s < steps; s++) {
    TILE_LOAD(t, 4, rows, LINE);
    TILE_LOAD(t, 6, w, LINE);
    TILE_LOAD(t, 7, w + STEP_BYTES / 2, LINE);
    TILE_LOAD(t, 5, next_rows, LINE);
    TILE_PRODUCTS(t, 0, 4, 6);
    TILE_PRODUCTS(t, 1, 4, 7);
    TILE_PRODUCTS(t, 2, 5, 6);
    TILE_PRODUCTS(t, 3, 5, 7);
    for (int i = 0; i < lines; i++) PREFETCH(ahead + i * LINE);
    ahead += lines * LINE;
    rows += height * LINE;
    next_rows += height * LINE;
    w += STEP_BYTES;
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
  for (int g = 0; g < block->groups; g += at_once)
    for (int s = 0, scale = 0; s < block->steps; s += each, scale++) {
      const int steps = min(each, block->steps - s);
      const uchar *rows = block->rows + g * group + s * height * LINE;
      if (at_once == 1) multiply_one(unit, rows, height, w + s * STEP_BYTES, steps, ahead);
      else multiply_two(unit, rows, rows + group, height, w + s * STEP_BYTES, steps, ahead, lines);
      ahead += steps * lines * LINE;
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

#include "grouped_gemm/cpu_steps_gemm.clh"
