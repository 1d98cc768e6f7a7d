// SPDX-License-Identifier: MIT
/* The device's peaks: rates that can be, and none of work that was not done. How fast is
 * nothing that a test could know. */
#include "moecl/peaks.h"
#include "ocl/ocl.h"
#include "spoil.h"
#include <math.h>
#include <unistd.h>

static char folder[] = "/tmp/moecl-peak-XXXXXX";

/* A context whose kernels have `to` for `from` in one of them. */
static moecl_context *open_spoiled(const char *file, const char *from, const char *to,
                                   test_log *log) {
  char kernels[64];
  spoil_kernels(folder, file, from, to);
  snprintf(kernels, sizeof kernels, "%s/cl", folder);
  const moecl_context_params params = {
      .log = test_log_add, .log_user = log, .kernel_dir = kernels, .disable_cache = true};
  moecl_context *context = NULL;
  log->level = MOECL_LOG_ERROR;
  assert_ok(moecl_context_create(&params, &context));
  return context;
}

static bool is_rate(double rate) { return rate > 0 && isfinite(rate); }

static void test_rates(void **state) {
  moecl_context *context = NULL;
  moecl_peaks peaks;
  (void)state;
  assert_ok(moecl_context_create(NULL, &context));
  const moecl_device_info *device = moecl_context_device(context);
  assert_ok(moecl_measure_peaks_wait(context, &peaks));
  assert_true(is_rate(peaks.flops_f32));
  assert_true(device->fp16 ? is_rate(peaks.flops_f16) : peaks.flops_f16 == 0);
  assert_true(device->capabilities & (MOECL_CAP_PTX_SM80 | MOECL_CAP_MFMA | MOECL_CAP_WMMA |
                                      MOECL_CAP_SUBGROUP_MATRIX_8 | MOECL_CAP_SUBGROUP_MATRIX_16 |
                                      MOECL_CAP_AMX_BF16)
                  ? is_rate(peaks.flops_matrix)
                  : peaks.flops_matrix == 0);
  assert_true(is_rate(peaks.read_bytes) && is_rate(peaks.copy_bytes));
  assert_true(is_rate(peaks.to_device_bytes) && is_rate(peaks.from_device_bytes));
  assert_true(peaks.launch_seconds > 0 && peaks.wait_seconds > 0);
  assert_true(peaks.array_bytes > 0 && peaks.array_bytes % 4096 == 0);
  assert_true(peaks.array_bytes <= 256 << 20);
  moecl_context_destroy(&context);
}

/* What a kernel leaves out is noticed, and no rate is left. */
static void test_not_done(void **state) {
  static const struct {
    const char *from, *to, *message;
  } spoilt[] = {
      {"r < rounds", "r < 1", "measures arithmetic"},
      {"    b += from[i + p.step];\n", "", "measures reading"},
      {"p.end = id + 1 == items ? count", "p.end = id + 1 == items ? count - 1", "measures"},
      {"to[i] = from[i];", "if (i != 7) to[i] = from[i];", "measures copying"},
  };
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(spoilt); i++) {
    test_log log = {0};
    moecl_peaks peaks, none = {0};
    moecl_context *context = open_spoiled("peak/peak.cl", spoilt[i].from, spoilt[i].to, &log);
    const bool strided = !(moecl_context_device(context)->capabilities & MOECL_CAP_CPU);
    memset(&peaks, 1, sizeof peaks);
    if (strided && i == 2) peaks = none; /* of the part that it does not take */
    else {
      assert_int_equal(moecl_measure_peaks_wait(context, &peaks), MOECL_ERROR_BUILD);
      assert_non_null(strstr(log.text.data, spoilt[i].message));
    }
    assert_memory_equal(&peaks, &none, sizeof peaks);
    base_text_free(&log.text);
    moecl_context_destroy(&context);
  }
}

/* A device that claims fp16 and does not compile it, or computes nonsense: the others' rates are
 * there, and no error is left. */
static void test_claimed_half(void **state) {
  static const char *const spoilt[] = {"#if HALF\n#error no half\n",
                                       "#if HALF\n#define rounds 1 + 0 * sizeof\n"};
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(spoilt); i++) {
    test_log log = {0};
    moecl_peaks peaks;
    char errors[64];
    moecl_context *context = open_spoiled("peak/peak.cl", "#if HALF\n", spoilt[i], &log);
    context->info.fp16 = true;
    log.level = MOECL_LOG_WARNING;
    assert_ok(moecl_measure_peaks_wait(context, &peaks));
    assert_true(peaks.flops_f16 == 0 && is_rate(peaks.flops_f32) && is_rate(peaks.read_bytes) &&
                peaks.wait_seconds > 0);
    assert_non_null(strstr(log.text.data, "claims fp16 arithmetic"));
    assert_int_equal(moecl_context_take_errors(context, errors, sizeof errors), 0);
    base_text_free(&log.text);
    moecl_context_destroy(&context);
  }
}

/* In place of the matrix instruction's kernel: what eight warps' products of 16 by 64 come to, by
 * plain arithmetic, each work-item a row of one and 32 columns. */
static const char plain_kernel[] =
    "__kernel __attribute__((reqd_work_group_size(256, 1, 1))) void\n"
    "multiply_tiles(__global int *out, int rounds) {\n"
    "  const int id = (int)get_local_id(0), row = id % 16;\n"
    "  int total = 0;\n"
    "  for (int column = id / 16 % 2 * 32, i = 0; i < 32; i++, column++)\n"
    "    for (int k = 0; k < 16; k++)\n"
    "      total += (row % 5 + k % 3 - 2) * (column % 4 + k % 2 - 1);\n"
    "  out[get_global_id(0)] = total * (rounds - MISSING);\n"
    "}\n";

/* Matrix units have a rate where all rounds were done, and a warning where one is missing. */
static void test_matrix(void **state) {
  (void)state;
  for (int missing = 0; missing < 2; missing++) {
    test_log log = {0};
    moecl_peaks peaks;
    char path[64];
    moecl_context *context = open_spoiled("peak/peak.cl", "#if HALF\n", "#if HALF \n", &log);
    snprintf(path, sizeof path, "%s/cl/peak/nvidia_sm80.cl", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#define MISSING %d\n%s", missing, plain_kernel);
    assert_int_equal(fclose(file), 0);
    context->info.capabilities &= ~(uint32_t)MOECL_CAP_PTX_SM90A;
    context->info.capabilities |= MOECL_CAP_PTX_SM80;
    log.level = MOECL_LOG_WARNING;
    assert_ok(moecl_measure_peaks_wait(context, &peaks));
    assert_true(missing ? peaks.flops_matrix == 0 : is_rate(peaks.flops_matrix));
    assert_true(peaks.wait_seconds > 0);
    const char *said = log.text.data ? log.text.data : "";
    assert_int_equal(strstr(said, "claims matrix instructions") != NULL, missing);
    base_text_free(&log.text);
    moecl_context_destroy(&context);
  }
}

/* The tile unit's own kernel on an emulated one: in all rounds, or with one product missing. */
static void test_tiles(void **state) {
  static const char *const spoilt[] = {"TILE_BF16(&tiles, 3, 5, 7);", "TILE_ZERO(&tiles, 5);"};
  (void)state;
  for (int missing = 0; missing < 2; missing++) {
    test_log log = {.level = MOECL_LOG_WARNING};
    moecl_peaks peaks;
    char command[160];
    moecl_context *context =
        open_spoiled("peak/cpu_amx.cl", "TILE_BF16(&tiles, 3, 5, 7);", spoilt[missing], &log);
    snprintf(command, sizeof command,
             "sed -i '1i #define EMULATED_TILES' '%s/cl/common/cpu_tiles.clh'", folder);
    assert_int_equal(system(command), 0);
    context->info.capabilities &= ~(uint32_t)(MOECL_CAP_PTX_SM90A | MOECL_CAP_PTX_SM80);
    context->info.capabilities |= MOECL_CAP_AMX_BF16;
    log.level = MOECL_LOG_WARNING;
    assert_ok(moecl_measure_peaks_wait(context, &peaks));
    assert_true(missing ? peaks.flops_matrix == 0 : is_rate(peaks.flops_matrix));
    const char *said = log.text.data ? log.text.data : "";
    assert_int_equal(strstr(said, "claims matrix instructions") != NULL, missing);
    base_text_free(&log.text);
    moecl_context_destroy(&context);
  }
}

static void test_refused(void **state) {
  moecl_context *context = NULL;
  moecl_peaks peaks = {.flops_f32 = 1};
  const moecl_context_params params = {.cache_dir = folder};
  (void)state;
  assert_int_equal(moecl_measure_peaks_wait(NULL, &peaks), MOECL_ERROR_INVALID_ARGUMENT);
  assert_true(peaks.flops_f32 == 0);
  assert_ok(moecl_context_create(&params, &context));
  assert_int_equal(moecl_measure_peaks_wait(context, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  assert_string_equal(moecl_context_cache_dir(context), folder);
  assert_null(moecl_context_cache_dir(NULL));
  moecl_context_destroy(&context);
}

static int remove_folder(void **state) {
  char command[64];
  (void)state;
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rates),        cmocka_unit_test(test_not_done),
      cmocka_unit_test(test_claimed_half), cmocka_unit_test(test_matrix),
      cmocka_unit_test(test_tiles),        cmocka_unit_test(test_refused)};
  skip_without_device();
  if (!mkdtemp(folder)) return 1;
  return cmocka_run_group_tests_name("peak", tests, NULL, remove_folder);
}
