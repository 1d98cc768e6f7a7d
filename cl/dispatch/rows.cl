// SPDX-License-Identifier: MIT
/* Rows of a list, one behind the other: row i of `to`, from `first_to` on, is row list[first + i]
 * of `from`. Defines: UNIT, bytes that a work-item takes: a power of two up to 16 that a row is a
 * multiple of. Second dimension: the row. */
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
                          __global unit_t *to, ulong first, ulong first_to, ulong units) {
  const ulong unit = get_global_id(0), row = get_global_id(1);
  if (unit >= units) return;
  to[(first_to + row) * units + unit] = from[(ulong)list[first + row] * units + unit];
}
