// SPDX-License-Identifier: MIT
/* The probe of a sub-group's matrix instruction, under work_group.c: every product is what
 * subgroup_matrix_works of lib/ocl/probe.c expects. */
#include "work_group.h"
#include <stdio.h>

enum { TYPES = 2, ROWS = 8, K = 16 };
static float got[TYPES][ROWS][WAVE];
static uint16_t memory[TYPES * ROWS * K];

void subgroup_matrix(float *out, uint16_t *rows);
static void run(void) { subgroup_matrix(&got[0][0][0], memory); }

int main(void) {
  const emulated_launch launch = {run, 1, WAVE, WAVE};
  emulate_launch(&launch);
  for (int type = 0; type < TYPES; type++)
    for (int r = 0; r < ROWS; r++)
      for (int c = 0; c < WAVE; c++) {
        int want = r - c;
        for (int k = 0; k < K; k++) want += (r + k % 3 - 1) * (c - 2 + k % 2);
        if (got[type][r][c] == (float)want) continue;
        printf("FAIL: type %d, row %d, column %d is %g, expected %d\n", type, r, c,
               (double)got[type][r][c], want);
        return 1;
      }
  return 0;
}
