// SPDX-License-Identifier: MIT
/* Weights in a format of their own, every variant against the reference: the experts'
 * tensors are used as they were given, and nothing else is rounded to their type.
 * usage: test_formats [VARIANT [FORMAT]]: of these alone */
#include "layer_run.h"
#include "op/check.h"
#include "op/gemm/gemm.h"
#include <float.h>
#include <math.h>

static moecl_context *context;
static const char *only_variant, *only_format; /* NULL: all */

static bool is_asked(const kernel_variant *row, int format) {
  return (!only_variant || strcmp(row->name, only_variant) == 0) &&
         (!only_format || strcmp(desc_formats[format].name, only_format) == 0);
}

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* Wide ones are odd, too, and of more than one block of 128 x 128; few are those of few tokens. */
typedef enum sizes { EVEN, ODD, WIDE, FEW } sizes;

/* A layer with biases, a shared expert and noise in the numbers that bf16 does not have. */
static moe_case mixed_case(moecl_format format, sizes sizes) {
  static const char *const names[] = {"mixed formats", "mixed formats, odd sizes",
                                      "mixed formats, wide sizes", "mixed formats, few tokens"};
  static const int64_t hidden[] = {64, 37, 157, 157}, inner[] = {48, 19, 141, 141};
  return (moe_case){.name = names[sizes],
                    .layer = {.hidden_size = hidden[sizes],
                              .intermediate_size = inner[sizes],
                              .num_experts = 6,
                              .top_k = 2,
                              .router_bias = true,
                              .gate_up_bias = true,
                              .down_bias = true,
                              .shared_intermediate_size = 24,
                              .shared_gate = true,
                              .renormalize = true,
                              .weight_format = format},
                    .num_tokens = sizes == FEW ? 9 : 70};
}

/* Returns whether the variant serves. */
static bool check(const char *gemm, moecl_dtype dtype, moecl_format format, sizes sizes) {
  const moe_case source = mixed_case(format, sizes);
  case_data data;
  moecl_routing routing;
  moecl_layer *layer = NULL;
  assert_true(case_make(&source, dtype, case_seed(), &data));
  moecl_layer_params params = data.layer;
  params.grouped_gemm_variant = gemm;
  const moecl_status status = moecl_layer_create(context, &params, &layer);
  moecl_layer_destroy(&layer);
  if (status == MOECL_ERROR_UNSUPPORTED) {
    case_release(&data);
    return false;
  }
  assert_ok(status);
  layer = make_layer(context, &data, gemm, NULL);
  unsigned char *output = run_layer(context, layer, &data, NULL);
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  assert_true(case_check_routing(&data, gemm, &routing));
  assert_true(check_output(&data, layer, gemm, &routing, output));
  moecl_routing_destroy(&routing);
  moecl_layer_destroy(&layer);
  case_release(&data);
  free(output);
  return true;
}

/* What takes every problem must serve the pair; another may. */
static bool check_pair(const kernel_variant *row, moecl_dtype dtype, moecl_format format) {
  const moecl_device_info *device = moecl_context_device(context);
  if (!is_asked(row, format) ||
      !kernel_variant_serves(row, &desc_formats[format], device->capabilities) ||
      !kernel_variant_fits(row, device))
    return false;
  const bool even = check(row->name, dtype, format, EVEN);
  const bool odd = check(row->name, dtype, format, ODD);
  const bool wide = check(row->name, dtype, format, WIDE);
  const bool few = check(row->name, dtype, format, FEW);
  assert_true(row->accepts || (even && odd && wide && few));
  return even;
}

/* Is the next row that serves here of the same source, as `cpu` is of `serial`'s? */
static bool is_repeated(size_t variant) {
  const moecl_device_info *device = moecl_context_device(context);
  for (size_t v = variant + 1; v < op_gemm_table.count; v++)
    if (strcmp(op_gemm_table.rows[v].source, op_gemm_table.rows[variant].source) == 0 &&
        (op_gemm_table.rows[v].required & ~device->capabilities) == 0)
      return true;
  return false;
}

/* Formats with scales are many: each in each source beside one of the data types, which take
 * turns, unless one variant is asked for. */
static bool has_turn(moecl_dtype dtype, int format, size_t variant) {
  return format < MOECL_FORMAT_INT8 || only_variant ||
         (((size_t)format + variant) % MOECL_DTYPE_COUNT == (size_t)dtype && !is_repeated(variant));
}

/* Weights of one format beside activations of another, in every variant that takes the
 * pair. With fp32 activations to fp32's tolerance, so neither
 * activations nor the router can have been rounded. */
static void test_pairs(void **state) {
  (void)state;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++)
    for (int format = MOECL_FORMAT_DTYPE + 1; format < MOECL_FORMAT_COUNT; format++) {
      if (format == MOECL_FORMAT_F32 + dtype) continue; /* test_layer.c */
      size_t served = 0;
      for (size_t v = 0; v < op_gemm_table.count; v++)
        if (has_turn((moecl_dtype)dtype, format, v))
          served += check_pair(&op_gemm_table.rows[v], (moecl_dtype)dtype, (moecl_format)format);
      if (only_variant || format >= MOECL_FORMAT_INT8) continue;
      assert_true(served > 0);
      assert_true(check(NULL, (moecl_dtype)dtype, format, EVEN)); /* the best that serves */
    }
}

/* The format of the type itself is the default by another name: the same bits. */
static void test_same(void **state) {
  (void)state;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
    unsigned char *outputs[2];
    size_t bytes = 0;
    for (int named = 0; named < 2; named++) {
      const moe_case source =
          mixed_case(named ? MOECL_FORMAT_F32 + dtype : MOECL_FORMAT_DTYPE, EVEN);
      case_data data;
      assert_true(case_make(&source, (moecl_dtype)dtype, case_seed(), &data));
      moecl_layer *layer = make_layer(context, &data, NULL, NULL);
      outputs[named] = run_layer(context, layer, &data, NULL);
      bytes = case_hidden_bytes(&data);
      moecl_layer_destroy(&layer);
      case_release(&data);
    }
    assert_memory_equal(outputs[0], outputs[1], bytes);
    free(outputs[0]);
    free(outputs[1]);
  }
}

static void test_refused(void **state) {
  moecl_layer_params params = mixed_case(MOECL_FORMAT_F32, EVEN).layer;
  moecl_layer *layer = (moecl_layer *)state;
  params.weight_format = MOECL_FORMAT_COUNT;
  assert_int_equal(moecl_layer_create(context, &params, &layer), MOECL_ERROR_INVALID_ARGUMENT);
  assert_null(layer);
  params.weight_format = (moecl_format)-1;
  assert_int_equal(moecl_layer_params_check(&params, NULL, 0), MOECL_ERROR_INVALID_ARGUMENT);
}

/* What plans say of them. */
static void test_planned(void **state) {
  const moecl_layer_params params = mixed_case(MOECL_FORMAT_BF16, EVEN).layer;
  moecl_plan *plan = NULL;
  moecl_plan_tensor tensors[64];
  int narrow = 0;
  (void)state;
  assert_ok(moecl_plan_create(context, &params, 70, &plan));
  const size_t count = moecl_plan_tensors(plan, tensors, 64);
  for (size_t i = 0; i < count; i++) {
    const bool experts = strstr(tensors[i].name, "_proj") ||
                         strcmp(tensors[i].name, "gate_up_bias") == 0 ||
                         strcmp(tensors[i].name, "down_bias") == 0;
    assert_int_equal(strcmp(tensors[i].format, "bf16") == 0, experts);
    narrow += experts;
  }
  assert_int_equal(narrow, 6); /* gate_up and down with biases, the shared expert's too */
  moecl_plan_destroy(&plan);
}

/* Half the bytes for the experts, not for the router. */
static void test_bytes(void **state) {
  moecl_layer_params params = mixed_case(MOECL_FORMAT_DTYPE, EVEN).layer;
  moecl_memory wide, narrow;
  (void)state;
  params.grouped_gemm_variant = "generic"; /* packs without padding */
  params.gate_up_bias = params.down_bias = false;
  assert_ok(moecl_layer_memory(context, &params, 70, &wide));
  params.weight_format = MOECL_FORMAT_BF16;
  assert_ok(moecl_layer_memory(context, &params, 70, &narrow));
  const uint64_t experts = 6 * 3 * 64 * 48 + 3 * 64 * 24; /* elements, the shared one's too */
  assert_int_equal(wide.weight_bytes - narrow.weight_bytes, experts * 2);
  assert_int_equal(wide.workspace_bytes, narrow.workspace_bytes);
  assert_int_equal(moecl_layer_tensor_dtype(&params, MOECL_DOWN_PROJ), MOECL_BF16);
  assert_int_equal(moecl_layer_tensor_dtype(&params, MOECL_ROUTER_WEIGHT), MOECL_F32);
  assert_int_equal(moecl_layer_tensor_dtype(&params, MOECL_SHARED_GATE), MOECL_F32);
  assert_int_equal(moecl_layer_tensor_format(&params, MOECL_DOWN_BIAS), MOECL_FORMAT_BF16);
  assert_int_equal(moecl_layer_tensor_format(&params, MOECL_ROUTER_WEIGHT), MOECL_FORMAT_F32);
  assert_int_equal(moecl_layer_tensor_bytes(&params, MOECL_GATE_UP_PROJ), 2 * 48 * 64 * 2);
  assert_int_equal(moecl_layer_tensor_bytes(&params, MOECL_ROUTER_BIAS), 6 * 4);
  int64_t rows, columns;
  moecl_layer_tensor_shape(&params, MOECL_GATE_UP_PROJ, &rows, &columns);
  assert_true(rows == 2 * 48 && columns == 64);
  assert_int_equal(moecl_layer_tensor_bytes(&params, MOECL_GATE_UP_BIAS), 0);
  assert_int_equal(moecl_format_bytes(MOECL_FORMAT_BF16, 3, 5), 30);
  assert_int_equal(moecl_format_bytes(MOECL_FORMAT_DTYPE, 3, 5), 0);
  assert_string_equal(moecl_format_name(MOECL_FORMAT_F16), "fp16");
  assert_string_equal(moecl_format_name(MOECL_FORMAT_DTYPE), "dtype");
  assert_string_equal(moecl_format_name(MOECL_FORMAT_COUNT), "?");
}

/* The same of codes with scales, by hand. Biases are of dtype then. */
static void test_scaled_bytes(void **state) {
  moecl_layer_params params = mixed_case(MOECL_FORMAT_DTYPE, EVEN).layer;
  moecl_memory wide, narrow;
  (void)state;
  params.grouped_gemm_variant = "generic";
  assert_ok(moecl_layer_memory(context, &params, 70, &wide));
  params.weight_format = MOECL_FORMAT_INT4_G32;
  assert_ok(moecl_layer_memory(context, &params, 70, &narrow));
  /* Gate and up [48,64] each, down [64,48]; the shared expert's of 24. */
  const uint64_t gate = 48 * 32 + 48 * 2 * 2, down = 64 * 24 + 64 * 2 * 2;
  const uint64_t shared_gate = 24 * 32 + 24 * 2 * 2, shared_down = 64 * 12 + 64 * 2;
  assert_int_equal(moecl_layer_tensor_bytes(&params, MOECL_GATE_UP_PROJ), 2 * gate);
  assert_int_equal(moecl_layer_tensor_bytes(&params, MOECL_DOWN_PROJ), down);
  assert_int_equal(moecl_layer_tensor_bytes(&params, MOECL_SHARED_GATE_UP_PROJ), 2 * shared_gate);
  assert_int_equal(wide.weight_bytes - narrow.weight_bytes,
                   4 * (6 * 3 * 64 * 48 + 3 * 64 * 24) -
                       (6 * (2 * gate + down) + 2 * shared_gate + shared_down));
  assert_int_equal(moecl_layer_tensor_format(&params, MOECL_DOWN_BIAS), MOECL_FORMAT_F32);
  assert_int_equal(moecl_layer_tensor_dtype(&params, MOECL_DOWN_PROJ), MOECL_DTYPE_COUNT);
  assert_string_equal(moecl_format_name(MOECL_FORMAT_INT4_G128_ZP), "int4-g128-zp");
}

/* ---- every code and scale, read back by rows of which one number is 1 ---- */

enum { EXPERTS = 2, BLOCKS = 5 };

/* Blocks of one magnitude each: zeros, the largest, subnormal, common ones. The second
 * expert's are all of a range that one scale for the matrix has. */
static void fill(double *weights, int64_t n, int64_t k) {
  static const double magnitudes[EXPERTS][BLOCKS] = {{0, 1e38, 1e-41, 1, 1e-20},
                                                     {0, 3, 1, 0.001, 100}};
  uint32_t state = 7;
  for (int64_t i = 0; i < EXPERTS * n * k; i++) {
    const int64_t row = i / k % n, column = i % k;
    const double magnitude = magnitudes[i / (n * k)][(column / 32 + row / 3) % BLOCKS];
    weights[i] = magnitude * check_value(&state);
  }
}

/* Codes become whatever there is, but E4M3's NaN; scales stay. */
static void scramble(const desc_format *format, uint8_t *matrix, int64_t n, int64_t k) {
  moecl_format_layout at;
  uint32_t state = 9;
  desc_format_layout(format, (uint64_t)n, (uint64_t)k, &at);
  for (uint64_t i = 0; i < (uint64_t)n * at.row_bytes; i++) {
    state = state * 1664525u + 1013904223u;
    matrix[i] = (uint8_t)(state >> 24);
    if (format->element == ELEMENT_E4M3 && (matrix[i] & 0x7f) == 0x7f) matrix[i] ^= 1;
  }
}

/* Each weight against what its bytes decode to. */
static void compare_codes(const kernel_variant *variant, const op_gemm_desc *desc,
                          const moecl_buffer *output, const double *weights) {
  const int64_t n = desc->n, k = desc->k;
  double *got = malloc((size_t)(EXPERTS * k * n) * sizeof *got);
  assert_non_null(got);
  assert_ok(check_read(output, desc->output, (uint64_t)(EXPERTS * k), (uint64_t)n, got));
  const double tolerance = desc_is_f32(desc->input) ? 0x1p-21 : 0x1p-7;
  for (int64_t i = 0; i < EXPERTS * k * n; i++) {
    const int64_t expert = i / (k * n), column = i / n % k, row = i % n;
    const double want = weights[(expert * n + row) * k + column];
    if (fabs(got[i] - want) <= tolerance * fabs(want) + FLT_MIN) continue;
    fail_msg("%s, %s: expert %d, row %d, column %d is %g, expected %g", variant->name,
             desc->weights->name, (int)expert, (int)row, (int)column, got[i], want);
  }
  free(got);
}

static void multiply(const kernel_variant *variant, const op_gemm_desc *desc, const uint8_t *stored,
                     uint64_t bytes, const double *weights) {
  const int64_t rows = EXPERTS * desc->k;
  double *ones = calloc((size_t)(rows * desc->k), sizeof *ones);
  op_gemm *gemm = NULL;
  moecl_buffer *input = NULL, *given = NULL, *offsets = NULL, *tiles = NULL, *output = NULL;
  assert_non_null(ones);
  for (int64_t i = 0; i < rows; i++) ones[i * desc->k + i % desc->k] = 1;
  assert_ok(op_gemm_create_unchecked(context, variant, desc, &gemm));
  const int32_t each = (int32_t)op_gemm_tile_rows(gemm, rows);
  const int32_t k = (int32_t)desc->k, of_one = (k + each - 1) / each;
  assert_ok(check_upload(context, desc->input, ones, (uint64_t)rows, (uint64_t)desc->k, &input));
  assert_ok(check_upload_words(context, (int32_t[]){0, k, 2 * k}, EXPERTS + 1, &offsets));
  assert_ok(check_upload_words(context, (int32_t[]){0, of_one, 2 * of_one}, EXPERTS + 1, &tiles));
  assert_ok(moecl_buffer_create(
      context, desc_format_bytes(desc->output, (uint64_t)rows, (uint64_t)desc->n), &output));
  assert_ok(moecl_buffer_create(context, bytes, &given));
  assert_ok(moecl_buffer_write_wait(given, 0, bytes, stored));
  assert_ok(op_gemm_set_weights(gemm, 0, EXPERTS, given, 0));
  const op_gemm_io io = {.input = input,
                         .slot_token = offsets, /* unread */
                         .expert_offsets = offsets,
                         .tile_offsets = tiles,
                         .output = output,
                         .rows = rows};
  ocl_chain chain = {.context = context};
  assert_ok(op_gemm_enqueue(gemm, &chain, &io));
  compare_codes(variant, desc, output, weights);
  op_gemm_destroy(&gemm);
  moecl_buffer **all[] = {&input, &given, &offsets, &tiles, &output};
  for (size_t i = 0; i < BASE_COUNT(all); i++) moecl_buffer_destroy(all[i]);
  free(ones);
}

static void check_codes(const kernel_variant *variant, const op_gemm_desc *desc, bool scrambled) {
  const uint64_t n = (uint64_t)desc->n, k = (uint64_t)desc->k;
  const uint64_t one = desc_format_bytes(desc->weights, n, k);
  double *weights = malloc(EXPERTS * n * k * sizeof *weights);
  uint8_t *stored = malloc(EXPERTS * one);
  assert_true(weights && stored);
  fill(weights, desc->n, desc->k);
  for (uint64_t e = 0; e < EXPERTS; e++) {
    desc_encode(desc->weights, weights + e * n * k, n, k, stored + e * one);
    if (scrambled) scramble(desc->weights, stored + e * one, desc->n, desc->k);
    desc_decode(desc->weights, stored + e * one, n, k, weights + e * n * k);
  }
  multiply(variant, desc, stored, EXPERTS * one, weights);
  free(weights);
  free(stored);
}

/* Odd sizes where the variant takes them. */
static void check_sizes(const kernel_variant *variant, moecl_format format, moecl_dtype dtype) {
  static const int64_t sizes[][2] = {{147, 261}, {152, 264}, {256, 256}};
  for (size_t i = 0; i < BASE_COUNT(sizes); i++) {
    const op_gemm_desc desc = {.num_experts = EXPERTS,
                               .n = sizes[i][0],
                               .k = sizes[i][1],
                               .weights = &desc_formats[format],
                               .biases = desc_format_of(dtype),
                               .input = op_gemm_rows(variant, desc_format_of(dtype)),
                               .output = desc_format_of(MOECL_F32)};
    if (!kernel_variant_accepts(variant, &desc)) continue;
    check_codes(variant, &desc, false);
    check_codes(variant, &desc, true);
    return;
  }
}

static void test_codes(void **state) {
  (void)state;
  const moecl_device_info *device = moecl_context_device(context);
  for (int format = MOECL_FORMAT_INT8; format < MOECL_FORMAT_COUNT; format++)
    for (size_t v = 0; v < op_gemm_table.count; v++) {
      const kernel_variant *row = &op_gemm_table.rows[v];
      if (!is_asked(row, format) ||
          !kernel_variant_serves(row, &desc_formats[format], device->capabilities) ||
          !kernel_variant_fits(row, device))
        continue;
      check_sizes(row, (moecl_format)format, MOECL_F32);
      if (has_turn(MOECL_BF16, format, v)) check_sizes(row, (moecl_format)format, MOECL_BF16);
    }
}

int main(int count, char **arguments) {
  if (count > 1) only_variant = arguments[1];
  if (count > 2) only_format = arguments[2];
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pairs),   cmocka_unit_test(test_same),
      cmocka_unit_test(test_refused), cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_planned), cmocka_unit_test(test_scaled_bytes),
      cmocka_unit_test(test_codes)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("formats", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
