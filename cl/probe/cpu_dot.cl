// SPDX-License-Identifier: MIT
/* Prove that the compiler takes AVX-512's dot products and that they compute, of pairs of bf16:
 * out[i] = i + (i - 3) (i % 5) + (2 i) (1 - i % 3), of small integers; and of fours of bytes,
 * unsigned ones by signed ones: out[i] = i + the sum over b of (255 - i - b) (i % 5 - 2 b). */
#include "common/cpu_dot.clh"

static uint pair_of(int low, int high) {
  return as_uint((float)low) >> 16 | (as_uint((float)high) & 0xffff0000u);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void dot_bf16_pairs(__global float *out) {
  uint a[16], b[16];
  float start[16];
  for (int i = 0; i < 16; i++) {
    a[i] = pair_of(i - 3, 2 * i);
    b[i] = pair_of(i % 5, 1 - i % 3);
    start[i] = (float)i;
  }
  float16 sum = vload16(0, start);
  const uint16 x = vload16(0, a), y = vload16(0, b);
  DOT_BF16(sum, x, y);
  vstore16(sum, 0, out);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void dot_int8_fours(__global int *out) {
  uint a[16], b[16];
  int start[16];
  for (int i = 0; i < 16; i++) {
    a[i] = b[i] = 0;
    for (int byte = 0; byte < 4; byte++) {
      a[i] |= (uint)(255 - i - byte) << (8 * byte);
      b[i] |= (uint)(uchar)(i % 5 - 2 * byte) << (8 * byte);
    }
    start[i] = i;
  }
  int16 sum = vload16(0, start);
  const uint16 x = vload16(0, a), y = vload16(0, b);
  DOT_INT8(sum, x, y);
  vstore16(sum, 0, out);
}
