// SPDX-License-Identifier: MIT
/* Grouped GEMM for CPUs: one work-item computes a tile of up to TILE_M rows
 * and one panel of columns over all of K, in vector registers. NOTES.md says
 * why it has this shape.
 *
 * Defined by the host: WEIGHTS, BIASES and ROUNDED (input and output are fp32), ACTIVATION,
 * GATED, BIAS, GATHER, VECTOR_WIDTH (the device's native float width: 4, 8 or 16); of weights with
 * scales those of common/quantized.clh.
 *
 * Weights are packed as [panel][K][PANEL_COLUMNS], zero padded. A panel holds
 * 2 * VECTOR_WIDTH columns: a low and a high vector. Plain layers put
 * neighbouring columns there; gated ones VECTOR_WIDTH gate columns and the
 * VECTOR_WIDTH up columns that belong to them. bf16 columns lie in pairs: one
 * uint has the low vector's column in its low half. Codes with scales are packed as
 * cpu_quantized.clh says; few rows read them, for many a block of them becomes fp32 first. */
#include "common/enums.h"
#include "common/prefetch.clh"
#include "common/types.clh"
#include "grouped_gemm/expert_of_tile.clh"

#ifndef INVARIANT /* unless the host asks for it */
#define INVARIANT 0
#endif
#ifndef VECTOR_WIDTH
#define VECTOR_WIDTH 8
#endif
#define PANEL_COLUMNS (2 * VECTOR_WIDTH)

/* Rows whose sums fit in registers: 2 * MICRO_M accumulators, the panel's two
 * vectors and one broadcast. */
#if VECTOR_WIDTH == 16
#define MICRO_M 12
#else
#define MICRO_M 6
#endif

/* Rows of a work-item: a multiple of MICRO_M. */
#ifndef TILE_M
#define TILE_M 48
#endif

/* A block of K: all micro tiles use its part of the panel (32 KiB of fp32)
 * before the next one is touched. */
#ifndef BLOCK_K
#define BLOCK_K (4096 / VECTOR_WIDTH)
#endif

/* How far ahead a single micro tile, which only streams, has weights fetched. */
#ifndef AHEAD_BYTES
#define AHEAD_BYTES (WEIGHTS == ELEMENT_F32 ? 1024 : 2048)
#endif

/* mad() is not fused on some CPUs and fma() is a slow call on those without
 * the instruction. */
#if defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fma(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
typedef PASTE(float, VECTOR_WIDTH) floatv;
typedef PASTE(uint, VECTOR_WIDTH) uintv;
typedef PASTE(int, VECTOR_WIDTH) intv;
typedef PASTE(ushort, VECTOR_WIDTH) ushortv;
#define vloadv PASTE(vload, VECTOR_WIDTH)
#define vstorev PASTE(vstore, VECTOR_WIDTH)
#define as_floatv PASTE(as_float, VECTOR_WIDTH)
#define as_uintv PASTE(as_uint, VECTOR_WIDTH)
#define as_intv PASTE(as_int, VECTOR_WIDTH)
#define as_shortv PASTE(as_short, VECTOR_WIDTH)
#define as_ushortv PASTE(as_ushort, VECTOR_WIDTH)
#define convert_floatv PASTE(convert_float, VECTOR_WIDTH)
#define convert_uintv PASTE(convert_uint, VECTOR_WIDTH)
#define convert_intv PASTE(convert_int, VECTOR_WIDTH)
#define convert_ushortv PASTE(convert_ushort, VECTOR_WIDTH)
#define vload_halfv PASTE(vload_half, VECTOR_WIDTH)

#define ACTIVATION_T floatv
#define ACTIVATION_FMA(a, b, c) ((a) * (b) + (c))
#include "common/activation.clh"

/* raw_t: the weights' bits where only they matter. packed_t: an element of packed
 * weights; PACKED_STRIDE of them are one row (one k) of a panel. block_t: an element of what
 * micro tiles read. */
#ifdef SCALES
typedef uchar raw_t;
typedef uchar packed_t;
typedef const float block_t;
#define PACKED_STRIDE PANEL_COLUMNS
#elif WEIGHTS == ELEMENT_F32
typedef float raw_t;
typedef float packed_t;
#define PACKED_STRIDE PANEL_COLUMNS
#elif WEIGHTS == ELEMENT_F16
typedef ushort raw_t;
typedef ushort packed_t;
#define PACKED_STRIDE PANEL_COLUMNS
#elif WEIGHTS == ELEMENT_BF16
typedef ushort raw_t;
typedef uint packed_t;
#define PACKED_STRIDE VECTOR_WIDTH
#else
#error "panels of these weights"
#endif
#ifndef SCALES
typedef const __global packed_t block_t;
#endif
typedef ELEMENT_T(BIASES) bias_t;

static inline void panel_load(block_t *w, floatv *low, floatv *high) {
#if WEIGHTS == ELEMENT_F32 || defined(SCALES)
  *low = vloadv(0, w);
  *high = vloadv(1, w);
#elif WEIGHTS == ELEMENT_F16
  *low = vload_halfv(0, (const __global half *)w);
  *high = vload_halfv(1, (const __global half *)w);
#else /* bf16 */
  uintv pair = vloadv(0, w);
  *low = as_floatv(pair << 16);
  *high = as_floatv(pair & 0xffff0000u);
#endif
}

/* Loops that need every register are functions of their own beside decoders, whose constants the
 * compiler would keep in registers across all of them: a spilled sum doubles the time. */
#ifdef SCALES
#define APART __attribute__((noinline))
#else
#define APART
#endif

/* micro_M: sum[M][PANEL_COLUMNS] += rows[M][depth] times depth rows of a panel.
 * SPLIT chains of additions per sum keep few rows from waiting for the latency
 * of fma, unless sums are to be INVARIANT. `ahead` is prefetched, `ahead_step` bytes per k. */
#define DEFINE_MICRO(M, SPLIT)                                                                     \
  static inline APART void micro_##M(const __global float *const *rows, block_t *w, int depth,     \
                                     const __global char *ahead, int ahead_step, float *sum) {     \
    const __global float *row[M];                                                                  \
    floatv low[SPLIT][M], high[SPLIT][M];                                                          \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      row[i] = rows[i];                                                                            \
      low[0][i] = vloadv(2 * i, sum);                                                              \
      high[0][i] = vloadv(2 * i + 1, sum);                                                         \
      _Pragma("unroll") for (int s = 1; s < SPLIT; s++) low[s][i] = high[s][i] = 0.0f;             \
    }                                                                                              \
    int kk = 0;                                                                                    \
    for (; kk + SPLIT <= depth; kk += SPLIT) {                                                     \
      _Pragma("unroll") for (int s = 0; s < SPLIT; s++) {                                          \
        floatv wl, wh;                                                                             \
        panel_load(w + s * PACKED_STRIDE, &wl, &wh);                                               \
        PREFETCH(ahead);                                                                           \
        ahead += ahead_step;                                                                       \
        _Pragma("unroll") for (int i = 0; i < M; i++) {                                            \
          floatv x = row[i][kk + s];                                                               \
          low[s][i] = MULTIPLY_ADD(x, wl, low[s][i]);                                              \
          high[s][i] = MULTIPLY_ADD(x, wh, high[s][i]);                                            \
        }                                                                                          \
      }                                                                                            \
      w += SPLIT * PACKED_STRIDE;                                                                  \
    }                                                                                              \
    for (; SPLIT > 1 && kk < depth; kk++) {                                                        \
      floatv wl, wh;                                                                               \
      panel_load(w, &wl, &wh);                                                                     \
      _Pragma("unroll") for (int i = 0; i < M; i++) {                                              \
        floatv x = row[i][kk];                                                                     \
        low[0][i] = MULTIPLY_ADD(x, wl, low[0][i]);                                                \
        high[0][i] = MULTIPLY_ADD(x, wh, high[0][i]);                                              \
      }                                                                                            \
      w += PACKED_STRIDE;                                                                          \
    }                                                                                              \
    _Pragma("unroll") for (int i = 0; i < M; i++) {                                                \
      _Pragma("unroll") for (int s = 1; s < SPLIT; s++) {                                          \
        low[0][i] += low[s][i];                                                                    \
        high[0][i] += high[s][i];                                                                  \
      }                                                                                            \
      vstorev(low[0][i], 2 * i, sum);                                                              \
      vstorev(high[0][i], 2 * i + 1, sum);                                                         \
    }                                                                                              \
  }

#if INVARIANT
#define CHAINS(count) 1
#else
#define CHAINS(count) (count)
#endif
DEFINE_MICRO(1, CHAINS(4))
DEFINE_MICRO(2, CHAINS(2))
DEFINE_MICRO(3, CHAINS(2))
DEFINE_MICRO(4, 1)
DEFINE_MICRO(5, 1)
DEFINE_MICRO(6, 1)
#if MICRO_M == 12
DEFINE_MICRO(7, 1)
DEFINE_MICRO(8, 1)
DEFINE_MICRO(9, 1)
DEFINE_MICRO(10, 1)
DEFINE_MICRO(11, 1)
DEFINE_MICRO(12, 1)
#endif

#define CASE_MICRO(M)                                                                              \
  case M: micro_##M(rows, w, depth, ahead, ahead_step, sum); break;

static inline void micro(int m, const __global float *const *rows, block_t *w, int depth,
                         const __global char *ahead, int ahead_step, float *sum) {
  switch (m) {
    CASE_MICRO(1)
    CASE_MICRO(2)
    CASE_MICRO(3)
    CASE_MICRO(4)
    CASE_MICRO(5)
    CASE_MICRO(6)
#if MICRO_M == 12
    CASE_MICRO(7)
    CASE_MICRO(8)
    CASE_MICRO(9)
    CASE_MICRO(10)
    CASE_MICRO(11)
    CASE_MICRO(12)
#endif
  }
}

#ifdef SCALES
#include "grouped_gemm/cpu_quantized.clh"
#endif

/* ELEMENT_ROUND of common/types.clh for a vector, of integers and sums: a conversion to
 * half and back is a call for every lane on some CPUs. */
static inline floatv round_vector(floatv v) {
  const uintv u = as_uintv(v);
#if ROUNDED == ELEMENT_F32
  return v;
#elif ROUNDED == ELEMENT_F16
  const floatv size = fabs(v);
  floatv rounded = as_floatv((u + 0xfffu + ((u >> 13) & 1u)) & 0xffffe000u);
  /* Below the least normal half they are multiples of 2^-24, as are floats near 0.75. */
  rounded = select(rounded, (v + 0.75f) - 0.75f, size < 0x1p-14f);
  rounded = select(rounded, copysign((floatv)(INFINITY), v), size >= 65520.0f);
  return select(rounded, v, isnan(v));
#elif ROUNDED == ELEMENT_BF16
  return select(as_floatv((u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u), v, isnan(v));
#else
#error "rounding to this element"
#endif
}

/* Writes the first `count` lanes. */
static inline void store_columns(floatv v, long count, __global float *out) {
  if (count >= VECTOR_WIDTH) {
    vstorev(v, 0, out);
    return;
  }
  float lanes[VECTOR_WIDTH];
  vstorev(v, 0, lanes);
  for (long j = 0; j < count; j++) out[j] = lanes[j];
}

DEFINE_EXPERT_OF_TILE(__global)

static inline void load_bias(const __global bias_t *bias, long count, float *lanes) {
  for (long j = 0; j < VECTOR_WIDTH; j++)
    lanes[j] = j < count ? ELEMENT_LOAD(BIASES)(bias, j) : 0.0f;
}

/* Where the input's rows of `count` slots begin. */
static inline void find_rows(const __global float *a, const __global int *rows, long slot,
                             int count, long k, const __global float **row) {
  for (int i = 0; i < count; i++) {
#if GATHER
    row[i] = a + (long)rows[slot + i] * k;
#else
    row[i] = a + (slot + i) * k;
#endif
  }
}

/* Work-group g: expert by expert, within it panel by panel, within that tile
 * by tile, so that a panel's tiles follow each other. n is the number of
 * output columns. tile_offsets[e] counts the tiles, ceil(rows / TILE_M) per
 * expert, before expert e. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm(const __global float *a, const __global int *rows, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global packed_t *w, const __global bias_t *bias,
     __global float *out, long k, long n, int num_experts) {
  const long columns = GATED ? VECTOR_WIDTH : PANEL_COLUMNS; /* of out, per panel */
  const long panels = (n + columns - 1) / columns;
  const long group = (long)get_group_id(0);
  if (group / panels >= tile_offsets[num_experts]) return;

  const int expert = expert_of_tile(tile_offsets, num_experts, 1, (uint)(group / panels));
  const int tiles = tile_offsets[expert + 1] - tile_offsets[expert];
  const long in_expert = group - tile_offsets[expert] * panels;
  const long panel = in_expert / tiles;
  const int tile = (int)(in_expert % tiles);

  /* The expert's rows are shared out evenly between its tiles, in whole micro
   * tiles, and the tile's rows evenly between its micro tiles. */
  const int first_slot = expert_offsets[expert];
  const int slots = expert_offsets[expert + 1] - first_slot;
  const int height = ((slots + tiles - 1) / tiles + MICRO_M - 1) / MICRO_M * MICRO_M;
  const int slot = first_slot + tile * height;
  const int m = min(height, slots - tile * height);
  const int micros = (m + MICRO_M - 1) / MICRO_M;

  const long column = panel * columns;
  float sums[TILE_M * PANEL_COLUMNS];
  {
    float start[PANEL_COLUMNS];
    for (int j = 0; j < PANEL_COLUMNS; j++) start[j] = 0.0f;
#if BIAS
    const long up = GATED ? n : VECTOR_WIDTH; /* from the low vector's columns to the high one's */
    const __global bias_t *b = bias + expert * (GATED ? 2 * n : n) + column;
    load_bias(b, n - column, start);
    load_bias(b + up, GATED ? n - column : n - column - VECTOR_WIDTH, start + VECTOR_WIDTH);
#endif
    floatv low = vloadv(0, start), high = vloadv(1, start);
    for (int i = 0; i < m; i++) {
      vstorev(low, 2 * i, sums);
      vstorev(high, 2 * i + 1, sums);
    }
  }

#ifdef SCALES
  const code_panel codes = panel_at(w + ((size_t)expert * panels + panel) * panel_bytes(k), k);
  float block_w[BLOCK_K * PANEL_COLUMNS] __attribute__((aligned(64)));
  const bool is_few = micros == 1 && !INVARIANT;
  if (is_few) {
    const __global float *row[MICRO_M];
    find_rows(a, rows, slot, m, k, row);
    few(m, row, &codes, k, sums);
  }
  const long end = is_few ? 0 : k;
#else
  const __global packed_t *panel_w = w + ((long)expert * panels + panel) * k * PACKED_STRIDE;
  const long end = k;
#endif
  const int block = BLOCK_K;
  for (long k0 = 0; k0 < end; k0 += block) {
    const int depth = (int)min((long)block, k - k0);
#ifdef SCALES
    dequantize(&codes, k0, depth, block_w);
    const __global char *packed = (const __global char *)(codes.words + k0 / CODES * PANEL_COLUMNS);
    const int row_bytes = PANEL_COLUMNS * CODE_BITS / 8;
#else
    const __global packed_t *block_w = panel_w + k0 * PACKED_STRIDE;
    const __global char *packed = (const __global char *)block_w;
    const int row_bytes = PACKED_STRIDE * sizeof(packed_t);
#endif
    /* While this block is used, the next one (maybe the next panel's first) is
     * brought near, a share of it by each micro tile. */
    const int ahead_step = row_bytes / micros;
    for (int t = 0; t < micros; t++) {
      const int first = m * t / micros, count = m * (t + 1) / micros - first;
      const __global float *row[MICRO_M];
      find_rows(a + k0, rows, slot + first, count, k, row);
      const __global char *ahead =
          packed + (micros == 1 ? AHEAD_BYTES : block * row_bytes + t * block * ahead_step);
      micro(count, row, block_w, depth, ahead, ahead_step, sums + first * PANEL_COLUMNS);
    }
  }

  for (int i = 0; i < m; i++) {
    floatv low = vloadv(2 * i, sums), high = vloadv(2 * i + 1, sums);
    __global float *to = out + (long)(slot + i) * n + column;
#if GATED
    store_columns(round_vector(activate_gated(low, high)), n - column, to);
#else
    store_columns(round_vector(activate(low)), n - column, to);
    if (n - column > VECTOR_WIDTH)
      store_columns(round_vector(activate(high)), n - column - VECTOR_WIDTH, to + VECTOR_WIDTH);
#endif
  }
}

/* Packs consecutive experts' canonical weights [expert][n][k]; gated: n = 2 I,
 * I gate rows and then I up rows; with scales these are two matrices. Offsets in
 * elements (of raw_t and of packed_t). Work-item: (panel, expert). */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
pack(const __global raw_t *src, ulong src_offset, __global packed_t *dst, ulong dst_offset, long n,
     long k) {
  const long panel = (long)get_global_id(0), panels = (long)get_global_size(0);
  const long expert = (long)get_global_id(1);
  const long low_end = GATED ? n / 2 : n; /* one past the low vector's last row */
  const long low = panel * (GATED ? VECTOR_WIDTH : PANEL_COLUMNS);
#ifdef SCALES
  const size_t matrix = WEIGHT_MATRIX(GATED ? n / 2 : n, k);
  const __global uchar *from = src + src_offset + (size_t)expert * (GATED ? 2 : 1) * matrix;
  __global uchar *to = dst + dst_offset + (size_t)(expert * panels + panel) * panel_bytes(k);
  for (int j = 0; j < PANEL_COLUMNS; j++) {
    const bool is_high = j >= VECTOR_WIDTH;
    const long row = low + (GATED ? j % VECTOR_WIDTH : j);
    if (row < low_end) pack_column(from + (GATED && is_high ? matrix : 0), row, low_end, k, to, j);
    else pack_nothing(k, to, j);
  }
#else
  const __global raw_t *from = src + src_offset + expert * n * k;
  __global packed_t *to = dst + dst_offset + (expert * panels + panel) * k * PACKED_STRIDE;
  const long high = GATED ? low + n / 2 : low + VECTOR_WIDTH;
  /* Through a private block: rows are a power of two apart as often as not,
   * and would push each other out of the cache if read across. */
  for (long k0 = 0; k0 < k; k0 += 16) {
    const long depth = min(16L, k - k0);
    packed_t block[16 * PACKED_STRIDE];
    for (int j = 0; j < VECTOR_WIDTH; j++) {
      const bool has_low = low + j < low_end, has_high = high + j < n;
      const __global raw_t *l = from + (has_low ? low + j : 0) * k + k0;
      const __global raw_t *h = from + (has_high ? high + j : 0) * k + k0;
      for (long kk = 0; kk < depth; kk++) {
#if WEIGHTS == ELEMENT_BF16
        block[kk * PACKED_STRIDE + j] =
            (has_low ? (uint)l[kk] : 0u) | (has_high ? (uint)h[kk] << 16 : 0u);
#else
        block[kk * PACKED_STRIDE + j] = has_low ? l[kk] : 0;
        block[kk * PACKED_STRIDE + VECTOR_WIDTH + j] = has_high ? h[kk] : 0;
#endif
      }
    }
    for (long i = 0; i < depth * PACKED_STRIDE; i++) to[k0 * PACKED_STRIDE + i] = block[i];
  }
#endif
}
