// SPDX-License-Identifier: MIT
/* Weights in a format of their own, every variant against the reference: the experts'
 * tensors are used as they were given, and nothing else is rounded to their type. */
#include "layer_run.h"
#include "op/gemm/gemm.h"

static moecl_context *context;

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* A layer with biases, a shared expert and noise in the numbers that bf16 does not have. */
static moe_case mixed_case(moecl_format format, bool odd) {
  return (moe_case){.name = odd ? "mixed formats, odd sizes" : "mixed formats",
                    .layer = {.hidden_size = odd ? 37 : 64,
                              .intermediate_size = odd ? 19 : 48,
                              .num_experts = 6,
                              .top_k = 2,
                              .router_bias = true,
                              .gate_up_bias = true,
                              .down_bias = true,
                              .shared_intermediate_size = 24,
                              .shared_gate = true,
                              .renormalize = true,
                              .weight_format = format},
                    .num_tokens = 70};
}

/* Returns whether the variant serves. */
static bool check(const char *gemm, moecl_dtype dtype, moecl_format format, bool odd) {
  const moe_case source = mixed_case(format, odd);
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
  if (!kernel_variant_serves(row, &desc_formats[format], device->capabilities) ||
      !kernel_variant_fits(row, device))
    return false;
  const bool even = check(row->name, dtype, format, false);
  const bool odd = check(row->name, dtype, format, true);
  assert_true(row->accepts || (even && odd));
  return even;
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
        served += check_pair(&op_gemm_table.rows[v], (moecl_dtype)dtype, (moecl_format)format);
      assert_true(served > 0);
      assert_true(check(NULL, (moecl_dtype)dtype, format, false)); /* the best that serves */
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
          mixed_case(named ? MOECL_FORMAT_F32 + dtype : MOECL_FORMAT_DTYPE, false);
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
  moecl_layer_params params = mixed_case(MOECL_FORMAT_F32, false).layer;
  moecl_layer *layer = (moecl_layer *)state;
  params.weight_format = MOECL_FORMAT_COUNT;
  assert_int_equal(moecl_layer_create(context, &params, &layer), MOECL_ERROR_INVALID_ARGUMENT);
  assert_null(layer);
  params.weight_format = (moecl_format)-1;
  assert_int_equal(moecl_layer_params_check(&params, NULL, 0), MOECL_ERROR_INVALID_ARGUMENT);
}

/* What plans say of them. */
static void test_planned(void **state) {
  const moecl_layer_params params = mixed_case(MOECL_FORMAT_BF16, false).layer;
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
  moecl_layer_params params = mixed_case(MOECL_FORMAT_DTYPE, false).layer;
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_same),
                                     cmocka_unit_test(test_refused), cmocka_unit_test(test_bytes),
                                     cmocka_unit_test(test_planned)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("formats", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
