// SPDX-License-Identifier: MIT
/* Every variant of the quantization of rows, byte for byte what moecl_format_from_double makes of
 * them, at numbers next to where two codes meet, too. */
#include "base/base.h"
#include "layers.h"
#include "op/quantize/quantize.h"
#include "ops.h"
#include <float.h>
#include <math.h>

static const moecl_format formats[] = {MOECL_FORMAT_INT8, MOECL_FORMAT_INT8_G128,
                                       MOECL_FORMAT_FP8_ROW, MOECL_FORMAT_FP8_G128};
static const int64_t sizes[][2] = {{1, 1},   {3, 7},    {2, 127},  {5, 128},  {4, 129},
                                   {70, 40}, {3, 1000}, {2, 5003}, {2, 5000}, {3, 3000}};
enum { MOST = 2 * 5003 + 64 };
typedef enum fill { COMMON, NEAR_TIES, MANY_SIZES, FILLS } fill;

static uint64_t random_state;
static uint32_t draw(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}
static double uniform(void) { return draw() / 0x1p31 - 1; }

/* A number next to the middle between two codes, in a block whose largest is 1.5 to 2.5; of the
 * middles between codes of 5 bits some are E4M3's. */
static float near_tie(const desc_format *codes, float largest) {
  const double most = codes->element == ELEMENT_INT8 ? 127 : 448;
  const double scale = (double)(float)((double)largest / most);
  const double middle = codes->element == ELEMENT_INT8
                            ? draw() % 127 + 0.5
                            : ldexp(17 + 2 * (draw() % 8), (int)(draw() % 14) - 10);
  const float x = (float)(middle * scale);
  const uint32_t where = draw() % 3;
  const float beside = where == 0 ? x : nextafterf(x, where == 1 ? 0 : 9);
  return fminf(beside, largest) * (draw() % 2 ? 1 : -1);
}

static void make_rows(const op_quantize_desc *desc, int64_t rows, fill fill, float *x) {
  const bool narrow = desc->rows == desc_format_of(MOECL_F16);
  for (int64_t r = 0; r < rows; r++) {
    float largest = 2;
    for (int64_t c = 0; c < desc->columns; c++) {
      const bool first = c % 128 == 0 && (c == 0 || desc->codes->block);
      if (first) largest = (float)(2 + uniform() / 2);
      const double at = ldexp(uniform(), -(int)(draw() % 24));
      *x++ = fill == COMMON ? (float)uniform()
             : fill == MANY_SIZES
                 ? (float)ldexp(at, narrow ? (int)(r % 12) : (int)(r * 37 % 200) - 80)
             : first ? largest
                     : near_tie(desc->codes, largest);
    }
  }
}

static op_quantize make(const kernel_variant *variant, const op_quantize_desc *desc) {
  op_quantize quantize;
  assert_ok(op_create(&op_quantize_kind, context, variant, desc, &quantize));
  return quantize;
}

/* What the device makes of rows [rows][columns] of a type, in `got`. */
static void run(op_quantize *quantize, int64_t rows, const void *x, void *got) {
  const uint64_t columns = (uint64_t)quantize->desc.columns;
  const uint64_t read = desc_format_bytes(quantize->desc.rows, (uint64_t)rows, columns);
  const uint64_t written = desc_format_bytes(quantize->desc.output, (uint64_t)rows, columns);
  moecl_buffer *input = NULL, *output = NULL;
  ocl_chain chain = {.context = context};
  assert_ok(moecl_buffer_create(context, read, &input));
  assert_ok(moecl_buffer_write_wait(input, 0, read, x));
  assert_ok(moecl_buffer_create(context, written + 16, &output));
  assert_ok(moecl_buffer_fill_byte(output, 0, written + 16, 0));
  const op_quantize_io io = {.rows = rows, .input = input, .output = output};
  assert_ok(op_quantize_enqueue(quantize, &chain, &io));
  assert_ok(moecl_buffer_read_wait(output, 0, written, got));
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
}

static void check(const kernel_variant *variant, op_quantize *quantize, int64_t rows, fill fill) {
  static float x[MOST];
  static double numbers[MOST];
  static uint8_t typed[8 * MOST], got[8 * MOST], want[8 * MOST];
  const op_quantize_desc *desc = &quantize->desc;
  const uint64_t columns = (uint64_t)desc->columns, count = (uint64_t)rows * columns;
  assert_true(count <= MOST);
  make_rows(desc, rows, fill, x);
  for (uint64_t i = 0; i < count; i++) numbers[i] = (double)x[i];
  desc_encode(desc->rows, numbers, (uint64_t)rows, columns, typed);
  desc_decode(desc->rows, typed, (uint64_t)rows, columns, numbers);
  run(quantize, rows, typed, got);
  desc_encode(desc->codes, numbers, (uint64_t)rows, columns, want);
  const uint64_t bytes = desc_format_bytes(desc->codes, (uint64_t)rows, columns);
  for (uint64_t i = 0; i < bytes; i++)
    if (got[i] != want[i])
      fail_msg("quantize '%s', %s to %s, %lld x %lld, fill %d, MOECL_TEST_SEED=%llu: byte %llu "
               "is %02x, expected %02x (of %a)",
               variant->name, desc->rows->name, desc->codes->name, (long long)rows,
               (long long)columns, fill, (unsigned long long)case_seed(), (unsigned long long)i,
               got[i], want[i], i < count ? numbers[i] : 0);
}

static void test_codes(void **state) {
  size_t checked = 0;
  (void)state;
  for (size_t v = 0; v < op_quantize_table.count; v++)
    for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
      for (size_t f = 0; f < BASE_COUNT(formats); f++)
        for (size_t s = 0; s < BASE_COUNT(sizes); s++) {
          const kernel_variant *variant = &op_quantize_table.rows[v];
          const desc_format *codes = &desc_formats[formats[f]];
          if (!serves_here(variant, (moecl_dtype)dtype)) continue;
          const op_quantize_desc desc = {.columns = sizes[s][1],
                                         .rows = desc_format_of((moecl_dtype)dtype),
                                         .codes = codes,
                                         .output = codes};
          if (!kernel_variant_accepts(variant, &desc)) continue;
          op_quantize quantize = make(variant, &desc);
          for (int fill = 0; fill < FILLS; fill++) check(variant, &quantize, sizes[s][0], fill);
          op_quantize_kind.release(&quantize);
          checked++;
        }
  assert_true(checked > 0);
}

/* What is not finite is all that its block has, and no other block's. */
static void test_not_finite(void **state) {
  enum { COLUMNS = 300 };
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  const desc_format *f32 = desc_format_of(MOECL_F32);
  (void)state;
  for (size_t f = 0; f < BASE_COUNT(formats); f++)
    for (size_t i = 0; i < BASE_COUNT(bad); i++) {
      const desc_format *codes = &desc_formats[formats[f]];
      float x[2 * COLUMNS], got[2 * COLUMNS];
      const kernel_variant *variant = &op_quantize_table.rows[0];
      op_quantize quantize = make(variant, &(op_quantize_desc){COLUMNS, f32, codes, f32});
      for (int c = 0; c < 2 * COLUMNS; c++) x[c] = c % 128 ? 0.25f : 2;
      x[COLUMNS + 130] = bad[i];
      run(&quantize, 2, x, got);
      for (int c = 0; c < 2 * COLUMNS; c++) {
        const int column = c - COLUMNS;
        const bool in_block = codes->block ? column / 128 == 1 && column >= 0 : column >= 0;
        if (isnan(got[c]) != in_block || (!in_block && fabsf(got[c] - x[c]) > 0.02f))
          fail_msg("%s: number %d is %g beside %g", codes->name, c, (double)got[c], (double)bad[i]);
      }
      op_quantize_kind.release(&quantize);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes),
                                     cmocka_unit_test(test_not_finite)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  random_state = case_seed();
  const int failed = cmocka_run_group_tests_name("quantize", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
