// SPDX-License-Identifier: MIT
/* Rows to codes with scales of their own, int8 or E4M3, which blocks of a row share: each
 * number x becomes the nearest code of x / scale, to even, where
 *   scale = the block's largest magnitude / the largest code,
 * rounded to fp32, at least the least normal one; 1 for zeros. A block with a number that is
 * not finite has scale NaN and codes 0: all of it is NaN.
 *
 * Defines: DTYPE, the rows' element; WEIGHTS, SCALES, BLOCK, ... of common/quantized.clh, whose
 * matrix [rows][columns] is written; or with OUTPUT, an element, code times scale as that; LOCAL,
 * the work-items that share a block, each a work-group's.
 *
 * The reference divides in double precision, and no code differs from its: OpenCL's division is
 * not exact, but fma is, and so are the remainders below. (A remainder of fewer bits than fp32 has
 * is exact: those of a quotient that is off by a unit are.) */
#include "common/quantized.clh"

#if WEIGHTS == ELEMENT_INT8
#define LARGEST 127.0f
#define RECIPROCAL 0x1.020408p-7f /* 1 / LARGEST, the nearest */
#elif WEIGHTS == ELEMENT_E4M3
#define LARGEST 448.0f
#define RECIPROCAL 0x1.24924ap-9f
#else
#error "rows of these codes"
#endif
#define INFINITE 0x7f800000u /* bits of fp32 */
#define LEAST_SCALE 0x1p-126f

#ifdef OUTPUT
typedef ELEMENT_T(OUTPUT) output_t;
#else
typedef uchar output_t;
#endif

/* The largest over a work-group, in all of its work-items. */
static inline uint group_largest(__local uint *part, int lid, uint value) {
#if LOCAL > 1
  part[lid] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) part[lid] = max(part[lid], part[lid + step]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  value = part[0];
#endif
  return value;
}

/* largest / LARGEST: a quotient that is off by a unit at most, and what it leaves. */
static inline float scale_of(float largest) {
  const float about = largest * RECIPROCAL;
  const float scale = fma(fma(-about, LARGEST, largest), RECIPROCAL, about);
  return largest > 0.0f ? max(scale, LEAST_SCALE) : 1.0f;
}

/* How far codes are apart at a magnitude, of which the power of two alone matters. */
static inline float distance_at(float magnitude) {
#if WEIGHTS == ELEMENT_E4M3 /* three bits behind the first; subnormals as at 2^-6 */
  return as_float(max(as_uint(magnitude) & INFINITE, 0x3c800000u) - 0x01800000u);
#else
  return 1.0f;
#endif
}

/* The number of the nearest code of x / scale, x from 0 on. */
static inline float nearest(float x, float scale, float inverse) {
  const float distance = distance_at(x * inverse);
  float n = rint(x * inverse / distance);
  const float left = fma(-n * distance, scale, x), half_way = 0.5f * distance * scale;
  const bool odd = (int)n & 1;
  n += left > half_way || (odd && left == half_way) ? 1.0f : 0.0f;
  n -= left < -half_way || (odd && left == -half_way) ? 1.0f : 0.0f;
  return n * distance;
}

static inline uchar code_of(float number) {
#if WEIGHTS == ELEMENT_INT8
  return (uchar)(char)number;
#else /* a half with fewer bits, as code_6 has it */
  ushort bits;
  vstore_half_rte(0x1p-8f * number, 0, (half *)&bits);
  return (uchar)((bits >> 8 & 0x80) | (bits >> 7 & 0x7f));
#endif
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
quantize(const __global storage_t *x, __global output_t *output, long rows, long columns) {
  __local uint part[LOCAL];
  const int lid = (int)get_local_id(0);
  const size_t blocks = scale_columns(columns), group = get_group_id(0);
  const size_t row = group / blocks * (size_t)columns;
#if BLOCK
  const long first = (long)(group % blocks) * BLOCK, end = min(first + BLOCK, columns);
#else
  const long first = 0, end = columns;
#endif
  uint largest = 0;
  for (long c = first + lid; c < end; c += LOCAL)
    largest = max(largest, as_uint(storage_load(x, row + (size_t)c)) & 0x7fffffffu);
  largest = group_largest(part, lid, largest);

  const bool finite = largest < INFINITE;
  const float scale = finite ? scale_of(as_float(largest)) : 1.0f, inverse = 1.0f / scale;
  const float stored = finite ? scale : NAN;
  for (long c = first + lid; c < end; c += LOCAL) {
    const float value = finite ? storage_load(x, row + (size_t)c) : 0.0f;
    const float number = copysign(nearest(fabs(value), scale, inverse), value);
#ifdef OUTPUT
    ELEMENT_STORE(OUTPUT)(number * stored, output, row + (size_t)c);
#else
    output[row + (size_t)c] = code_of(number);
#endif
  }
#ifndef OUTPUT
  if (lid == 0) ((__global float *)(output + scales_at(rows, columns)))[group] = stored;
#endif
}
