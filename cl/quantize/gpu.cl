// SPDX-License-Identifier: MIT
/* Rows to codes with scales (quantize/codes.clh) on any GPU: a work-item has 8 neighbours, which it
 * reads at once, and BLOCK / 8 work-items share a block; where that is the row, all of a
 * work-group, which go through it twice. Rows are the second dimension; columns a multiple of 8. */
#include "quantize/codes.clh"
#define EACH 8
#if BLOCK
#define ITEMS (BLOCK / EACH) /* that share a block */
#else
#define ITEMS LOCAL
#endif

static inline float8 load8(const __global storage_t *p) {
#if DTYPE == ELEMENT_F32
  return *(const __global float8 *)p;
#elif DTYPE == ELEMENT_F16
  const ushort8 bits = *(const __global ushort8 *)p;
  return vload_half8(0, (const half *)&bits);
#else
  return as_float8(convert_uint8(*(const __global ushort8 *)p) << 16);
#endif
}

static inline uint largest_of(float8 v) {
  const uint8 bits = as_uint8(v) & 0x7fffffffu;
  const uint4 four = max(bits.lo, bits.hi);
  return max(max(four.x, four.y), max(four.z, four.w));
}

/* The largest of the ITEMS work-items that share a block. */
static inline uint shared_largest(__local uint *part, uint lid, uint value) {
  part[lid] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
#if ITEMS > 16 /* in two steps */
  if (lid < ITEMS / 16)
    for (uint i = 1; i < 16; i++) value = max(value, part[lid + i * (ITEMS / 16)]);
  barrier(CLK_LOCAL_MEM_FENCE);
  if (lid < ITEMS / 16) part[lid] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (uint i = 0; i < ITEMS / 16; i++) value = max(value, part[i]);
#else
  for (uint i = 0; i < ITEMS; i++) value = max(value, part[lid / ITEMS * ITEMS + i]);
#endif
  return value;
}

/* Numbers from element `at` of the output on. */
static inline void store8(float8 v, block_t block, __global void *output, size_t at) {
  float x[EACH];
  vstore8(v, 0, x);
#ifdef OUTPUT
  for (uint i = 0; i < EACH; i++)
    ELEMENT_STORE(OUTPUT)(number_of(x[i], block) * block.stored, output, at + i);
#else
  uchar codes[EACH];
  for (uint i = 0; i < EACH; i++) codes[i] = code_of(number_of(x[i], block));
  *(__global uchar8 *)((__global uchar *)output + at) = vload8(0, codes);
#endif
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
quantize(const __global storage_t *x, __global void *output, long rows, long columns) {
  __local uint part[LOCAL];
  const uint lid = (uint)get_local_id(0);
  const size_t row = get_group_id(1), begin = row * (size_t)columns;
#if BLOCK
  const long first = ((long)get_group_id(0) * LOCAL + lid) * EACH;
  const bool there = first < columns;
  const float8 v = there ? load8(x + begin + first) : (float8)(0.0f);
  const block_t block = block_of(shared_largest(part, lid, largest_of(v)));
  if (there) store8(v, block, output, begin + (size_t)first);
  const size_t scale = row * scale_columns(columns) + (size_t)first / BLOCK;
  const bool has_scale = there && lid % ITEMS == 0;
#else
  uint largest = 0;
  for (long c = lid * EACH; c < columns; c += LOCAL * EACH)
    largest = max(largest, largest_of(load8(x + begin + c)));
  const block_t block = block_of(shared_largest(part, lid, largest));
  for (long c = lid * EACH; c < columns; c += LOCAL * EACH)
    store8(load8(x + begin + c), block, output, begin + (size_t)c);
  const size_t scale = row;
  const bool has_scale = lid == 0;
#endif
#ifndef OUTPUT
  if (has_scale)
    ((__global float *)((__global uchar *)output + scales_at(rows, columns)))[scale] = block.stored;
#endif
}
