// SPDX-License-Identifier: MIT
/* Proves cl_khr_integer_dot_product on signed bytes: out[i] = 1000 i + a b of four bytes each,
 * which are the host's sequence; the least ones, and all signs, among them.
 *
 * moecl-cl-std: CL3.0 */
#ifdef cl_khr_integer_dot_product
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#endif

__kernel void integer_dot(__global int *out) {
  uint state = 1;
  for (int i = 0; i < 64; i++) {
    state = state * 1664525u + 1013904223u;
    const uint a = i == 0 ? 0x80808080u : state;
    state = state * 1664525u + 1013904223u;
    const uint b = i < 2 ? 0x80808080u : state;
    out[i] = 1000 * i + dot_4x8packed_ss_int(a, b);
  }
}
