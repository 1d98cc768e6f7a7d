// SPDX-License-Identifier: MIT
/* Up to four copies of words at once: the i-th word of all is of copy 0 before end_0, of copy 1
 * from there on and before end_1, and so on; it stands at from_p[i - end of the copy before], and
 * becomes word at_p + i of to_p. */
__kernel void copy_words(const __global uint *from_0, const __global uint *from_1,
                         const __global uint *from_2, const __global uint *from_3,
                         __global uint *to_0, __global uint *to_1, __global uint *to_2,
                         __global uint *to_3, ulong words, ulong end_0, ulong end_1, ulong end_2,
                         ulong at_0, ulong at_1, ulong at_2, ulong at_3) {
  const ulong i = get_global_id(0);
  if (i >= words) return;
  if (i < end_0) to_0[at_0 + i] = from_0[i];
  else if (i < end_1) to_1[at_1 + i] = from_1[i - end_0];
  else if (i < end_2) to_2[at_2 + i] = from_2[i - end_1];
  else to_3[at_3 + i] = from_3[i - end_2];
}
