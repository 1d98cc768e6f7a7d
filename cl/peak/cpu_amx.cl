// SPDX-License-Identifier: MIT
/* How fast the tile unit of x86 processors is: rounds of it out of registers, on small integers,
 * whose sums are exact.
 *
 * A work-item makes D[32][32] += A[32][32] B[32][32]' again and again, COPIES times in a round, in
 * bf16: four tiles of sums, so that none waits for the last one's result. What A and B hold,
 * lib/op/peak/matrix.c knows too. */
#include "common/cpu_tiles.clh"

#define SIDE 32
#define COPIES 8

static ushort bf16_of(int x) { return (ushort)(as_uint((float)x) >> 16); }
static int a_at(int r, int k) { return r % 5 + k % 3 - 2; }
static int b_at(int c, int k) { return c % 4 + k % 2 - 1; }

/* Each work-item writes the total of its sums. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void multiply_tiles(__global int *out,
                                                                            int rounds) {
  ushort a[2][16][32] __attribute__((aligned(64))), b[2][16][32] __attribute__((aligned(64)));
  float sums[4][16][16] __attribute__((aligned(64)));
  for (int i = 0; i < SIDE; i++)
    for (int k = 0; k < SIDE; k++) {
      a[i / 16][i % 16][k] = bf16_of(a_at(i, k));
      b[i / 16][k / 2][i % 16 * 2 + k % 2] = bf16_of(b_at(i, k));
    }
  tiles_t tiles;
  tiles_configure(&tiles, 16);
  TILE_ZERO(&tiles, 0);
  TILE_ZERO(&tiles, 1);
  TILE_ZERO(&tiles, 2);
  TILE_ZERO(&tiles, 3);
  TILE_LOAD(&tiles, 4, a[0], 64);
  TILE_LOAD(&tiles, 5, a[1], 64);
  TILE_LOAD(&tiles, 6, b[0], 64);
  TILE_LOAD(&tiles, 7, b[1], 64);
  for (int round = 0; round < rounds * COPIES; round++) {
    TILE_BF16(&tiles, 0, 4, 6);
    TILE_BF16(&tiles, 1, 4, 7);
    TILE_BF16(&tiles, 2, 5, 6);
    TILE_BF16(&tiles, 3, 5, 7);
  }
  TILE_STORE(&tiles, 0, sums[0], 64);
  TILE_STORE(&tiles, 1, sums[1], 64);
  TILE_STORE(&tiles, 2, sums[2], 64);
  TILE_STORE(&tiles, 3, sums[3], 64);
  tiles_release(&tiles);
  int total = 0;
  for (int i = 0; i < 4; i++)
    for (int r = 0; r < 16; r++)
      for (int c = 0; c < 16; c++) total += (int)sums[i][r][c];
  out[get_global_id(0)] = total;
}
