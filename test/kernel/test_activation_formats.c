// SPDX-License-Identifier: MIT
/* Layers that quantize what their experts read, every variant and format against the reference,
 * which does the same; and against the one that does not, so that all of it was done.
 * usage: test_activation_formats [VARIANT [WEIGHTS]]: its pairs of codes alone, beside weights of
 * that format */
#include "base/base.h"
#include "layer_run.h"
#include "moecl/plan.h"
#include "moecl/reference.h"

static moecl_context *context;
static const char *only_variant, *only_weights; /* NULL: all */

static const moecl_format formats[] = {MOECL_FORMAT_INT8, MOECL_FORMAT_INT8_G128,
                                       MOECL_FORMAT_FP8_ROW, MOECL_FORMAT_FP8_G128};
/* Of few tokens variants have kernels that read rows by their tokens. */
typedef enum kind { EVEN, ODD, WEIGHTED, FEW, SIXTEENS, MANY } kind;

static moe_case make_case(moecl_format activations, moecl_format weights, kind kind) {
  static const char *const names[] = {"quantized rows",
                                      "quantized rows, odd sizes",
                                      "quantized rows, weighted inputs",
                                      "quantized rows, few tokens",
                                      "quantized rows, multiples of 16",
                                      "quantized rows, many tokens"};
  static const int64_t hidden[] = {136, 157, 136, 136, 272, 272};
  static const int64_t inner[] = {144, 135, 144, 144, 144, 400};
  static const int64_t tokens[] = {70, 70, 70, 2, 70, 450};
  return (moe_case){.name = names[kind],
                    .layer = {.hidden_size = hidden[kind],
                              .intermediate_size = inner[kind],
                              .num_experts = 6,
                              .top_k = 2,
                              .down_bias = true,
                              .shared_intermediate_size = kind >= SIXTEENS ? 48 : 24,
                              .shared_gate = true,
                              .renormalize = true,
                              .weight_on_input = kind == WEIGHTED,
                              .weight_format = weights,
                              .activation_format = activations},
                    .num_tokens = tokens[kind]};
}

/* The output's error against the reference whose rows have a format. */
static double error_of(case_data *data, const moecl_routing *routing, const void *output,
                       moecl_format activations) {
  const size_t count = (size_t)(data->source->num_tokens * data->layer.hidden_size);
  const moecl_format own = data->layer.activation_format;
  double *got = malloc(count * sizeof *got);
  data->layer.activation_format = activations;
  double *want = case_reference_output(data, routing);
  data->layer.activation_format = own;
  assert_true(got && want);
  moecl_to_double(data->layer.dtype, output, count, got);
  const double error = moecl_relative_error(got, want, count);
  free(got);
  free(want);
  return error;
}

/* Few numbers get a neighbouring code. With fp32 all else is exact; as bf16 or fp16 numbers are
 * rounded as coarsely as int8's codes. Returns whether the variant serves. */
static bool check(const char *gemm, moecl_dtype dtype, moecl_format activations,
                  moecl_format weights, kind kind) {
  const moe_case source = make_case(activations, weights, kind);
  case_data data;
  moecl_routing routing;
  moecl_layer *layer = NULL;
  assert_true(case_make(&source, dtype, case_seed(), &data));
  moecl_layer_params params = data.layer;
  params.grouped_gemm_variant = gemm;
  const moecl_status status = moecl_layer_create(context, &params, &layer);
  moecl_layer_destroy(&layer);
  if (status != MOECL_ERROR_UNSUPPORTED) {
    assert_ok(status);
    layer = make_layer(context, &data, gemm, NULL);
    unsigned char *output = run_layer(context, layer, &data, NULL);
    assert_ok(moecl_layer_read_routing_wait(layer, &routing));
    assert_true(check_output(&data, layer, gemm, &routing, output));
    const bool fp8 = activations >= MOECL_FORMAT_FP8;
    const double as_quantized = error_of(&data, &routing, output, activations);
    const double as_given = error_of(&data, &routing, output, MOECL_FORMAT_DTYPE);
    if (dtype == MOECL_F32 && (as_quantized > 3e-3 || as_given < (fp8 ? 0.02 : 0.004)))
      fail_msg("%s, %s: %g from the reference, %g from what is not quantized", gemm,
               moecl_format_name(activations), as_quantized, as_given);
    free(output);
    moecl_routing_destroy(&routing);
  }
  moecl_layer_destroy(&layer);
  case_release(&data);
  return status == MOECL_OK;
}

static bool serves(const kernel_variant *row, moecl_format format) {
  const moecl_device_info *device = moecl_context_device(context);
  return kernel_variant_serves(row, &desc_formats[format], device->capabilities) &&
         kernel_variant_fits(row, device);
}

static void test_variants(void **state) {
  (void)state;
  for (size_t v = 0; v < op_gemm_table.count; v++)
    for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
      const kernel_variant *row = &op_gemm_table.rows[v];
      const moecl_dtype type = (moecl_dtype)dtype;
      if (!serves(row, (moecl_format)(MOECL_FORMAT_F32 + dtype))) continue;
      const bool must = !row->accepts || type == MOECL_F32; /* else: takes no fp32 rows */
      for (size_t f = 0; f < BASE_COUNT(formats); f++)
        assert_int_equal(check(row->name, type, formats[f], MOECL_FORMAT_DTYPE, EVEN), must);
      const bool odd = check(row->name, type, formats[dtype], MOECL_FORMAT_DTYPE, ODD);
      assert_true(odd || row->accepts);
      assert_int_equal(check(row->name, type, formats[3], MOECL_FORMAT_DTYPE, FEW), must);
      if (type == MOECL_BF16) check(row->name, type, formats[1], MOECL_FORMAT_DTYPE, WEIGHTED);
    }
}

/* Weights of codes, rows of codes. */
static void test_both(void **state) {
  (void)state;
  assert_true(check("generic", MOECL_F32, MOECL_FORMAT_INT8, MOECL_FORMAT_INT8, ODD));
  assert_true(check("generic", MOECL_BF16, MOECL_FORMAT_FP8_G128, MOECL_FORMAT_FP8_BLOCK, EVEN));
  assert_true(check(NULL, MOECL_BF16, MOECL_FORMAT_INT8, MOECL_FORMAT_INT8, EVEN));
}

/* The formats of 8-bit codes, as weights beside every format of rows: those of other codes
 * fall to the kernels that multiply numbers. */
static void check_codes(const kernel_variant *row) {
  static const moecl_format weights[] = {MOECL_FORMAT_INT8,      MOECL_FORMAT_INT8_G128,
                                         MOECL_FORMAT_FP8,       MOECL_FORMAT_FP8_ROW,
                                         MOECL_FORMAT_FP8_BLOCK, MOECL_FORMAT_FP8_G128};
  size_t turn = 0;
  for (size_t w = 0; w < BASE_COUNT(weights); w++)
    for (size_t f = 0; f < BASE_COUNT(formats); f++) {
      const bool same = desc_formats[weights[w]].element == desc_formats[formats[f]].element;
      if (only_weights && strcmp(only_weights, desc_formats[weights[w]].name) != 0) continue;
      if (!serves(row, weights[w]) || (!only_variant && (!same || turn++ % 3))) continue;
      assert_true(check(row->name, turn % 2 ? MOECL_F16 : MOECL_BF16, formats[f], weights[w],
                        SIXTEENS) == (same || !row->accepts));
      if (only_variant && same)
        assert_true(check(row->name, MOECL_BF16, formats[f], weights[w], MANY));
    }
}

static void test_codes(void **state) {
  size_t served = 0;
  (void)state;
  for (size_t v = 0; v < op_gemm_table.count; v++) {
    const kernel_variant *row = &op_gemm_table.rows[v];
    if (!(row->traits & KERNEL_CODED_INPUT)) continue;
    if (only_variant && strcmp(only_variant, row->name) != 0) continue;
    if (!serves(row, MOECL_FORMAT_INT8) && !serves(row, MOECL_FORMAT_FP8)) continue;
    check_codes(row);
    served++;
  }
  assert_true(served > 0);
}

static void test_refused(void **state) {
  moecl_layer_params params = make_case(MOECL_FORMAT_FP8_BLOCK, MOECL_FORMAT_DTYPE, EVEN).layer;
  char message[256];
  (void)state;
  assert_int_equal(moecl_layer_params_check(&params, message, sizeof message),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_string_equal(message,
                      "activation_format is fp8-block, expected dtype, or 8-bit codes "
                      "with fp32 scales of each row: int8, int8-g128, fp8-row or fp8-g128");
  params.activation_format = MOECL_FORMAT_COUNT;
  assert_int_equal(moecl_layer_params_check(&params, message, sizeof message),
                   MOECL_ERROR_INVALID_ARGUMENT);
}

/* The steps that a plan has, by names. */
static void check_steps(const moecl_layer_params *params, const char *want) {
  moecl_plan *plan = NULL;
  moecl_plan_step steps[32];
  char names[512] = "";
  assert_ok(moecl_plan_create(context, params, 70, &plan));
  const size_t count = moecl_plan_steps(plan, steps, 32);
  for (size_t i = 0; i < count; i++)
    if (strstr(steps[i].name, "quantize") || strcmp(steps[i].operation, "grouped_gemm") == 0) {
      strcat(names, i ? " " : "");
      strcat(names, steps[i].name);
    }
  assert_string_equal(strstr(names, "logits") + strlen("logits"), want);
  moecl_plan_destroy(&plan);
}

static void test_planned(void **state) {
  moecl_layer_params params = make_case(MOECL_FORMAT_INT8, MOECL_FORMAT_DTYPE, EVEN).layer;
  (void)state;
  params.grouped_gemm_variant = "generic";
  check_steps(&params, " quantize_hidden shared_gate_up quantize_shared shared_down gate_up"
                       " quantize_inner down");
  params.weight_on_input = true;
  check_steps(&params, " quantize_hidden shared_gate_up quantize_shared shared_down"
                       " quantize_scaled gate_up quantize_inner down");
  params.shared_intermediate_size = 0, params.shared_gate = false;
  check_steps(&params, " quantize_scaled gate_up quantize_inner down");
  params.weight_on_input = false;
  check_steps(&params, " quantize_hidden gate_up quantize_inner down");
  params.activation_format = MOECL_FORMAT_DTYPE;
  check_steps(&params, " gate_up down");
}

/* A layer takes what it says that it takes. */
static void test_memory(void **state) {
  const moecl_layer_params params = make_case(MOECL_FORMAT_INT8, MOECL_FORMAT_DTYPE, EVEN).layer;
  moecl_memory memory;
  moecl_layer *layer = NULL;
  (void)state;
  assert_ok(moecl_layer_memory(context, &params, 70, &memory));
  assert_ok(moecl_layer_create(context, &params, &layer));
  assert_int_equal(memory.workspace_bytes, moecl_layer_workspace_size(layer, 70));
  assert_int_equal(memory.weight_bytes, moecl_layer_weight_bytes(layer));
  moecl_layer_destroy(&layer);
}

int main(int count, char **arguments) {
  const struct CMUnitTest of_one[] = {cmocka_unit_test(test_codes)};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refused), cmocka_unit_test(test_planned),
      cmocka_unit_test(test_memory),  cmocka_unit_test(test_both),
      cmocka_unit_test(test_codes),   cmocka_unit_test(test_variants)};
  skip_without_device();
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  context->info.capabilities |= MOECL_CAP_LOCAL_MEMORY; /* what GPUs take, a CPU can check */
  only_variant = count > 1 ? arguments[1] : NULL;
  only_weights = count > 2 ? arguments[2] : NULL;
  const int failed = only_variant
                         ? cmocka_run_group_tests_name("activation formats", of_one, NULL, NULL)
                         : cmocka_run_group_tests_name("activation formats", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
