// SPDX-License-Identifier: MIT
/* Offsets of a single "expert" that owns all rows: the router's own GEMM. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
ungrouped_offsets(__global int *expert_offsets, __global int *tile_offsets, int rows, int tile_m) {
  expert_offsets[0] = 0;
  expert_offsets[1] = rows;
  tile_offsets[0] = 0;
  tile_offsets[1] = rows / tile_m + (rows % tile_m != 0);
}
