// SPDX-License-Identifier: MIT
/* The grouped GEMM for Hopper where weights and rows are both codes of 8 bits with scales: wgmma on
 * E4M3, or int8, as they are.
 *
 * moecl-ptx-target: sm_90a
 *
 * Defines: WEIGHTS and INPUT, the same codes; of the weights SCALES, BLOCK, SCALE_ROWS, ZERO_POINTS
 * and MATRIX_SCALE (common/quantized.clh), of the rows INPUT_BLOCK; BIASES, OUTPUT, ACTIVATION,
 * GATED, BIAS, GATHER; TALL. A block of columns is 128 or all of them. k is a multiple of 16, n
 * one of 8.
 *
 * As nvidia_sm90.cl: weights are wgmma's A, tokens its B, one warpgroup produces and two
 * consume, each 64 of every 128 weight rows (grouped_gemm/nvidia_ring.clh).
 *
 * Scales. A step is 128 elements along K, so within it each row and each token has one scale. A
 * step's products add up in sums of their own, `p`, which then go to the tile's as
 * sum + p * weight's scale * token's scale in fp32: the scheme of DeepSeek-V3. A weight row's one
 * scale multiplies at the end. E4M3's wgmma adds up with about 14 bits, so that it is the sums of
 * one step, or two, in all formats; int8's are exact, and where no scale is a block's they are the
 * tile's.
 *
 * Registers. A tile of 256 rows by 128 tokens is 128 sums a work-item, and a step's products are
 * made in parts of one packed tile and half of the tokens, of which two are there at once, 32 sums
 * each: while one is promoted, the next one's products are made.
 *
 * What lies where, beside what nvidia_ring.clh says:
 *   w         [expert][packed tile]: TILE_BYTES(steps), [step] of
 *             where BLOCK: [128 weight rows] fp32 scales; [128 weight rows][128 bytes];
 *             and behind all steps, where not: [128 weight rows] fp32 scales
 *   pipeline  STAGE_TILE: [128 tokens] fp32 scales of the tokens from 128 times its number on;
 *             [128 weight rows] fp32 scales; [128 weight rows][128 bytes]
 *   c, d      [8 tokens' group][4]: sums of the first and (TALL) of the second packed tile */
#define DTYPE BIASES
#define WGMMA_ELEMENT WEIGHTS
#include "common/quantized.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_wgmma.clh"
#if WEIGHTS != INPUT || ZERO_POINTS || (BLOCK != 0 && BLOCK != 128)
#error "codes of these formats"
#endif

#define PACKED_TILES (TALL ? 2 : 1) /* of a tile here */
#define MAX_STAGES 10
#define LOCAL 384
#define PRODUCERS 128
#define CONSUMER_WARPS 8
#define MAX_TOKENS (TALL && DIRECT ? 144 : 128) /* of a tile */
#define TOKEN_ROWS 1
#define ELEMENT_BYTES 1
#define CHUNK 16
#define ROW_BYTES 128
#define TILE_K 128

/* Are sums of int8 the tile's? */
#define DIRECT (WEIGHTS == ELEMENT_INT8 && BLOCK == 0 && INPUT_BLOCK == 0)
#define SCALES_AT_END DIRECT
/* Steps whose products add up before they are promoted: of E4M3 without groups two, which a tile
 * then has a multiple of. */
#define STEPS_AT_ONCE (WEIGHTS == ELEMENT_E4M3 && BLOCK == 0 && INPUT_BLOCK == 0 ? 2 : 1)
#define STEPS_OF(k)                                                                                \
  ((uint)(((k) + TILE_K - 1) / TILE_K + STEPS_AT_ONCE - 1) / STEPS_AT_ONCE * STEPS_AT_ONCE)

/* A work-item's sums: groups of 8 tokens that follow each other. */
#define SUM_GROUPS (MAX_TOKENS / 8)
#define SUMS_APART 8
#include "grouped_gemm/nvidia_tiles.clh"

#define CODE_BYTES (WEIGHT_ROWS * ROW_BYTES) /* of a packed tile's step */
#define SCALES_BYTES (WEIGHT_ROWS * 4)
#define WEIGHT_BYTES (CODE_BYTES + (BLOCK ? SCALES_BYTES : 0))
#define TILE_BYTES(steps) ((ulong)(steps)*WEIGHT_BYTES + (BLOCK ? 0 : SCALES_BYTES))
#define STAGE_TILE (2 * SCALES_BYTES + CODE_BYTES)
#define COPIED_AT (BLOCK ? SCALES_BYTES : 2 * SCALES_BYTES)
#define CODES_AT (2 * SCALES_BYTES)

/* Bytes of a packed tile's step in which `columns` or fewer are there, in whole
 * groups of 16 rows; the rest of a stage is not written, nor is what it makes. */
static inline uint bytes_of_columns(long columns) {
  const uint there = (uint)clamp(columns, 0l, (long)COLUMNS);
  const uint rows = (there * (WEIGHT_ROWS / COLUMNS) + 15) / 16 * 16;
  return rows > 0 ? WEIGHT_BYTES - CODE_BYTES + rows * ROW_BYTES : 0;
}

/* ---- packing ---- */

/* The scale of weight row `row`, of n, in block `block` of its columns. */
static inline float scale_of(const __global uchar *matrix, ulong row, ulong block, long n, long k) {
  float scale = load_scale(matrix + scales_at(n, k), row / SCALE_ROWS * scale_columns(k) + block);
#if MATRIX_SCALE
  scale *= *(const __global float *)(matrix + matrix_scale_at(n, k));
#endif
  return scale;
}

#if PARTS & PART_PACK
/* Consecutive experts' weights, given as common/quantized.clh says, into packed tiles: chunks
 * swizzled, zeros where there is nothing. Second dimension: the expert; the first strides over
 * rows of a step. Offsets in bytes. */
__kernel void pack(const __global uchar *src, ulong src_offset, __global uchar *dst,
                   ulong dst_offset, long rows, long k) {
  const long n = rows / (GATED ? 2 : 1);
  const ulong steps = STEPS_OF(k), blocks = BLOCK ? steps : 1;
  const ulong tiles = ((ulong)n + COLUMNS - 1) / COLUMNS;
  src += src_offset + get_global_id(1) * (GATED ? 2 : 1) * WEIGHT_MATRIX(n, k);
  dst += dst_offset + get_global_id(1) * tiles * TILE_BYTES(steps);
  for (ulong i = get_global_id(0); i < tiles * steps * WEIGHT_ROWS; i += get_global_size(0)) {
    const uint r = (uint)(i % WEIGHT_ROWS);
    const ulong step = i / WEIGHT_ROWS % steps, tile = i / WEIGHT_ROWS / steps;
    const ulong column = tile * COLUMNS + PLACE(r);
    const bool there = column < (ulong)n;
    const __global uchar *matrix = src + (IS_UP(r) ? WEIGHT_MATRIX(n, k) : 0);
    const __global uchar *from = matrix + column * (ulong)k + step * TILE_K;
    __global uchar *scales = dst + tile * TILE_BYTES(steps) + step * WEIGHT_BYTES;
    __global uchar *to = scales + (BLOCK ? SCALES_BYTES : 0) + r * ROW_BYTES;
    for (uint chunk = 0; chunk < ROW_BYTES / CHUNK; chunk++) {
      const bool inside = there && step * TILE_K + chunk * CHUNK < (ulong)k;
      ((__global uint4 *)to)[chunk ^ (r & 7)] =
          inside ? ((const __global uint4 *)from)[chunk] : (uint4)(0u);
    }
    if (!BLOCK) scales = dst + (tile + 1) * TILE_BYTES(steps) - SCALES_BYTES;
    if (step < blocks)
      ((__global float *)scales)[r] = there ? scale_of(matrix, column, step, n, k) : 0.0f;
  }
}
#endif

#include "grouped_gemm/nvidia_ring.clh"

/* ---- consumers ---- */

/* A step of K: the products of 64 rows by N tokens at these addresses. `add` 0 starts the sums. */
#define MULTIPLY(N, sums, A_, B_, ADD, wa, wb, add)                                                \
  WGMMA(N, sums, A_, B_, ADD, wgmma_operand(wa), wgmma_operand(wb), add);                          \
  WGMMA(N, sums, A_, B_, ADD, wgmma_operand((wa) + 32), wgmma_operand((wb) + 32), 1);              \
  WGMMA(N, sums, A_, B_, ADD, wgmma_operand((wa) + 64), wgmma_operand((wb) + 64), 1);              \
  WGMMA(N, sums, A_, B_, ADD, wgmma_operand((wa) + 96), wgmma_operand((wb) + 96), 1)

/* Where a work-item finds a stage's scales: those of its pairs of tokens, and of its weight rows.
 */
typedef struct scales_t {
  uint tokens, rows;
} scales_t;

ALWAYS_INLINE scales_t find_scales(uint stage, uint lane, uint row) {
  return (scales_t){stage + lane % 4 * 8, stage + SCALES_BYTES + row * 4};
}

/* From the first pair's scales to those of the same pair of a group of 8 tokens. */
#define SCALES_OF(group) ((group) / 16 * STAGE_TILE + (group) % 16 * 32)

#if WEIGHTS == ELEMENT_INT8
typedef int part_t;
#else
typedef float part_t;
#endif

#if DIRECT
typedef int sum_t;

#define BEGIN(sums, N) /* the first step does */
/* A step: its products join the tile's sums, and the stage before is released when it is done. */
#define STEP(N, A_, B_, ADD)                                                                       \
  wgmma_begin();                                                                                   \
  MULTIPLY(N, c, A_, B_, ADD, wa, wb, step);                                                       \
  IF_TALL(MULTIPLY(N, d, A_, B_, ADD, wa + STAGE_TILE, wb, step);)                                 \
  wgmma_commit();                                                                                  \
  wgmma_wait_but_one();                                                                            \
  if (step && lane == 0) mbarrier_arrive(empty_barrier(&ring, previous));
#define STEPS_END(N)                                                                               \
  WGMMA_WAIT(N, c);                                                                                \
  IF_TALL(WGMMA_WAIT(N, d);)

#else
typedef float sum_t;

/* A step's sums to the tile's: `groups` groups of 8 tokens from `first` on. */
ALWAYS_INLINE void promote(float *sum, const part_t *p, int first, int groups, scales_t at) {
  float low = 1.0f, high = 1.0f;
  if (BLOCK) low = shared_float(at.rows), high = shared_float(at.rows + 32);
#pragma unroll
  for (int j = 0; j < groups; j++) {
    float *to = sum + 4 * (first + j);
    const part_t *from = p + 4 * j;
    float p0 = (float)from[0], p1 = (float)from[1], p2 = (float)from[2], p3 = (float)from[3];
    if (BLOCK) p0 *= low, p1 *= low, p2 *= high, p3 *= high;
    const float2 token = shared_float2(at.tokens + SCALES_OF(first + j));
    to[0] = fma(p0, token.x, to[0]), to[1] = fma(p1, token.y, to[1]);
    to[2] = fma(p2, token.x, to[2]), to[3] = fma(p3, token.y, to[3]);
  }
}

#define BEGIN(sums, N) _Pragma("unroll") for (int i = 0; i < N / 2; i++) sums[i] = 0.0f;

/* A packed tile's rows by N tokens from the first-th group of 8 on: products that begin, and such
 * that are waited for (`wait`: all but the latest to begin, or all) and promoted. */
#define START(N, A_, B_, ADD, p, tile_at, first)                                                   \
  wgmma_begin();                                                                                   \
  MULTIPLY(N, p, A_, B_, ADD, wa + (tile_at), wb + (first)*8 * ROW_BYTES, 0);                      \
  IF_TWO_STEPS(                                                                                    \
      MULTIPLY(N, p, A_, B_, ADD, wa + ahead + (tile_at), wb + ahead + (first)*8 * ROW_BYTES, 1);) \
  wgmma_commit();
#define FINISH(wait, N, p, sums, tile_at, first)                                                   \
  wait(N, p);                                                                                      \
  promote(sums, p, first, N / 8, (scales_t){at.tokens, at.rows + (tile_at)});

/* A step: while one part's products are promoted, the next one's are made. Then the stage is
 * released; the last one with the tile. */
#define STEP_END                                                                                   \
  warp_barrier();                                                                                  \
  IF_TWO_STEPS(if (lane == 0) mbarrier_arrive(empty_barrier(&ring, ring.stage));                   \
               next_stage(&ring);)                                                                 \
  if (step + STEPS_AT_ONCE < task->steps && lane == 0)                                             \
    mbarrier_arrive(empty_barrier(&ring, ring.stage));
#if TALL
#define STEP(N, A_, B_, ADD)                                                                       \
  part_t p[N / 2], q[N / 2];                                                                       \
  START(N, A_, B_, ADD, p, 0, 0)                                                                   \
  START(N, A_, B_, ADD, q, STAGE_TILE, 0)                                                          \
  FINISH(WGMMA_WAIT_BUT_ONE, N, p, c, 0, 0)                                                        \
  FINISH(WGMMA_WAIT, N, q, d, STAGE_TILE, 0)                                                       \
  STEP_END
#define STEP_OF_TWO(N, A_, B_, ADD, N2, A2, B2, ADD2)                                              \
  part_t p[N / 2], q[N2 / 2], r[N / 2], s[N2 / 2];                                                 \
  START(N, A_, B_, ADD, p, 0, 0)                                                                   \
  START(N2, A2, B2, ADD2, q, 0, N / 8)                                                             \
  FINISH(WGMMA_WAIT_BUT_ONE, N, p, c, 0, 0)                                                        \
  START(N, A_, B_, ADD, r, STAGE_TILE, 0)                                                          \
  FINISH(WGMMA_WAIT_BUT_ONE, N2, q, c, 0, N / 8)                                                   \
  START(N2, A2, B2, ADD2, s, STAGE_TILE, N / 8)                                                    \
  FINISH(WGMMA_WAIT_BUT_ONE, N, r, d, STAGE_TILE, 0)                                               \
  FINISH(WGMMA_WAIT, N2, s, d, STAGE_TILE, N / 8)                                                  \
  STEP_END
#else
#define STEP(N, A_, B_, ADD)                                                                       \
  part_t p[N / 2];                                                                                 \
  START(N, A_, B_, ADD, p, 0, 0)                                                                   \
  FINISH(WGMMA_WAIT, N, p, c, 0, 0)                                                                \
  STEP_END
#define STEP_OF_TWO(N, A_, B_, ADD, N2, A2, B2, ADD2)                                              \
  part_t p[N / 2], q[N2 / 2];                                                                      \
  START(N, A_, B_, ADD, p, 0, 0)                                                                   \
  START(N2, A2, B2, ADD2, q, 0, N / 8)                                                             \
  FINISH(WGMMA_WAIT_BUT_ONE, N, p, c, 0, 0)                                                        \
  FINISH(WGMMA_WAIT, N2, q, c, 0, N / 8)                                                           \
  STEP_END
#endif
#define STEPS_END(N)
#endif

#if STEPS_AT_ONCE == 2
#define IF_TWO_STEPS(what) what
#else
#define IF_TWO_STEPS(what)
#endif
#if TALL
#define IF_TALL(what) what
#else
#define IF_TALL(what)
#endif

/* The stage behind the walker's, which is full. */
ALWAYS_INLINE uint wait_for_second(ring_t ring) {
  next_stage(&ring);
  wait_until_full(&ring);
  return stage_address(&ring);
}

/* All steps of a tile, each a stage. A macro, for sums are registers by name. */
#define STEPS(WIDTH, step_of_it)                                                                   \
  case WIDTH / 16:                                                                                 \
    BEGIN(c, WIDTH)                                                                                \
    IF_TALL(BEGIN(d, WIDTH))                                                                       \
    for (uint step = 0; step < task->steps; step += STEPS_AT_ONCE) {                               \
      wait_until_full(&ring);                                                                      \
      const uint stage = stage_address(&ring);                                                     \
      IF_TWO_STEPS(const uint ahead = wait_for_second(ring) - stage;)                              \
      fence_async_proxy();                                                                         \
      const uint wa = stage + CODES_AT + half_at, wb = stage + TOKENS_AT;                          \
      const scales_t at = find_scales(stage, lane, row);                                           \
      step_of_it previous = ring.stage;                                                            \
      next_stage(&ring);                                                                           \
    }                                                                                              \
    STEPS_END(WIDTH)                                                                               \
    break;
#define CONSUME(N, A_, B_, ADD) STEPS(N, STEP(N, A_, B_, ADD))
#define CONSUME_TWO(N, A_, B_, ADD, N2, A2, B2, ADD2)                                              \
  STEPS((N + N2), STEP_OF_TWO(N, A_, B_, ADD, N2, A2, B2, ADD2))

#if DIRECT
#define CONSUME_ALL WGMMA_FOR_ALL_WIDTHS(CONSUME) IF_TALL(CONSUME(144, 72, 73, 74))
#else
#define CONSUME_ALL                                                                                \
  CONSUME(16, 8, 9, 10)                                                                            \
  CONSUME(32, 16, 17, 18)                                                                          \
  CONSUME(48, 24, 25, 26)                                                                          \
  CONSUME(64, 32, 33, 34)                                                                          \
  CONSUME_TWO(48, 24, 25, 26, 32, 16, 17, 18)                                                      \
  CONSUME_TWO(48, 24, 25, 26, 48, 24, 25, 26)                                                      \
  CONSUME_TWO(64, 32, 33, 34, 48, 24, 25, 26)                                                      \
  CONSUME_TWO(64, 32, 33, 34, 64, 32, 33, 34)
#endif

/* Sums as numbers: times the scales that no step had. `rows` are the packed tile's scales, NULL
 * where there is no such tile. */
ALWAYS_INLINE void scale_sums(float *to, const sum_t *from, const __global float *rows, uint row,
                              scales_t at) {
  float low = 1.0f, high = 1.0f;
  if (!BLOCK && rows) low = rows[row], high = rows[row + 8];
#pragma unroll
  for (int j = 0; j < SUM_GROUPS; j++) {
    float2 token = (float2)(1.0f, 1.0f);
    if (DIRECT) token = shared_float2(at.tokens + SCALES_OF(j));
    to[4 * j] = (float)from[4 * j] * low * token.x;
    to[4 * j + 1] = (float)from[4 * j + 1] * low * token.y;
    to[4 * j + 2] = (float)from[4 * j + 2] * high * token.x;
    to[4 * j + 3] = (float)from[4 * j + 3] * high * token.y;
  }
}

/* The scales of a packed tile's rows, behind its steps. */
ALWAYS_INLINE const __global float *scales_of_rows(const __global uchar *w, const task_t *task,
                                                   int expert, uint packed_tile) {
  const ulong tile = (ulong)expert * task->packed_tiles + packed_tile + 1;
  return packed_tile < task->packed_tiles
             ? (const __global float *)(w + tile * TILE_BYTES(task->steps) - SCALES_BYTES)
             : NULL;
}

/* All tiles of this work-group; `id` from 0 on in the two warpgroups. */
ALWAYS_INLINE void consume(ring_t ring, const task_t *task, const __global uchar *w,
                           const __global storage_t *bias, __global output_t *out, uint id) {
  const uint lane = id % 32, half_index = id / 128; /* 64 of every 128 weight rows */
  const uint half_at = half_index * (CODE_BYTES / 2);
  const uint row = half_index * 64 + id / 32 % 4 * 16 + lane / 4;
  uint previous = 0; /* the stage before */
  for (uint count = 0;; count++) {
    wait_until_full(&ring);
    const tile_t tile = read_announced(task, count);
    if (tile.rows == 0) break;
    const uint packed_tile = tile.column_tile * PACKED_TILES;
    sum_t c[4 * SUM_GROUPS];
    float c_scaled[4 * SUM_GROUPS];
#if TALL
    sum_t d[4 * SUM_GROUPS];
    float d_scaled[4 * SUM_GROUPS];
#endif
    switch (tile.width / 16) { CONSUME_ALL }
    const scales_t at = find_scales(ring.pipeline + previous * ring.stage_bytes, lane, row);
    scale_sums(c_scaled, c, scales_of_rows(w, task, tile.expert, packed_tile), row, at);
#if TALL
    scale_sums(d_scaled, d, scales_of_rows(w, task, tile.expert, packed_tile + 1), row, at);
#endif
    warp_barrier();
    if (lane == 0) mbarrier_arrive(empty_barrier(&ring, previous));
    /* What follows from the lane is made here, not kept over the loops above (which spilled). */
    const uint own_lane = (uint)opaque((long)lane);
    store_tile(out, bias, tile, packed_tile, c_scaled, task->n, own_lane, row, 0);
#if TALL
    store_tile(out, bias, tile, packed_tile + 1, d_scaled, task->n, own_lane, row, 0);
#endif
  }
}

/* ---- the kernel ---- */

#if PARTS & PART_GEMM
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global uchar *a, const __global int *slot_token, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global uchar *w, const __global storage_t *bias,
     __global output_t *out, __global int *queue, long k, long n, int num_experts, int tile_rows,
     ulong input_scales) {
  __local int offsets[MAX_EXPERTS + 1];
  __local int4 announced[ANNOUNCED];
  __local uint next[2];
  end_first_build();
  const uint id = (uint)get_local_id(0);
  ring_t ring = make_ring(tile_rows, 0);
  for (int e = (int)id; e <= num_experts; e += LOCAL) offsets[e] = tile_offsets[e];
  if (id == 0) init_barriers(&ring);
  barrier(CLK_LOCAL_MEM_FENCE);

  task_t task;
  task.slot_token = slot_token;
  task.expert_offsets = expert_offsets;
  task.queue = queue;
  task.offsets = offsets;
  task.announced = announced;
  task.next = next;
  task.k = k;
  task.n = n;
  task.scales = (ulong)a + input_scales;
  task.steps = STEPS_OF(k);
  task.packed_tiles = (uint)((n + COLUMNS - 1) / COLUMNS);
  task.column_tiles = (task.packed_tiles + PACKED_TILES - 1) / PACKED_TILES;
  task.tiles = (uint)offsets[num_experts] * task.column_tiles;
  task.first = (uint)get_group_id(0);
  task.teams = (uint)get_num_groups(0);
  task.num_experts = num_experts;
  if (id < PRODUCERS) {
    asm volatile("//@setmaxnreg.dec.sync.aligned.u32 40;");
    produce(ring, &task, (ulong)a, (ulong)w, 0, id);
  } else {
    asm volatile("//@setmaxnreg.inc.sync.aligned.u32 232;");
    consume(ring, &task, w, bias, out, id - PRODUCERS);
  }
}
#endif
