// SPDX-License-Identifier: MIT
/* Formats with scales: what each code is, by tables; how numbers become codes and scales, and
 * where they lie, by hand. */
#include "unit.h"
#include "base/base.h"
#include "desc/quantized.h"
#include "moecl/quantize.h"
#include <float.h>
#include <math.h>

/* ---- codes ---- */

/* E4M3 without its sign, 0 to 0x7e, written out from the OCP's 8-bit floating point
 * specification: exponent bias 7, subnormals of 2^-9, no infinity. */
static const double e4m3[] = {
    0,        0.001953125, 0.00390625, 0.005859375, 0.0078125, 0.009765625, 0.01171875, 0.013671875,
    0.015625, 0.017578125, 0.01953125, 0.021484375, 0.0234375, 0.025390625, 0.02734375, 0.029296875,
    0.03125,  0.03515625,  0.0390625,  0.04296875,  0.046875,  0.05078125,  0.0546875,  0.05859375,
    0.0625,   0.0703125,   0.078125,   0.0859375,   0.09375,   0.1015625,   0.109375,   0.1171875,
    0.125,    0.140625,    0.15625,    0.171875,    0.1875,    0.203125,    0.21875,    0.234375,
    0.25,     0.28125,     0.3125,     0.34375,     0.375,     0.40625,     0.4375,     0.46875,
    0.5,      0.5625,      0.625,      0.6875,      0.75,      0.8125,      0.875,      0.9375,
    1,        1.125,       1.25,       1.375,       1.5,       1.625,       1.75,       1.875,
    2,        2.25,        2.5,        2.75,        3,         3.25,        3.5,        3.75,
    4,        4.5,         5,          5.5,         6,         6.5,         7,          7.5,
    8,        9,           10,         11,          12,        13,          14,         15,
    16,       18,          20,         22,          24,        26,          28,         30,
    32,       36,          40,         44,          48,        52,          56,         60,
    64,       72,          80,         88,          96,        104,         112,        120,
    128,      144,         160,        176,         192,       208,         224,        240,
    256,      288,         320,        352,         384,       416,         448,
};

/* From OCP's microscaling formats specification, table of FP4 (E2M1). */
static const double e2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

static void test_e4m3(void **state) {
  (void)state;
  assert_int_equal(sizeof e4m3 / sizeof e4m3[0], 0x7f);
  assert_true(e4m3[1] == 0x1p-9 && e4m3[8] == 0x1p-6 && e4m3[0x38] == 1 && e4m3[0x7e] == 448);
  for (uint32_t code = 0; code < 256; code++) {
    const double value = desc_element_decode(ELEMENT_E4M3, code);
    if ((code & 0x7f) == 0x7f) assert_true(isnan(value));
    else {
      assert_true(fabs(value) == e4m3[code & 0x7f]);
      assert_int_equal(signbit(value) != 0, code >> 7);
      assert_int_equal(desc_element_encode(ELEMENT_E4M3, value), code);
    }
  }
}

static void test_e2m1(void **state) {
  (void)state;
  for (uint32_t code = 0; code < 16; code++) {
    const double value = desc_element_decode(ELEMENT_E2M1, code);
    assert_true(fabs(value) == e2m1[code & 7]);
    assert_int_equal(signbit(value) != 0, code >> 3);
    assert_int_equal(desc_element_encode(ELEMENT_E2M1, value), code);
  }
}

static void test_e8m0(void **state) {
  double want = 1;
  (void)state;
  for (uint32_t code = 127; code < 255; code++, want *= 2) {
    assert_true(desc_element_decode(ELEMENT_E8M0, code) == want);
    assert_true(desc_element_decode(ELEMENT_E8M0, 254 - code) == 1 / want);
    assert_int_equal(desc_element_encode(ELEMENT_E8M0, want), code);
    assert_int_equal(desc_element_encode(ELEMENT_E8M0, 1 / want), 254 - code);
  }
  assert_true(isnan(desc_element_decode(ELEMENT_E8M0, 255)));
  assert_int_equal(desc_element_encode(ELEMENT_E8M0, 0), 0);
  assert_int_equal(desc_element_encode(ELEMENT_E8M0, INFINITY), 254);
}

static void test_integers(void **state) {
  (void)state;
  for (int value = -128; value < 128; value++) {
    assert_true(desc_element_decode(ELEMENT_INT8, (uint8_t)value) == value);
    assert_int_equal(desc_element_encode(ELEMENT_INT8, value), (uint8_t)value);
  }
  for (uint32_t code = 0; code < 16; code++) {
    assert_true(desc_element_decode(ELEMENT_INT4, code) == code);
    assert_int_equal(desc_element_encode(ELEMENT_INT4, code), code);
  }
}

/* The middle between neighbours goes to the even code, all beside it to the nearer one. */
static void check_rounding(int element, const double *table, uint32_t count) {
  for (uint32_t i = 0; i + 1 < count; i++) {
    const double middle = (table[i] + table[i + 1]) / 2;
    assert_int_equal(desc_element_encode(element, middle), i + i % 2);
    assert_int_equal(desc_element_encode(element, nextafter(middle, 0)), i);
    assert_int_equal(desc_element_encode(element, nextafter(middle, 1e9)), i + 1);
  }
  assert_int_equal(desc_element_encode(element, 2 * table[count - 1]), count - 1);
  assert_int_equal(desc_element_encode(element, INFINITY), count - 1);
}

static void test_rounding(void **state) {
  (void)state;
  check_rounding(ELEMENT_E4M3, e4m3, 0x7f);
  check_rounding(ELEMENT_E2M1, e2m1, 8);
  assert_int_equal(desc_element_encode(ELEMENT_E4M3, NAN), 0x7f);
  assert_int_equal(desc_element_encode(ELEMENT_E2M1, NAN), 0);
  assert_int_equal(desc_element_encode(ELEMENT_INT8, NAN), 0);
  assert_int_equal(desc_element_encode(ELEMENT_INT8, 2.5), 2);
  assert_int_equal(desc_element_encode(ELEMENT_INT8, 1000), 127);
  assert_int_equal(desc_element_encode(ELEMENT_INT8, -1000), 128);
  assert_int_equal(desc_element_encode(ELEMENT_INT4, -3), 0);
}

/* ---- matrices ---- */

enum { MOST = 1 << 18 };
static uint8_t stored[MOST];
static double numbers[MOST], again[MOST];

/* Where the parts are, and how long all is. */
static void check_layout(moecl_format format, uint64_t rows, uint64_t columns, uint64_t scales,
                         uint64_t zero_points, uint64_t matrix_scale, uint64_t bytes) {
  moecl_format_layout at;
  assert_ok(moecl_format_get_layout(format, rows, columns, &at));
  assert_int_equal(at.scales, scales);
  assert_int_equal(at.zero_points, zero_points);
  assert_int_equal(at.matrix_scale, matrix_scale);
  assert_int_equal(at.bytes, bytes);
  assert_int_equal(moecl_format_bytes(format, rows, columns), bytes);
}

static void test_layout(void **state) {
  moecl_format_layout at;
  (void)state;
  check_layout(MOECL_FORMAT_BF16, 3, 5, 0, 0, 0, 30);
  check_layout(MOECL_FORMAT_INT8, 3, 5, 16, 0, 0, 32);               /* 15 codes, 3 scales */
  check_layout(MOECL_FORMAT_INT8_G128, 2, 129, 272, 0, 0, 288);      /* 258; 4 scales */
  check_layout(MOECL_FORMAT_INT4_G32, 3, 33, 64, 0, 0, 80);          /* 51; 6 of 2 bytes */
  check_layout(MOECL_FORMAT_INT4_G128_ZP, 5, 129, 336, 368, 0, 384); /* 325; 20; 10 */
  check_layout(MOECL_FORMAT_MXFP4, 1, 32, 16, 0, 0, 32);
  check_layout(MOECL_FORMAT_NVFP4, 2, 17, 32, 0, 48, 64); /* 18; 4; one */
  check_layout(MOECL_FORMAT_FP8, 3, 7, 0, 0, 32, 48);
  check_layout(MOECL_FORMAT_FP8_BLOCK, 129, 257, 33168, 0, 0, 33200); /* 33153; 2 x 3 */
  check_layout(MOECL_FORMAT_FP8_G128, 3, 129, 400, 0, 0, 432);        /* 387; 3 x 2 */
  check_layout(MOECL_FORMAT_NVFP4, 0, 17, 0, 0, 0, 0);
  assert_int_equal(moecl_format_get_layout(MOECL_FORMAT_DTYPE, 1, 1, &at),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_format_get_layout(MOECL_FORMAT_INT8, UINT64_MAX / 2, 4, &at),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(at.bytes, 0);
  assert_true(moecl_format_bytes(MOECL_FORMAT_FP8, UINT64_MAX / 2, 4) == UINT64_MAX);
}

/* Poisons what `stored` was before, and puts `again` where the numbers went. */
static moecl_format_layout encode(moecl_format format, uint64_t rows, uint64_t columns) {
  moecl_format_layout at;
  assert_ok(moecl_format_get_layout(format, rows, columns, &at));
  assert_true(at.bytes < MOST && rows * columns <= MOST);
  memset(stored, 0xa5, MOST);
  moecl_format_from_double(format, numbers, rows, columns, stored);
  assert_int_equal(stored[at.bytes], 0xa5);
  moecl_format_to_double(format, stored, rows, columns, again);
  return at;
}

static void put(uint64_t count, const double *values) {
  memset(numbers, 0, sizeof numbers);
  memcpy(numbers, values, count * sizeof *values);
}
#define PUT(...)                                                                                   \
  put(sizeof((const double[]){__VA_ARGS__}) / sizeof(double), (const double[]){__VA_ARGS__})

static double read_f32(uint64_t at) {
  double value;
  moecl_to_double(MOECL_F32, stored + at, 1, &value);
  return value;
}
static double read_f16(uint64_t at) {
  double value;
  moecl_to_double(MOECL_F16, stored + at, 1, &value);
  return value;
}

static void test_int8(void **state) {
  (void)state;
  PUT(127, -63.5, 1, 0, 0, 0, 254, -254, 3); /* three rows; the second has nothing */
  const moecl_format_layout at = encode(MOECL_FORMAT_INT8, 3, 3);
  static const int8_t want[] = {127, -64, 1, 0, 0, 0, 127, -127, 2};
  assert_memory_equal(stored, want, sizeof want);
  assert_true(read_f32(at.scales) == 1 && read_f32(at.scales + 4) == 1);
  assert_true(read_f32(at.scales + 8) == 2);
  assert_true(again[0] == 127 && again[1] == -64 && again[4] == 0 && again[7] == -254);
}

static void test_int4(void **state) {
  (void)state;
  PUT(7, -7, 3.5, 2.5);
  numbers[32] = 0.5; /* a block of its own */
  const moecl_format_layout at = encode(MOECL_FORMAT_INT4_G32, 1, 33);
  static const uint8_t want[] = {0x1f, 0xac, 0x88, 0x88};
  assert_memory_equal(stored, want, sizeof want);
  assert_int_equal(stored[16], 0x0f); /* the half behind the last is nobody's */
  assert_true(read_f16(at.scales) == 1);
  assert_true(fabs(read_f16(at.scales + 2) * 14 - 1) < 0x1p-11);
  assert_true(again[1] == -7 && again[2] == 4 && again[3] == 2 && again[4] == 0);
  PUT(1e6, -1e6, NAN); /* fp16 has no such scale: 65504 */
  encode(MOECL_FORMAT_INT4_G32, 1, 3);
  assert_true(again[0] == 7 * 65504.0 && again[1] == -8 * 65504.0 && again[2] == 0);
  PUT(0x1p-30, 3 * 0x1p-24);
  encode(MOECL_FORMAT_INT4_G32, 1, 2); /* the least one */
  assert_true(again[0] == 0 && again[1] == 3 * 0x1p-24);
}

static void test_zero_points(void **state) {
  (void)state;
  PUT(-1, 0, 14, 2.5, 3.5, NAN);
  const moecl_format_layout at = encode(MOECL_FORMAT_INT4_G32_ZP, 1, 6);
  static const uint8_t want[] = {0x10, 0x3f, 0x15}; /* 0 1, 15 3, 5 1 */
  assert_memory_equal(stored, want, sizeof want);
  assert_true(read_f16(at.scales) == 1);
  assert_int_equal(stored[at.zero_points], 1);
  assert_true(again[0] == -1 && again[1] == 0 && again[2] == 14 && again[3] == 2 && again[4] == 4);
  PUT(3, 30); /* the range has 0 in it */
  encode(MOECL_FORMAT_INT4_G32_ZP, 1, 2);
  assert_true(again[0] == 4 && again[1] == 30);
  PUT(0, 0);
  encode(MOECL_FORMAT_INT4_G32_ZP, 1, 2);
  assert_true(again[0] == 0 && again[1] == 0 && stored[at.zero_points] == 0);
}

static void test_mxfp4(void **state) {
  (void)state;
  PUT(7.9, 5, 2.5, 0.25, -0.75, -6, INFINITY - INFINITY);
  numbers[32] = 8, numbers[33] = -1; /* the next block; the third has nothing */
  const moecl_format_layout at = encode(MOECL_FORMAT_MXFP4, 1, 96);
  static const uint8_t want[] = {0x67, 0x04, 0xfa, 0x00};
  assert_memory_equal(stored, want, sizeof want);
  assert_int_equal(stored[at.scales], 127);
  assert_int_equal(stored[at.scales + 1], 128); /* 8 is 4 times 2 */
  assert_int_equal(stored[at.scales + 2], 127);
  assert_int_equal(stored[16], 0x96);
  assert_true(again[0] == 6 && again[1] == 4 && again[4] == -1 && again[32] == 8);
  PUT(INFINITY, 1e-30);
  encode(MOECL_FORMAT_MXFP4, 1, 2); /* as the largest fp32, whose exponent is 127 */
  assert_true(again[0] == 6 * 0x1p125 && again[1] == 0);
  PUT(0x1p-130);
  encode(MOECL_FORMAT_MXFP4, 1, 1);
  assert_int_equal(stored[16], 0);
}

static void test_nvfp4(void **state) {
  (void)state;
  PUT(2688, 448, -224);
  numbers[16] = 6, numbers[17] = -0.5; /* block scale 1 */
  numbers[32] = 1e-9;                  /* too small for its block's scale, which is the least */
  const moecl_format_layout at = encode(MOECL_FORMAT_NVFP4, 1, 48);
  assert_true(read_f32(at.matrix_scale) == 1);
  assert_int_equal(stored[at.scales], 0x7e);
  assert_int_equal(stored[at.scales + 1], 0x38);
  assert_int_equal(stored[at.scales + 2], 0x01);
  assert_int_equal(stored[0], 0x27);
  assert_int_equal(stored[1], 0x09);
  assert_int_equal(stored[8], 0x97);
  assert_true(again[0] == 2688 && again[1] == 448 && again[2] == -224 && again[17] == -0.5);
  assert_true(again[32] == 0);
  PUT(0);
  encode(MOECL_FORMAT_NVFP4, 1, 48);
  assert_true(read_f32(at.matrix_scale) == 1 && stored[at.scales] == 0x38 && again[0] == 0);
}

static void test_fp8(void **state) {
  (void)state;
  PUT(896, -1, NAN, 0); /* two rows */
  moecl_format_layout at = encode(MOECL_FORMAT_FP8, 2, 2);
  static const uint8_t want[] = {0x7e, 0xb0, 0x7f, 0x00};
  assert_memory_equal(stored, want, sizeof want);
  assert_true(read_f32(at.matrix_scale) == 2);
  assert_true(again[0] == 896 && again[1] == -1 && isnan(again[2]) && again[3] == 0);
  PUT(896, -1, 448, 1);
  at = encode(MOECL_FORMAT_FP8_ROW, 2, 2);
  assert_true(read_f32(at.scales) == 2 && read_f32(at.scales + 4) == 1);
  assert_int_equal(stored[3], 0x38);
  PUT(448); /* blocks of 128 x 128 and what is left of them */
  numbers[127 * 130 + 127] = -1;
  numbers[129 - 1] = 896;
  numbers[128 * 130 + 0] = 1792;
  numbers[128 * 130 + 129] = 3584;
  at = encode(MOECL_FORMAT_FP8_BLOCK, 129, 130);
  for (int i = 0; i < 4; i++) assert_true(read_f32(at.scales + 4 * (uint64_t)i) == 1 << i);
  assert_int_equal(stored[127 * 130 + 127], 0xb8);
  for (int i = 0; i < 129 * 130; i++) assert_true(again[i] == numbers[i]);
  PUT(448);
  numbers[128] = -896, numbers[129] = 1, numbers[130] = 1792; /* the second row: 1792, then zeros */
  at = encode(MOECL_FORMAT_FP8_G128, 2, 130);
  static const double scales[] = {1, 2, 4, 1};
  for (int i = 0; i < 4; i++) assert_true(read_f32(at.scales + 4 * (uint64_t)i) == scales[i]);
  for (int i = 0; i < 2 * 130; i++) assert_true(again[i] == numbers[i]);
}

/* What rows may be quantized to, by name. */
static void test_for_activations(void **state) {
  static const char *const names[] = {"dtype", "int8", "int8-g128", "fp8-row", "fp8-g128"};
  size_t found = 0;
  (void)state;
  for (int format = -1; format <= MOECL_FORMAT_COUNT; format++)
    if (moecl_format_is_for_activations((moecl_format)format))
      assert_string_equal(moecl_format_name((moecl_format)format), names[found++]);
  assert_int_equal(found, BASE_COUNT(names));
}

/* Some rows of a matrix are those of all, and numbers that a format has are kept. */
static void test_every_format(void **state) {
  enum { ROWS = 131, COLUMNS = 259 };
  static double some[3 * COLUMNS];
  (void)state;
  for (int format = MOECL_FORMAT_F32; format < MOECL_FORMAT_COUNT; format++) {
    uint32_t random = 1;
    for (int i = 0; i < ROWS * COLUMNS; i++) {
      random = random * 1664525u + 1013904223u;
      numbers[i] = ((double)(random >> 8) / 0x1p23 - 1) * (1 + i % 7);
    }
    encode((moecl_format)format, ROWS, COLUMNS);
    desc_decode_rows(&desc_formats[format], stored, ROWS, COLUMNS, 127, 3, some);
    assert_memory_equal(some, again + 127 * COLUMNS, sizeof some);
    double error = 0, norm = 0;
    for (int i = 0; i < ROWS * COLUMNS; i++) {
      error += (again[i] - numbers[i]) * (again[i] - numbers[i]);
      norm += numbers[i] * numbers[i];
    }
    const double most = desc_formats[format].bits >= 16  ? 0.004
                        : desc_formats[format].bits == 8 ? 0.03
                                                         : 0.15;
    assert_true(sqrt(error / norm) < most);
  }
}

/* Enough numbers for several threads: blocks of rows are as they are alone. */
static void test_large(void **state) {
  enum { PART = 128, ROWS = 5 * PART, COLUMNS = 520 };
  static double large[ROWS * COLUMNS], whole[ROWS * COLUMNS], part[PART * COLUMNS];
  static unsigned char bytes[ROWS * COLUMNS * 2];
  uint32_t random = 7;
  (void)state;
  for (int i = 0; i < ROWS * COLUMNS; i++) {
    random = random * 1664525u + 1013904223u;
    large[i] = ((double)(random >> 8) / 0x1p23 - 1) * (1 + i / 777 % 5);
  }
  for (int format = MOECL_FORMAT_INT8; format < MOECL_FORMAT_COUNT; format++) {
    if (desc_formats[format].matrix_scale) continue; /* of all rows */
    assert_true(moecl_format_bytes((moecl_format)format, ROWS, COLUMNS) <= sizeof bytes);
    moecl_format_from_double((moecl_format)format, large, ROWS, COLUMNS, bytes);
    moecl_format_to_double((moecl_format)format, bytes, ROWS, COLUMNS, whole);
    for (int at = 0; at < ROWS * COLUMNS; at += PART * COLUMNS) {
      moecl_format_from_double((moecl_format)format, large + at, PART, COLUMNS, bytes);
      moecl_format_to_double((moecl_format)format, bytes, PART, COLUMNS, part);
      assert_memory_equal(part, whole + at, sizeof part);
    }
  }
}

/* ---- a search of scales ---- */

/* The scale that a block of `stored` has, or the matrix; what nvfp4's matrix has besides. */
static double read_scale(const desc_format *format, const moecl_format_layout *at) {
  if (format->scale == ELEMENT_NONE) return read_f32(at->matrix_scale);
  if (format->scale == ELEMENT_F32) return read_f32(at->scales);
  if (format->scale == ELEMENT_F16) return read_f16(at->scales);
  return desc_element_decode(format->scale, stored[at->scales]);
}

/* Trial i of a search from a scale; NAN: there is no such. */
static double trial(const desc_format *format, double from, int i) {
  double scale = from * (1 - i / 32.0);
  uint8_t bytes[4];
  if (format->scale == ELEMENT_E8M0) return i < 3 ? ldexp(from, 1 - i) : NAN;
  if (format->scale == ELEMENT_E4M3) {
    int code = 0;
    while (e4m3[code] != from) code++;
    code += 1 - i;
    return i < 10 && code >= 1 && code < 0x7f ? e4m3[code] : NAN;
  }
  const moecl_dtype dtype = format->scale == ELEMENT_F16 ? MOECL_F16 : MOECL_F32;
  if (i > 16) return NAN;
  moecl_from_double(dtype, &scale, 1, bytes);
  moecl_to_double(dtype, bytes, 1, &scale);
  return scale;
}

/* The squared error where each number has the best code there is. */
static double least_error(const desc_format *format, uint64_t count, double scale) {
  double least = 0, sum = 0;
  for (uint64_t i = 0; i < count; i++) least = fmin(least, numbers[i]);
  const double zero = format->zero_points ? fmin(rint(-least / scale), 15) : 8;
  for (uint64_t i = 0; i < count; i++) {
    double best = INFINITY;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
      const double number = desc_element_decode(format->element, code);
      const double off =
          numbers[i] - (format->element == ELEMENT_INT4 ? number - zero : number) * scale;
      if (off * off < best) best = off * off;
    }
    sum += best;
  }
  return sum;
}

static double error_now(uint64_t count) {
  double sum = 0;
  for (uint64_t i = 0; i < count; i++) sum += (again[i] - numbers[i]) * (again[i] - numbers[i]);
  return sum;
}

/* One block, of which the error is what the best of all trials has, and no other scale than
 * theirs. Errors are counted in whole units, 2^-12 of a squared scale at the coarsest. */
static bool check_search(moecl_format number, uint64_t rows, uint64_t columns) {
  const desc_format *format = &desc_formats[number];
  const uint64_t count = rows * columns;
  const moecl_format_layout at = encode(number, rows, columns);
  const double from = read_scale(format, &at), nearest = error_now(count);
  const double all =
      format->scale != ELEMENT_NONE && format->matrix_scale ? read_f32(at.matrix_scale) : 1;
  const moecl_quantize_params params = {.format = number,
                                        .scale_search = MOECL_SCALE_SEARCH_MSE,
                                        .matrices = 1,
                                        .rows = rows,
                                        .columns = columns};
  assert_ok(moecl_quantize_host(&params, numbers, stored));
  moecl_format_to_double(number, stored, rows, columns, again);
  const double chosen = read_scale(format, &at), error = error_now(count);
  const double unit = (double)count * 0x1p-13 * from * from * all * all;
  double best = INFINITY;
  bool tried = false;
  for (int i = 0; i < 40; i++) {
    const double scale = trial(format, from, i);
    if (isnan(scale)) continue;
    best = fmin(best, least_error(format, count, scale * all));
    tried |= scale == chosen;
  }
  assert_true(tried && error <= nearest && error <= best + unit);
  return chosen != from;
}

static void test_search(void **state) {
  enum { BLOCKS = 12 };
  (void)state;
  for (int format = MOECL_FORMAT_INT8; format < MOECL_FORMAT_COUNT; format++) {
    const desc_format *row = &desc_formats[format];
    const uint64_t columns = row->block ? row->block : 45;
    const uint64_t rows = row->scale_rows > 1 ? 10 : row->scale == ELEMENT_NONE ? 3 : 1;
    uint32_t random = 5;
    int others = 0;
    for (int block = 0; block < BLOCKS; block++) {
      for (uint64_t i = 0; i < rows * columns; i++) {
        double sum = 0; /* of four, about normal */
        for (int j = 0; j < 4; j++) {
          random = random * 1664525u + 1013904223u;
          sum += (double)(random >> 8) / 0x1p23 - 1;
        }
        numbers[i] = (double)(float)ldexp(sum, block - 5);
      }
      others += check_search((moecl_format)format, rows, columns);
    }
    /* Of 127 steps one less than the largest costs more than the others gain. */
    if (others == 0 && row->element != ELEMENT_INT8)
      fail_msg("%s: no search found a better scale", row->name);
    memset(numbers, 0, sizeof numbers);
    assert_false(check_search((moecl_format)format, rows, columns)); /* 1 stays 1 */
  }
}

/* Of two scales that are as good, the larger: 6 and 3 are codes of both. */
static void test_search_ties(void **state) {
  const moecl_quantize_params params = {.format = MOECL_FORMAT_MXFP4,
                                        .scale_search = MOECL_SCALE_SEARCH_MSE,
                                        .matrices = 1,
                                        .rows = 1,
                                        .columns = 3};
  (void)state;
  PUT(6, 3, -1);
  const moecl_format_layout at = encode(MOECL_FORMAT_MXFP4, 1, 3);
  assert_int_equal(stored[at.scales], 127);
  assert_ok(moecl_quantize_host(&params, numbers, stored));
  assert_int_equal(stored[at.scales], 128); /* 3, 1.5 and -0.5, times 2 */
  PUT(7.9, 7.9, 7.9);                       /* to the nearest 6, with twice the scale 8 */
  assert_ok(moecl_quantize_host(&params, numbers, stored));
  assert_int_equal(stored[at.scales], 128);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_e4m3),         cmocka_unit_test(test_e2m1),
      cmocka_unit_test(test_e8m0),         cmocka_unit_test(test_integers),
      cmocka_unit_test(test_rounding),     cmocka_unit_test(test_layout),
      cmocka_unit_test(test_int8),         cmocka_unit_test(test_int4),
      cmocka_unit_test(test_zero_points),  cmocka_unit_test(test_mxfp4),
      cmocka_unit_test(test_nvfp4),        cmocka_unit_test(test_fp8),
      cmocka_unit_test(test_every_format), cmocka_unit_test(test_for_activations),
      cmocka_unit_test(test_large),        cmocka_unit_test(test_search),
      cmocka_unit_test(test_search_ties),
  };
  return cmocka_run_group_tests_name("quantized", tests, NULL, NULL);
}
