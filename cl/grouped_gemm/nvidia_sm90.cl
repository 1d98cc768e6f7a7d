// SPDX-License-Identifier: MIT
/* The grouped GEMM for Hopper: wgmma, fed by bulk copies and asynchronous row
 * gathers through a ring of shared-memory stages, by persistent work-groups.
 *
 * moecl-ptx-target: sm_90a
 *
 * Defines: WEIGHTS fp16, bf16, or fp32 that is multiplied as tf32 (weights rounded,
 * rows cut off); OUTPUT, ACTIVATION, GATED, BIAS, GATHER; TALL. Input and biases are of
 * the weights' element; k and n are multiples of 8.
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
 * tile_offsets[e+1] - tile_offsets[e] tiles of at most tile_rows slots.
 *
 * What lies where. A row of a step is 128 bytes, whatever the data type: TILE_K
 * elements along K.
 *   a           [token row][k]; without GATHER [slot][k]
 *   w           [expert][packed tile][step][128 weight rows][128 bytes]
 *   out         [slot][n]
 *   pipeline    [stage][row][128 bytes]: a stage is PACKED_TILES times 128 weight rows
 *               and behind them tile_rows token rows, of one step; chunk c (16 bytes) of
 *               row r stands at c ^ (r & 7), as in w
 *   barriers    [stage][2], 8 bytes each: full, empty
 *   announced   [tile % ANNOUNCED]: expert, first slot, rows, column tile
 *   next        [tile % 2]: tile number
 *   c, d        [8 tokens' group][4]: a consumer's sums of its 64 weight rows of the
 *               first and (TALL) of the second packed tile; nvidia_wgmma.clh says of which
 *               rows and tokens */
#define DTYPE WEIGHTS
#include "common/types.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_wgmma.clh"

#define PACKED_TILES (TALL ? 2 : 1) /* of a tile here */
#define PIPELINE_BYTES 221184       /* 4 stages of 256 rows by 176 tokens, 10 of 128 by 16 */
#define MAX_STAGES 10
#define LOCAL 384
#define PRODUCERS 128
#define CONSUMER_WARPS 8
#define ANNOUNCED 16                    /* more than the stages, each of which may be a tile */
#define MAX_TOKENS (TALL ? 176 : 128)   /* of a tile */
#define MAX_ROWS_EACH (MAX_TOKENS / 16) /* of tokens, over 16 rows of producers */

/* A work-item's sums: groups of 8 tokens that follow each other. */
#define SUM_GROUPS (MAX_TOKENS / 8)
#define SUMS_APART 8
#include "grouped_gemm/nvidia_tiles.clh"
#include "grouped_gemm/nvidia_plain.clh"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* ---- the ring of stages ---- */

/* Producers and consumers walk the same stages, each with a state of its own. */
typedef struct ring_t {
  uint pipeline, barriers; /* addresses in shared memory */
  uint stages, stage_bytes;
  uint stage, phase; /* where the walker is; the parity of the round, 0 at first */
} ring_t;

ALWAYS_INLINE uint full_barrier(const ring_t *ring, uint stage) {
  return ring->barriers + 16 * stage;
}
ALWAYS_INLINE uint empty_barrier(const ring_t *ring, uint stage) {
  return ring->barriers + 16 * stage + 8;
}
ALWAYS_INLINE uint stage_address(const ring_t *ring) {
  return ring->pipeline + ring->stage * ring->stage_bytes;
}

ALWAYS_INLINE void wait_until_full(const ring_t *ring) {
  mbarrier_wait(full_barrier(ring, ring->stage), ring->phase);
}
/* In the first round every stage is: the phase before the first counts as complete. */
ALWAYS_INLINE void wait_until_empty(const ring_t *ring) {
  mbarrier_wait(empty_barrier(ring, ring->stage), ring->phase ^ 1);
}

ALWAYS_INLINE void next_stage(ring_t *ring) {
  if (++ring->stage == ring->stages) ring->stage = 0, ring->phase ^= 1;
}

/* Shared memory beyond what __local allows is declared in PTX; once, here. */
ALWAYS_INLINE ring_t make_ring(int tile_rows) {
  ring_t ring;
  asm volatile("//@.shared .align 1024 .b8 moecl_pipeline[221184];");
  asm volatile("//@.shared .align 16 .b8 moecl_barriers[160];");
  asm volatile("//@mov.u32 %0, moecl_pipeline;" : "=r"(ring.pipeline));
  asm volatile("//@mov.u32 %0, moecl_barriers;" : "=r"(ring.barriers));
  ring.stage_bytes = PACKED_TILES * WEIGHT_BYTES + (uint)tile_rows * ROW_BYTES;
  ring.stages = min((uint)(PIPELINE_BYTES / ring.stage_bytes), (uint)MAX_STAGES);
  ring.stage = ring.phase = 0;
  return ring;
}

/* By one work-item; the others wait for it. */
ALWAYS_INLINE void init_barriers(const ring_t *ring) {
  for (uint s = 0; s < ring->stages; s++) {
    mbarrier_init(full_barrier(ring, s), 1 + PRODUCERS);
    mbarrier_init(empty_barrier(ring, s), CONSUMER_WARPS);
  }
  fence_barrier_init();
  fence_async_proxy();
}

/* ---- what both sides know ---- */

typedef struct task_t {
  const __global int *slot_token, *expert_offsets;
  __global int *queue;        /* tiles taken beyond the first of each; groups that are done */
  const __local int *offsets; /* tile_offsets */
  __local int4 *announced;    /* from the producer to the consumers */
  __local uint *next;         /* from producer 0 to the others */
  long k, n;
  uint steps;         /* of a tile */
  uint packed_tiles;  /* of an expert */
  uint column_tiles;  /* of an expert: tiles here, of PACKED_TILES */
  uint tiles, groups; /* of all experts; work-groups */
  int num_experts;
} task_t;

/* ---- producers ---- */

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

/* Tile number t, where there is one, and this producer's rows of it. */
ALWAYS_INLINE void find_work(tile_t *tile, int *row, const task_t *task, uint t, uint first) {
  if (t >= task->tiles) return;
  *tile = find_tile(t, task->offsets, task->expert_offsets, task->num_experts, task->column_tiles);
  find_rows(row, *tile, task->slot_token, first);
}

/* Bytes of a packed tile's step in which `columns` or fewer are there, in whole
 * groups of 16 rows; the rest of a stage is not written, nor is what it makes. */
static inline uint bytes_of_columns(long columns) {
  const uint there = (uint)clamp(columns, 0l, (long)COLUMNS);
  return (there * (WEIGHT_ROWS / COLUMNS) + 15) / 16 * 16 * ROW_BYTES;
}

/* A tile's weights in `w`: its step, and what there is of it. A second packed tile lies
 * behind all steps of the first. */
typedef struct weights_t {
  ulong at, second; /* the latter: bytes from one to the other */
  uint bytes, more; /* of the first and of the second */
} weights_t;

ALWAYS_INLINE weights_t find_weights(const __global element_t *w, tile_t tile, const task_t *task) {
  const uint packed_tile = tile.column_tile * PACKED_TILES;
  const long columns = task->n - (long)packed_tile * COLUMNS;
  weights_t weights;
  weights.at = (ulong)w +
               ((ulong)tile.expert * task->packed_tiles + packed_tile) * task->steps * WEIGHT_BYTES;
  weights.second = (ulong)task->steps * WEIGHT_BYTES;
  weights.bytes = bytes_of_columns(columns);
  weights.more = bytes_of_columns(columns - COLUMNS);
  return weights;
}

/* Starts the copies of a stage's weights; by one work-item. */
ALWAYS_INLINE void copy_weights(uint stage, uint full, const weights_t *weights) {
  const uint bytes = weights->bytes, more = weights->more;
  mbarrier_arrive_expect(full, bytes + (TALL ? more : 0));
  bulk_copy(stage, weights->at, bytes, full);
  if (TALL && more) bulk_copy(stage + WEIGHT_BYTES, weights->at + weights->second, more, full);
}

#define GATHER_ROW(i, row_at)                                                                      \
  ASYNC_COPY_ROW(to + i * 16 * ROW_BYTES, from + (ulong)(uint)row[i] * row_bytes, size, left,      \
                 row_at)

/* Starts this producer's copies of a stage's token rows: 16 bytes of every 16th row,
 * `row`, of `left` from its first one on; as many as the tile is wide. Beyond k `size` is 0. */
ALWAYS_INLINE void gather_rows(uint to, ulong from, const int *row, ulong row_bytes, uint size,
                               int left, uint width) {
  GATHER_ROW(0, 0);
  if (width > 16) {
    GATHER_ROW(1, 16);
    GATHER_ROW(2, 32);
    GATHER_ROW(3, 48);
  }
  if (width > 64) {
    GATHER_ROW(4, 64);
    GATHER_ROW(5, 80);
    GATHER_ROW(6, 96);
    GATHER_ROW(7, 112);
  }
#if TALL
  if (width > 128) {
    GATHER_ROW(8, 128);
    GATHER_ROW(9, 144);
    GATHER_ROW(10, 160);
  }
#endif
}

/* An empty stage is the consumers' sign to stop. */
ALWAYS_INLINE void send_end(const ring_t *ring, const task_t *task, uint count, uint id) {
  wait_until_empty(ring);
  if (id == 0) {
    task->announced[count % ANNOUNCED] = (int4)(0, 0, 0, 0);
    mbarrier_arrive_expect(full_barrier(ring, ring->stage), 0);
  }
  async_copies_arrive(full_barrier(ring, ring->stage));
  async_copies_wait();
}

/* All tiles of this work-group. The next one is taken from the queue behind a tile's
 * first copies and found behind its third's. */
ALWAYS_INLINE void produce(ring_t ring, const task_t *task, const __global element_t *a,
                           const __global element_t *w, uint id) {
  const uint first = id / 8, chunk = id % 8; /* of a stage's token rows; of a row */
  const uint place = PACKED_TILES * WEIGHT_BYTES + first * ROW_BYTES + ((chunk ^ (first & 7)) << 4);
  const ulong row_bytes = (ulong)task->k * ELEMENT_BYTES;
  tile_t tile, next_tile;
  int row[MAX_ROWS_EACH], next_row[MAX_ROWS_EACH];
  uint t = (uint)get_group_id(0), count = 0; /* tiles done */
  find_work(&tile, row, task, t, first);
  for (; t < task->tiles; count++) {
    weights_t weights = find_weights(w, tile, task);
    uint taken = 0;
    long k_left = task->k - chunk * CHUNK;
    ulong from = (ulong)a + chunk * 16;
    for (uint step = 0; step < task->steps; step++) {
      const uint full = full_barrier(&ring, ring.stage), stage = stage_address(&ring);
      wait_until_empty(&ring);
      if (id == 0) {
        if (step == 0)
          task->announced[count % ANNOUNCED] =
              (int4)(tile.expert, tile.first_slot, tile.rows, (int)tile.column_tile);
        copy_weights(stage, full, &weights);
      }
      gather_rows(stage + place, from, row, row_bytes, k_left > 0 ? 16 : 0, tile.rows - (int)first,
                  tile.width);
      async_copies_arrive(full);
      weights.at += WEIGHT_BYTES;
      from += ROW_BYTES;
      k_left -= TILE_K;
      next_stage(&ring);
      if (step == 0 && id == 0) taken = (uint)atomic_inc(task->queue);
      if (step == min(2u, task->steps - 1)) {
        if (id == 0) task->next[count % 2] = task->groups + taken;
        warpgroup_barrier(1);
        t = task->next[count % 2];
        find_work(&next_tile, next_row, task, t, first);
      }
    }
    tile = next_tile;
#pragma unroll
    for (uint i = 0; i < MAX_ROWS_EACH; i++) row[i] = next_row[i];
  }
  send_end(&ring, task, count, id);
  /* The last work-group to have taken its last tile leaves the queue as it was. */
  if (id == 0 && (uint)atomic_inc(task->queue + 1) == task->groups - 1)
    task->queue[0] = task->queue[1] = 0;
}

/* ---- consumers ---- */

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

/* The products of a tile, N tokens wide: a step of K a stage, the stage before
 * released when its products are done. A macro, for sums are registers by name. */
#define CONSUME(N, A_, B_, ADD)                                                                    \
  case N / 16:                                                                                     \
    for (uint step = 0; step < task->steps; step++) {                                              \
      wait_until_full(&ring);                                                                      \
      fence_async_proxy();                                                                         \
      const ulong wa = wgmma_operand(stage_address(&ring) + half_at);                              \
      const ulong wb = wgmma_operand(stage_address(&ring) + PACKED_TILES * WEIGHT_BYTES);          \
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

/* The tile that the producer announced with its first stage; of no rows: the end. */
ALWAYS_INLINE tile_t read_announced(const task_t *task, uint count) {
  const int4 what = task->announced[count % ANNOUNCED];
  tile_t tile;
  tile.expert = what.x;
  tile.first_slot = what.y;
  tile.rows = what.z;
  tile.width = (uint)(what.z + 15) / 16 * 16;
  tile.column_tile = (uint)what.w;
  return tile;
}

/* All tiles of this work-group; `id` from 0 on in the two warpgroups. */
ALWAYS_INLINE void consume(ring_t ring, const task_t *task, const __global storage_t *bias,
                           __global output_t *out, uint id) {
  const uint lane = id % 32, half_index = id / 128; /* 64 of every 128 weight rows */
  const uint half_at = half_index * (WEIGHT_BYTES / 2);
  const uint row = half_index * 64 + id / 32 % 4 * 16 + lane / 4;
  uint previous = 0; /* the stage before */
  for (uint count = 0;; count++) {
    wait_until_full(&ring);
    const tile_t tile = read_announced(task, count);
    if (tile.rows == 0) break;
    float c[4 * SUM_GROUPS];
#if TALL
    float d[4 * SUM_GROUPS];
    switch (tile.width / 16) { WGMMA_FOR_ALL_WIDTHS(CONSUME) WGMMA_FOR_WIDER(CONSUME) }
#else
    switch (tile.width / 16) { WGMMA_FOR_ALL_WIDTHS(CONSUME) }
#endif
    if (lane == 0) mbarrier_arrive(empty_barrier(&ring, previous));
    store_tile(out, bias, tile, tile.column_tile * PACKED_TILES, c, task->n, lane, row, 0);
#if TALL
    store_tile(out, bias, tile, tile.column_tile * PACKED_TILES + 1, d, task->n, lane, row, 0);
#endif
  }
}

/* ---- the kernel ---- */

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global element_t *a, const __global int *slot_token,
     const __global int *expert_offsets, const __global int *tile_offsets,
     const __global element_t *w, const __global storage_t *bias, __global output_t *out,
     __global int *queue, long k, long n, int num_experts, int tile_rows) {
  __local int offsets[MAX_EXPERTS + 1];
  __local int4 announced[ANNOUNCED];
  __local uint next[2];
  const uint id = (uint)get_local_id(0);
  ring_t ring = make_ring(tile_rows);
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
  task.steps = (uint)((k + TILE_K - 1) / TILE_K);
  task.packed_tiles = (uint)((n + COLUMNS - 1) / COLUMNS);
  task.column_tiles = (task.packed_tiles + PACKED_TILES - 1) / PACKED_TILES;
  task.tiles = (uint)offsets[num_experts] * task.column_tiles;
  task.groups = (uint)get_num_groups(0);
  task.num_experts = num_experts;
  if (id < PRODUCERS) {
    asm volatile("//@setmaxnreg.dec.sync.aligned.u32 88;");
    produce(ring, &task, a, w, id);
  } else {
    asm volatile("//@setmaxnreg.inc.sync.aligned.u32 208;");
    consume(ring, &task, bias, out, id - PRODUCERS);
  }
}
