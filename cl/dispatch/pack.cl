// SPDX-License-Identifier: MIT
/* Rows as they are sent to other devices where those get fewer bytes: codes with scales
 * (quantize/codes.clh), each row by itself: its codes, zeros up to a multiple of 4, its scales.
 * LOCAL work-items, each a work-group's, share a block; rows are the second dimension. */
#include "quantize/codes.clh"

static inline size_t scales_of(long columns) { return ((size_t)columns + 3) / 4 * 4; }
static inline size_t packed_bytes(long columns) {
  return scales_of(columns) + 4 * scale_columns(columns);
}

/* Row i of `to`, from `first_to` on, is row list[first + i] of `from`. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
pack_rows(const __global storage_t *from, const __global int *list, __global uchar *to, ulong first,
          ulong first_to, long columns) {
  __local uint part[LOCAL];
  const int lid = (int)get_local_id(0);
  const size_t group = get_group_id(0), i = get_group_id(1);
  const size_t row = (size_t)list[first + i] * (size_t)columns;
  const long begin = (long)group * BLOCK, end = min(begin + BLOCK, columns);
  __global uchar *packed = to + (first_to + i) * packed_bytes(columns);
  uint largest = 0;
  for (long c = begin + lid; c < end; c += LOCAL)
    largest = max(largest, as_uint(storage_load(from, row + (size_t)c)) & 0x7fffffffu);
  const block_t block = block_of(group_largest(part, lid, largest));
  for (long c = begin + lid; c < end; c += LOCAL)
    packed[c] = code_of(number_of(storage_load(from, row + (size_t)c), block));
  for (long c = end + lid; end == columns && c < (long)scales_of(columns); c += LOCAL)
    packed[c] = 0;
  if (lid == 0) ((__global float *)(packed + scales_of(columns)))[group] = block.stored;
}

/* Rows from `first` on, at the same places. */
__kernel void unpack_rows(const __global uchar *from, __global storage_t *to, ulong first,
                          long columns) {
  const long c = (long)get_global_id(0);
  const size_t row = first + get_global_id(1);
  if (c >= columns) return;
  const __global uchar *packed = from + row * packed_bytes(columns);
  const float scale = ((const __global float *)(packed + scales_of(columns)))[c / BLOCK];
  storage_store(CODE(WEIGHTS)(packed[c]) * scale, to, row * (size_t)columns + (size_t)c);
}
