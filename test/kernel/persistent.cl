// SPDX-License-Identifier: MIT
/* A portable stand-in for the kernels behind lib/op/gemm/persistent.c and, without TALL,
 * matrix_tiles.c, for tests: the contract of cl/grouped_gemm/nvidia_sm80.cl and nvidia_sm90.cl,
 * or of amd_tiles.clh, none of their speed. So the drivers' host side runs on any device. What a
 * driver must keep to is looked at here: what breaks it becomes NaN.
 *
 * Defines: WEIGHTS, OUTPUT, ACTIVATION, GATED, BIAS, GATHER, SCATTER, TALL, DENSE, ADDS_SHARED,
 * TILE_M; input and biases are of the weights' element. */
#define DTYPE WEIGHTS
#include "common/types.clh"
#include "common/activation.clh"

#ifndef DENSE /* a program without few_tokens, whose driver says what parts it wants */
#define DENSE 0
#define ADDS_SHARED 0
#endif
#define WEIGHT_ROWS 128
#define TILE_K (128 / (long)sizeof(storage_bits_t)) /* a packed row is 128 bytes a step */
#define COLUMNS (GATED ? WEIGHT_ROWS / 2 : WEIGHT_ROWS)
#define FEW_COLUMNS (GATED ? 8 : 16) /* of a work-group of few_tokens */
#ifndef TALL
#define MOST_ROWS TILE_M
#elif TALL
#define MOST_ROWS 176
#else
#define MOST_ROWS 128
#endif

static inline long round_up(long x, long step) { return (x + step - 1) / step * step; }
static inline long column_tiles(long n) { return (n + COLUMNS - 1) / COLUMNS; }

/* Packed: [expert][tile][WEIGHT_ROWS][k up to whole steps]; gated, a tile's second half
 * is up. Where a column's gate or plain row, and its up row, begin. */
static inline size_t packed_row(long expert, long column, bool up, long n, long k) {
  const long tile = column / COLUMNS, row = column % COLUMNS + (up ? COLUMNS : 0);
  return (size_t)(((expert * column_tiles(n) + tile) * WEIGHT_ROWS + row) * round_up(k, TILE_K));
}

__kernel void pack(const __global storage_bits_t *src, ulong src_offset,
                   __global storage_bits_t *dst, ulong dst_offset, long rows, long k) {
  const long n = GATED ? rows / 2 : rows, wide = round_up(k, TILE_K);
  const long count = column_tiles(n) * WEIGHT_ROWS * wide;
  src += src_offset + get_global_id(1) * (ulong)(rows * k);
  dst += dst_offset + get_global_id(1) * (ulong)count;
  for (long i = (long)get_global_id(0); i < count; i += (long)get_global_size(0)) {
    const long at_k = i % wide, row = i / wide % WEIGHT_ROWS, tile = i / wide / WEIGHT_ROWS;
    const bool up = row >= COLUMNS;
    const long column = tile * COLUMNS + row % COLUMNS;
    dst[i] = column < n && at_k < k ? src[(column + (up ? n : 0)) * k + at_k] : (storage_bits_t)0;
  }
}

static inline float dot_row(const __global storage_t *x, const __global storage_t *w, long k) {
  float sum = 0.0f;
  for (long i = 0; i < k; i++)
    sum = fma(storage_load(x, (size_t)i), storage_load(w, (size_t)i), sum);
  return sum;
}

static inline float bias_of(const __global storage_t *bias, long expert, long column, bool up,
                            long n) {
#if BIAS
  return storage_load(bias, (size_t)(expert * n * (GATED ? 2 : 1) + column + (up ? n : 0)));
#else
  return 0.0f;
#endif
}

/* An output column of one row, before it is stored. */
static inline float output_of(const __global storage_t *x, const __global storage_t *w,
                              const __global storage_t *bias, long expert, long column, long n,
                              long k) {
  const float v = dot_row(x, w + packed_row(expert, column, false, n, k), k) +
                  bias_of(bias, expert, column, false, n);
#if GATED
  return activate_gated(v, dot_row(x, w + packed_row(expert, column, true, n, k), k) +
                               bias_of(bias, expert, column, true, n));
#else
  return activate(v);
#endif
}

typedef ELEMENT_T(OUTPUT) output_t;
#define OUTPUT_STORE ELEMENT_STORE(OUTPUT)

#include "grouped_gemm/places.clh"
#if SCATTER
DEFINE_PLACE_OF(output_t)
#define PLACES_TAKEN                                                                               \
  const __global int *slot_place, __global output_t *out, __global output_t *to_1,                 \
      __global output_t *to_2, __global output_t *to_3, __global output_t *to_4,                   \
      __global output_t *to_5, __global output_t *to_6, __global output_t *to_7, int8 ends,        \
      long8 shifts
#define PLACES_GIVEN slot_place, PLACES_HERE
#define OUTPUT_ROW(slot) place_of(slot_place[slot], n, PLACES_HERE)
#else
#define PLACES_TAKEN __global output_t *out
#define PLACES_GIVEN out
#define OUTPUT_ROW(slot) (out + (size_t)(slot)*n)
#endif

/* Slots `slot` to `end` by the columns of one tile. */
static inline void make_slots(const __global storage_t *a, const __global int *slot_token,
                              const __global storage_t *w, const __global storage_t *bias,
                              PLACES_TAKEN, long k, long n, int e, int slot, int end, long first,
                              bool kept) {
  for (; slot < end; slot++) {
    const long row = GATHER ? slot_token[slot] : slot;
    for (long column = first; column < min(first + COLUMNS, n); column++) {
      const float v = output_of(a + row * k, w, bias, e, column, n, k);
      OUTPUT_STORE(kept ? v : NAN, OUTPUT_ROW(slot), (size_t)column);
    }
  }
}

#ifdef TALL
static inline void make_tile(const __global storage_t *a, const __global int *slot_token,
                             const __global int *expert_offsets, const __global int *tile_offsets,
                             const __global storage_t *w, const __global storage_t *bias,
                             PLACES_TAKEN, long k, long n, int num_experts, int tile_rows,
                             long number) {
  int e = 0;
  while (tile_offsets[e + 1] * column_tiles(n) <= number) e++;
  const int row_tiles = tile_offsets[e + 1] - tile_offsets[e];
  const int in_expert = (int)(number - tile_offsets[e] * column_tiles(n));
  const int row_tile = in_expert % row_tiles, start = expert_offsets[e];
  const long first = (long)(in_expert / row_tiles) * COLUMNS;
  const int slots = expert_offsets[e + 1] - start;
  const int each = (int)round_up((slots + row_tiles - 1) / row_tiles, 16);
  const bool kept = each <= tile_rows && tile_rows <= MOST_ROWS && tile_rows % 16 == 0 &&
                    (!TALL || tile_rows == MOST_ROWS);
  const int end = min(start + slots, start + (row_tile + 1) * each);
  make_slots(a, slot_token, w, bias, PLACES_GIVEN, k, n, e, start + row_tile * each, end, first,
             kept);
}

/* One work-item of each work-group works. The queue is zero between launches. */
__kernel void gemm(const __global storage_t *a, const __global int *slot_token,
                   const __global int *expert_offsets, const __global int *tile_offsets,
                   const __global storage_t *w, const __global storage_t *bias,
                   __global output_t *out, volatile __global int *queue, long k, long n,
                   int num_experts, int tile_rows PLACES_ARGUMENTS(output_t)) {
  if (get_local_id(0) == 0) {
    const long tiles = tile_offsets[num_experts] * column_tiles(n);
    for (long t = (long)get_group_id(0); t < tiles; t = (long)get_num_groups(0) + atomic_inc(queue))
      make_tile(a, slot_token, expert_offsets, tile_offsets, w, bias, PLACES_GIVEN, k, n,
                num_experts, tile_rows, t);
    if (atomic_inc(queue + 1) == (int)get_num_groups(0) - 1) queue[0] = queue[1] = 0;
  }
}
#else
/* One work-item of each work-group works: a tile each, column tiles varying slowest, and none
 * where the grid is larger. */
__kernel void gemm(const __global storage_t *a, const __global int *slot_token,
                   const __global int *expert_offsets, const __global int *tile_offsets,
                   const __global storage_t *w, const __global storage_t *bias,
                   __global output_t *out, long k, long n,
                   int num_experts PLACES_ARGUMENTS(output_t)) {
  const long tiles = tile_offsets[num_experts], group = (long)get_group_id(0);
  if (get_local_id(0) == 0 && group < tiles * column_tiles(n)) {
    const int tile = (int)(group % tiles);
    int e = 0;
    while (tile_offsets[e + 1] <= tile) e++;
    const int slot = expert_offsets[e] + (tile - tile_offsets[e]) * TILE_M;
    const int end = expert_offsets[e + 1];
    const bool kept =
        tile_offsets[e + 1] - tile_offsets[e] == (end - expert_offsets[e] + TILE_M - 1) / TILE_M &&
        get_local_size(0) == 256;
    make_slots(a, slot_token, w, bias, PLACES_GIVEN, k, n, e, slot, min(end, slot + TILE_M),
               group / tiles * COLUMNS, kept);
  }
}
#endif

#if GATHER || DENSE
/* A work-group: FEW_COLUMNS columns of row t*top_k+j of `out`. */
__kernel void few_tokens(const __global storage_t *a, const __global int *topk_ids,
                         const __global storage_t *w, const __global storage_t *bias,
                         __global output_t *out, long k, long n, int top_k) {
  const long groups = (n + FEW_COLUMNS - 1) / FEW_COLUMNS, group = (long)get_group_id(0) % groups;
  const long assignment = (long)get_group_id(0) / groups;
  const long column = group * FEW_COLUMNS + (long)get_local_id(0);
  const int e = DENSE ? 0 : topk_ids[assignment];
  if (get_local_id(0) < FEW_COLUMNS && column < n && e >= 0) {
    const float v = output_of(a + assignment / top_k * k, w, bias, e, column, n, k);
    OUTPUT_STORE(v, out, (size_t)(assignment * n + column));
  }
}
#elif !GATED && ACTIVATION == ACTIVATION_NONE
/* A work-group: 16 columns of one token's output, weighted and combined. */
__kernel void few_tokens(const __global storage_t *a, const __global int *topk_ids,
                         const __global float *topk_weights, const __global storage_t *w,
                         const __global storage_t *bias, const __global storage_t *shared,
                         const __global float *shared_gate, __global storage_t *out, long k, long n,
                         int top_k) {
  const long groups = (n + FEW_COLUMNS - 1) / FEW_COLUMNS, group = (long)get_group_id(0) % groups;
  const long token = (long)get_group_id(0) / groups;
  const long column = group * FEW_COLUMNS + (long)get_local_id(0);
  if (get_local_id(0) < FEW_COLUMNS && column < n) {
    float sum = 0.0f;
    for (long at = token * top_k; at < (token + 1) * top_k; at++)
      if (topk_ids[at] >= 0)
        sum += topk_weights[at] * output_of(a + at * k, w, bias, topk_ids[at], column, n, k);
#if ADDS_SHARED
    sum += (ADDS_SHARED == 2 ? shared_gate[token] : 1.0f) *
           storage_load(shared, (size_t)(token * n + column));
#endif
    storage_store(sum, out, (size_t)(token * n + column));
  }
}
#endif
