// SPDX-License-Identifier: MIT
/* attention.clh for every NVIDIA GPU since Ampere: mma.sync, as FlashAttention-2 orders the work
 * (Dao 2023). The cache, queries and output are of one element, fp16 or bf16, and HEAD_DIM is a
 * multiple of 8, up to 128. The arithmetic is that of cl/common/nvidia_mma.clh.
 *
 * Who does what. A warp has 16 times ROW_TILES rows (parts.clh), whose queries and sums stay in
 * its registers, and reads keys and values from shared memory once for all of them: two tiles of
 * rows where there are many, for shared memory is what limits one. A work-group is LOCAL / 32
 * warps. Keys and values of TILE_K tokens come into one of two buffers by cp.async while the
 * other is used, 32 KiB of the 48 that there are. They are used KEYS at a time, as many as
 * registers have room for logits. Tiles that none of a warp's rows looks at are passed by, masks
 * are made only where a warp's rows differ, and sums are scaled only when a row's largest logit
 * has grown.
 *
 * Order of a head's elements in the logits. A sum does not ask in which order its products come:
 * lane 4g + q takes 8 elements that lie together, of queries g and g+8 and of key g, where the
 * instruction's layout asks for four pairs apart (as nvidia_sm80.cl of the grouped GEMM does).
 * So queries and keys are read 16 bytes at once. A logit's place in the sums is that of a share
 * in the next product's A: shares never leave their registers. Values are turned by ldmatrix.
 *
 * Swizzle. Rows in shared memory are whole multiples of 64 bytes. A 16-byte chunk of keys stands
 * at its number, with bit 2 turned in every other row; of values, with the row's last three bits
 * added without carry. So each 8 lanes that read together find 8 chunks in different banks.
 *
 * Splits. Few rows leave most of the device idle, so their keys are split (parts.clh). The last
 * work-group of a block to be done, by a counter, puts the parts together, always in the same
 * order, and leaves the counter 0. Logits are kept in powers of two. */
#include "attention/attention.clh"
#include "attention/parts.clh"
#include "common/nvidia_ptx.clh"
#include "common/nvidia_mma.clh"
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define WARPS (LOCAL / 32)
#define WARP_ROWS (16 * ROW_TILES)
#define TILE_ROWS (WARPS * WARP_ROWS)
#define KEYS (TILE_K / ROW_TILES)    /* whose logits are there at once */
#define STEPS ((HEAD_DIM + 31) / 32) /* of 32 elements of a head: two products */
#define CHUNKS (STEPS * 4)           /* of 16 bytes in a row in shared memory */
#define HEAD_CHUNKS (HEAD_DIM / 8)   /* of them in the cache; the others are 0 */
#define KEY_GROUPS (KEYS / 8)
#define COLUMN_PAIRS ((HEAD_DIM + 15) / 16) /* of 8 columns of the output */
#define TILE_CHUNKS (TILE_K * CHUNKS)
#define TILE_BYTES (TILE_CHUNKS * 16)
#define SUMS (8 * COLUMN_PAIRS) /* of a work-item, of a tile of rows */
#define LOGITS (4 * KEY_GROUPS) /* likewise, of a tile of keys */
#define LOG2_E 1.44269504088896341f

#if CHUNKS % 8 == 0
#define KEY_CHUNK(row, chunk) ((chunk) ^ ((row)&1) * 4)
#define VALUE_CHUNK(row, chunk) ((chunk) ^ ((row)&7))
#else /* neighbouring rows begin half of the banks apart */
#define KEY_CHUNK(row, chunk) (chunk)
#define VALUE_CHUNK(row, chunk) ((chunk) ^ ((row) / 2 & 3))
#endif

/* ---- instructions ---- */

/* 16 bytes into shared memory; `size` 0 writes zeros and reads nothing. */
ALWAYS_INLINE void async_copy(uint to, ulong from, uint size) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(size)
               : "memory");
}
/* Four 8x8 matrices, turned; lane 8m + r has the address of matrix m's row r. */
ALWAYS_INLINE uint4 load_turned(uint at) {
  uint x, y, z, w;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
               : "r"(at)
               : "memory");
  return (uint4)(x, y, z, w);
}
ALWAYS_INLINE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/* Of the lane whose number differs by `lanes`: of the four that have a row. */
ALWAYS_INLINE uint shuffle_bits(uint x, uint lanes) {
  uint y;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(y) : "r"(x), "r"(lanes));
  return y;
}
ALWAYS_INLINE float shuffle_xor(float x, uint lanes) {
  return as_float(shuffle_bits(as_uint(x), lanes));
}
/* Lane `lane`'s. */
ALWAYS_INLINE float lane_of(float x, uint lane) {
  float y;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(lane));
  return y;
}
ALWAYS_INLINE float largest_of_row(float x) {
  x = fmax(x, shuffle_xor(x, 1));
  return fmax(x, shuffle_xor(x, 2));
}
ALWAYS_INLINE float sum_of_row(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}
/* What other work-groups wrote: not from the multiprocessor's own cache. */
ALWAYS_INLINE float2 load_shared_pair(const __global float *p) {
  float x, y;
  asm volatile("ld.global.cg.v2.f32 {%0,%1}, [%2];" : "=f"(x), "=f"(y) : "l"((ulong)p) : "memory");
  return (float2)(x, y);
}
ALWAYS_INLINE float4 load_shared_four(const __global float *p) {
  float x, y, z, w;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(x), "=f"(y), "=f"(z), "=f"(w)
               : "l"((ulong)p)
               : "memory");
  return (float4)(x, y, z, w);
}
/* Is it so in any lane of the warp? */
ALWAYS_INLINE bool is_any(bool x) {
  uint y;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; vote.sync.any.pred q, p, 0xffffffff; "
               "selp.u32 %0, 1, 0, q; }"
               : "=r"(y)
               : "r"((uint)x));
  return y != 0;
}
/* The same value, which the compiler doesn't know: what is made of it is made again where it is
 * used, not kept in registers over the loop around. */
ALWAYS_INLINE uint opaque(uint x) {
  asm volatile("" : "+r"(x));
  return x;
}
ALWAYS_INLINE void fence_device(void) { asm volatile("membar.gl;" ::: "memory"); }

/* ---- tiles ---- */

/* TILE_K rows of the cache, of which `there` are read, the others are 0. */
#define FETCH(to, from, there, PLACE)                                                              \
  _Pragma("unroll") for (uint i = 0; i < (TILE_CHUNKS + LOCAL - 1) / LOCAL; i++) {                 \
    const uint row = (i * LOCAL + id) / CHUNKS, chunk = (i * LOCAL + id) % CHUNKS;                 \
    const bool is_there = (int)row < (there) && chunk < HEAD_CHUNKS;                               \
    if (TILE_CHUNKS % LOCAL == 0 || row < TILE_K)                                                  \
      async_copy((to) + (row * CHUNKS + PLACE(row, chunk)) * 16,                                   \
                 (from) + (is_there ? (ulong)(row * HEAD_DIM + chunk * 8) * 2 : 0),                \
                 is_there ? 16 : 0);                                                               \
  }

/* The logits of KEYS keys: s[4j] on are those of keys 8j to 8j+7, as mma has its sums, LOGITS for
 * each tile of rows. */
ALWAYS_INLINE void multiply_keys(float *s, const uint4 *queries, const __local uint4 *tile,
                                 uint lane) {
#pragma unroll
  for (int i = 0; i < LOGITS * ROW_TILES; i++) s[i] = 0.0f;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
#pragma unroll
    for (int j = 0; j < KEY_GROUPS; j++) {
      const uint row = (uint)j * 8 + lane / 4;
      const uint4 x = tile[row * CHUNKS + KEY_CHUNK(lane / 4, (uint)step * 4 + lane % 4)];
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++) {
        const uint4 a = queries[2 * (t * STEPS + step)], b = queries[2 * (t * STEPS + step) + 1];
        mma(s + t * LOGITS + 4 * j, a.x, b.x, a.y, b.y, x.x, x.y);
        mma(s + t * LOGITS + 4 * j, a.z, b.z, a.w, b.w, x.z, x.w);
      }
    }
  }
}

/* A row's logits, every other two of s, become shares relative to the largest so far. */
ALWAYS_INLINE void weigh(float *s, float scale, float *largest, float *sum, float *out) {
  float most = -INFINITY, total = 0.0f;
#pragma unroll
  for (int j = 0; j < KEY_GROUPS; j++) most = fmax(most, fmax(s[4 * j], s[4 * j + 1]));
  most = fmax(*largest, largest_of_row(most) * scale);
#pragma unroll
  for (int j = 0; j < KEY_GROUPS; j++) {
    s[4 * j] = power_of_two(fma(s[4 * j], scale, -most));
    s[4 * j + 1] = power_of_two(fma(s[4 * j + 1], scale, -most));
    total += s[4 * j] + s[4 * j + 1];
  }
  if (is_any(most > *largest)) {
    const float factor = power_of_two(*largest - most);
    *sum *= factor;
    *largest = most;
#pragma unroll
    for (int i = 0; i < SUMS / 4; i++) {
      out[4 * i] *= factor;
      out[4 * i + 1] *= factor;
    }
  }
  *sum += total;
}

/* out += shares times values, which lie at `tile`. */
ALWAYS_INLINE void multiply_values(float *out, const float *s, uint tile, uint lane) {
  const uint here = opaque(lane);
  const uint row = here % 16, right = here / 16; /* of 16 keys and 2 groups of columns */
  const uint at = tile + row * CHUNKS * 16;
#pragma unroll
  for (int k = 0; k < KEYS / 16; k++) {
    uint a[4 * ROW_TILES];
#pragma unroll
    for (int i = 0; i < 4 * ROW_TILES; i++) {
      const int from = i / 4 * LOGITS + 8 * k + i % 4 * 2;
      a[i] = pack_pair(s[from], s[from + 1]);
    }
#pragma unroll
    for (int p = 0; p < COLUMN_PAIRS; p++) {
      const uint chunk = VALUE_CHUNK(row, (uint)p * 2 + right);
      const uint4 v = load_turned(at + (uint)k * 16 * CHUNKS * 16 + chunk * 16);
#pragma unroll
      for (int t = 0; t < ROW_TILES; t++) {
        float *sums = out + t * SUMS + 8 * p;
        mma(sums, a[4 * t], a[4 * t + 1], a[4 * t + 2], a[4 * t + 3], v.x, v.y);
        mma(sums + 4, a[4 * t], a[4 * t + 1], a[4 * t + 2], a[4 * t + 3], v.z, v.w);
      }
    }
  }
}

/* ---- output ---- */

/* A row times `factor`. Four lanes have it, each two columns of every eight: they exchange them
 * until each has every fourth eight, which are 16 bytes. All lanes must call it. */
ALWAYS_INLINE void store_row(__global output_t *to, const float *out, float factor, uint q,
                             bool is_there) {
  __global uint4 *chunks = (__global uint4 *)to;
  const bool odd = q & 1, upper = q & 2;
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    uint x[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int eight = i * 4 + j;
      x[j] = eight < 2 * COLUMN_PAIRS
                 ? pack_pair(out[4 * eight] * factor, out[4 * eight + 1] * factor)
                 : 0;
    }
    const uint a = shuffle_bits(odd ? x[0] : x[1], 1), b = shuffle_bits(odd ? x[2] : x[3], 1);
    /* Pairs of the eights q % 2 and 2 + q % 2. */
    const uint low0 = odd ? a : x[0], low1 = odd ? x[1] : a;
    const uint high0 = odd ? b : x[2], high1 = odd ? x[3] : b;
    const uint c = shuffle_bits(upper ? low0 : high0, 2);
    const uint d = shuffle_bits(upper ? low1 : high1, 2);
    const uint4 chunk = upper ? (uint4)(c, d, high0, high1) : (uint4)(low0, low1, c, d);
    if (is_there && (uint)i * 4 + q < HEAD_CHUNKS) chunks[i * 4 + (int)q] = chunk;
  }
}

/* ---- blocks ---- */

/* What a work-group makes: rows of a head of keys, of one split of those. */
typedef struct block_t {
  ulong kv_head, kv_heads;
  long rows, first_row; /* of the head, and of the block */
  int there;            /* rows of the block */
  int split;
  ulong number; /* among the blocks, whatever the split */
} block_t;

/* From the number of the work-group, which the compiler takes for another one each time: so that
 * it computes all this again behind the loop, instead of keeping it in registers. */
ALWAYS_INLINE block_t find_block(long num_tokens, int num_heads, int splits) {
  block_t b;
  uint group;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(group));
  const uint kv_heads = (uint)(num_heads / GROUP), pieces = (uint)max(splits, 1);
  const uint rest = group / kv_heads, block = rest / pieces;
  b.kv_heads = kv_heads;
  b.kv_head = group % kv_heads;
  b.split = (int)(rest % pieces);
  b.number = (ulong)block * kv_heads + b.kv_head;
  b.rows = num_tokens * GROUP;
  /* The last queries first: they look at most keys. */
  b.first_row = ((b.rows + TILE_ROWS - 1) / TILE_ROWS - 1 - (long)block) * TILE_ROWS;
  b.there = (int)min((long)TILE_ROWS, b.rows - b.first_row);
  return b;
}

/* ---- parts ---- */

/* Parts of a block to the output, a row a warp: a lane has the share of one part in the whole
 * (there are 32 at most), and four columns of all. */
ALWAYS_INLINE void combine_parts(const __global float *parts, __global output_t *output, block_t b,
                                 int splits, uint id) {
  const uint lane = id % 32;
  for (int r = (int)(id / 32); r < b.there; r += WARPS) {
    const ulong row = (ulong)(b.first_row + r), of_all = b.kv_head * (ulong)b.rows + row;
    const __global float *scales =
        parts + part_scale_at(b.kv_heads * (ulong)b.rows, of_all, splits, 0);
    const __global float *sums = parts + part_at(of_all, splits, 0) + lane * 4;
    float2 scale = (float2)(LEAST, 0.0f);
    if ((int)lane < splits) scale = load_shared_pair(scales + 2 * lane);
    float most = scale.x;
#pragma unroll
    for (uint lanes = 1; lanes < 32; lanes *= 2) most = fmax(most, shuffle_xor(most, lanes));
    float share = power_of_two(scale.x - most), whole = share * scale.y;
#pragma unroll
    for (uint lanes = 1; lanes < 32; lanes *= 2) whole += shuffle_xor(whole, lanes);
    share /= whole;
    float4 x = (float4)(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int s = 0; s < splits; s++) {
      const float w = lane_of(share, (uint)s);
      if (lane * 4 < HEAD_DIM) {
        const float4 y = load_shared_four(sums + (size_t)s * HEAD_DIM);
        x.x = fma(w, y.x, x.x);
        x.y = fma(w, y.y, x.y);
        x.z = fma(w, y.z, x.z);
        x.w = fma(w, y.w, x.w);
      }
    }
    if (lane * 4 < HEAD_DIM)
      *(__global uint2 *)(output + row_at(b.kv_head, row, b.kv_heads * GROUP) + lane * 4) =
          (uint2)(pack_pair(x.x, x.y), pack_pair(x.z, x.w));
  }
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
attention(const __global rows_t *qkv, const __global storage_t *keys,
          const __global storage_t *values, const __global storage_t *sinks,
          __global output_t *output, long num_tokens, long context, long capacity, int num_heads,
          long window, float scale, __global float *parts, int splits, long keys_each,
          __global int *counters) {
  __local uint4 tiles[4 * TILE_CHUNKS];
  __local int is_last;
  const uint id = (uint)get_local_id(0), lane = id % 32, q = lane % 4;
  const int first = (int)(id / 32) * WARP_ROWS; /* the warp's, of the block's rows */
  const int mine = first + (int)lane / 4;       /* the work-item's: every eighth from here on */
  const long num_keys = context + num_tokens;
  block_t b = find_block(num_tokens, num_heads, splits);
  const int there = b.there;

  uint4 queries[2 * STEPS * ROW_TILES];
  float out[SUMS * ROW_TILES], largest[2 * ROW_TILES], sum[2 * ROW_TILES];
#pragma unroll
  for (int i = 0; i < 2 * ROW_TILES; i++) {
    const bool is_there = mine + 8 * i < there;
    const ulong row = (ulong)(b.first_row + (is_there ? mine + 8 * i : 0));
    const __global uint4 *from =
        (const __global uint4 *)(qkv + row_at(b.kv_head, row, (ulong)num_heads + 2 * b.kv_heads));
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      uint4 x = (uint4)(0, 0, 0, 0);
      if (is_there && (uint)step * 4 + q < HEAD_CHUNKS) x = from[(uint)step * 4 + q];
      queries[2 * (i / 2 * STEPS + step) + i % 2] = x;
    }
    largest[i] = LEAST;
    sum[i] = 0.0f;
#if SINKS
    if (is_there && b.split == 0) {
      largest[i] = first_largest(sinks, (int)(b.kv_head * GROUP + row % GROUP)) * LOG2_E;
      if (q == 0) sum[i] = 1.0f; /* four lanes add up to a row's sum */
    }
#endif
  }
#pragma unroll
  for (int i = 0; i < SUMS * ROW_TILES; i++) out[i] = 0.0f;
  scale *= LOG2_E;

  /* Positions fit 32 bits. Row r of the block stands at base + (skew + r) / GROUP. */
  const int base = (int)(context + b.first_row / GROUP), skew = (int)(b.first_row % GROUP);
#define POSITION(r) (base + (skew + min(r, there - 1)) / GROUP)
  const int begin = (int)(first_key(base, window) + b.split * keys_each);
  const int end = (int)min(end_key(POSITION(there - 1), num_keys, window), begin + keys_each);
  /* What any of the warp's rows looks at, and what all of them do. */
  const int top = POSITION(first), bottom = POSITION(first + WARP_ROWS - 1);
  const int any_from = (int)first_key(top, window), all_from = (int)first_key(bottom, window);
  const int any_to = first < there ? (int)end_key(bottom, num_keys, window) : 0;
  const int all_to = min((int)end_key(top, num_keys, window), end);

  /* Two buffers, each keys and then values. */
  const uint buffers = (uint)(size_t)tiles;
  const ulong key_from = (ulong)(keys + key_at(b.kv_head, (ulong)capacity, 0, HEAD_DIM, 0));
  const ulong value_from = (ulong)(values + value_at(b.kv_head, (ulong)capacity, 0));
#define FETCH_TILE(buffer, tile)                                                                   \
  {                                                                                                \
    const uint to = buffers + (buffer)*2 * TILE_BYTES;                                             \
    const ulong offset = (ulong)(uint)(tile)*HEAD_DIM * 2;                                         \
    FETCH(to, key_from + offset, end - (tile), KEY_CHUNK);                                         \
    FETCH(to + TILE_BYTES, value_from + offset, end - (tile), VALUE_CHUNK);                        \
  }
  if (begin < end) FETCH_TILE(0, begin);
  uint buffer = 0;
  for (int tile = begin; tile < end; tile += TILE_K, buffer ^= 1) {
    async_copies_wait();
    barrier(CLK_LOCAL_MEM_FENCE); /* the tile is there, and the one before it is used */
    if (tile + TILE_K < end) FETCH_TILE(buffer ^ 1, tile + TILE_K);
#pragma unroll 1
    for (int key = tile; key < tile + TILE_K; key += KEYS) {
      const uint from_tile = (uint)(key - tile) * CHUNKS;
      float s[LOGITS * ROW_TILES];
      if (key >= any_to || key + KEYS <= any_from) continue;
      multiply_keys(s, queries, tiles + buffer * 2 * TILE_CHUNKS + from_tile, lane);
      if (key < all_from || key + KEYS > all_to) {
#pragma unroll
        for (int i = 0; i < 2 * ROW_TILES; i++) {
          const int position = POSITION(mine + 8 * i);
          const int from = (int)first_key(position, window) - key - (int)q * 2;
          const int to = min((int)end_key(position, num_keys, window), end) - key - (int)q * 2;
#pragma unroll
          for (int j = 0; j < 2 * KEY_GROUPS; j++)
            if (j / 2 * 8 + j % 2 < from || j / 2 * 8 + j % 2 >= to)
              s[i / 2 * LOGITS + j / 2 * 4 + i % 2 * 2 + j % 2] = -INFINITY;
        }
      }
#pragma unroll
      for (int i = 0; i < 2 * ROW_TILES; i++)
        weigh(s + i / 2 * LOGITS + i % 2 * 2, scale, &largest[i], &sum[i],
              out + i / 2 * SUMS + i % 2 * 2);
      multiply_values(out, s, buffers + (buffer * 2 + 1) * TILE_BYTES + from_tile * 16, lane);
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * ROW_TILES; i++) sum[i] = sum_of_row(sum[i]);
  b = find_block(num_tokens, num_heads, splits);

  if (splits == 0) {
#pragma unroll
    for (int i = 0; i < 2 * ROW_TILES; i++)
      store_row(output + row_at(b.kv_head, (ulong)(b.first_row + mine + 8 * i), (ulong)num_heads),
                out + i / 2 * SUMS + i % 2 * 2, 1.0f / sum[i], q, mine + 8 * i < there);
  } else {
#pragma unroll
    for (int i = 0; i < 2 * ROW_TILES; i++)
      if (mine + 8 * i < there) {
        const ulong row = b.kv_head * (ulong)b.rows + (ulong)(b.first_row + mine + 8 * i);
        const float *sums = out + i / 2 * SUMS + i % 2 * 2;
        __global float *to = parts + part_at(row, splits, b.split) + q * 2;
#pragma unroll
        for (int j = 0; j < HEAD_CHUNKS; j++)
          *(__global float2 *)(to + j * 8) = (float2)(sums[4 * j], sums[4 * j + 1]);
        if (q == 0)
          *(__global float2 *)(parts + part_scale_at(b.kv_heads * (ulong)b.rows, row, splits,
                                                     b.split)) = (float2)(largest[i], sum[i]);
      }
    fence_device();
    barrier(CLK_LOCAL_MEM_FENCE);
    if (id == 0) {
      __global int *counter = counters + b.number;
      is_last = atomic_inc(counter) == splits - 1;
      if (is_last) *counter = 0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (is_last) {
      fence_device();
      combine_parts(parts, output, b, splits, id);
    }
  }
}
