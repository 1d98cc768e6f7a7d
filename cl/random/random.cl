// SPDX-License-Identifier: MIT
/* The numbers of include/moecl/random.h: the same bits on every device, so no
 * contraction and no rounding but what is written here. Defines: DTYPE, DRAWS; a
 * work-item draws eight Philox blocks, 16 elements. */
#pragma OPENCL FP_CONTRACT OFF
#include "common/enums.h"
#include "common/types.clh"
#include "common/philox.clh"

/* The centred sum of four 16-bit numbers: exact in fp32. */
static float8 draw_normal(uint8 a, uint8 b) {
  uint8 sum = (a & 0xffffu) + (a >> 16) + (b & 0xffffu) + (b >> 16);
  return convert_float8(as_int8(sum) - 131070);
}

/* 24 bits, centred: exact in fp32. */
static float8 draw_uniform(uint8 a) { return convert_float8(as_int8(a >> 8) - 8388608); }

typedef struct draws {
  uint8 x, y, z, w; /* the four words of eight consecutive blocks */
} draws;

/* `tag` goes to the highest bits of the block's index and so keeps several
 * kinds of draw apart within one stream. */
static draws draw_blocks(ulong first, uint tag, ulong stream, ulong seed) {
  ulong8 x = first + (ulong8)(0, 1, 2, 3, 4, 5, 6, 7);
  ulong8 y = x >> 32 | (ulong)tag, z = (ulong8)(stream), w = (ulong8)(stream >> 32);
  philox4x32_wide(&x, &y, &z, &w, (uint2)((uint)seed, (uint)(seed >> 32)));
  draws d;
  d.x = convert_uint8(x);
  d.y = convert_uint8(y);
  d.z = convert_uint8(z);
  d.w = convert_uint8(w);
  return d;
}

/* Stores the first `count` of 16 values, even[0], odd[0], even[1], ... */
static void store_pairs(float8 even, float8 odd, __global storage_t *out, ulong count) {
  float16 v;
  v.even = even;
  v.odd = odd;
  if (count >= 16) {
#if DTYPE == ELEMENT_F32
    vstore16(v, 0, out);
#elif DTYPE == ELEMENT_F16
    vstore_half16_rte(v, 0, out);
#elif DTYPE == ELEMENT_BF16
    uint16 u = as_uint16(v); /* finite or infinite, never NaN */
    vstore16(convert_ushort16((u + 0x7fffu + ((u >> 16) & 1u)) >> 16), 0, out);
#else
#error "numbers of this element"
#endif
    return;
  }
  float values[16];
  vstore16(v, 0, values);
  for (uint i = 0; i < (uint)count; i++) storage_store(values[i], out, i);
}

#if DRAWS == DRAWS_NORMAL
/* Elements offset.. of out: `count` of them from the stream's block
 * `first_block` on; `factor` brings the centred integers to scale. */
__kernel void fill_normal(__global storage_t *out, ulong offset, ulong count, ulong first_block,
                          ulong stream, ulong seed, float factor) {
  ulong i = get_global_id(0);
  if (16 * i >= count) return;
  draws d = draw_blocks(first_block + 8 * i, 0, stream, seed);
  store_pairs(draw_normal(d.x, d.y) * factor, draw_normal(d.z, d.w) * factor, out + offset + 16 * i,
              count - 16 * i);
}

#elif DRAWS == DRAWS_UNIFORM
__kernel void fill_uniform(__global storage_t *out, ulong offset, ulong count, ulong first_block,
                           ulong stream, ulong seed, float factor) {
  ulong i = get_global_id(0);
  if (16 * i >= count) return;
  draws d = draw_blocks(first_block + 8 * i, 0, stream, seed);
  store_pairs(draw_uniform(d.x) * factor, draw_uniform(d.z) * factor, out + offset + 16 * i,
              count - 16 * i);
}

#else
/* The first cluster whose threshold is above a 32-bit draw; the last one takes
 * what is left. */
static uint find_cluster(uint draw, __global const uint *thresholds, uint num_clusters) {
  uint low = 0, high = num_clusters - 1;
  while (low < high) {
    uint middle = (low + high) / 2;
    if (draw < thresholds[middle]) high = middle;
    else low = middle + 1;
  }
  return low;
}

#define TAG_CENTRE 0x40000000u
#define TAG_CLUSTER 0x80000000u

/* The cluster of each token. */
__kernel void skewed_clusters(__global uint *clusters, __global const uint *thresholds,
                              uint num_clusters, ulong num_tokens, ulong stream, ulong seed) {
  ulong t = get_global_id(0);
  if (t >= num_tokens) return;
  uint4 counter =
      (uint4)((uint)t, (uint)(t >> 32) | TAG_CLUSTER, (uint)stream, (uint)(stream >> 32));
  uint draw = philox4x32(counter, (uint2)((uint)seed, (uint)(seed >> 32))).x;
  clusters[t] = find_cluster(draw, thresholds, num_clusters);
}

/* Row get_global_id(1) + first_row of [.., hidden_size]; a row is `row_blocks`
 * Philox blocks, so an odd row leaves half of its last one. */
__kernel void fill_skewed(__global storage_t *out, __global const uint *clusters, ulong first_row,
                          ulong hidden_size, ulong row_blocks, ulong stream, ulong seed,
                          float centre_factor, float own_factor) {
  ulong t = first_row + get_global_id(1), i = get_global_id(0);
  if (16 * i >= hidden_size) return;
  draws c = draw_blocks(clusters[t] * row_blocks + 8 * i, TAG_CENTRE, stream, seed);
  draws o = draw_blocks(t * row_blocks + 8 * i, 0, stream, seed);
  float8 even =
      fma(draw_normal(c.x, c.y), (float8)centre_factor, draw_normal(o.x, o.y) * own_factor);
  float8 odd =
      fma(draw_normal(c.z, c.w), (float8)centre_factor, draw_normal(o.z, o.w) * own_factor);
  store_pairs(even, odd, out + t * hidden_size + 16 * i, hidden_size - 16 * i);
}
#endif
