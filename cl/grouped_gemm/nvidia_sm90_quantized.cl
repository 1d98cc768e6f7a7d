// SPDX-License-Identifier: MIT
/* The grouped GEMM over weights of 8 and 4 bits with scales, for Hopper: wgmma whose weights come
 * out of registers, where codes are decoded, and whose tokens stand in shared memory.
 *
 * moecl-ptx-target: sm_90a
 *
 * Defines: WEIGHTS and those of common/quantized.clh; INPUT fp16 or bf16, which biases and a 16-bit
 * output are too; OUTPUT, ACTIVATION, GATED, BIAS, GATHER; TILE_M, the most tokens of a tile, 32 or
 * 128. k and n are multiples of 8.
 *
 * Which operand is which. As in nvidia_sm90.cl weights are A, 64 rows an instruction, and tokens B.
 * A warp has 16 rows of A, packed as mma.sync wants them (grouped_gemm/nvidia_fragments.clh).
 *
 * Who does what. A ring of stages (grouped_gemm/nvidia_ring.clh), each 128 elements along k: two of
 * what the packing calls stages, here halves. One bulk copy brings a packed tile's codes and
 * scales. Two warpgroups consume, 64 rows of every 128.
 *
 * Two heights. Low tiles, of 32 tokens, are for few tokens, where reading weights is the work. A
 * warp's way from codes to sums is long: so two teams of producers and consumers take tiles of
 * their own, each with half the ring, and one's instructions fill the other's waits. Sums of groups
 * are made apart and scaled in fp32. Tall ones, 256 weight rows by 128 tokens, share what they
 * decode and read from L2. Their sums fill the registers, so it is weights that are scaled there,
 * in bf16. fp16 might not hold them: there tall tiles are for formats without scales of groups. */
#define DTYPE INPUT
#include "common/types.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_mma.clh"
#include "common/nvidia_wgmma.clh"

#define CONSUMERS 256 /* of a team */
#define CONSUMER_WARPS 8
#define MAX_TOKENS TILE_M
#if TILE_M > 64
#define TALL 1
#define LOCAL 384
#define TEAMS 1
#define PACKED_TILES 2
#define PRODUCERS 128
#define MAX_STAGES 4
#define SCALED_WEIGHTS (DTYPE == ELEMENT_BF16)
#define FOR_ALL_WIDTHS(OPERATION)                                                                  \
  OPERATION(32, 16, 17, 18, 19, 20, 21)                                                            \
  OPERATION(64, 32, 33, 34, 35, 36, 37)                                                            \
  OPERATION(96, 48, 49, 50, 51, 52, 53)                                                            \
  OPERATION(128, 64, 65, 66, 67, 68, 69)
#else
#define TALL 0
#define LOCAL 640
#define TEAMS 2
#define PACKED_TILES 1
#define PRODUCERS 64
#define MAX_STAGES 8
#define FOR_ALL_WIDTHS(OPERATION)                                                                  \
  OPERATION(8, 4, 5, 6, 7, 8, 9)                                                                   \
  OPERATION(16, 8, 9, 10, 11, 12, 13)                                                              \
  OPERATION(32, 16, 17, 18, 19, 20, 21)
#endif
#define TOKENS_IN_ORDER 1

/* A work-item's sums: groups of 8 tokens that follow each other. */
#define SUM_GROUPS (MAX_TOKENS / 8)
#define SUMS_APART 8
#include "grouped_gemm/nvidia_tiles.clh"
#include "grouped_gemm/nvidia_fragments.clh"
#if PARTS & PART_FEW_TOKENS
#include "grouped_gemm/nvidia_few_fragments.clh"
#endif
#if TALL && GROUPED
#error "tall tiles of sums that are scaled by groups"
#endif

/* A step is a pair of halves: what a packed tile has of it lies together. */
#define WEIGHT_BYTES PAIR_BYTES
#define TILE_K PAIR_K
#define TOKEN_ROWS 2
#define ROW_BYTES 128
#define ELEMENT_BYTES 2
#define CHUNK 8
static inline uint bytes_of_columns(long columns) { return columns > 0 ? WEIGHT_BYTES : 0; }
#include "grouped_gemm/nvidia_ring.clh"

/* ---- operands ---- */

static inline uint4 load_shared_unit(uint from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from));
  return v;
}
static inline uint load_shared_word(uint from) {
  uint v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from));
  return v;
}

/* What a lane has of a block's half, as it is packed. */
typedef struct codes_t {
  uint4 units[BLOCK_UNITS];
  uint scales[LANE_WORDS + 1];
} codes_t;

/* Of the packed tile at `at`; `block` of its eight. */
ALWAYS_INLINE void load_codes(codes_t *codes, uint at, uint half_index, uint block, uint lane) {
  const uint from = at + half_index * CODES_BYTES + block * BLOCK_BYTES + lane * 16;
  const uint scales = at + 2 * CODES_BYTES + (SCALED_STAGES == 2 ? half_index * SCALES_BYTES : 0) +
                      lane_scales_at(block, lane) * 4;
#pragma unroll
  for (uint i = 0; i < BLOCK_UNITS; i++) codes->units[i] = load_shared_unit(from + i * 512);
#pragma unroll
  for (uint i = 0; i < LANE_WORDS; i++) codes->scales[i] = load_shared_word(scales + i * 4);
}

/* Zeros, for N tokens. */
ALWAYS_INLINE void clear(uint tokens, float *sums) {
#pragma unroll
  for (uint i = 0; i < 4 * SUM_GROUPS; i++)
    if (i < tokens / 2) sums[i] = 0.0f;
}

/* ---- products ---- */

/* Of half a step: operands `a` by N tokens at `b`, whose sums go on, or begin. */
#define MULTIPLY_PART(N, sums, A0, A1, A2, A3, B_, ADD, a, b, add)                                 \
  WGMMA_REGISTERS(N, sums, A0, A1, A2, A3, B_, ADD, a, b, add);                                    \
  WGMMA_REGISTERS(N, sums, A0, A1, A2, A3, B_, ADD, (a) + 4, (b) + 2, 1)
#if GROUPED && HALVES == 2
#define CLEAR_SECOND(N) clear(N, s_second)
#define MULTIPLY(N, sums, A0, A1, A2, A3, B_, ADD, a, b, add)                                      \
  MULTIPLY_PART(N, sums, A0, A1, A2, A3, B_, ADD, a, b, 0);                                        \
  MULTIPLY_PART(N, sums##_second, A0, A1, A2, A3, B_, ADD, (a) + 8, (b) + 4, 0)
#define WAIT_FOR(N, sums)                                                                          \
  WGMMA_WAIT(N, sums);                                                                             \
  WGMMA_WAIT(N, sums##_second)
#define ADD_SCALED(N, sums, scales)                                                                \
  add_group(N, c, sums, (scales).factor);                                                          \
  add_group(N, c, sums##_second, (scales).factor + 2)
#else
#define CLEAR_SECOND(N)
#define MULTIPLY(N, sums, A0, A1, A2, A3, B_, ADD, a, b, add)                                      \
  MULTIPLY_PART(N, sums, A0, A1, A2, A3, B_, ADD, a, b, add);                                      \
  MULTIPLY_PART(N, sums, A0, A1, A2, A3, B_, ADD, (a) + 8, (b) + 4, 1)
#define WAIT_FOR(N, sums) WGMMA_WAIT(N, sums)
#define ADD_SCALED(N, sums, scales) add_group(N, c, sums, (scales).factor)
#endif

ALWAYS_INLINE void add_group(uint tokens, float *c, const float *sums, const float *factor) {
#pragma unroll
  for (uint j = 0; j < SUM_GROUPS; j++)
    if (j < tokens / 8) add_scaled(c + 4 * j, sums + 4 * j, factor[0], factor[1]);
}

/* The first codes of the stage that comes, once it is full. */
#define FETCH                                                                                      \
  wait_until_full(&ring);                                                                          \
  codes_at = stage_address(&ring);                                                                 \
  load_codes(&p_codes, codes_at, 0, block, lane)
#define DECODE(a)                                                                                  \
  a##_scales = decode_scales(a##_codes.scales);                                                    \
  decode_block(a, a##_codes.units, &a##_scales)

/* Begins the products of half a step, N tokens wide. */
#define MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, sums, a, b)                                      \
  WGMMA_BEGIN_REGISTERS(a);                                                                        \
  MULTIPLY(N, sums, A0, A1, A2, A3, B_, ADD, a, b, !GROUPED);                                      \
  wgmma_commit()

/* A step's products, and what is to be done when the last half's are there.
 * Macros, for sums and operands are registers by name. In tall tiles the products of one of p and q
 * are under way while the other is decoded; low ones leave that to the other team's warps, as there
 * are no registers for it. */
#if TALL
#define FETCHED DECODE(p)
#define BEGIN(N)                                                                                   \
  clear(N, c);                                                                                     \
  clear(N, d)
#define STEP(N, A0, A1, A2, A3, B_, ADD)                                                           \
  MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, c, p, low);                                            \
  load_codes(&q_codes, codes_at + WEIGHT_BYTES, 0, block, lane);                                   \
  DECODE(q);                                                                                       \
  MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, d, q, low);                                            \
  load_codes(&p_codes, codes_at, 1, block, lane);                                                  \
  wgmma_wait_but_one();                                                                            \
  DECODE(p);                                                                                       \
  MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, c, p, high);                                           \
  load_codes(&q_codes, codes_at + WEIGHT_BYTES, 1, block, lane);                                   \
  wgmma_wait_but_one();                                                                            \
  DECODE(q);                                                                                       \
  MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, d, q, high);                                           \
  wgmma_wait_but_one()
#define END_STEP(N)                                                                                \
  WGMMA_WAIT(N, c);                                                                                \
  WGMMA_WAIT(N, d)
#else
#define FETCHED
#if GROUPED
#define BEGIN(N)                                                                                   \
  clear(N, c);                                                                                     \
  clear(N, s);                                                                                     \
  CLEAR_SECOND(N) /* the assembler wants all sums to begin with something */
#define SUMS s
#define END_HALF(N)                                                                                \
  WAIT_FOR(N, s);                                                                                  \
  ADD_SCALED(N, s, p_scales)
#else
#define BEGIN(N) clear(N, c)
#define SUMS c
#define END_HALF(N) WGMMA_WAIT(N, c)
#endif
#define STEP(N, A0, A1, A2, A3, B_, ADD)                                                           \
  DECODE(p);                                                                                       \
  MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, SUMS, p, low);                                         \
  load_codes(&p_codes, codes_at, 1, block, lane);                                                  \
  END_HALF(N);                                                                                     \
  DECODE(p);                                                                                       \
  MULTIPLY_HALF(N, A0, A1, A2, A3, B_, ADD, SUMS, p, high)
#define END_STEP(N) END_HALF(N)
#endif

/* The steps of a tile that no narrower one took. */
#define CONSUME(N, A0, A1, A2, A3, B_, ADD)                                                        \
  if (tile.rows <= N) {                                                                            \
    BEGIN(N);                                                                                      \
    FETCH;                                                                                         \
    FETCHED;                                                                                       \
    for (uint step = 1;; step++) {                                                                 \
      const uint empty = empty_barrier(&ring, ring.stage);                                         \
      fence_async_proxy();                                                                         \
      const ulong low = wgmma_operand(codes_at + TOKENS_AT);                                       \
      const ulong high = wgmma_operand(codes_at + TOKENS_AT + ring.row_bytes);                     \
      STEP(N, A0, A1, A2, A3, B_, ADD);                                                            \
      next_stage(&ring);                                                                           \
      if (step < task->steps) {                                                                    \
        FETCH;                                                                                     \
        FETCHED;                                                                                   \
      }                                                                                            \
      END_STEP(N);                                                                                 \
      if (lane == 0) mbarrier_arrive(empty);                                                       \
      if (step >= task->steps) break;                                                              \
    }                                                                                              \
  } else

/* All tiles of this team; `id` from 0 on in its two warpgroups. */
ALWAYS_INLINE void consume(ring_t ring, const task_t *task, const __global uchar *w,
                           const __global storage_t *bias, __global output_t *out, uint id) {
  const uint lane = id % 32, block = id / 32;
  for (uint count = 0;; count++) {
    wait_until_full(&ring);
    const tile_t tile = read_announced(task, count);
    if (tile.rows == 0) break;
    float c[4 * SUM_GROUPS];
#if TALL
    float d[4 * SUM_GROUPS];
#elif GROUPED
    float s[4 * SUM_GROUPS]; /* of a half's group, or the first of two */
#if HALVES == 2
    float s_second[4 * SUM_GROUPS];
#endif
#endif
    uint p[16], codes_at;
    codes_t p_codes;
    scales_t p_scales;
#if TALL
    uint q[16];
    codes_t q_codes;
    scales_t q_scales;
#endif
    FOR_ALL_WIDTHS(CONSUME) {}
    const uint packed_tile = tile.column_tile * PACKED_TILES, row = block * 16 + lane / 4;
    const __global uchar *packed =
        w + ((ulong)tile.expert * task->packed_tiles + packed_tile) * TILE_BYTES(task->steps);
    finish(out, bias, tile, packed_tile, packed, task->steps, c, task->n, lane, row);
#if TALL
    if (packed_tile + 1 < task->packed_tiles)
      finish(out, bias, tile, packed_tile + 1, packed + TILE_BYTES(task->steps), task->steps, d,
             task->n, lane, row);
#endif
  }
}

/* ---- the kernel ---- */

#if PARTS & PART_GEMM
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
gemm(const __global ushort *a, const __global int *slot_token, const __global int *expert_offsets,
     const __global int *tile_offsets, const __global uint *w, const __global storage_t *bias,
     __global output_t *out, __global int *queue, long k, long n, int num_experts, int tile_rows) {
  __local int offsets[MAX_EXPERTS + 1];
  __local int4 announced[TEAMS][ANNOUNCED];
  __local uint next[TEAMS][2];
  end_first_build();
  const uint all = (uint)get_local_id(0);
  const bool consumes = all < TEAMS * CONSUMERS;
  const uint of_its_kind = consumes ? all : all - TEAMS * CONSUMERS;
  const uint team = TEAMS > 1 ? of_the_warp(of_its_kind / (consumes ? CONSUMERS : PRODUCERS)) : 0;
  const uint id = of_its_kind - team * (consumes ? CONSUMERS : PRODUCERS);
  ring_t ring = make_ring(tile_rows, team);
  for (int e = (int)all; e <= num_experts; e += LOCAL) offsets[e] = tile_offsets[e];
  if (consumes && id == 0) init_barriers(&ring);
  barrier(CLK_LOCAL_MEM_FENCE);

  task_t task;
  task.slot_token = slot_token;
  task.expert_offsets = expert_offsets;
  task.queue = queue;
  task.offsets = offsets;
  task.announced = announced[team];
  task.next = next[team];
  task.k = k;
  task.n = n;
  task.steps = (uint)((k + TILE_K - 1) / TILE_K);
  task.packed_tiles = (uint)((n + COLUMNS - 1) / COLUMNS);
  task.column_tiles = (task.packed_tiles + PACKED_TILES - 1) / PACKED_TILES;
  task.tiles = (uint)offsets[num_experts] * task.column_tiles;
  task.first = (uint)(get_group_id(0) + team * get_num_groups(0));
  task.teams = (uint)get_num_groups(0) * TEAMS;
  task.num_experts = num_experts;
  if (consumes) {
#if TALL
    asm volatile("//@setmaxnreg.inc.sync.aligned.u32 208;");
#endif
    consume(ring, &task, (const __global uchar *)w, bias, out, id);
  } else {
#if TALL
    asm volatile("//@setmaxnreg.dec.sync.aligned.u32 88;");
#endif
    produce(ring, &task, (ulong)a, (ulong)w, team, id);
  }
}
#endif
