// SPDX-License-Identifier: MIT
/* The grouped GEMM for Hopper: wgmma, fed by bulk copies and asynchronous row
 * gathers through a ring of shared-memory stages, by persistent work-groups.
 *
 * moecl-ptx-target: sm_90a
 *
 * Defines: DTYPE 1, 2, or 0 for fp32 that is multiplied as tf32 (weights rounded,
 * rows cut off); ACTIVATION, GATED, BIAS, GATHER, OUTPUT_F32; TALL. The input is in
 * the storage type; k and n are multiples of 8.
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
 * Who does what. Work-items 0..127 (one warpgroup) produce: number 0 starts
 * the bulk copies of a stage's weights, all of them gather its token rows by 16
 * bytes each. Two warpgroups consume, 64 rows of every 128. A stage is full
 * when its bytes and 128 producers have arrived, and empty again when the eight
 * consumer warps have. Registers move from producer to consumers: a multiprocessor
 * gives 168 to each work-item at the start, so the three warpgroups' shares must
 * add up to 504 (setmaxnreg waits for ever for what isn't there).
 *
 * Work-groups take tiles from a queue, so those that share weights start at about
 * the same time and find them in L2, and none is left with more than one tile at
 * the end. Which of them makes a tile changes nothing in it.
 *
 * Expert e owns slots expert_offsets[e] .. expert_offsets[e+1]-1, in
 * tile_offsets[e+1] - tile_offsets[e] tiles of at most tile_rows slots. */
#include "common/types.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_wgmma.clh"

#define PACKED_TILES (TALL ? 2 : 1) /* of a tile here */
#define PIPELINE_BYTES 221184       /* 4 stages of 256 rows by 176 tokens, 10 of 128 by 16 */
#define MAX_STAGES 10
#define PRODUCERS 128
#define CONSUMER_WARPS 8
#define ANNOUNCED 16                    /* more than the stages, each of which may be a tile */
#define MAX_TOKENS (TALL ? 176 : 128)   /* of a tile */
#define MAX_ROWS_EACH (MAX_TOKENS / 16) /* of tokens, over 16 rows of producers */

/* A work-item's sums: groups of 8 tokens that follow each other. */
#define SUM_GROUPS (MAX_TOKENS / 8)
#define SUMS_APART 8
#include "grouped_gemm/nvidia_tiles.clh"

/* ---- the kernel ---- */

/* A step of K: the products of 64 rows by N tokens. */
#define MULTIPLY(N, sums, A_, B_, ADD, wa, wb)                                                     \
  WGMMA(N, sums, A_, B_, ADD, wa, wb, step);                                                       \
  WGMMA(N, sums, A_, B_, ADD, (wa) + 2, (wb) + 2, 1);                                              \
  WGMMA(N, sums, A_, B_, ADD, (wa) + 4, (wb) + 4, 1);                                              \
  WGMMA(N, sums, A_, B_, ADD, (wa) + 6, (wb) + 6, 1)
#if TALL
#define MULTIPLY_ALL(N, A_, B_, ADD, wa, wb)                                                       \
  MULTIPLY(N, c, A_, B_, ADD, wa, wb);                                                             \
  MULTIPLY(N, d, A_, B_, ADD, (wa) + (WEIGHT_BYTES >> 4), wb)
#define WAIT_ALL(N)                                                                                \
  WGMMA_WAIT(N, c);                                                                                \
  WGMMA_WAIT(N, d)
#else
#define MULTIPLY_ALL(N, A_, B_, ADD, wa, wb) MULTIPLY(N, c, A_, B_, ADD, wa, wb)
#define WAIT_ALL(N) WGMMA_WAIT(N, c)
#endif

/* One consumer's products of a tile, N tokens wide: a step of K a stage, the
 * stage before released when its products are done. */
#define CONSUME(N, A_, B_, ADD)                                                                    \
  case N / 16:                                                                                     \
    for (uint step = 0; step < steps; step++) {                                                    \
      mbarrier_wait(barriers + 16 * slot, phase);                                                  \
      fence_async_proxy();                                                                         \
      const uint stage = pipeline + slot * stage_bytes;                                            \
      const ulong wa = wgmma_operand(stage + half_at);                                             \
      const ulong wb = wgmma_operand(stage + PACKED_TILES * WEIGHT_BYTES);                         \
      wgmma_begin();                                                                               \
      MULTIPLY_ALL(N, A_, B_, ADD, wa, wb);                                                        \
      wgmma_commit();                                                                              \
      wgmma_wait_but_one();                                                                        \
      if (step && lane == 0) mbarrier_arrive(barriers + 16 * previous + 8);                        \
      previous = slot;                                                                             \
      if (++slot == stages) slot = 0, phase ^= 1;                                                  \
    }                                                                                              \
    WAIT_ALL(N);                                                                                   \
    break;

/* The token row (or slot) of every row this producer gathers in a tile. */
static inline void find_rows(int *row, tile_t tile, const __global int *slot_token, uint first) {
#pragma unroll
  for (uint i = 0; i < MAX_ROWS_EACH; i++) {
    const int r = (int)(first + 16 * i);
    const int slot = tile.first_slot + (r < tile.rows ? r : 0);
#if GATHER
    row[i] = slot_token[slot];
#else
    row[i] = slot;
#endif
  }
}

/* Bytes of a packed tile's step in which `columns` or fewer are there, in whole
 * groups of 16 rows; the rest of a stage is not written, nor is what it makes. */
static inline uint bytes_of_columns(long columns) {
  const uint there = (uint)clamp(columns, 0l, (long)COLUMNS);
  return (there * (WEIGHT_ROWS / COLUMNS) + 15) / 16 * 16 * 128;
}

#define GATHER_ROW(i, row_at)                                                                      \
  ASYNC_COPY_ROW(to + i * 2048, from + (ulong)(uint)row[i] * row_bytes, size, left, row_at)

__kernel __attribute__((reqd_work_group_size(384, 1, 1))) void
gemm(const __global element_t *a, const __global int *slot_token,
     const __global int *expert_offsets, const __global int *tile_offsets,
     const __global element_t *w, const __global storage_t *bias, __global output_t *out,
     __global int *queue, long k, long n, int num_experts, int tile_rows) {
  __local int offsets[MAX_EXPERTS + 1];
  __local int4 announced[ANNOUNCED]; /* tiles, from the producer to the consumers */
  __local uint next[2];              /* tile numbers, from producer 0 to the others */
  /* Shared memory beyond what __local allows: declared in PTX. */
  uint pipeline;
  asm volatile("//@.shared .align 1024 .b8 moecl_pipeline[221184];");
  asm volatile("//@.shared .align 16 .b8 moecl_barriers[160];");
  asm volatile("//@mov.u32 %0, moecl_pipeline;" : "=r"(pipeline));
  uint barriers; /* stage s: full at 16 s, empty at 16 s + 8 */
  asm volatile("//@mov.u32 %0, moecl_barriers;" : "=r"(barriers));

  const uint id = (uint)get_local_id(0);
  const uint stage_bytes = PACKED_TILES * WEIGHT_BYTES + (uint)tile_rows * 128;
  const uint stages = min((uint)(PIPELINE_BYTES / stage_bytes), (uint)MAX_STAGES);
  const uint steps = (uint)((k + TILE_K - 1) / TILE_K);
  const uint packed_tiles = (uint)((n + COLUMNS - 1) / COLUMNS); /* of an expert */
  const uint column_tiles = (packed_tiles + PACKED_TILES - 1) / PACKED_TILES;
  for (int e = (int)id; e <= num_experts; e += 384) offsets[e] = tile_offsets[e];
  if (id == 0) {
    for (uint s = 0; s < stages; s++) {
      mbarrier_init(barriers + 16 * s, 1 + PRODUCERS);
      mbarrier_init(barriers + 16 * s + 8, CONSUMER_WARPS);
    }
    fence_barrier_init();
    fence_async_proxy();
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  const uint tiles = (uint)offsets[num_experts] * column_tiles;
  const uint groups = (uint)get_num_groups(0);
  uint slot = 0, phase = 0, count = 0; /* tiles done */

  if (id < PRODUCERS) {
    asm volatile("//@setmaxnreg.dec.sync.aligned.u32 88;");
    const uint first = id / 8, chunk = id % 8;
    const ulong row_bytes = (ulong)k * ELEMENT_BYTES;
    const uint to_offset = PACKED_TILES * WEIGHT_BYTES + first * 128 + ((chunk ^ (first & 7)) << 4);
    tile_t tile, next_tile;
    int row[MAX_ROWS_EACH], next_row[MAX_ROWS_EACH];
    uint t = (uint)get_group_id(0);
    if (t < tiles) {
      tile = find_tile(t, offsets, expert_offsets, num_experts, column_tiles);
      find_rows(row, tile, slot_token, first);
    }
    for (; t < tiles; count++) {
      const uint packed_tile = tile.column_tile * PACKED_TILES;
      ulong weights =
          (ulong)w + ((ulong)tile.expert * packed_tiles + packed_tile) * steps * WEIGHT_BYTES;
      /* What there is of the weight rows; a second packed tile lies behind the
       * first one's steps. */
      const long columns = n - (long)packed_tile * COLUMNS;
      const uint bytes = bytes_of_columns(columns), more = bytes_of_columns(columns - COLUMNS);
      const int left = tile.rows - (int)first;
      uint taken = 0;
      long k_left = k - chunk * CHUNK;
      ulong from = (ulong)a + chunk * 16;
      for (uint step = 0; step < steps; step++) {
        const uint full = barriers + 16 * slot, stage = pipeline + slot * stage_bytes;
        mbarrier_wait(full + 8, phase ^ 1);
        if (id == 0) {
          if (step == 0)
            announced[count % ANNOUNCED] =
                (int4)(tile.expert, tile.first_slot, tile.rows, (int)tile.column_tile);
          mbarrier_arrive_expect(full, bytes + (TALL ? more : 0));
          bulk_copy(stage, weights, bytes, full);
          if (TALL && more)
            bulk_copy(stage + WEIGHT_BYTES, weights + (ulong)steps * WEIGHT_BYTES, more, full);
        }
        weights += WEIGHT_BYTES;
        const uint to = stage + to_offset, size = k_left > 0 ? 16 : 0;
        GATHER_ROW(0, 0);
        if (tile.width > 16) {
          GATHER_ROW(1, 16);
          GATHER_ROW(2, 32);
          GATHER_ROW(3, 48);
        }
        if (tile.width > 64) {
          GATHER_ROW(4, 64);
          GATHER_ROW(5, 80);
          GATHER_ROW(6, 96);
          GATHER_ROW(7, 112);
        }
#if TALL
        if (tile.width > 128) {
          GATHER_ROW(8, 128);
          GATHER_ROW(9, 144);
          GATHER_ROW(10, 160);
        }
#endif
        async_copies_arrive(full);
        from += ROW_BYTES;
        k_left -= TILE_K;
        if (++slot == stages) slot = 0, phase ^= 1;
        /* The next tile, behind this one's copies: work-groups take them in turn. */
        if (step == 0 && id == 0) taken = (uint)atomic_inc(queue);
        if (step == min(2u, steps - 1)) {
          if (id == 0) next[count % 2] = groups + taken;
          warpgroup_barrier(1);
          t = next[count % 2];
          if (t < tiles) {
            next_tile = find_tile(t, offsets, expert_offsets, num_experts, column_tiles);
            find_rows(next_row, next_tile, slot_token, first);
          }
        }
      }
      tile = next_tile;
#pragma unroll
      for (uint i = 0; i < MAX_ROWS_EACH; i++) row[i] = next_row[i];
    }
    /* A stage with nothing in it tells the consumers to stop. */
    mbarrier_wait(barriers + 16 * slot + 8, phase ^ 1);
    if (id == 0) {
      announced[count % ANNOUNCED] = (int4)(0, 0, 0, 0);
      mbarrier_arrive_expect(barriers + 16 * slot, 0);
    }
    async_copies_arrive(barriers + 16 * slot);
    async_copies_wait();
    /* The last work-group to have taken its last tile leaves the queue as it was. */
    if (id == 0 && (uint)atomic_inc(queue + 1) == groups - 1) queue[0] = queue[1] = 0;
  } else {
    asm volatile("//@setmaxnreg.inc.sync.aligned.u32 208;");
    const uint half_index = id / 128 - 1, half_at = half_index * (WEIGHT_BYTES / 2);
    const uint lane = id % 32, warp = id / 32 % 4;
    uint previous = 0;
    for (;; count++) {
      mbarrier_wait(barriers + 16 * slot, phase); /* the tile's first stage: it is announced */
      const int4 what = announced[count % ANNOUNCED];
      if (what.z == 0) break;
      tile_t tile;
      tile.expert = what.x;
      tile.first_slot = what.y;
      tile.rows = what.z;
      tile.width = (uint)(what.z + 15) / 16 * 16;
      tile.column_tile = (uint)what.w;
      float c[4 * SUM_GROUPS];
#if TALL
      float d[4 * SUM_GROUPS];
      switch (tile.width / 16) { WGMMA_FOR_ALL_WIDTHS(CONSUME) WGMMA_FOR_WIDER(CONSUME) }
#else
      switch (tile.width / 16) { WGMMA_FOR_ALL_WIDTHS(CONSUME) }
#endif
      if (lane == 0) mbarrier_arrive(barriers + 16 * previous + 8);
      const uint row = half_index * 64 + warp * 16 + lane / 4;
      store_tile(out, bias, tile, tile.column_tile * PACKED_TILES, c, n, lane, row, 0);
#if TALL
      store_tile(out, bias, tile, tile.column_tile * PACKED_TILES + 1, d, n, lane, row, 0);
#endif
    }
  }
}
