// SPDX-License-Identifier: MIT
/* The kernel that measures a sub-group's matrix instruction, under work_group.c: a work-group's
 * total is what lib/op/peak/matrix.c expects of the row in cl/peak/matrix.def. */
#include "work_group.h"
#include <stdio.h>

enum { ROUNDS = 3, ROWS = 32, COLUMNS = 2 * WAVE, K = 16, COPIES = LOCAL / WAVE };
static int got[LOCAL];

void multiply_tiles(int *out, int rounds);
static void run(void) { multiply_tiles(got, ROUNDS); }

int main(void) {
  const emulated_launch launch = {run, 1, LOCAL, WAVE};
  int total = 0, want = 0;
  emulate_launch(&launch);
  for (int i = 0; i < LOCAL; i++) total += got[i];
  for (int row = 0; row < ROWS; row++)
    for (int column = 0; column < COLUMNS; column++)
      for (int k = 0; k < K; k++)
        want += (row % 5 + k % 3 - 2) * (column % 4 + k % 2 - 1) * ROUNDS * COPIES;
  if (total != want) printf("FAIL: the total is %d, expected %d\n", total, want);
  return total != want;
}
