// SPDX-License-Identifier: MIT
/* Rows to codes with scales: quantize/codes.clh. LOCAL work-items, each a work-group's, share a
 * block. */
#include "quantize/codes.clh"

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
