// SPDX-License-Identifier: MIT
/* Prove that the compiler takes the tile unit's instructions and that they compute: small integers,
 * exact whatever the order of the sum, of ROWS rows, since tiles of fewer than 16 are used, too.
 * A[r][k] = r + k % 3 - 1, B[k][c] = c - 2 + k % 2. */
#include "common/cpu_tiles.clh"

#define ROWS 11

static ushort bf16_of(int x) { return (ushort)(as_uint((float)x) >> 16); }
static int a_at(int r, int k) { return r + k % 3 - 1; }
static int b_at(int k, int c) { return c - 2 + k % 2; }

/* D[ROWS][16] = A[ROWS][32] B[32][16] */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void tiles_bf16(__global float *out) {
  ushort a[16 * 32] __attribute__((aligned(64))), b[16 * 32] __attribute__((aligned(64)));
  tiles_t tiles;
  for (int i = 0; i < 16 * 32; i++) {
    a[i] = bf16_of(a_at(i / 32, i % 32));
    b[i] = bf16_of(b_at(i / 32 * 2 + i % 2, i % 32 / 2));
  }
  tiles_configure(&tiles, ROWS);
  TILE_ZERO(&tiles, 0);
  TILE_LOAD(&tiles, 4, a, 64);
  TILE_LOAD(&tiles, 6, b, 64);
  TILE_BF16(&tiles, 0, 4, 6);
  TILE_STORE(&tiles, 0, out, 64);
  tiles_release(&tiles);
}

/* The same of signed bytes, D[ROWS][16] = A[ROWS][64] B[64][16] */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void tiles_int8(__global int *out) {
  char a[16 * 64] __attribute__((aligned(64))), b[16 * 64] __attribute__((aligned(64)));
  tiles_t tiles;
  for (int i = 0; i < 16 * 64; i++) {
    a[i] = (char)a_at(i / 64, i % 64);
    b[i] = (char)b_at(i / 64 * 4 + i % 4, i % 64 / 4);
  }
  tiles_configure(&tiles, ROWS);
  TILE_ZERO(&tiles, 0);
  TILE_LOAD(&tiles, 4, a, 64);
  TILE_LOAD(&tiles, 6, b, 64);
  TILE_INT8(&tiles, 0, 4, 6);
  TILE_STORE(&tiles, 0, out, 64);
  tiles_release(&tiles);
}
