// SPDX-License-Identifier: MIT
/* Every variant of the quantization of weights, every format with scales, byte for byte what the
 * host's encoder makes of the same numbers: of common ones, numbers next to where two codes meet,
 * all sizes there are, and bits that mean anything. Each format beside one data type, in turns. */
#include "base/base.h"
#include "desc/quantized.h"
#include "layers.h"
#include "op/encode/encode.h"
#include "ops.h"
#include <float.h>
#include <math.h>

typedef enum fill { COMMON, NEAR_TIES, MANY_SIZES, ANY_BITS, ZEROS, FILLS } fill;
static const uint64_t sizes[][2] = {{1, 1}, {3, 16}, {2, 127}, {5, 130}, {131, 37}, {2, 1003}};
enum { MOST = 131 * 37 + 64, MATRICES = 2, AT = 48 };

static uint64_t random_state;
static uint32_t draw(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}
static double uniform(void) { return draw() / 0x1p31 - 1; }

/* A number next to the middle between two codes, of a block whose largest is `largest`. */
static float near_tie(const desc_format *codes, float largest) {
  const int element = codes->element;
  const double most = element == ELEMENT_INT4   ? 7
                      : element == ELEMENT_INT8 ? 127
                      : element == ELEMENT_E4M3 ? 448
                                                : 6;
  const double scale = (double)(float)((double)largest / most);
  const double middle = element == ELEMENT_INT4 || element == ELEMENT_INT8
                            ? draw() % (uint32_t)most + 0.5
                            : ldexp(17 + 2 * (draw() % 8), (int)(draw() % 14) - 10);
  const float x = (float)(fmin(middle, most) * scale);
  const uint32_t where = draw() % 3;
  return (where == 0 ? x : nextafterf(x, where == 1 ? 0 : 9)) * (draw() % 2 ? 1 : -1);
}

static float any_bits(void) {
  const uint32_t bits = draw();
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static float draw_one(const op_encode_desc *desc, fill fill, uint64_t row, uint64_t column) {
  const bool narrow = desc->numbers == desc_format_of(MOECL_F16);
  switch (fill) {
  case COMMON: return (float)uniform();
  case NEAR_TIES: return column % 16 == 0 ? 1.75f : near_tie(desc->codes, 1.75f);
  case MANY_SIZES:
    return (float)ldexp(ldexp(uniform(), -(int)(draw() % 24)),
                        narrow ? (int)(row % 12) : (int)(row * 37 % 250) - 124);
  case ANY_BITS: return any_bits();
  default: return row % 2 && column == 5 ? 1e-40f : -0.0f;
  }
}

static op_encode make(const kernel_variant *variant, const op_encode_desc *desc) {
  op_encode encode;
  assert_ok(op_create(&op_encode_kind, context, variant, desc, &encode));
  return encode;
}

/* Not from the buffers' beginnings, and nothing written around. */
static void run(op_encode *encode, uint64_t rows, uint64_t columns, const uint8_t *given,
                uint8_t *got) {
  const uint64_t size = encode->desc.numbers->bits / 8;
  const uint64_t read = MATRICES * rows * columns * size;
  const uint64_t written = MATRICES * desc_format_bytes(encode->desc.codes, rows, columns);
  moecl_buffer *input = NULL, *output = NULL, *errors = NULL;
  uint8_t around[2][AT], untouched[AT];
  ocl_chain chain = {.context = context};
  memset(untouched, 0x5a, AT);
  assert_ok(moecl_buffer_create(context, read + 3 * size, &input));
  assert_ok(moecl_buffer_write_wait(input, 3 * size, read, given));
  assert_ok(moecl_buffer_create(context, written + 2 * AT, &output));
  assert_ok(moecl_buffer_fill_byte(output, 0, written + 2 * AT, 0x5a));
  assert_ok(moecl_buffer_create(context, op_encode_errors_bytes(&encode->desc, MATRICES), &errors));
  const op_encode_io io = {MATRICES, rows, columns, input, output, 3, AT, errors};
  assert_ok(op_encode_enqueue(encode, &chain, &io));
  assert_ok(moecl_buffer_read_wait(output, AT, written, got));
  assert_ok(moecl_buffer_read_wait(output, 0, AT, around[0]));
  assert_ok(moecl_buffer_read_wait(output, AT + written, AT, around[1]));
  assert_memory_equal(around[0], untouched, AT);
  assert_memory_equal(around[1], untouched, AT);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_buffer_destroy(&errors);
}

static void check(const kernel_variant *variant, op_encode *encode, uint64_t rows, uint64_t columns,
                  fill fill) {
  static double numbers[MATRICES * MOST];
  static uint8_t typed[8 * MOST], got[12 * MOST], want[12 * MOST];
  const op_encode_desc *desc = &encode->desc;
  const uint64_t count = rows * columns, bytes = desc_format_bytes(desc->codes, rows, columns);
  assert_true(count <= MOST && MATRICES * bytes < sizeof got);
  for (uint64_t i = 0; i < MATRICES * count; i++)
    numbers[i] = (double)draw_one(desc, fill, i / columns, i % columns);
  desc_encode(desc->numbers, numbers, MATRICES * rows, columns, typed);
  desc_decode(desc->numbers, typed, MATRICES * rows, columns, numbers);
  run(encode, rows, columns, typed, got);
  for (uint64_t m = 0; m < MATRICES; m++)
    desc_quantize(desc->codes, desc->search, numbers + m * count, rows, columns, want + m * bytes);
  for (uint64_t i = 0; i < MATRICES * bytes; i++)
    if (got[i] != want[i])
      fail_msg("encode '%s', %s to %s, search %d, %llu x %llu, fill %d, MOECL_TEST_SEED=%llu: "
               "byte %llu of %llu is %02x, expected %02x",
               variant->name, desc->numbers->name, desc->codes->name, desc->search,
               (unsigned long long)rows, (unsigned long long)columns, fill,
               (unsigned long long)case_seed(), (unsigned long long)i, (unsigned long long)bytes,
               got[i], want[i]);
}

static const char *only; /* a format's name; NULL: all */

static void check_format(const kernel_variant *variant, int number) {
  const moecl_dtype dtype = (moecl_dtype)(number % MOECL_DTYPE_COUNT);
  if (!serves_here(variant, dtype) || (only && strcmp(only, desc_formats[number].name) != 0))
    return;
  for (int search = 0; search < MOECL_SCALE_SEARCH_COUNT; search++) {
    const op_encode_desc desc = {desc_format_of(dtype), &desc_formats[number],
                                 (moecl_scale_search)search};
    op_encode encode = make(variant, &desc);
    for (size_t s = 0; s < BASE_COUNT(sizes); s++)
      for (int fill = 0; fill < FILLS; fill++)
        check(variant, &encode, sizes[s][0], sizes[s][1], (enum fill)fill);
    op_encode_kind.release(&encode);
  }
}

static void test_codes(void **state) {
  (void)state;
  for (size_t v = 0; v < op_encode_table.count; v++)
    for (int format = MOECL_FORMAT_INT8; format < MOECL_FORMAT_COUNT; format++)
      check_format(&op_encode_table.rows[v], format);
}

/* ---- the public calls ---- */

/* Both give the same, and what moecl_format_from_double gives; what can't be is refused. */
static void test_calls(void **state) {
  enum { ROWS = 5, COLUMNS = 70, COUNT = MATRICES * ROWS * COLUMNS };
  moecl_quantize_params params = {.dtype = MOECL_F32,
                                  .format = MOECL_FORMAT_INT4_G32,
                                  .matrices = MATRICES,
                                  .rows = ROWS,
                                  .columns = COLUMNS};
  const uint64_t one = moecl_format_bytes(params.format, ROWS, COLUMNS), bytes = MATRICES * one;
  float given[COUNT];
  double numbers[COUNT];
  uint8_t got[4096], host[4096], want[4096];
  moecl_buffer *src = NULL, *dst = NULL;
  (void)state;
  if (only) skip();
  for (int i = 0; i < COUNT; i++) numbers[i] = (double)(given[i] = (float)uniform());
  assert_ok(moecl_buffer_create(context, sizeof given + 4, &src));
  assert_ok(moecl_buffer_write_wait(src, 4, sizeof given, given));
  assert_ok(moecl_buffer_create(context, bytes + 32, &dst));
  assert_ok(moecl_quantize(&params, src, 4, dst, 32));
  assert_ok(moecl_buffer_read_wait(dst, 32, bytes, got));
  assert_ok(moecl_quantize_host(&params, numbers, host));
  for (int m = 0; m < MATRICES; m++)
    moecl_format_from_double(params.format, numbers + m * ROWS * COLUMNS, ROWS, COLUMNS,
                             want + (uint64_t)m * one);
  assert_memory_equal(got, want, bytes);
  assert_memory_equal(host, want, bytes);
  /* With a search others, on both sides. */
  params.scale_search = MOECL_SCALE_SEARCH_MSE;
  assert_ok(moecl_quantize(&params, src, 4, dst, 0));
  assert_ok(moecl_buffer_read_wait(dst, 0, bytes, got));
  assert_ok(moecl_quantize_host(&params, numbers, host));
  assert_memory_equal(got, host, bytes);
  assert_memory_not_equal(got, want, bytes);

#define REFUSED(call) assert_int_equal(call, MOECL_ERROR_INVALID_ARGUMENT)
  REFUSED(moecl_quantize(&params, src, 8, dst, 0)); /* beyond the end */
  REFUSED(moecl_quantize(&params, src, 2, dst, 0)); /* half an element */
  REFUSED(moecl_quantize(&params, src, 4, dst, 8));
  REFUSED(moecl_quantize(&params, src, 4, dst, 48));
  REFUSED(moecl_quantize(&params, dst, 0, dst, 0));
  REFUSED(moecl_quantize_host(&params, NULL, host));
  for (int wrong = 0; wrong < 6; wrong++) {
    moecl_quantize_params bad = params;
    if (wrong == 0) bad.dtype = MOECL_DTYPE_COUNT;
    if (wrong == 1) bad.format = MOECL_FORMAT_BF16;
    if (wrong == 2) bad.format = MOECL_FORMAT_COUNT;
    if (wrong == 3) bad.scale_search = MOECL_SCALE_SEARCH_COUNT;
    if (wrong == 4) bad.reserved[7] = 1;
    if (wrong == 5) bad.rows = UINT64_MAX / 4;
    REFUSED(moecl_quantize(&bad, src, 4, dst, 0));
    REFUSED(moecl_quantize_host(&bad, numbers, host));
  }
  params.rows = 0;
  assert_ok(moecl_quantize(&params, src, 0, dst, 0));
  assert_ok(moecl_quantize_host(&params, NULL, NULL));
  moecl_context_take_errors(context, NULL, 0);
  moecl_buffer_destroy(&src);
  moecl_buffer_destroy(&dst);
}

static void quiet(void *user, moecl_log_level level, const char *message) {
  if (level != MOECL_LOG_ERROR || !strstr(message, "quantize:")) log_problem(user, level, message);
}

/* usage: test_encode [format] */
int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes), cmocka_unit_test(test_calls)};
  skip_without_device();
  only = argc > 1 ? argv[1] : NULL;
  const moecl_context_params params = {.log = quiet};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  random_state = case_seed();
  const int failed = cmocka_run_group_tests_name("encode", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
