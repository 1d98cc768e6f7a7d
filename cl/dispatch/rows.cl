// SPDX-License-Identifier: MIT
/* Rows of a list to up to four places. Of `rows` that the list has from `first` on, those before
 * end_0 are of place 0, those from there on and before end_1 of place 1, and so on; row i is row
 * list[first + i] of `from`, and becomes row at_p + i of to_p. Defines: UNIT, bytes that a
 * work-item takes: a power of two up to 16 that a row is a multiple of. Second dimension: rows, in
 * turns. */
#if UNIT == 16
typedef uint4 unit_t;
#elif UNIT == 8
typedef uint2 unit_t;
#elif UNIT == 4
typedef uint unit_t;
#elif UNIT == 2
typedef ushort unit_t;
#else
typedef uchar unit_t;
#endif

__kernel void gather_rows(const __global unit_t *from, const __global int *list,
                          __global unit_t *to_0, __global unit_t *to_1, __global unit_t *to_2,
                          __global unit_t *to_3, ulong units, ulong first, ulong rows, ulong end_0,
                          ulong end_1, ulong end_2, ulong at_0, ulong at_1, ulong at_2,
                          ulong at_3) {
  const ulong unit = get_global_id(0);
  if (unit >= units) return;
  for (ulong i = get_global_id(1); i < rows; i += get_global_size(1)) {
    __global unit_t *to = i < end_0 ? to_0 : i < end_1 ? to_1 : i < end_2 ? to_2 : to_3;
    const ulong at = i < end_0 ? at_0 : i < end_1 ? at_1 : i < end_2 ? at_2 : at_3;
    to[(at + i) * units + unit] = from[(ulong)list[first + i] * units + unit];
  }
}
