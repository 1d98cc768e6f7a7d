// SPDX-License-Identifier: MIT
/* The grouped GEMM for every NVIDIA GPU since Ampere: mma.sync, fed from a ring
 * of token stages in shared memory and a ring of weights in registers, by
 * persistent work-groups.
 *
 * Defines: WEIGHTS fp16 or bf16, OUTPUT, ACTIVATION, GATED, BIAS, GATHER. Input and
 * biases are of the weights' element; k and n are multiples of 8. TALL changes nothing.
 *
 * Which operand is which. Weights are A (16 rows an instruction), tokens B (8
 * columns). A tile is one packed tile, 128 weight rows, by up to 128 of an
 * expert's tokens, rounded up to 16.
 *
 * Who does what. Eight warps: warp w has weight rows 32 (w % 4) and on, and every
 * other 8 tokens, from 8 (w / 4) on. So weights are read by two warps only and go
 * straight into registers, which leaves the 48 KiB of shared memory to the tokens.
 *
 * Order along K. A sum does not ask in which order its products come, as long as
 * both operands have the same: lane 4g + q takes 16 bytes, 8 elements that lie
 * together, of rows g (and g+8) and of token g, where the instruction's layout
 * asks for four pairs apart. Its first four are one instruction's k = 2q, 2q+1,
 * 2q+8, 2q+9, its last four the next one's. Four lanes so take 32 elements: a
 * step. No ldmatrix is needed, nor a swizzle of the tokens: every 8 lanes read
 * 128 bytes that lie together.
 *
 * Steps. Everything is fetched STAGES - 1 steps before its products, also from
 * one tile to the next, so weights stream on behind a tile's last products. A
 * tile's steps are rounded up to a multiple of STAGES (which names registers),
 * those beyond the last being empty.
 *
 * Work-groups take tiles from a queue. Which of them makes a tile changes nothing
 * in it. Expert e owns slots expert_offsets[e] .. expert_offsets[e+1]-1, in
 * tile_offsets[e+1] - tile_offsets[e] tiles of at most tile_rows slots. */
#define DTYPE WEIGHTS
#include "common/types.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_mma.clh"

/* A work-item's sums: 8 groups of 8 tokens, every other of a tile's. */
#define SUM_GROUPS 8
#define SUMS_APART 16
#include "grouped_gemm/nvidia_tiles.clh"
#include "grouped_gemm/nvidia_plain.clh"

#define LOCAL 256
#define TOKENS 128 /* of a tile, at most */
#define STAGES 4
#define STEP_K 32                 /* elements along K in a step: 64 bytes a row */
#define STAGE_CHUNKS (TOKENS * 4) /* of 16 bytes */
#define ROWS_EACH 2               /* 128 tokens over 64 rows of 4 work-items */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* What stays the same over all tiles. Addresses are this work-item's. */
typedef struct task_t {
  ulong tokens, weights;      /* its chunk of row 0; its first row of tile 0 */
  uint even_chunk, odd_chunk; /* of the weight rows, in bytes: of even and odd steps */
  uint stage;                 /* its place in the first stage of shared memory */
  const __global int *slot_token, *expert_offsets;
  const __local int *tile_offsets;
  __global int *queue;
  __local uint *next; /* two: tile numbers, from work-item 0 to the others */
  long k, k_there;    /* the latter: elements of a row from the work-item's chunk on */
  uint steps, column_tiles, tiles, id;
  int num_experts;
} task_t;

/* What is fetched next: `step` of tile number t. */
typedef struct cursor_t {
  tile_t tile;
  uint t, step, count; /* count: tiles so far */
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
  at->weights = task->weights + packed * (task->steps / 2) * WEIGHT_BYTES;
#pragma unroll
  for (int i = 0; i < ROWS_EACH; i++) {
    const int r = (int)(task->id / 4) + 64 * i;
    int row = at->tile.first_slot + (r < at->tile.rows ? r : 0);
#if GATHER
    row = task->slot_token[row];
#endif
    at->from[i] = task->tokens + (ulong)(uint)row * (ulong)task->k * 2;
  }
  if (task->id == 0) task->next[at->count % 2] = (uint)get_num_groups(0) + taken;
}

/* Fetches the cursor's step, whose number modulo STAGES is `stage`: weights into
 * `a`, rows 8 apart, tokens into shared memory, zeros beyond k. */
ALWAYS_INLINE void fetch(cursor_t *at, const task_t *task, uint4 *a, uint stage) {
  if (at->t < task->tiles && at->step < task->steps) {
    const ulong weights = at->weights + (stage % 2 ? task->odd_chunk : task->even_chunk);
#pragma unroll
    for (uint i = 0; i < 4; i++) a[i] = load_ahead(weights + i * 8 * TILE_K * 2);
    if (stage % 2) at->weights += WEIGHT_BYTES;
    const uint to = task->stage + stage * STAGE_CHUNKS * 16;
    const uint size = (long)at->step * STEP_K < task->k_there ? 16 : 0;
    const int left = at->tile.rows - (int)(task->id / 4);
    ASYNC_COPY_ROW(to, at->from[0], size, left, 0);
    if (at->tile.width > 64) ASYNC_COPY_ROW(to + 64 * 64, at->from[1], size, left, 64);
#pragma unroll
    for (uint i = 0; i < ROWS_EACH; i++) at->from[i] += STEP_K * 2;
  }
  async_copies_commit();
  at->step++;
}

/* A step's products of twice 16 weight rows by `groups` (8 at most) groups of
 * tokens, `b` being the work-item's chunk of the first. A group is read before the
 * products of the one before, be it there or not. */
ALWAYS_INLINE void multiply(float *c, float *d, const uint4 *a, const __local uint4 *b,
                            int groups) {
  uint4 next = b[0];
#pragma unroll
  for (int j = 0; j < SUM_GROUPS; j++) {
    if (j >= groups) continue;
    const uint4 x = next;
    if (j + 1 < SUM_GROUPS) next = b[(j + 1) * SUMS_APART * 4];
    mma(c + 4 * j, a[0].x, a[1].x, a[0].y, a[1].y, x.x, x.y);
    mma(d + 4 * j, a[2].x, a[3].x, a[2].y, a[3].y, x.x, x.y);
    mma(c + 4 * j, a[0].z, a[1].z, a[0].w, a[1].w, x.z, x.w);
    mma(d + 4 * j, a[2].z, a[3].z, a[2].w, a[3].w, x.z, x.w);
  }
}

/* The products of stage `s`, behind the fetch for the stage before it. After the
 * barrier, this stage is full and that one is empty. */
#define STEP(s, full, empty)                                                                       \
  async_copies_wait_but_two();                                                                     \
  barrier(CLK_LOCAL_MEM_FENCE);                                                                    \
  fetch(&at, &task, empty, (s + STAGES - 1) % STAGES);                                             \
  if (step + s < task.steps)                                                                       \
  multiply(c, d, full, mine + s * STAGE_CHUNKS, (int)tile.width / SUMS_APART)

#if PARTS & PART_GEMM
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global ushort *a, const __global int *slot_token, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global ushort *w, const __global storage_t *bias,
     __global output_t *out, __global int *queue, long k, long n, int num_experts, int tile_rows) {
  __local int offsets[MAX_EXPERTS + 1];
  __local uint4 tokens[STAGES * STAGE_CHUNKS];
  __local uint next[2];
  const uint id = (uint)get_local_id(0), lane = id % 32, warp = id / 32;
  const uint row = warp % 4 * 32 + lane / 4, first_token = warp / 4 * 8;
  const uint chunk = (lane % 4) ^ (lane / 4); /* as packed: by the row's last three bits */
  for (int e = (int)id; e <= num_experts; e += LOCAL) offsets[e] = tile_offsets[e];
  if (id == 0) next[0] = (uint)get_group_id(0);
  barrier(CLK_LOCAL_MEM_FENCE);

  task_t task;
  task.tokens = (ulong)a + id % 4 * 16;
  task.weights = (ulong)w + row * TILE_K * 2;
  task.even_chunk = chunk * 16;
  task.odd_chunk = (chunk ^ 4) * 16;
  task.stage = (uint)(size_t)tokens + id * 16;
  task.slot_token = slot_token;
  task.expert_offsets = expert_offsets;
  task.tile_offsets = offsets;
  task.queue = queue;
  task.next = next;
  task.k = k;
  task.k_there = k - id % 4 * 8;
  task.steps = (uint)((k + TILE_K - 1) / TILE_K) * (TILE_K / STEP_K);
  task.column_tiles = (uint)((n + COLUMNS - 1) / COLUMNS);
  task.tiles = (uint)offsets[num_experts] * task.column_tiles;
  task.id = id;
  task.num_experts = num_experts;

  const __local uint4 *mine = tokens + first_token * 4 + lane; /* row lane / 4, chunk lane % 4 */
  cursor_t at;
  uint4 w0[4], w1[4], w2[4], w3[4];
  at.count = 0;
  next_tile(&at, &task);
  fetch(&at, &task, w0, 0);
  fetch(&at, &task, w1, 1);
  fetch(&at, &task, w2, 2);
  while (at.t < task.tiles) {
    const tile_t tile = at.tile;                /* the cursor is three steps into it */
    float c[4 * SUM_GROUPS], d[4 * SUM_GROUPS]; /* of the first and last 16 rows */
#pragma unroll
    for (int i = 0; i < 4 * SUM_GROUPS; i++) c[i] = d[i] = 0.0f;
    for (uint step = 0; step < task.steps; step += STAGES) {
      STEP(0, w0, w3);
      if (at.step >= task.steps && at.t < task.tiles) next_tile(&at, &task);
      STEP(1, w1, w0);
      STEP(2, w2, w1);
      STEP(3, w3, w2);
    }
    store_tile(out, bias, tile, tile.column_tile, c, n, lane, row, (int)first_token);
    store_tile(out, bias, tile, tile.column_tile, d, n, lane, row + 16, (int)first_token);
  }
  /* The last work-group to have taken its last tile leaves the queue as it was. */
  if (id == 0 && (uint)atomic_inc(queue + 1) == (uint)get_num_groups(0) - 1)
    queue[0] = queue[1] = 0;
}
#endif
