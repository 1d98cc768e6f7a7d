// SPDX-License-Identifier: MIT
/* Mistakes in kernels of the grouped GEMM, which the self-check of a layer's GEMMs has to see. */
#include "spoilt_layer.h"

typedef struct wrong_format {
  moecl_format format;
  const char *from, *to;
} wrong_format;

static void check_formats(const char *variant, moecl_dtype dtype, const char *file,
                          const wrong_format *wrong, size_t count) {
  moecl_layer_params with = params;
  char message[80];
  snprintf(message, sizeof message, "grouped_gemm variant '%s' fails its self-check", variant);
  with.dtype = dtype;
  with.grouped_gemm_variant = variant;
  for (size_t i = 0; i < count; i++) {
    with.weight_format = wrong[i].format;
    check_failure(false, file, wrong[i].from, wrong[i].to, &with, MOECL_ERROR_BUILD, message);
  }
}

/* Of weights with scales every part is looked at, in blocks beyond the first. */
static void test_scales(void **state) {
  static const wrong_format wrong[] = {
      {MOECL_FORMAT_INT8, "as_char((uchar)code)", "code"},
      {MOECL_FORMAT_INT4_G32, "number -= 8.0f", "number -= 7.0f"},
      {MOECL_FORMAT_INT4_G128, "(size_t)column / BLOCK;", "0;"},
      {MOECL_FORMAT_INT4_G64_ZP, "scale_columns(columns) + block;", "block;"},
      {MOECL_FORMAT_MXFP4, "column % 2 * 4", "(1 - column % 2) * 4"},
      {MOECL_FORMAT_MXFP4, "code << 23", "(code + 1) << 23"},
      {MOECL_FORMAT_NVFP4, "code & sign ? -number", "code & sign ? number"},
      {MOECL_FORMAT_NVFP4, "(127u - bias) << 23", "(126u - bias) << 23"},
      {MOECL_FORMAT_FP8, "number *= *(const", "number += 0 * *(const"},
      {MOECL_FORMAT_FP8_BLOCK, "(size_t)row / SCALE_ROWS", "(size_t)(row / 256)"}};
  (void)state;
  check_formats("generic", MOECL_F32, "common/quantized.clh", wrong, BASE_COUNT(wrong));
}

/* The same of panels of them: of many rows, and of few. */
static void test_scaled_panels(void **state) {
  static const wrong_format wrong[] = {
      {MOECL_FORMAT_INT8, "words << (24 - 8 * j)", "words << (24 - 8 * (j ^ 1))"},
      {MOECL_FORMAT_INT4_G32, "word ^ 0x88888888u", "word ^ 0x88888880u"},
      {MOECL_FORMAT_INT4_G64, "number(low_codes, j, low_zero)",
       "number(low_codes, j ^ 1, low_zero)"},
      {MOECL_FORMAT_INT4_G64_ZP, "2 * block + high, p->zero_points", "high, p->zero_points"},
      {MOECL_FORMAT_NVFP4, "vloadv(high, p->matrix_scales)", "vloadv(0, p->matrix_scales)"},
      {MOECL_FORMAT_MXFP4, "code << 23", "(code + 1) << 23"},
      {MOECL_FORMAT_FP8_BLOCK, "(size_t)row / SCALE_ROWS", "(size_t)(row / 256)"},
      {MOECL_FORMAT_INT8_G128, "min(at + group, depth)", "min(at + group, depth - 4)"},
      {MOECL_FORMAT_MXFP4, "low[0][i] * SUM_UNIT, low_scale", "low[0][i] * SUM_UNIT, high_scale"},
      {MOECL_FORMAT_FP8_ROW, "kk < depth; kk++", "kk < depth - 1; kk++"}};
  (void)state;
  check_formats("serial", MOECL_F32, "grouped_gemm/cpu_quantized.clh", wrong, BASE_COUNT(wrong));
}

/* The same of codes that are decoded in registers, where a device does so: of what both variants
 * share, and of what the one has that multiplies them by wgmma. */
static void test_fragments(void **state) {
  static const wrong_format wrong[] = {
      {MOECL_FORMAT_INT8, "0xbf80bf80u", "0x3f803f80u"},
      {MOECL_FORMAT_INT8, "block_of(from, 0)", "0"},
      {MOECL_FORMAT_INT4_G32, "0x00080008u", "0x00070007u"},
      {MOECL_FORMAT_INT4_G32, "HALVES == 2 ? 2 * half_index + i % 2", "HALVES == 2 ? i % 2"},
      {MOECL_FORMAT_INT4_G64, "? pair * 8 + q * 2 : q * 8 + pair * 2",
       "? (pair ^ 1) * 8 + q * 2 : q * 8 + (pair ^ 1) * 2"},
      {MOECL_FORMAT_INT4_G128, "pair_of_stages * PAIR_K", "0"},
      {MOECL_FORMAT_INT4_G64_ZP, "item >> 16", "item >> 17"},
      {MOECL_FORMAT_MXFP4, "(item & 255u) << 23", "(item & 255u) << 22"},
      {MOECL_FORMAT_MXFP4, "0x80008000u;\n  return fma_pair(magnitude",
       "0x00008000u;\n  return fma_pair(magnitude"},
      {MOECL_FORMAT_NVFP4, "0x70007000u", "0x71007100u"},
      {MOECL_FORMAT_NVFP4, "quarter % QUARTERS * 16", "0"},
      {MOECL_FORMAT_FP8, "scale *= *(const", "scale += 0 * *(const"},
      {MOECL_FORMAT_FP8_BLOCK, "stage * STAGE_K + half_index", "half_index"}};
  static const char *const file = "grouped_gemm/nvidia_fragments.clh";
  (void)state;
  if (!has_capability(MOECL_CAP_PTX_SM80)) skip();
  check_formats("nvidia_quantized", MOECL_BF16, file, wrong, BASE_COUNT(wrong));
  if (has_capability(MOECL_CAP_PTX_SM90A))
    check_formats("nvidia_sm90_quantized", MOECL_BF16, file, wrong, BASE_COUNT(wrong));
}

/* Of low tiles, tall ones, and what fills the stages of both. */
static void test_wgmma_fragments(void **state) {
  static const wrong_format kernel[] = {
      {MOECL_FORMAT_INT4_G32, "(scales).factor + 2", "(scales).factor"},
      {MOECL_FORMAT_INT4_G128, "half_index * CODES_BYTES", "0"},
      {MOECL_FORMAT_INT8, "load_codes(&q_codes, codes_at + WEIGHT_BYTES, 1,",
       "load_codes(&q_codes, codes_at, 1,"},
      {MOECL_FORMAT_NVFP4, "codes_at + TOKENS_AT + ring.row_bytes", "codes_at + TOKENS_AT"}};
  static const wrong_format ring[] = {
      {MOECL_FORMAT_INT8, "from + ROW_BYTES, row, row_bytes", "from, row, row_bytes"},
      {MOECL_FORMAT_FP8_ROW, "first + ROWS_APART * i", "first + i"}};
  static const wrong_format shared[] = {
      {MOECL_FORMAT_INT4_G128, "scales->rest[i], 0x80008000u", "scales->after[i], 0x80008000u"}};
  static const char *const variant = "nvidia_sm90_quantized";
  (void)state;
  if (!has_capability(MOECL_CAP_PTX_SM90A)) skip();
  check_formats(variant, MOECL_BF16, "grouped_gemm/nvidia_sm90_quantized.cl", kernel,
                BASE_COUNT(kernel));
  check_formats(variant, MOECL_BF16, "grouped_gemm/nvidia_ring.clh", ring, BASE_COUNT(ring));
  check_formats(variant, MOECL_BF16, "grouped_gemm/nvidia_fragments.clh", shared,
                BASE_COUNT(shared));
}

/* Tiles of AMD's matrix instructions, where a device has them. What is no layout, such as a
 * barrier that is missing, test/emulate plants. */
static void test_amd_tiles(void **state) {
  static const struct {
    const char *file, *from, *to;
  } wrong[] = {
      {"grouped_gemm/amd_tiles.clh", "+ b * BLOCK_CHUNKS +", "+ (1 - b) * BLOCK_CHUNKS +"},
      {"grouped_gemm/amd_tiles.clh", "block % 2 * columns", "0"},
      {"grouped_gemm/amd_tiles.clh", "CHUNKS_APART (TILE_M + 8", "CHUNKS_APART (TILE_M - 8"},
      {"grouped_gemm/amd_tiles.clh", "rows > HALF_BLOCKS", "rows > TOKEN_BLOCKS"},
      {"grouped_gemm/amd_few.clh", "(group) % 2 * 8", "0"}};
  moecl_layer_params with = params;
  const bool mfma = has_capability(MOECL_CAP_MFMA);
  (void)state;
  if (!mfma && !has_capability(MOECL_CAP_WMMA)) skip();
  with.dtype = MOECL_BF16;
  with.grouped_gemm_variant = mfma ? "amd_mfma" : "amd_wmma";
  for (size_t i = 0; i < BASE_COUNT(wrong); i++)
    check_failure(false, wrong[i].file, wrong[i].from, wrong[i].to, &with, MOECL_ERROR_BUILD,
                  "fails its self-check");
}

/* Of processors' units, which are emulated: layouts on both sides, blocks of k, groups of rows,
 * tails, scales. */
static const struct {
  const char *variant, *file, *from, *to;
  bool decoded; /* codes of weights alone */
} unit_plants[] = {
    {"cpu_amx", "cpu_amx.cl", "", ""}, /* nothing */
    {"cpu_amx", "cpu_amx.cl", "w + STEP_BYTES / 2", "w"},
    {"cpu_amx", "cpu_amx.cl", "TILE_BF16(unit, 2, 5, 6)", "TILE_BF16(unit, 2, 4, 6)"},
    {"cpu_amx", "cpu_amx.cl", "rows + group, LINE", "rows + group, LINE / 2"},
    {"cpu_amx", "cpu_amx.cl", "tiles_configure(unit, height)", "tiles_configure(unit, height - 1)"},
    {"cpu_amx", "cpu_amx.cl", "block->rows + g * group", "block->rows"},
    {"cpu_amx", "cpu_steps_gemm.clh", "word_elements * i)", "word_elements * (1 - i))"},
    {"cpu_amx", "cpu_steps_gemm.clh", "p * 16 + c % 16", "(15 - p) * 16 + c % 16"},
    {"cpu_amx", "cpu_steps_gemm.clh", "from + (is_up ? matrix : 0) + row * k", "from + row * k"},
    {"cpu_amx", "cpu_steps_gemm.clh", "r / height * 2 * height", "r / height * height"},
    {"cpu_amx", "cpu_steps_gemm.clh", "vload16(at + height, sums)", "vload16(at, sums)"},
    {"cpu_amx", "cpu_steps_gemm.clh", "work->panel + p, n", "p, n"},
    {"cpu_amx", "cpu_amx.cl", "TILE_LOAD(unit, 0, sums, LINE)", "TILE_ZERO(unit, 0)"},
    {"cpu_amx", "cpu_amx.cl", "TILE_LOAD(unit, 3, sum3, LINE)", "TILE_LOAD(unit, 3, sum2, LINE)"},
    {"cpu_amx", "cpu_steps_gemm.clh", "(p - first) * sums_each", "0"},
    {"cpu_amx", "cpu_steps_gemm.clh", "block, step, &gathered", "block, 0, &gathered"},
    {"cpu_amx", "cpu_steps_gemm.clh", "panel + step * PACKED_STEP", "panel"},
    {"cpu_bf16", "cpu_bf16.cl", "", ""},
    {"cpu_bf16", "cpu_bf16.cl", "vload16(16 + p, words)", "vload16(p, words)"},
    {"cpu_bf16", "cpu_bf16.cl", "rows)[i * 16 + p]", "rows)[i * 16 + (p ^ 1)]"},
    {"cpu_bf16", "cpu_bf16.cl", "vload16(M + i, sums)", "vload16(i, sums)"},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "", ""},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "TILE_PRODUCTS(t, 3, 5, 7)", "TILE_PRODUCTS(t, 3, 4, 7)"},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "block->first_scale + scale, i % 2", "0, i % 2"},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "groups + g + i / 2", "groups + g"},
    {"cpu_amx_int8", "cpu_steps.clh", "i : 0) * 2 + high", "i : 0) * 2"},
    {"cpu_amx_int8", "cpu_steps_gemm.clh", "INPUT_BLOCK ? block->first_scale + i",
     "INPUT_BLOCK ? 0"},
    {"cpu_amx_int8", "cpu_steps_gemm.clh", "scales_at(rows, k)", "scales_at(rows, k) + 4"},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "", "", .decoded = true},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "vload16(2 * i + 1,", "vload16(2 * i,", .decoded = true},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "(unit->kept - 1)", "(unit->kept - 2)", .decoded = true},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "groups > at_once ? BLOCK", "groups > 16 ? BLOCK",
     .decoded = true},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "block->first && scale == 0", "scale == 0",
     .decoded = true},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "word & 0xffff0000u", "word << 16", .decoded = true},
    {"cpu_amx_int8", "cpu_amx_int8.cl", "codes + PACKED_STEP / 2", "codes", .decoded = true},
    {"cpu_int8", "cpu_int8.cl", "", ""},
    {"cpu_int8", "cpu_int8.cl", "-128 * scaled->row_sums[i]", "0"},
    {"cpu_int8", "cpu_int8.cl", "scaled->low, first", "scaled->high, first"},
    {"cpu_int8", "cpu_int8.cl", "block->first && scale == 0", "scale == 0"},
    {"cpu_int8", "cpu_steps_gemm.clh", "sum += (char)codes", "sum += codes"}};

/* Are mistakes seen, and none where there is none? */
static void check_unit(const char *variant, const char *file, const char *from, const char *to,
                       bool decoded) {
  const moecl_format format = strstr(variant, "int8") ? MOECL_FORMAT_INT8_G128 : MOECL_FORMAT_DTYPE;
  const moecl_layer_params with = {.dtype = MOECL_BF16,
                                   .hidden_size = 40,
                                   .intermediate_size = 24,
                                   .num_experts = 6,
                                   .top_k = 2,
                                   .weight_format = format,
                                   .activation_format = decoded ? MOECL_FORMAT_DTYPE : format,
                                   .grouped_gemm_variant = variant};
  test_log log = {0};
  moecl_layer *layer = NULL;
  char command[256], path[64];
  snprintf(path, sizeof path, "grouped_gemm/%s", file);
  spoil(path, from, to);
  snprintf(command, sizeof command,
           "for unit in tiles dot; do sed -i '1i #define EMULATED_TILES\\n#define EMULATED_DOTS' "
           "'%s/cl/common/cpu_'$unit.clh; done",
           root);
  assert_int_equal(system(command), 0);
  moecl_context *context = open_context(&log);
  context->info.capabilities |=
      MOECL_CAP_AVX512_BF16 | MOECL_CAP_AVX512_INT8 | MOECL_CAP_AMX_BF16 | MOECL_CAP_AMX_INT8;
  const moecl_status status = moecl_layer_create(context, &with, &layer);
  const moecl_status want = strcmp(from, to) == 0 ? MOECL_OK : MOECL_ERROR_BUILD;
  if (status != want || (want != MOECL_OK && !test_log_has(&log, "fails its self-check")))
    fail_msg("%s: '%s' in place of '%s' is not seen\n%s", variant, to, from,
             log.text.data ? log.text.data : "");
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void test_units(void **state) {
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(unit_plants); i++)
    check_unit(unit_plants[i].variant, unit_plants[i].file, unit_plants[i].from, unit_plants[i].to,
               unit_plants[i].decoded);
}

/* Rows that are scattered to wrong places: the variant then gathers, and serves. */
static void test_places(void **state) {
  static const struct {
    const char *from, *to;
  } wrong[] = {{"", ""}, /* nothing */
               {"ends.s5 ? to_5", "ends.s5 ? to_6"},
               {"r < ends.s2 ? shifts.s2", "r < ends.s2 ? shifts.s3"},
               {"(r + shift) * n", "r * n"},
               {"r < ends.s0   ? to_0", "r <= ends.s0   ? to_0"}};
  moecl_layer_params with = params;
  (void)state;
  with.grouped_gemm_variant = "generic";
  for (size_t i = 0; i < BASE_COUNT(wrong); i++) {
    test_log log = {0};
    moecl_layer *share = NULL;
    const bool right = wrong[i].from[0] == 0;
    spoil("grouped_gemm/places.clh", wrong[i].from, wrong[i].to);
    moecl_context *context = open_context(&log);
    assert_ok(layer_make_share(context, &with, 3, false, &share));
    if (share->scatters != right || test_log_has(&log, "does not store rows where") == right)
      fail_msg("'%s' in place of '%s' is not seen\n%s", wrong[i].to, wrong[i].from,
               log.text.data ? log.text.data : "");
    assert_int_equal(errors(&log), 0);
    moecl_layer_destroy(&share);
    moecl_context_destroy(&context);
    base_text_free(&log.text);
  }
}

/* usage: test_gemm_mistakes [test] */
int main(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_scales),    cmocka_unit_test(test_scaled_panels),
      cmocka_unit_test(test_fragments), cmocka_unit_test(test_wgmma_fragments),
      cmocka_unit_test(test_amd_tiles), cmocka_unit_test(test_units),
      cmocka_unit_test(test_places)};
  skip_without_device();
  return cmocka_run_group_tests_name("gemm_mistakes", tests, make_root, remove_root);
}
