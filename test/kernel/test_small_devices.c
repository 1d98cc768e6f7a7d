// SPDX-License-Identifier: MIT
/* Devices with small work-groups and little local memory, down to one work-item and
 * 1 KiB: this one with its limits lowered, which every kernel's creation then
 * keeps to. All operations serve, and what is said to serve does. */
#include "layer_run.h"
#include "ocl/ocl.h"
#include <math.h>

typedef struct small_device {
  uint64_t work_group, local_bytes;
  const char *router, *permute, *gemm, *combine; /* what serves */
} small_device;

static const small_device devices[] = {
    {128, 32768, "generic", "serial", "serial", "generic"},
    {256, 4096, "serial", "generic", "serial", "generic"},
    {256, 12288, "generic", "generic", "serial", "generic"},
    {48, 65536, "serial", "serial", "serial", "serial"},
    {1, 1024, "serial", "serial", "serial", "serial"},
};

/* Between them every operation and every kernel that an option asks for. */
static const char *const cases[] = {"shared expert, gate",
                                    "noisy top-k, jitter, three tokens",
                                    "jitter and capacity",
                                    "capacity by probability, ties",
                                    "capacity by priority, ties, renormalized after",
                                    "weights on inputs",
                                    "eights, weights on inputs",
                                    "deepseek-v3",
                                    "1024 experts"};

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* A context on such a device, which is no CPU and has no local memory of its own. */
static moecl_context *open_small(const small_device *device, test_log *log) {
  moecl_context *context = NULL;
  moecl_context_params params = {.log = log_problem};
  if (log) params = (moecl_context_params){.log = test_log_add, .log_user = log};
  assert_ok(moecl_context_create(&params, &context));
  context->info.max_work_group_size = device->work_group;
  context->info.local_memory_bytes = device->local_bytes;
  context->info.capabilities &= ~(
      uint32_t)(MOECL_CAP_CPU | MOECL_CAP_LOCAL_MEMORY | MOECL_CAP_PTX_SM80 | MOECL_CAP_PTX_SM90A |
                MOECL_CAP_MFMA | MOECL_CAP_WMMA | MOECL_CAP_SUBGROUP_MATRIX_8 |
                MOECL_CAP_SUBGROUP_MATRIX_16 | MOECL_CAP_AVX512_BF16 | MOECL_CAP_AVX512_INT8 |
                MOECL_CAP_AMX_BF16 | MOECL_CAP_AMX_INT8);
  return context;
}

static void check_layer(moecl_context *context, const small_device *device, const char *name,
                        moecl_dtype dtype) {
  const moe_case *source = case_find(name);
  assert_non_null(source);
  case_data data;
  moecl_routing routing;
  char what[128];
  snprintf(what, sizeof what, "work-groups of %u, %u bytes: %s", (unsigned)device->work_group,
           (unsigned)device->local_bytes, name);
  assert_true(case_make(source, dtype, case_seed(), &data));
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  assert_string_equal(moecl_layer_variant(layer, "router", NULL), device->router);
  assert_string_equal(moecl_layer_variant(layer, "permute", NULL), device->permute);
  assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", NULL), device->gemm);
  assert_string_equal(moecl_layer_variant(layer, "combine", NULL), device->combine);
  unsigned char *output = run_layer(context, layer, &data, NULL);
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  const bool routed = case_check_routing(&data, what, &routing);
  const bool computed = check_output(&data, layer, what, &routing, output);
  assert_true(routed && computed);
  moecl_routing_destroy(&routing);
  free(output);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

static void test_layers(void **state) {
  (void)state;
  for (size_t d = 0; d < sizeof devices / sizeof devices[0]; d++) {
    moecl_context *context = open_small(&devices[d], NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
      check_layer(context, &devices[d], cases[i], i % 2 ? MOECL_F32 : MOECL_BF16);
    moecl_context_destroy(&context);
  }
}

/* Random numbers are the same bits as on any device. */
static void test_random(void **state) {
  enum { COUNT = 1001 };
  static float got[COUNT], want[COUNT];
  (void)state;
  moecl_context *context = open_small(&devices[4], NULL);
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, sizeof got, &buffer));
  for (int i = 0; i < 2; i++) {
    const moecl_random_params params = {
        .distribution = i ? MOECL_UNIFORM : MOECL_NORMAL, .scale = 1, .seed = case_seed()};
    assert_ok(moecl_fill_random(buffer, 0, COUNT, &params));
    assert_ok(moecl_buffer_read_wait(buffer, 0, sizeof got, got));
    assert_ok(moecl_random_host(want, COUNT, &params));
    assert_memory_equal(got, want, sizeof got);
  }
  const moecl_skewed_params skewed = {
      .num_tokens = 13, .hidden_size = 77, .num_clusters = 3, .exponent = 1, .noise = 0.5f};
  assert_ok(moecl_fill_skewed(buffer, &skewed));
  assert_ok(moecl_buffer_read_wait(buffer, 0, sizeof got, got));
  for (int i = 0; i < 13 * 77; i++) assert_true(isfinite(got[i]) && fabsf(got[i]) < 9);
  moecl_buffer_destroy(&buffer);
  moecl_context_destroy(&context);
}

/* What is listed is what serves; a variant asked for by name that is too large is an
 * error that says what it needs and what there is. */
static void test_names(void **state) {
  const char *names[32];
  test_log log = {.level = MOECL_LOG_ERROR};
  moecl_layer *layer = NULL;
  (void)state;
  moecl_context *context = open_small(&devices[4], &log);
  const char *const operations[] = {"router", "permute", "combine"};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(moecl_variants_available(context, operations[i], MOECL_F32, names, 32), 1);
    assert_string_equal(names[0], "serial");
  }
  const size_t gemms = moecl_variants_available(context, "grouped_gemm", MOECL_F32, names, 32);
  for (size_t i = 0; i < gemms; i++) assert_string_not_equal(names[i], "generic");
  const moecl_layer_params params = {.hidden_size = 8,
                                     .intermediate_size = 8,
                                     .num_experts = 2,
                                     .top_k = 1,
                                     .grouped_gemm_variant = "generic"};
  assert_int_equal(moecl_layer_create(context, &params, &layer), MOECL_ERROR_UNSUPPORTED);
  assert_true(test_log_has(&log, "grouped_gemm variant 'generic' needs work-groups of 256 and "
                                 "12480 bytes of local memory, this device has 1 and 1024"));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* A kernel that requires more than the device takes is refused when it is made. */
static void test_kernels_keep_to_it(void **state) {
  ocl_kernel *kernel = NULL;
  test_log log = {.level = MOECL_LOG_ERROR};
  (void)state;
  moecl_context *context = open_small(&devices[1], &log);
  context->info.max_work_group_size = 128;
  assert_int_equal(ocl_kernel_create(context, "permute/gpu.cl", NULL, "histogram", &kernel),
                   MOECL_ERROR_BUILD);
  assert_true(test_log_has(&log, "kernel histogram needs work-groups of 256, here are 128"));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_names),
                                     cmocka_unit_test(test_kernels_keep_to_it),
                                     cmocka_unit_test(test_random), cmocka_unit_test(test_layers)};
  skip_without_device();
  return cmocka_run_group_tests_name("small_devices", tests, NULL, NULL) ? 1 : 0;
}
