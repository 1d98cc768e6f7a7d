// SPDX-License-Identifier: MIT
/* The grouped GEMM over weights of 8 and 4 bits with scales, for NVIDIA GPUs since Ampere:
 * mma.sync on activations of 16 bits, codes decoded in registers. What it is made for is few tokens
 * an expert, where reading weights is all the work.
 *
 * Defines: WEIGHTS and those of common/quantized.clh; INPUT fp16 or bf16, which biases and a 16-bit
 * output are too; OUTPUT, ACTIVATION, GATED, BIAS, GATHER; TILE_M, the most tokens of a tile, a
 * multiple of 16. k and n are multiples of 8.
 *
 * Which operand is which. Weights are A (16 rows an instruction), tokens B (8 columns), as in
 * nvidia_sm80.cl, whose order along K this one shares (grouped_gemm/nvidia_fragments.clh). A tile
 * is one packed tile, 128 weight rows, by up to TILE_M of an expert's tokens.
 *
 * Who does what. Four warps: each has 32 weight rows, and all tokens. Work-groups are small, so
 * that a multiprocessor has several: local memory of one ends at 48 KiB, but what is in flight is
 * what all of them have.
 *
 * Stages of 64 elements along K lie in a ring in local memory: codes, each lane's own, scales and
 * tokens. Everything is fetched STAGES - 1 stages before its products, also from one tile to the
 * next, so weights stream on behind a tile's last products. A tile has at least STAGES stages,
 * those beyond the last being empty.
 *
 * Work-groups take tiles from a queue. Which of them makes a tile changes nothing in it. */
#define DTYPE INPUT
#include "common/types.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_mma.clh"

/* A work-item's sums: groups of 8 tokens that follow each other. */
#define SUM_GROUPS (TILE_M / 8)
#define SUMS_APART 8
#include "grouped_gemm/nvidia_tiles.clh"
#include "grouped_gemm/nvidia_fragments.clh"
#if PARTS & PART_FEW_TOKENS
#include "grouped_gemm/nvidia_few_fragments.clh"
#endif

#define LOCAL 128
#define UNITS (2 * BLOCK_UNITS) /* of a lane and a stage: two blocks' */
#define TOKENS_AT (CODES_BYTES + SCALES_BYTES)
#define HALF_BYTES (TILE_M * 64) /* of a stage's tokens: 32 elements each */
#define STAGE_BYTES (TOKENS_AT + 2 * HALF_BYTES)
#if CODE_BITS == 4 && TILE_M <= 32
#define STAGES 4
#define wait_for_stage() asm volatile("cp.async.wait_group 2;" ::: "memory")
#else
#define STAGES 3
#define wait_for_stage() asm volatile("cp.async.wait_group 1;" ::: "memory")
#endif
#define ROWS_EACH ((TILE_M + 31) / 32) /* tokens over 32 rows of 4 work-items */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* What stays the same over all tiles. Addresses are this work-item's. */
typedef struct task_t {
  ulong tokens, weights; /* its chunk of row 0; its first unit of tile 0 */
  ulong tile_bytes;
  uint stages; /* where they begin in local memory */
  const __global int *slot_token, *expert_offsets;
  const __local int *tile_offsets;
  __global int *queue;
  __local uint *next; /* two: tile numbers, from work-item 0 to the others */
  long k, k_there;    /* the latter: elements of a row from the work-item's chunk on */
  uint steps;         /* of k, in pairs */
  uint rounded;       /* a tile's, with the empty ones */
  uint column_tiles, tiles, id;
  int num_experts;
} task_t;

/* What is fetched next: `step` of tile number t, into `stage`. */
typedef struct cursor_t {
  tile_t tile;
  uint t, step, stage, count; /* count: tiles so far */
  ulong weights, from[ROWS_EACH];
} cursor_t;

/* On to the tile that work-item 0 took from the queue when the one before began,
 * some barriers ago. */
ALWAYS_INLINE void next_tile(cursor_t *at, const task_t *task) {
  at->t = task->next[at->count++ % 2];
  at->step = 0;
  if (at->t >= task->tiles) return;
  uint taken = 0;
  if (task->id == 0) taken = (uint)atomic_inc(task->queue);
  at->tile = find_tile(at->t, task->tile_offsets, task->expert_offsets, task->num_experts,
                       task->column_tiles);
  const ulong packed = (ulong)at->tile.expert * task->column_tiles + at->tile.column_tile;
  at->weights = task->weights + packed * task->tile_bytes;
#pragma unroll
  for (int i = 0; i < ROWS_EACH; i++) {
    const int r = (int)(task->id / 4) + 32 * i;
    int row = at->tile.first_slot + (r < at->tile.rows ? r : 0);
#if GATHER
    row = task->slot_token[row];
#endif
    at->from[i] = task->tokens + (ulong)(uint)row * (ulong)task->k * 2;
  }
  if (task->id == 0) task->next[at->count % 2] = (uint)get_num_groups(0) + taken;
}

/* A stage's codes, and scales where they are the stage's or the pair's; by each work-item those
 * that it needs, and some of the scales. */
ALWAYS_INLINE void fetch_weights(cursor_t *at, const task_t *task, uint to) {
  const uint odd = at->step % 2, lane_at = task->id / 32 * (2 * BLOCK_BYTES) + task->id % 32 * 16;
  const ulong from = at->weights + odd * CODES_BYTES;
#pragma unroll
  for (uint i = 0; i < UNITS; i++) async_copy_ahead(to + lane_at + i * 512, from + i * 512);
#if BLOCK
  if ((SCALED_STAGES == 2 || !odd) && task->id < SCALES_BYTES / 16)
    async_copy_ahead(to + CODES_BYTES + task->id * 16,
                     at->weights - lane_at + 2 * CODES_BYTES +
                         (SCALED_STAGES == 2 ? odd * SCALES_BYTES : 0) + task->id * 16);
#endif
  if (odd) at->weights += PAIR_BYTES;
}

/* Fetches the cursor's step, zeros for tokens beyond k, and moves the cursor on. */
ALWAYS_INLINE void fetch(cursor_t *at, const task_t *task) {
  if (at->t < task->tiles && at->step < task->steps) {
    const uint stage = task->stages + at->stage * STAGE_BYTES;
    fetch_weights(at, task, stage);
    const uint to = stage + TOKENS_AT + task->id * 16;
    const long there = task->k_there - (long)at->step * STAGE_K;
    const uint size = there > 0 ? 16 : 0, second = there > 32 ? 16 : 0;
    const int left = at->tile.rows - (int)(task->id / 4);
    ASYNC_COPY_ROW(to, at->from[0], size, left, 0);
    ASYNC_COPY_ROW(to + HALF_BYTES, at->from[0] + 64, second, left, 0);
    at->from[0] += STAGE_K * 2;
#if ROWS_EACH > 1
    ASYNC_COPY_ROW(to + 32 * 64, at->from[1], size, left, 32);
    ASYNC_COPY_ROW(to + 32 * 64 + HALF_BYTES, at->from[1] + 64, second, left, 32);
    at->from[1] += STAGE_K * 2;
#endif
  }
  async_copies_commit();
  at->step++;
  at->stage = at->stage + 1 == STAGES ? 0 : at->stage + 1;
}

/* A block's scales of a stage, in local memory. */
ALWAYS_INLINE scales_t read_scales(const __local uchar *stage, uint block, uint lane) {
  uint words[LANE_WORDS + 1];
  const __local uint *from =
      (const __local uint *)(stage + CODES_BYTES) + lane_scales_at(block, lane);
#pragma unroll
  for (int i = 0; i < LANE_WORDS; i++) words[i] = from[i];
  return decode_scales(words);
}

/* A block's operands of a stage. */
ALWAYS_INLINE void read_block(uint *a, const __local uchar *stage, uint block, uint lane,
                              const scales_t *scales) {
  uint4 units[BLOCK_UNITS];
  const __local uint4 *from = (const __local uint4 *)(stage + block * BLOCK_BYTES) + lane;
#pragma unroll
  for (int i = 0; i < BLOCK_UNITS; i++) units[i] = from[i * 32];
  decode_block(a, units, scales);
}

#if PARTS & PART_GEMM
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global ushort *a, const __global int *slot_token, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global uint *w, const __global storage_t *bias,
     __global output_t *out, __global int *queue, long k, long n, int num_experts, int tile_rows) {
  __local int offsets[MAX_EXPERTS + 1];
  __local uint4 stages[STAGES * STAGE_BYTES / 16];
  __local uint next[2];
  const uint id = (uint)get_local_id(0), lane = id % 32, warp = id / 32;
  for (int e = (int)id; e <= num_experts; e += LOCAL) offsets[e] = tile_offsets[e];
  if (id == 0) next[0] = (uint)get_group_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);

  const uint pairs = (uint)((k + PAIR_K - 1) / PAIR_K);
  task_t task;
  task.tokens = (ulong)a + id % 4 * 16;
  task.weights = (ulong)w + warp * (2 * BLOCK_BYTES) + lane * 16;
  task.tile_bytes = TILE_BYTES(pairs);
  task.stages = (uint)(size_t)stages;
  task.slot_token = slot_token;
  task.expert_offsets = expert_offsets;
  task.tile_offsets = offsets;
  task.queue = queue;
  task.next = next;
  task.k = k;
  task.k_there = k - id % 4 * 8;
  task.steps = 2 * pairs;
  task.rounded = max(task.steps, (uint)STAGES);
  task.column_tiles = (uint)((n + COLUMNS - 1) / COLUMNS);
  task.tiles = (uint)offsets[num_experts] * task.column_tiles;
  task.id = id;
  task.num_experts = num_experts;

  cursor_t at;
  at.count = at.stage = 0;
  next_tile(&at, &task);
  for (uint i = 0; i < STAGES - 1; i++) fetch(&at, &task);
  uint slot = 0; /* the stage that is multiplied */
  while (at.t < task.tiles) {
    const tile_t tile = at.tile; /* the cursor is STAGES - 1 steps into it */
    const int groups = (tile.rows + 7) / 8;
    float c[4 * SUM_GROUPS], d[4 * SUM_GROUPS]; /* of the warp's first and second block */
    scales_t first, second;
#pragma unroll
    for (int i = 0; i < 4 * SUM_GROUPS; i++) c[i] = d[i] = 0.0f;
    for (uint step = 0; step < task.rounded; step++) {
      wait_for_stage();
      barrier(CLK_LOCAL_MEM_FENCE); /* this stage is full, and the one before it empty */
      fetch(&at, &task);
      if (at.step == task.rounded) next_tile(&at, &task);
      if (step < task.steps) {
        const __local uchar *stage = (const __local uchar *)stages + slot * STAGE_BYTES;
        const __local uint4 *x = (const __local uint4 *)(stage + TOKENS_AT) + lane;
        uint p[16], q[16];
        if (SCALED_STAGES == 2 || step % 2 == 0) {
          first = read_scales(stage, 2 * warp, lane);
          second = read_scales(stage, 2 * warp + 1, lane);
        }
        read_block(p, stage, 2 * warp, lane, &first);
        read_block(q, stage, 2 * warp + 1, lane, &second);
#pragma unroll
        for (int j = 0; j < SUM_GROUPS; j++) {
          if (j >= groups) continue;
          const uint4 low = x[j * 32], high = x[j * 32 + HALF_BYTES / 16];
          multiply_block(c + 4 * j, p, low, high, &first);
          multiply_block(d + 4 * j, q, low, high, &second);
        }
      }
      slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    const __global uchar *packed =
        (const __global uchar *)w +
        ((ulong)tile.expert * task.column_tiles + tile.column_tile) * task.tile_bytes;
    finish(out, bias, tile, tile.column_tile, packed, pairs, c, n, lane, warp * 32 + lane / 4);
    finish(out, bias, tile, tile.column_tile, packed, pairs, d, n, lane, warp * 32 + 16 + lane / 4);
  }
  /* The last work-group to have taken its last tile leaves the queue as it was. */
  if (id == 0 && (uint)atomic_inc(queue + 1) == (uint)get_num_groups(0) - 1)
    queue[0] = queue[1] = 0;
}
#endif
