// SPDX-License-Identifier: MIT
/* Rows to codes with scales: quantize/codes.clh. LOCAL work-items, each a work-group's, share a
 * block. */
#include "quantize/codes.clh"

/* The largest over a work-group, in all of its work-items. */
static inline uint group_largest(__local uint *part, int lid, uint value) {
#if LOCAL > 1
  part[lid] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) part[lid] = max(part[lid], part[lid + step]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  value = part[0];
#endif
  return value;
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
quantize(const __global storage_t *x, __global output_t *output, long rows, long columns) {
  __local uint part[LOCAL];
  const int lid = (int)get_local_id(0);
  const size_t blocks = scale_columns(columns), group = get_group_id(0);
  const size_t row = group / blocks * (size_t)columns;
#if BLOCK
  const long first = (long)(group % blocks) * BLOCK, end = min(first + BLOCK, columns);
#else
  const long first = 0, end = columns;
#endif
  uint largest = 0;
  for (long c = first + lid; c < end; c += LOCAL)
    largest = max(largest, as_uint(storage_load(x, row + (size_t)c)) & 0x7fffffffu);
  largest = group_largest(part, lid, largest);

  const block_t block = block_of(largest);
  for (long c = first + lid; c < end; c += LOCAL) {
    const float number = number_of(storage_load(x, row + (size_t)c), block);
#ifdef OUTPUT
    ELEMENT_STORE(OUTPUT)(number * block.stored, output, row + (size_t)c);
#else
    output[row + (size_t)c] = code_of(number);
#endif
  }
#ifndef OUTPUT
  if (lid == 0) ((__global float *)(output + scales_at(rows, columns)))[group] = block.stored;
#endif
}
