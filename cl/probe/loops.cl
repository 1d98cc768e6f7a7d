// SPDX-License-Identifier: MIT
/* Proves that loops end where they should: Mesa's llvmpipe leaves a kernel's loops
 * after 65,535 rounds in all, and goes on with what it has. Each round depends on
 * the one before, so that no compiler does without them. out: the value, the rounds. */
__kernel void loops(__global uint *out, int outer, int inner) {
  uint x = 1u, rounds = 0u;
  for (int i = 0; i < outer; i++)
    for (int j = 0; j < inner; j++) {
      x = x * 1664525u + (uint)(i ^ j);
      rounds++;
    }
  out[0] = x;
  out[1] = rounds;
}
