// SPDX-License-Identifier: MIT
/* Numbers to the codes and scales of a format, the same bits as lib/desc/quantized.c makes in
 * double precision: `matrices` matrices [rows][columns] of plain elements, one after the other, to
 * as many of common/quantized.clh.
 *
 * Defines: DTYPE, the numbers' element; WEIGHTS, SCALES, BLOCK, ... of common/quantized.clh;
 * SEARCH, whether scales are searched; LOCAL, the work-items of a work-group; TOGETHER, whether
 * they share a block, else each has EACH of them; VECTOR, numbers that are computed side by side.
 *
 * No quotient is trusted: OpenCL's division is not exact, but fma is. A code is found about where
 * it is, then moved to where the signs of exact differences want it. All numbers of a block are
 * counted in the power of two in its scale, so that no difference that matters is too small
 * for an fp32 and none flushes to zero: `in_units` goes from one to the other by the bits. */
#include "common/quantized.clh"
#include "common/vectors.clh"

#if ZERO_POINTS
#define QUOTIENT 15.0f /* of a block's range and its scale */
#define RECIPROCAL 0x1.111112p-4f
#elif WEIGHTS == ELEMENT_INT4
#define QUOTIENT 7.0f /* of its largest number and its scale */
#define RECIPROCAL 0x1.24924ap-3f
#elif WEIGHTS == ELEMENT_INT8
#define QUOTIENT 127.0f
#define RECIPROCAL 0x1.020408p-7f
#elif WEIGHTS == ELEMENT_E4M3
#define QUOTIENT 448.0f
#define RECIPROCAL 0x1.24924ap-9f
#elif WEIGHTS == ELEMENT_E2M1
#define QUOTIENT 2688.0f /* of the matrix' largest number and its scale: 6 times 448 */
#define RECIPROCAL 0x1.861862p-12f
#else
#error "codes of this element"
#endif

/* What a number of codes is: bits of fraction, bits of the least normal one, the largest. Whole
 * numbers are subnormals of a float of 8 bits of fraction. */
typedef struct grid {
  int fraction;
  uint normal;
  float largest;
} grid;
#define E4M3_GRID ((grid){3, 0x3c800000u, 448.0f})
#if WEIGHTS == ELEMENT_E4M3
#define GRID E4M3_GRID
#elif WEIGHTS == ELEMENT_E2M1
#define GRID ((grid){1, 0x3f800000u, 6.0f})
#else
#define GRID ((grid){8, 0x43800000u, WEIGHTS == ELEMENT_INT8 ? 128.0f : 16.0f})
#endif

/* How finely errors are counted: 2^-12 for E4M3, ... (elements of lib/desc/quantized.c). */
#define ERROR_ONE                                                                                  \
  (WEIGHTS == ELEMENT_E4M3   ? 0x1p12f                                                             \
   : WEIGHTS == ELEMENT_INT8 ? 0x1p16f                                                             \
   : WEIGHTS == ELEMENT_INT4 ? 0x1p20f                                                             \
                             : 0x1p24f)
#define STEPS 32 /* DESC_SEARCH_STEPS */
#define TRIALS (SCALES == ELEMENT_E8M0 ? 3 : SCALES == ELEMENT_E4M3 ? 10 : STEPS / 2 + 1)

#define INFINITE 0x7f800000u /* bits of fp32 */
#define LEAST_NORMAL 0x1p-126f
#define LARGEST_FINITE 0x1.fffffep127f

#define VECTOR_OF_(type, n) type##n
#define VECTOR_OF(type, n) VECTOR_OF_(type, n)
typedef VECTOR_OF(float, VECTOR) floats;
typedef VECTOR_OF(int, VECTOR) ints;
typedef VECTOR_OF(uint, VECTOR) uints;
typedef VECTOR_OF(uchar, VECTOR) uchars;
#define AS_FLOATS VECTOR_OF(as_float, VECTOR)
#define AS_INTS VECTOR_OF(as_int, VECTOR)
#define AS_UINTS VECTOR_OF(as_uint, VECTOR)
#define TO_FLOATS VECTOR_OF(convert_float, VECTOR)
#define TO_INTS VECTOR_OF(convert_int, VECTOR)
#define TO_UCHARS VECTOR_OF(convert_uchar, VECTOR)
#if VECTOR == 16
#define PAIRS 8
#else
#define PAIRS 2
#endif
#define DEFINE_VECTORS(n) DEFINE_STORAGE_VECTORS(n)
DEFINE_VECTORS(VECTOR)
#define LOAD_(n) storage_load##n
#define LOAD(n) LOAD_(n)

/* ---- numbers as a part in [1,2) and a power of two ---- */

typedef struct split {
  float part;
  int power;
} split;

static inline float power_of_two(int power) { return as_float((uint)(127 + power) << 23); }

/* Of bits of a positive number, subnormals too. */
static inline split split_bits(uint bits) {
  const int above = bits < 0x800000u ? (int)clz(bits) - 8 : 0;
  const uint normal = bits << above;
  const int exponent = above ? 1 - above : (int)(bits >> 23);
  return (split){as_float((normal & 0x7fffffu) | 0x3f800000u), exponent - 127};
}

/* part times 2^power, kept in a range of normal numbers. */
static inline float join(float part, int power, float least, float most) {
  const int exponent = (int)(as_uint(part) >> 23) + power;
  if (exponent <= 0) return least;
  if (exponent >= 255) return most;
  return clamp(as_float((as_uint(part) & 0x7fffffu) | ((uint)exponent << 23)), least, most);
}

/* Magnitudes as bits: NaN is 0, infinity the largest number. */
static inline uints finite_bits(uints bits) {
  const uints magnitude = bits & 0x7fffffffu;
  return select(min(magnitude, INFINITE - 1), (uints)(0), magnitude > INFINITE);
}

/* Finite magnitudes in units of 2^power; what is far below them is 0. */
static inline floats in_units(uints magnitude, int power) {
  const ints exponent = AS_INTS(max(magnitude >> 23, (uints)(1)));
  const uints fraction =
      (magnitude & 0x7fffffu) | select((uints)(0), (uints)(0x800000u), magnitude >= 0x800000u);
  const ints biased = clamp(exponent - 150 - power + 127, (ints)(0), (ints)(254));
  return TO_FLOATS(AS_INTS(fraction)) * AS_FLOATS(biased << 23);
}

/* ---- a number's code ---- */

/* The nearest number of a grid to x / (times * scale), to even; x from 0 on. `times` has few
 * bits: a number of the grid and a half, times it, is exact. */
static inline floats nearest(floats x, float times, float scale, grid grid) {
  const float inverse = 1.0f / (times * scale);
  const floats about = min(x * inverse, 2.0f * grid.largest);
  const uints distance_bits =
      max(AS_UINTS(about) & INFINITE, (uints)(grid.normal)) - ((uint)grid.fraction << 23);
  const floats distance = AS_FLOATS(distance_bits), unit = distance * times;
  const floats n = rint(about * AS_FLOATS(0x7f000000u - distance_bits)); /* a power of two's */
  const ints odd = (TO_INTS(n) & 1) == 1;
  const floats above = fma(-(n + 0.5f) * unit, (floats)(scale), x);
  const floats below = fma(-(n - 0.5f) * unit, (floats)(scale), x);
  const floats up =
      select((floats)(0.0f), (floats)(1.0f), (above > 0.0f) | (odd & (above == 0.0f)));
  const floats down =
      select((floats)(0.0f), (floats)(1.0f), (below < 0.0f) | (odd & (below == 0.0f)));
  return min((n + up - down) * distance, grid.largest);
}

/* The scale that a block's codes have: times * scale, in units of 2^unit; int4's zero point. */
typedef struct coding {
  float times, scale, zero;
  int unit;
} coding;

/* The number of each code, less the zero point, of magnitudes in units. */
static inline floats numbers_of(floats magnitudes, ints negative, coding coding) {
  const floats n = nearest(magnitudes, coding.times, coding.scale, GRID);
  const floats number = select(n, -n, negative);
#if WEIGHTS == ELEMENT_INT8
  return clamp(number, -128.0f, 127.0f);
#elif WEIGHTS == ELEMENT_INT4
  return clamp(number, -coding.zero, 15.0f - coding.zero);
#else
  return number;
#endif
}

/* A magnitude of a grid of floats, as its code. */
static inline uints code_of(floats number, grid grid) {
  const uints bits = AS_UINTS(number), below = ((grid.normal >> 23) - 1) << grid.fraction;
  const float subnormals = as_float(0x7f000000u - (grid.normal - ((uint)grid.fraction << 23)));
  return select(AS_UINTS(TO_INTS(number * subnormals)), (bits >> (23 - grid.fraction)) - below,
                bits >= grid.normal);
}

static inline uchars codes_of(uints bits, coding coding) {
  const ints is_nan = (bits & 0x7fffffffu) > INFINITE;
  const ints negative = (AS_INTS(bits) < 0) & ~is_nan;
  const floats numbers = numbers_of(in_units(finite_bits(bits), coding.unit), negative, coding);
#if WEIGHTS == ELEMENT_INT8
  return TO_UCHARS(TO_INTS(numbers) & 255);
#elif WEIGHTS == ELEMENT_INT4
  return TO_UCHARS(TO_INTS(numbers + coding.zero));
#else
  const uints sign = select((uints)(0), (uints)(1u << (CODE_BITS - 1)), negative);
  uints code = code_of(fabs(numbers), GRID) | sign;
#if WEIGHTS == ELEMENT_E4M3
  code = select(code, (uints)(0x7f), is_nan);
#endif
  return TO_UCHARS(code);
#endif
}

/* ---- numbers from memory, codes to it ---- */

/* `count` of VECTOR, then zeros. */
static inline uints load(const __global storage_t *x, size_t at, long count) {
  if (count >= VECTOR) return AS_UINTS(LOAD(VECTOR)(x + at));
  uint part[VECTOR];
  for (int i = 0; i < VECTOR; i++)
    part[i] = i < count ? as_uint(storage_load(x, at + (size_t)i)) : 0;
  return VECTOR_OF(vload, VECTOR)(0, part);
}

static inline void store(uchars codes, __global uchar *row, long column, long count) {
  uchar part[VECTOR];
#if CODE_BITS == 4
  if (count >= VECTOR) {
    const VECTOR_OF(uchar, PAIRS) pairs = codes.even | (codes.odd << (uchar)4);
    VECTOR_OF(vstore, PAIRS)(pairs, 0, row + column / 2);
    return;
  }
  VECTOR_OF(vstore, VECTOR)(codes, 0, part);
  for (int i = 0; i < count; i += 2)
    row[(column + i) / 2] = (uchar)(part[i] | (i + 1 < count ? part[i + 1] << 4 : 0));
#else
  if (count >= VECTOR) {
    VECTOR_OF(vstore, VECTOR)(codes, 0, row + column);
    return;
  }
  VECTOR_OF(vstore, VECTOR)(codes, 0, part);
  for (int i = 0; i < count; i++) row[column + i] = part[i];
#endif
}

/* ---- blocks, and the work-items that share them ---- */

/* Part of a matrix: rows and columns, from `first` of its numbers on. */
typedef struct block {
  long row, rows, column, columns;
} block;

/* Vectors of a block, each with its row and first column, of this work-item. */
#define FOR_VECTORS(block, lid, r, c)                                                              \
  for (long vectors_ = ((block).columns + VECTOR - 1) / VECTOR, i_ = (lid), r, c;                  \
       i_ < (block).rows * vectors_ &&                                                             \
       (r = SCALE_ROWS > 1 ? (block).row + i_ / vectors_ : (block).row,                            \
       c = (SCALE_ROWS > 1 ? i_ % vectors_ : i_) * VECTOR, true);                                  \
       i_ += TOGETHER ? LOCAL : 1)

static inline size_t blocks_of(long rows, long columns) {
  return (size_t)((rows + SCALE_ROWS - 1) / SCALE_ROWS) * scale_columns(columns);
}

static inline block block_at(size_t i, long rows, long columns) {
  const size_t across = scale_columns(columns);
  const long row = (long)(i / across) * SCALE_ROWS;
#if BLOCK
  const long column = (long)(i % across) * BLOCK, width = min((long)BLOCK, columns - column);
#else
  const long column = 0, width = columns;
#endif
  return (block){row, min((long)SCALE_ROWS, rows - row), column, width};
}

#if TOGETHER
#define SHARED __local ulong *part, int lid
#define SHARED_WITH part, lid
#define LID lid
/* The largest over a work-group, or the sum, in all of its work-items. */
static inline ulong over_group(bool sum, ulong value, SHARED) {
  barrier(CLK_LOCAL_MEM_FENCE);
  part[lid] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int step = LOCAL / 2; step > 0; step /= 2) {
    if (lid < step) {
      const ulong a = part[lid], b = part[lid + step];
      part[lid] = sum ? a + b : max(a, b);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  return part[0];
}
#else
#define SHARED int lid
#define SHARED_WITH lid
#define LID 0
static inline ulong over_group(bool sum, ulong value, SHARED) { return value; }
#endif

static inline uint largest_of(uints v) {
  uint part[VECTOR], largest = 0;
  VECTOR_OF(vstore, VECTOR)(v, 0, part);
  for (int i = 0; i < VECTOR; i++) largest = max(largest, part[i]);
  return largest;
}

/* The bits of the largest numbers above 0 and below it, without signs. */
typedef struct range {
  uint most, least;
} range;

static inline range range_of(const __global storage_t *x, block b, long columns, SHARED) {
  uints most = 0, least = 0;
  FOR_VECTORS(b, LID, r, c) {
    const uints bits = load(x, (size_t)(r * columns + b.column + c), b.columns - c);
    const uints magnitude = finite_bits(bits);
#if ZERO_POINTS
    const ints negative = AS_INTS(bits) < 0;
    most = max(most, select(magnitude, (uints)(0), negative));
    least = max(least, select((uints)(0), magnitude, negative));
#else
    most = max(most, magnitude);
#endif
  }
  range range = {(uint)over_group(false, largest_of(most), SHARED_WITH), 0};
#if ZERO_POINTS
  range.least = (uint)over_group(false, largest_of(least), SHARED_WITH);
#endif
  return range;
}

/* ---- scales: as they are stored, of largest numbers ---- */

/* x / QUOTIENT, rounded once: a quotient that is off by a unit at most, and what it leaves. */
static inline float divided(float x) {
  const float about = x * RECIPROCAL;
  return fma(fma(-about, QUOTIENT, x), RECIPROCAL, about);
}

/* An fp32 scale of a largest number; 1 for none. */
static inline float f32_scale(uint largest) {
  const split s = split_bits(largest);
  return largest ? join(divided(s.part), s.power, LEAST_NORMAL, LARGEST_FINITE) : 1.0f;
}

static inline uint f16_bits(float value) {
  ushort bits;
  vstore_half_rte(value, 0, (half *)&bits);
  return bits;
}
static inline float f16_value(uint bits) {
  const ushort half_bits = (ushort)bits;
  return vload_half(0, (const half *)&half_bits);
}

/* A block's scale as it is stored, of its range; `all` is the matrix' scale. */
static inline uint stored_scale(range range, split all) {
#if SCALES == ELEMENT_F32
  return as_uint(f32_scale(range.most));
#elif SCALES == ELEMENT_F16
  const uint largest = max(range.most, range.least);
  const split s = split_bits(largest);
#if ZERO_POINTS
  const float most = in_units((uints)(range.most), s.power).s0;
  const float part = most + in_units((uints)(range.least), s.power).s0;
#else
  const float part = s.part;
#endif
  return f16_bits(largest ? join(divided(part), s.power, 0x1p-24f, 65504.0f) : 1.0f);
#elif SCALES == ELEMENT_E8M0
  return range.most ? (uint)clamp(split_bits(range.most).power - 2 + 127, 0, 254) : 127;
#elif SCALES == ELEMENT_E4M3 /* of largest / (6 * all) */
  const floats largest = in_units((uints)(range.most), all.power);
  const float scale = nearest(largest, 6.0f, all.part, E4M3_GRID).s0;
  return range.most ? max(code_of((floats)(scale), E4M3_GRID).s0, 1u) : 0x38u;
#else
  return 0;
#endif
}

/* Of a scale that is stored as `bits`. */
static inline split split_scale(uint bits) {
#if SCALES == ELEMENT_F32
  return split_bits(bits);
#elif SCALES == ELEMENT_F16
  return split_bits(as_uint(f16_value(bits)));
#elif SCALES == ELEMENT_E8M0
  return (split){1.0f, (int)bits - 127};
#elif SCALES == ELEMENT_E4M3
  return split_bits(as_uint(code_6(bits)));
#else
  return (split){1.0f, 0};
#endif
}

static inline float fraction_of(float scale, int i) {
  return scale * (float)(STEPS - i) * (1.0f / STEPS);
}

/* Trial number i of a search from a scale that is stored. */
static inline uint tried_scale(uint bits, int i) {
#if SCALES == ELEMENT_F32
  return as_uint(max(fraction_of(as_float(bits), i), LEAST_NORMAL));
#elif SCALES == ELEMENT_F16
  return f16_bits(max(fraction_of(f16_value(bits), i), 0x1p-24f));
#elif SCALES == ELEMENT_E8M0
  return (uint)clamp((int)bits + 1 - i, 0, 254);
#elif SCALES == ELEMENT_E4M3
  return (uint)clamp((int)bits + 1 - i, 1, 0x7e);
#else
  return 0;
#endif
}

static inline void put_scale(__global uchar *scales, size_t i, uint bits) {
#if SCALES == ELEMENT_F32
  ((__global uint *)scales)[i] = bits;
#elif SCALES == ELEMENT_F16
  ((__global ushort *)scales)[i] = (ushort)bits;
#elif SCALES != ELEMENT_NONE
  scales[i] = (uchar)bits;
#endif
}

/* How numbers become codes by a block's scale, counted in `unit`. */
static inline coding coding_of(uint bits, split all, range range, int unit) {
  const split s = split_scale(bits);
#if HAS_SCALES && MATRIX_SCALE
  coding coding = {s.part * power_of_two(s.power + all.power - unit), all.part, 0.0f, unit};
#elif MATRIX_SCALE
  coding coding = {1.0f, all.part * power_of_two(all.power - unit), 0.0f, unit};
#else
  coding coding = {1.0f, s.part * power_of_two(s.power - unit), 0.0f, unit};
#endif
#if ZERO_POINTS
  const floats least = in_units((uints)(range.least), unit);
  coding.zero = min(nearest(least, coding.times, coding.scale, GRID).s0, 15.0f);
#elif WEIGHTS == ELEMENT_INT4
  coding.zero = 8.0f;
#endif
  return coding;
}

static inline int unit_of(uint bits, split all) {
  return (HAS_SCALES ? split_scale(bits).power : 0) + (MATRIX_SCALE ? all.power : 0);
}

/* ---- a search of scales ---- */

#if SEARCH
typedef VECTOR_OF(ulong, VECTOR) ulongs;

static inline ulong sum_of(ulongs v) {
  ulong part[VECTOR], sum = 0;
  VECTOR_OF(vstore, VECTOR)(v, 0, part);
  for (int i = 0; i < VECTOR; i++) sum += part[i];
  return sum;
}

/* The squared error of a block's numbers: integers, whose sum is the same in any order. */
static inline ulong squared_error(const __global storage_t *x, block b, long columns, coding coding,
                                  SHARED) {
  ulongs sum = 0;
  FOR_VECTORS(b, LID, r, c) {
    const uints bits = load(x, (size_t)(r * columns + b.column + c), b.columns - c);
    const floats magnitudes = in_units(finite_bits(bits), coding.unit);
    const ints negative = AS_INTS(bits) < 0;
    const floats numbers = numbers_of(magnitudes, negative, coding);
    const floats value = select(magnitudes, -magnitudes, negative);
    const floats error = fma(-numbers * coding.times, (floats)(coding.scale), value);
    const floats squared = min(error * error * ERROR_ONE, 0x1p30f);
    sum += VECTOR_OF(convert_ulong, VECTOR)(TO_INTS(rint(squared)));
  }
  const ulong all = over_group(true, sum_of(sum), SHARED_WITH);
  return all;
}

static inline uint search_scale(const __global storage_t *x, block b, long columns, split all,
                                range range, uint from, SHARED) {
  uint best = from;
  ulong least = ULONG_MAX;
  const int unit = unit_of(from, all);
  const int trials = (range.most | range.least) != 0 ? TRIALS : 0;
  for (int t = 0; t < trials; t++) {
    const uint bits = tried_scale(from, t);
    const ulong error =
        squared_error(x, b, columns, coding_of(bits, all, range, unit), SHARED_WITH);
    best = error < least ? bits : best;
    least = min(least, error);
  }
  return best;
}
#endif

/* ---- kernels ---- */

/* Numbers of the first matrix begin at `x_at`, in elements; its codes at y_at, in bytes. */
#define ARGUMENTS                                                                                  \
  const __global storage_t *x, __global uchar *y, ulong x_at, ulong y_at, ulong matrices,          \
      long rows, long columns
#define MATRIX(m)                                                                                  \
  x += x_at + (m) * (ulong)rows * (ulong)columns;                                                  \
  y += y_at + (m)*WEIGHT_MATRIX(rows, columns)

static inline void put_zeros(__global uchar *y, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) y[i] = 0;
}

/* A work-item a matrix: what is between its parts, and the scale that `find_largest` begins with.
 */
__kernel void begin(ARGUMENTS) {
  const size_t m = get_global_id(0);
  if (m < matrices) {
    MATRIX(m);
    const size_t scales = blocks_of(rows, columns) * SCALE_BYTES;
    const size_t zero_points = (size_t)rows * scale_columns(columns);
    put_zeros(y, (size_t)rows * row_bytes(columns), scales_at(rows, columns));
    if (HAS_SCALES) put_zeros(y, scales_at(rows, columns) + scales, zero_points_at(rows, columns));
    if (ZERO_POINTS)
      put_zeros(y, zero_points_at(rows, columns) + zero_points, matrix_scale_at(rows, columns));
    put_zeros(y, matrix_scale_at(rows, columns), WEIGHT_MATRIX(rows, columns));
  }
}

#if TOGETHER
#define PART                                                                                       \
  __local ulong part[LOCAL];                                                                       \
  const int lid = (int)get_local_id(0)
#else
#define PART const int lid = 0
#endif

/* A work-group a block, or a work-item EACH blocks. */
#define FOR_BLOCKS(i, blocks)                                                                      \
  for (size_t i = TOGETHER ? get_group_id(0) : get_global_id(0) * EACH,                            \
              end_ = min(i + (TOGETHER ? 1 : EACH), (size_t)(blocks));                             \
       i < end_; i++)

#if MATRIX_SCALE
static inline __global uint *matrix_scale(__global uchar *y, long rows, long columns) {
  return (__global uint *)(y + matrix_scale_at(rows, columns));
}

/* Of each matrix' largest number the bits, where its scale will be. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void find_largest(ARGUMENTS) {
  PART;
  const size_t blocks = blocks_of(rows, columns);
  FOR_BLOCKS(i, blocks * matrices) {
    const __global storage_t *numbers = x + x_at + i / blocks * (ulong)rows * (ulong)columns;
    __global uchar *matrix = y + y_at + i / blocks * WEIGHT_MATRIX(rows, columns);
    const range range =
        range_of(numbers, block_at(i % blocks, rows, columns), columns, SHARED_WITH);
    if (lid == 0) atomic_max(matrix_scale(matrix, rows, columns), range.most);
  }
}

/* A work-item a matrix. */
__kernel void put_matrix_scale(ARGUMENTS) {
  const size_t m = get_global_id(0);
  if (m < matrices) {
    MATRIX(m);
    __global uint *scale = matrix_scale(y, rows, columns);
    *scale = as_uint(f32_scale(*scale));
  }
}
#endif

/* Of a matrix that has one scale, a search adds up all blocks' errors of each trial: sums of 64
 * bits as two words, since not every device adds more at once. */
#if SEARCH && !HAS_SCALES
static inline split tried_matrix_scale(uint bits, int i) {
  return split_bits(as_uint(max(fraction_of(as_float(bits), i), LEAST_NORMAL)));
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void add_errors(ARGUMENTS,
                                                                            __global uint *errors) {
  PART;
  const size_t blocks = blocks_of(rows, columns);
  FOR_BLOCKS(i, blocks * matrices) {
    const size_t m = i / blocks;
    const __global storage_t *numbers = x + x_at + m * (ulong)rows * (ulong)columns;
    const block b = block_at(i % blocks, rows, columns);
    const uint from = *matrix_scale(y + y_at + m * WEIGHT_MATRIX(rows, columns), rows, columns);
    const int unit = split_bits(from).power;
    for (int t = 0; t < TRIALS; t++) {
      const range none = {0, 0};
      const coding coding = coding_of(0, tried_matrix_scale(from, t), none, unit);
      const ulong error = squared_error(numbers, b, columns, coding, SHARED_WITH);
      if (lid == 0) {
        __global uint *sum = errors + (m * TRIALS + (size_t)t) * 2;
        const uint low = (uint)error;
        const uint carry = atomic_add(sum, low) + low < low ? 1 : 0;
        atomic_add(sum + 1, (uint)(error >> 32) + carry);
      }
    }
  }
}

__kernel void choose_matrix_scale(ARGUMENTS, __global uint *errors) {
  const size_t m = get_global_id(0);
  if (m < matrices) {
    MATRIX(m);
    __global uint *scale = matrix_scale(y, rows, columns);
    ulong least = ULONG_MAX;
    int best = 0;
    for (int t = 0; t < TRIALS; t++) {
      const __global uint *sum = errors + (m * TRIALS + (size_t)t) * 2;
      const ulong error = sum[0] | (ulong)sum[1] << 32;
      best = error < least ? t : best;
      least = min(least, error);
    }
    const split chosen = tried_matrix_scale(*scale, best);
    *scale = as_uint(join(chosen.part, chosen.power, LEAST_NORMAL, LARGEST_FINITE));
  }
}
#endif

static inline void encode_block(const __global storage_t *x, __global uchar *y, size_t i, long rows,
                                long columns, SHARED) {
  const block b = block_at(i, rows, columns);
#if MATRIX_SCALE
  const split all = split_bits(*matrix_scale(y, rows, columns));
#else
  const split all = {1.0f, 0};
#endif
#if HAS_SCALES
  const range range = range_of(x, b, columns, SHARED_WITH);
  uint bits = stored_scale(range, all);
#if SEARCH
  bits = search_scale(x, b, columns, all, range, bits, SHARED_WITH);
#endif
  if (lid == 0) put_scale(y + scales_at(rows, columns), i, bits);
#else
  const range range = {0, 0};
  const uint bits = 0;
#endif
  const coding coding = coding_of(bits, all, range, unit_of(bits, all));
#if ZERO_POINTS
  if (lid == 0) y[zero_points_at(rows, columns) + i] = (uchar)coding.zero;
#endif
  FOR_VECTORS(b, LID, r, c) {
    const uints numbers = load(x, (size_t)(r * columns + b.column + c), b.columns - c);
    store(codes_of(numbers, coding), y + (size_t)r * row_bytes(columns), b.column + c,
          b.columns - c);
  }
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void encode(ARGUMENTS) {
  PART;
  const size_t blocks = blocks_of(rows, columns);
  FOR_BLOCKS(i, blocks * matrices) {
    const __global storage_t *numbers = x + x_at + i / blocks * (ulong)rows * (ulong)columns;
    __global uchar *matrix = y + y_at + i / blocks * WEIGHT_MATRIX(rows, columns);
    encode_block(numbers, matrix, i % blocks, rows, columns, SHARED_WITH);
  }
}
