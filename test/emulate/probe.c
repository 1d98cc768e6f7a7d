// SPDX-License-Identifier: MIT
/* The probes of matrix instructions in waves, under work_group.c: every product is what
 * wave_matrices_work of lib/ocl/probe.c expects. */
#include "work_group.h"
#include <stdio.h>

enum { SIDE = 16, PRODUCTS = 2 * LOCAL / WAVE };
static float got[PRODUCTS][SIDE][SIDE];

void matrices(float *out);
static void run(void) { matrices(&got[0][0][0]); }

int main(void) {
  const emulated_launch launch = {run, 1, LOCAL, WAVE};
  emulate_launch(&launch);
  for (int p = 0; p < PRODUCTS; p++)
    for (int r = 0; r < SIDE; r++)
      for (int c = 0; c < SIDE; c++) {
        int want = 0;
        for (int k = 0; k < SIDE; k++) want += (r + k % 3 - p) * (c - 2 + k % 5);
        if (got[p][r][c] == (float)want) continue;
        printf("FAIL: product %d, row %d, column %d is %g, expected %d\n", p, r, c,
               (double)got[p][r][c], want);
        return 1;
      }
  return 0;
}
