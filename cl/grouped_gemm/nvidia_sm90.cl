// SPDX-License-Identifier: MIT
/* The grouped GEMM for Hopper: wgmma, fed by bulk copies and asynchronous row
 * gathers through a ring of shared-memory stages, by persistent work-groups.
 *
 * moecl-ptx-target: sm_90a
 *
 * Defines: WEIGHTS fp16, bf16, or fp32 that is multiplied as tf32 (weights rounded,
 * rows cut off); OUTPUT, ACTIVATION, GATED, BIAS, GATHER, SCATTER (not GATED); TALL. Input and
 * biases are of the weights' element; k and n are multiples of 8.
 *
 * Which operand is which. Weights are wgmma's A (64 rows an instruction), the
 * tokens its B, whose number of columns can be any multiple of 8. So a tile is
 * 128 weight rows by as many tokens as the expert has, up to 128, or 256 rows by
 * up to 176 (TALL), rounded up to 16: ragged loads waste little. TALL serves many
 * tokens an expert: what limits it is reading both operands from L2, and the
 * larger the tile, the less is read; 176 is what registers hold. The other serves
 * few: twice as many tiles share out better. D comes out as [weight row][token] and is turned by
 * the choice of which weight row stands where (PLACE).
 *
 * Who does what. Work-items 0..127 (one warpgroup) produce, two warpgroups consume, 64 rows of
 * every 128 (grouped_gemm/nvidia_ring.clh). Registers move from producer to consumers: a
 * multiprocessor gives 168 to each work-item at the start, so the three warpgroups' shares must
 * add up to 504 (setmaxnreg waits for ever for what isn't there).
 *
 * Expert e owns slots expert_offsets[e] .. expert_offsets[e+1]-1, in
 * tile_offsets[e+1] - tile_offsets[e] tiles of at most tile_rows slots.
 *
 * What lies where. A row of a step is 128 bytes, whatever the data type: TILE_K
 * elements along K.
 *   a           [token row][k]; without GATHER [slot][k]
 *   w           [expert][packed tile][step][128 weight rows][128 bytes]
 *   out         [slot][n]; with SCATTER where grouped_gemm/places.clh says
 *   pipeline    a stage is PACKED_TILES times 128 weight rows and behind them tile_rows token
 *               rows, of one step; chunks swizzled in both
 *   c, d        [8 tokens' group][4]: a consumer's sums of its 64 weight rows of the
 *               first and (TALL) of the second packed tile, or of one (GATED_TALL);
 *               nvidia_wgmma.clh says of which rows and tokens */
#define DTYPE WEIGHTS
#include "common/types.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_wgmma.clh"

#define PACKED_TILES (TALL ? 2 : 1) /* of a tile here */
#define MAX_STAGES 10               /* of 128 rows by 16 tokens; 4 of 256 by 176 fit */
#define LOCAL 384
#define PRODUCERS 128
#define CONSUMER_WARPS 8
#define MAX_TOKENS (TALL ? 176 : 128) /* of a tile */
#define TOKEN_ROWS 1
/* Warpgroups have half of each packed tile, or, for how they are stored, one of two: every other 8
 * rows of it in c, and those between in d (nvidia_gated_tall.clh). Bytes of a stage. */
#define GATED_TALL (TALL && GATED && OUTPUT != ELEMENT_F32)
#define GROUPS_APART (GATED_TALL ? 2048 : 1024) /* from 8 rows to the next 8 of a set of sums */
#define SECOND_AT (GATED_TALL ? 1024 : WEIGHT_BYTES)           /* d's rows, from c's */
#define HALF_AT (GATED_TALL ? WEIGHT_BYTES : WEIGHT_BYTES / 2) /* the second warpgroup's */

/* A work-item's sums: groups of 8 tokens that follow each other. */
#define SUM_GROUPS (MAX_TOKENS / 8)
#define SUMS_APART 8
#include "grouped_gemm/nvidia_tiles.clh"
#include "grouped_gemm/nvidia_plain.clh"
#define TILE_BYTES(steps) ((ulong)(steps)*WEIGHT_BYTES)

/* Bytes of a packed tile's step in which `columns` or fewer are there, in whole
 * groups of 16 rows; the rest of a stage is not written, nor is what it makes. */
static inline uint bytes_of_columns(long columns) {
  const uint there = (uint)clamp(columns, 0l, (long)COLUMNS);
  return (there * (WEIGHT_ROWS / COLUMNS) + 15) / 16 * 16 * ROW_BYTES;
}

#include "grouped_gemm/nvidia_ring.clh"
#if GATED_TALL
#include "grouped_gemm/nvidia_gated_tall.clh"
#endif
#include "grouped_gemm/places.clh"
#if SCATTER
#include "grouped_gemm/nvidia_scatter.clh"
typedef const places_t *target_t;
#else
typedef __global output_t *target_t;
#endif

/* ---- consumers ---- */

/* A step of K: the products of 64 rows by N tokens. */
#define MULTIPLY(N, sums, A_, B_, ADD, wa, wb) WGMMA_FOUR(N, sums, A_, B_, ADD, wa, wb, step)
#if TALL
#define MULTIPLY_ALL(N, A_, B_, ADD, wa, wb)                                                       \
  MULTIPLY(N, c, A_, B_, ADD, wa, wb);                                                             \
  MULTIPLY(N, d, A_, B_, ADD, (wa) + (SECOND_AT >> 4), wb)
#define WAIT_ALL(N)                                                                                \
  WGMMA_WAIT(N, c);                                                                                \
  WGMMA_WAIT(N, d)
#else
#define MULTIPLY_ALL(N, A_, B_, ADD, wa, wb) MULTIPLY(N, c, A_, B_, ADD, wa, wb)
#define WAIT_ALL(N) WGMMA_WAIT(N, c)
#endif

/* The products of a tile, N tokens wide: a step of K a stage, the stage before
 * released when its products are done. A macro, for sums are registers by name. */
#define CONSUME(N, A_, B_, ADD)                                                                    \
  case N / 16:                                                                                     \
    for (uint step = 0; step < task->steps; step++) {                                              \
      wait_until_full(&ring);                                                                      \
      fence_async_proxy();                                                                         \
      const ulong wa = wgmma_operand_apart(stage_address(&ring) + half_at, GROUPS_APART);          \
      const ulong wb = wgmma_operand(stage_address(&ring) + TOKENS_AT);                            \
      wgmma_begin();                                                                               \
      MULTIPLY_ALL(N, A_, B_, ADD, wa, wb);                                                        \
      wgmma_commit();                                                                              \
      wgmma_wait_but_one();                                                                        \
      if (step && lane == 0) mbarrier_arrive(empty_barrier(&ring, previous));                      \
      previous = ring.stage;                                                                       \
      next_stage(&ring);                                                                           \
    }                                                                                              \
    WAIT_ALL(N);                                                                                   \
    break;

/* All tiles of this work-group; `id` from 0 on in the two warpgroups. */
ALWAYS_INLINE void consume(ring_t ring, const task_t *task, const __global storage_t *bias,
                           target_t out, uint id) {
  const uint lane = id % 32, half_index = id / 128; /* 64 of every 128 weight rows */
  const uint half_at = half_index * HALF_AT;
  const uint row = (GATED_TALL ? id / 32 % 4 * 32 : half_index * 64 + id / 32 % 4 * 16) + lane / 4;
  uint previous = 0; /* the stage before */
  for (uint count = 0;; count++) {
    wait_until_full(&ring);
    const tile_t tile = read_announced(task, count);
    if (tile.rows == 0) break;
#if SCATTER
    fetch_numbers(out, tile, id % 128);
#endif
    float c[4 * SUM_GROUPS];
#if TALL
    float d[4 * SUM_GROUPS];
    switch (tile.width / 16) { WGMMA_FOR_ALL_WIDTHS(CONSUME) WGMMA_FOR_WIDER(CONSUME) }
#else
    switch (tile.width / 16) { WGMMA_FOR_ALL_WIDTHS(CONSUME) }
#endif
    if (lane == 0) mbarrier_arrive(empty_barrier(&ring, previous));
#if SCATTER
    const long first =
        (long)tile.column_tile * PACKED_TILES * COLUMNS + half_index * STAGED_COLUMNS;
    async_copies_wait();
    store_scattered(out, bias, tile, first, c, task->n, id % 128, 2 + half_index);
#if TALL
    store_scattered(out, bias, tile, first + COLUMNS, d, task->n, id % 128, 2 + half_index);
#endif
#elif GATED_TALL
    store_gated_tall(out, bias, tile, tile.column_tile * PACKED_TILES + half_index, c, d, task->n,
                     lane, row);
#else
    store_tile(out, bias, tile, tile.column_tile * PACKED_TILES, c, task->n, lane, row, 0);
#if TALL
    store_tile(out, bias, tile, tile.column_tile * PACKED_TILES + 1, d, task->n, lane, row, 0);
#endif
#endif
  }
}

/* ---- the kernel ---- */

#if PARTS & PART_GEMM
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global element_t *a, const __global int *slot_token,
     const __global int *expert_offsets, const __global int *tile_offsets,
     const __global element_t *w, const __global storage_t *bias, __global output_t *out,
     __global int *queue, long k, long n, int num_experts,
     int tile_rows PLACES_ARGUMENTS(output_t)) {
  __local int offsets[MAX_EXPERTS + 1];
  __local int4 announced[ANNOUNCED];
  __local uint next[2];
#if SCATTER
  __local uint4 staged[2][STAGED_BYTES / 16]; /* of each warpgroup that consumes, as the numbers */
  __local int numbers[2][MAX_TOKENS];
  __local ulong bases[PLACES];
#endif
  end_first_build();
  const uint id = (uint)get_local_id(0);
  ring_t ring = make_ring(tile_rows, 0);
  for (int e = (int)id; e <= num_experts; e += LOCAL) offsets[e] = tile_offsets[e];
  if (id == 0) init_barriers(&ring);
#if SCATTER
  if (id == 0)
    find_bases(bases, (ulong)n * sizeof(output_t), (ulong)out, (ulong)to_1, (ulong)to_2,
               (ulong)to_3, (ulong)to_4, (ulong)to_5, (ulong)to_6, (ulong)to_7, shifts);
#endif
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
  task.steps = (uint)((k + TILE_K - 1) / TILE_K);
  task.packed_tiles = (uint)((n + COLUMNS - 1) / COLUMNS);
  task.column_tiles = (task.packed_tiles + PACKED_TILES - 1) / PACKED_TILES;
  task.tiles = (uint)offsets[num_experts] * task.column_tiles;
  task.first = (uint)get_group_id(0);
  task.teams = (uint)get_num_groups(0);
  task.num_experts = num_experts;
  if (id < PRODUCERS) {
    asm volatile("//@setmaxnreg.dec.sync.aligned.u32 88;");
    produce(ring, &task, (ulong)a, (ulong)w, 0, id);
  } else {
    asm volatile("//@setmaxnreg.inc.sync.aligned.u32 208;");
#if SCATTER
    const uint half_index = (id - PRODUCERS) / 128;
    places_t places;
    places.slot_place = slot_place;
    places.numbers = numbers[half_index];
    places.bases = bases;
    places.staged = (uint)(size_t)staged[half_index];
    places.numbers_at = (uint)(size_t)numbers[half_index];
    places.ends = ends;
    consume(ring, &task, bias, &places, id - PRODUCERS);
#else
    consume(ring, &task, bias, out, id - PRODUCERS);
#endif
  }
}
#endif
