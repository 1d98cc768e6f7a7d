// SPDX-License-Identifier: MIT
/* Grouped GEMM in bf16 by the dot products of pairs of AVX-512 (vdpbf16ps). What it has in common
 * with the others of processors' units, and the defines: grouped_gemm/cpu_steps_gemm.clh. */
#include "common/cpu_dot.clh"
#include "grouped_gemm/cpu_steps.clh"

#if CODED || DECODED
#error "products with scales"
#endif

/* Rows whose sums fit in registers: 24 of 32, the panel's two vectors and a row's pair. */
#define GROUP_ROWS 12
#define GROUPS_AT_ONCE 1
#define AHEAD_BYTES 8192 /* of a lone group: of 4 to 64 KiB the best on a Zen 4 */

typedef struct unit_t {
  int none;
} unit_t;
static inline void unit_begin(unit_t *unit, int height) {}
static inline void unit_end(unit_t *unit) {}

/* micro_M: a group of M rows. `lines` of what comes next are brought near in each step, some at a
 * time: all at once they wait for each other. */
#define DEFINE_MICRO(M)                                                                            \
  static __attribute__((noinline)) void micro_##M(                                                 \
      const uchar *rows, const __global uchar *w, int steps, bool first,                           \
      const __global uchar *ahead, int lines, float *sums) {                                       \
    float16 low[M], high[M];                                                                       \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      low[i] = first ? (float16)(0.0f) : vload16(i, sums);                                         \
      high[i] = first ? (float16)(0.0f) : vload16(M + i, sums);                                    \
    }                                                                                              \
    for (int s = 0; s < steps; s++) {                                                              \
      const __global uint *words = (const __global uint *)w;                                       \
      for (int p = 0; p < 16; p++) {                                                               \
        const uint16 wl = vload16(p, words), wh = vload16(16 + p, words);                          \
        for (int i = p * lines / 16; i < (p + 1) * lines / 16; i++) PREFETCH(ahead + i * LINE);    \
        _Pragma("unroll") for (int i = 0; i < M; i++) {                                            \
          const uint16 x = ((const uint *)rows)[i * 16 + p];                                       \
          DOT_BF16(low[i], x, wl);                                                                 \
          DOT_BF16(high[i], x, wh);                                                                \
        }                                                                                          \
      }                                                                                            \
      ahead += lines * LINE;                                                                       \
      rows += M * LINE;                                                                            \
      w += STEP_BYTES;                                                                             \
    }                                                                                              \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      vstore16(low[i], i, sums);                                                                   \
      vstore16(high[i], M + i, sums);                                                              \
    }                                                                                              \
  }

FOR_HEIGHTS(DEFINE_MICRO)

#define CASE_MICRO(M)                                                                              \
  case M: micro_##M(rows, w, block->steps, block->first, ahead, lines, sums); break;

/* sums (+)= a block of rows times its steps of a panel; `ahead` is what will be read next, as long
 * as they are. */
static inline void multiply(unit_t *unit, const block_t *block, const __global uchar *w,
                            const __global float *scales, const __global uchar *ahead,
                            float *sums) {
  const int lines = (PACKED_LINES + block->groups - 1) / block->groups;
  const uchar *rows = block->rows;
  for (int g = 0; g < block->groups; g++) {
    switch (block->height) { FOR_HEIGHTS(CASE_MICRO) }
    rows += block->steps * block->height * LINE;
    ahead += block->steps * lines * LINE;
    sums += 2 * block->height * 16;
  }
}

#include "grouped_gemm/cpu_steps_gemm.clh"
