/* The numbers of include/moecl/random.h: the same bits on every device, so no
 * contraction and no rounding but what is written here. DTYPE is defined by
 * the host; a work-item draws one Philox block, two elements. */
#pragma OPENCL FP_CONTRACT OFF
#include "common/types.clh"
#include "common/philox.clh"

/* The centred sum of four 16-bit numbers: exact in fp32. */
static float draw_normal(uint a, uint b) {
  return (float)((int)((a & 0xffffu) + (a >> 16) + (b & 0xffffu) + (b >> 16)) - 131070);
}

/* 24 bits, centred: exact in fp32. */
static float draw_uniform(uint a) { return (float)((int)(a >> 8) - 8388608); }

static uint4 block(ulong index, uint tag, ulong stream, ulong seed) {
  return philox4x32((uint4)((uint)index, (uint)(index >> 32) | tag, (uint)stream,
                            (uint)(stream >> 32)),
                    (uint2)((uint)seed, (uint)(seed >> 32)));
}

/* Elements offset.. of out: `count` of them from the stream's block
 * `first_block` on; `factor` brings the centred integers to scale. */
__kernel void fill_normal(__global storage_t *out, ulong offset, ulong count, ulong first_block,
                          ulong stream, ulong seed, float factor) {
  ulong i = get_global_id(0);
  if (2 * i >= count) return;
  uint4 r = block(first_block + i, 0, stream, seed);
  storage_store(draw_normal(r.x, r.y) * factor, out, offset + 2 * i);
  if (2 * i + 1 < count) storage_store(draw_normal(r.z, r.w) * factor, out, offset + 2 * i + 1);
}

__kernel void fill_uniform(__global storage_t *out, ulong offset, ulong count, ulong first_block,
                           ulong stream, ulong seed, float factor) {
  ulong i = get_global_id(0);
  if (2 * i >= count) return;
  uint4 r = block(first_block + i, 0, stream, seed);
  storage_store(draw_uniform(r.x) * factor, out, offset + 2 * i);
  if (2 * i + 1 < count) storage_store(draw_uniform(r.z) * factor, out, offset + 2 * i + 1);
}

/* The first cluster whose threshold is above a 32-bit draw; the last one takes
 * what is left. */
static uint find_cluster(uint draw, __global const uint *thresholds, uint num_clusters) {
  uint low = 0, high = num_clusters - 1;
  while (low < high) {
    uint middle = (low + high) / 2;
    if (draw < thresholds[middle])
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* Tags in the counter's highest bits keep the three kinds of draw apart
 * within one stream. */
#define TAG_CENTRE 0x40000000u
#define TAG_CLUSTER 0x80000000u

/* The cluster of each token. */
__kernel void skewed_clusters(__global uint *clusters, __global const uint *thresholds,
                              uint num_clusters, ulong num_tokens, ulong stream, ulong seed) {
  ulong t = get_global_id(0);
  if (t >= num_tokens) return;
  clusters[t] = find_cluster(block(t, TAG_CLUSTER, stream, seed).x, thresholds, num_clusters);
}

/* Row get_group_id(1) + first_row of [.., hidden_size]; a row is `row_blocks`
 * Philox blocks, so an odd row leaves half of its last one. */
__kernel void fill_skewed(__global storage_t *out, __global const uint *clusters, ulong first_row,
                          ulong hidden_size, ulong row_blocks, ulong stream, ulong seed,
                          float centre_factor, float own_factor) {
  ulong t = first_row + get_global_id(1), i = get_global_id(0);
  if (i >= row_blocks) return;
  uint4 c = block(clusters[t] * row_blocks + i, TAG_CENTRE, stream, seed);
  uint4 o = block(t * row_blocks + i, 0, stream, seed);
  ulong at = t * hidden_size + 2 * i;
  storage_store(fma(draw_normal(c.x, c.y), centre_factor, draw_normal(o.x, o.y) * own_factor), out,
                at);
  if (2 * i + 1 < hidden_size)
    storage_store(fma(draw_normal(c.z, c.w), centre_factor, draw_normal(o.z, o.w) * own_factor),
                  out, at + 1);
}
