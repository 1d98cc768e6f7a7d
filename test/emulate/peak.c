// SPDX-License-Identifier: MIT
/* What cl/peak measures of matrix instructions in waves, under work_group.c:
 * all sums together are what total_of of lib/op/peak/matrix.c expects. */
#include "work_group.h"
#include <stdio.h>

enum { ROUNDS = 3, ROWS = 80, COLUMNS = 16, DEPTH = 16 };
static int out[LOCAL];

void multiply_tiles(int *out, int rounds);
static void run(void) { multiply_tiles(out, ROUNDS); }

int main(void) {
  const emulated_launch launch = {run, 1, LOCAL, WAVE};
  int total = 0, want = 0;
  emulate_launch(&launch);
  for (int i = 0; i < LOCAL; i++) total += out[i];
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLUMNS; c++)
      for (int k = 0; k < DEPTH; k++) want += (r % 5 + k % 3 - 2) * (c % 4 + k % 2 - 1);
  want *= ROUNDS * LOCAL / WAVE;
  if (total != want) printf("FAIL: the sums are %d, expected %d\n", total, want);
  return total != want;
}
