// SPDX-License-Identifier: MIT
/* Grouped GEMM in bf16 on the tile unit of x86 processors. What it has in common with the others
 * of processors' units, and the defines: grouped_gemm/cpu_steps_gemm.clh. */
#include "common/cpu_tiles.clh"
#include "grouped_gemm/cpu_steps.clh"

#if CODED || DECODED
#error "products with scales"
#endif

/* Rows of a tile register. Two groups at a time are four tiles of sums, so that each tile that is
 * loaded is used twice. */
#define GROUP_ROWS 16
#define GROUPS_AT_ONCE 2

typedef tiles_t unit_t;
static inline void unit_begin(unit_t *unit, int height) { tiles_configure(unit, height); }
static inline void unit_end(unit_t *unit) { tiles_release(unit); }

/* One group: two tiles of sums. */
static inline void multiply_one(unit_t *unit, const block_t *block, const __global uchar *w,
                                const __global uchar *ahead, float *sums) {
  const uchar *rows = block->rows;
  float *high = sums + block->height * 16;
  if (block->first) {
    TILE_ZERO(unit, 0);
    TILE_ZERO(unit, 1);
  } else {
    TILE_LOAD(unit, 0, sums, LINE);
    TILE_LOAD(unit, 1, high, LINE);
  }
  for (int s = 0; s < block->steps; s++) {
    TILE_LOAD(unit, 4, rows, LINE);
    TILE_LOAD(unit, 6, w, LINE);
    TILE_BF16(unit, 0, 4, 6);
    TILE_LOAD(unit, 7, w + STEP_BYTES / 2, LINE);
    TILE_BF16(unit, 1, 4, 7);
    for (int i = 0; i < PACKED_LINES; i++) PREFETCH(ahead + i * LINE);
    ahead += PACKED_STEP;
    rows += block->height * LINE;
    w += STEP_BYTES;
  }
  TILE_STORE(unit, 0, sums, LINE);
  TILE_STORE(unit, 1, high, LINE);
}

/* Groups g and g + 1; `lines` of what comes next are brought near in each step. */
static inline void multiply_two(unit_t *unit, const block_t *block, int g, const __global uchar *w,
                                const __global uchar *ahead, int lines, float *sums) {
  const int height = block->height, group = block->steps * height * LINE;
  const uchar *rows = block->rows + g * group;
  float *const sum1 = sums + height * 16, *const sum2 = sum1 + height * 16;
  float *const sum3 = sum2 + height * 16;
  if (block->first) {
    TILE_ZERO(unit, 0);
    TILE_ZERO(unit, 1);
    TILE_ZERO(unit, 2);
    TILE_ZERO(unit, 3);
  } else {
    TILE_LOAD(unit, 0, sums, LINE);
    TILE_LOAD(unit, 1, sum1, LINE);
    TILE_LOAD(unit, 2, sum2, LINE);
    TILE_LOAD(unit, 3, sum3, LINE);
  }
  for (int s = 0; s < block->steps; s++) {
    TILE_LOAD(unit, 6, w, LINE);
    TILE_LOAD(unit, 4, rows, LINE);
    TILE_BF16(unit, 0, 4, 6); /* products begin before all is loaded, and loads go on meanwhile */
    TILE_LOAD(unit, 5, rows + group, LINE);
    TILE_BF16(unit, 2, 5, 6);
    TILE_LOAD(unit, 7, w + STEP_BYTES / 2, LINE);
    TILE_BF16(unit, 1, 4, 7);
    TILE_BF16(unit, 3, 5, 7);
    for (int i = 0; i < lines; i++) PREFETCH(ahead + i * LINE);
    ahead += lines * LINE;
    rows += height * LINE;
    w += STEP_BYTES;
  }
  TILE_STORE(unit, 0, sums, LINE);
  TILE_STORE(unit, 1, sum1, LINE);
  TILE_STORE(unit, 2, sum2, LINE);
  TILE_STORE(unit, 3, sum3, LINE);
}

/* sums (+)= a block of rows times its steps of a panel; `ahead` is what will be read next, as long
 * as they are. */
static inline void multiply(unit_t *unit, const block_t *block, const __global uchar *w,
                            const __global float *scales, const __global uchar *ahead,
                            float *sums) {
  const int pairs = block->groups / 2;
  if (pairs == 0) multiply_one(unit, block, w, ahead, sums);
  for (int pair = 0; pair < pairs; pair++) {
    const int lines = (PACKED_LINES + pairs - 1) / pairs;
    multiply_two(unit, block, 2 * pair, w, ahead + pair * block->steps * lines * LINE, lines,
                 sums + pair * 4 * block->height * 16);
  }
}

#include "grouped_gemm/cpu_steps_gemm.clh"
