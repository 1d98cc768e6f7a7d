// SPDX-License-Identifier: MIT
/* Quantized model folders: codes and scales come as they are in the files, and each way of being
 * a bad one has its message. */
#define MODEL_FOLDER "checkpoint_quantized"
#include "model_folder.h"
#include "model/name_pattern.h"
#include <math.h>

#define AT "model.layers.0.block_sparse_moe."
enum { SIZE = 32, EXPERTS = 2, MAX_TENSORS = 40 };

/* A tensor of bytes. */
typedef struct raw {
  char name[96];
  const char *dtype;
  int rank;
  int64_t shape[3];
  uint8_t data[2048];
  size_t size;
} raw;

static raw tensors[MAX_TENSORS];
static size_t count;

static raw *add(const char *name, const char *dtype, int64_t rows, int64_t columns, size_t size) {
  raw *t = &tensors[count++];
  *t = (raw){.dtype = dtype, .rank = columns ? 2 : 1, .shape = {rows, columns}, .size = size};
  snprintf(t->name, sizeof t->name, "%s", name);
  for (size_t i = 0; i < size; i++) t->data[i] = (uint8_t)(i * 37 + count);
  return t;
}

static raw *find(const char *name) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
  fail_msg("no tensor %s", name);
  return NULL;
}

static void write_model(const char *quantization) {
  base_text header = {0}, data = {0}, config = {0};
  base_text_addf(&header, "{");
  for (size_t i = 0; i < count; i++) {
    const raw *t = &tensors[i];
    base_text_addf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name,
                   t->dtype);
    for (int d = 0; d < t->rank; d++)
      base_text_addf(&header, "%s%lld", d ? "," : "", (long long)t->shape[d]);
    base_text_addf(&header, "],\"data_offsets\":[%zu,%zu]}", data.size, data.size + t->size);
    base_text_add(&data, (const char *)t->data, t->size);
  }
  base_text_addf(&header, "}");
  base_text_addf(&config,
                 "{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"hidden_size\":32,"
                 "\"intermediate_size\":32,\"num_local_experts\":2,\"num_experts_per_tok\":1,"
                 "\"torch_dtype\":\"float16\"%s%s}",
                 quantization ? ",\"quantization_config\":" : "", quantization ? quantization : "");
  char path[1024];
  snprintf(path, sizeof path, "%s/model.safetensors", folder());
  write_safetensors(path, header.data, data.data, data.size);
  in_folder("config.json", config.data, config.size);
  base_text_free(&header);
  base_text_free(&data);
  base_text_free(&config);
}

static void put_half(raw *t, size_t i, double value) {
  moecl_from_double(MOECL_F16, &value, 1, t->data + 2 * i);
}

/* The parts of every module: suffix, type, shape, bytes. */
typedef struct part {
  const char *suffix, *dtype;
  int64_t rows, columns;
  size_t size;
} part;

static void make_model(const part *parts, size_t num_parts) {
  static const char *const modules[] = {"w1", "w3", "w2"};
  char name[96];
  count = 0;
  raw *router = add(AT "gate.weight", "F32", EXPERTS, SIZE, EXPERTS * SIZE * 4);
  memset(router->data, 0, router->size);
  for (int e = 0; e < EXPERTS; e++)
    for (size_t m = 0; m < COUNT(modules); m++)
      for (size_t p = 0; p < num_parts; p++) {
        snprintf(name, sizeof name, AT "experts.%d.%s%s", e, modules[m], parts[p].suffix);
        raw *t = add(name, parts[p].dtype, parts[p].rows, parts[p].columns, parts[p].size);
        if (strcmp(t->dtype, "F16") == 0)
          for (int i = 0; i < SIZE; i++) put_half(t, (size_t)i, 3 + i / 8.0);
        if (strcmp(t->dtype, "F32") == 0) memcpy(t->data, &(float){0.75f}, sizeof(float));
        for (size_t i = 0; strcmp(t->dtype, "F8_E4M3") == 0 && i < t->size; i++) t->data[i] &= 0x3f;
      }
}

static const part packed[] = {{".weight_packed", "I32", SIZE, SIZE / 8, SIZE *SIZE / 2},
                              {".weight_scale", "F16", SIZE, 1, SIZE * 2}};
static const part gptq_parts[] = {{".qweight", "I32", SIZE / 8, SIZE, SIZE *SIZE / 2},
                                  {".qzeros", "I32", 1, SIZE / 8, SIZE / 2},
                                  {".scales", "F16", 1, SIZE, SIZE * 2},
                                  {".g_idx", "I32", SIZE, 0, SIZE * 4}};
static const part fp8_parts[] = {{".weight", "F8_E4M3", SIZE, SIZE, SIZE *SIZE},
                                 {".weight_scale", "F32", 1, 0, 4}};

#define WEIGHTS(bits, group)                                                                       \
  "{\"num_bits\":" bits ",\"type\":\"int\",\"strategy\":\"group\",\"group_size\":" group           \
  ",\"symmetric\":true}"
#define COMPRESSED(weights)                                                                        \
  "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"     \
  "\"group_0\":{\"targets\":[\"Linear\"],\"weights\":" weights "}}}"
#define INT4 COMPRESSED(WEIGHTS("4", "32"))
#define GPTQ(more) "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32" more "}"
#define FP8 "{\"quant_method\":\"fp8\"}"

static void make_gptq(void) {
  make_model(gptq_parts, COUNT(gptq_parts));
  for (size_t i = 0; i < count; i++) {
    const char *suffix = strrchr(tensors[i].name, '.');
    if (strcmp(suffix, ".qzeros") == 0) memset(tensors[i].data, 0x77, tensors[i].size);
    if (strcmp(suffix, ".g_idx") == 0) memset(tensors[i].data, 0, tensors[i].size);
  }
}

/* Opens, checks and reads expert 1's down_proj as the layer has it, and as fp32. */
static moecl_status read_model(void *stored, float *numbers, moecl_layer_params *params,
                               test_log *log) {
  moecl_checkpoint *checkpoint;
  moecl_checkpoint_layer layer = {.is_moe = false};
  *log = (test_log){.level = MOECL_LOG_ERROR};
  moecl_status status = moecl_checkpoint_open(folder(), test_log_add, log, &checkpoint);
  if (status == MOECL_OK) status = moecl_checkpoint_get_layer(checkpoint, 0, &layer);
  if (status == MOECL_OK) status = moecl_checkpoint_check(checkpoint, 0);
  *params = layer.params;
  if (status == MOECL_OK)
    status = moecl_checkpoint_read_as(checkpoint, 0, MOECL_DOWN_PROJ, 1, params, stored);
  if (status == MOECL_OK)
    status = moecl_checkpoint_read(checkpoint, 0, MOECL_DOWN_PROJ, 1, MOECL_F32, numbers);
  moecl_checkpoint_destroy(&checkpoint);
  return status;
}

static void expect(const char *quantization, moecl_status status, const char *message) {
  uint8_t stored[4 * SIZE * SIZE];
  float numbers[SIZE * SIZE];
  moecl_layer_params params;
  test_log log;
  write_model(quantization);
  const moecl_status got = read_model(stored, numbers, &params, &log);
  if (got != status || (message && !test_log_has(&log, message)))
    fail_msg("status %d, expected %d and '%s', got '%s'", (int)got, (int)status, message,
             log.text.data ? log.text.data : "");
  if (message) assert_int_equal(test_log_count(&log, "\n"), 1);
  base_text_free(&log.text);
}

/* int4 with scales that quantizing would not choose: what it is must come from the file. */
static void test_bit_for_bit(void **state) {
  (void)state;
  uint8_t stored[4 * SIZE * SIZE];
  float numbers[SIZE * SIZE];
  moecl_layer_params params;
  moecl_format_layout at;
  test_log log;
  make_model(packed, COUNT(packed));
  write_model(INT4);
  assert_ok(read_model(stored, numbers, &params, &log));
  assert_int_equal(params.weight_format, MOECL_FORMAT_INT4_G32);
  assert_int_equal(params.dtype, MOECL_F16);
  assert_ok(moecl_format_get_layout(params.weight_format, SIZE, SIZE, &at));
  const raw *codes = find(AT "experts.1.w2.weight_packed");
  const raw *scales = find(AT "experts.1.w2.weight_scale");
  assert_memory_equal(stored, codes->data, SIZE * SIZE / 2);
  assert_memory_equal(stored + at.scales, scales->data, SIZE * 2);
  for (int r = 0; r < SIZE; r++)
    for (int c = 0; c < SIZE; c++) {
      uint32_t word;
      memcpy(&word, codes->data + 4 * (r * 4 + c / 8), 4);
      const double code = (double)(word >> 4 * (c % 8) & 15) - 8;
      assert_true((double)numbers[r * SIZE + c] == code * (3 + r / 8.0));
    }
}

/* GPTQ's words are of eight inputs of one output, and its zero points stored less 1. */
static void test_gptq(void **state) {
  (void)state;
  uint8_t stored[4 * SIZE * SIZE];
  float numbers[SIZE * SIZE];
  moecl_layer_params params;
  moecl_format_layout at;
  test_log log;
  make_gptq();
  raw *zeros = find(AT "experts.1.w2.qzeros");
  for (size_t i = 0; i < zeros->size; i++) zeros->data[i] = (uint8_t)(i * 0x1f);
  write_model(GPTQ(",\"sym\":false"));
  assert_ok(read_model(stored, numbers, &params, &log));
  assert_int_equal(params.weight_format, MOECL_FORMAT_INT4_G32_ZP);
  assert_ok(moecl_format_get_layout(params.weight_format, SIZE, SIZE, &at));
  const raw *codes = find(AT "experts.1.w2.qweight");
  for (int r = 0; r < SIZE; r++) {
    const int zero = ((zeros->data[r / 2] >> (r % 2 * 4) & 15) + 1) % 16;
    assert_int_equal(stored[at.zero_points + (uint64_t)r], zero);
    for (int c = 0; c < SIZE; c++) {
      uint32_t word;
      memcpy(&word, codes->data + 4 * (c / 8 * SIZE + r), 4);
      const int code = (int)(word >> 4 * (c % 8) & 15);
      assert_int_equal(stored[r * SIZE / 2 + c / 2] >> (c % 2 * 4) & 15, code);
      assert_true((double)numbers[r * SIZE + c] == (code - zero) * (3 + r / 8.0));
    }
  }
}

#define AS(layout, type, bits, group)                                                              \
  "{\"quant_method\":\"compressed-tensors\",\"format\":\"" layout                                  \
  "\",\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":" bits ",\"type\":\"" type               \
  "\",\"strategy\":\"group\",\"group_size\":" group "}}}}"

static void test_bad_configs(void **state) {
  (void)state;
  static const struct {
    const char *config, *message;
  } bad[] = {
      {COMPRESSED(WEIGHTS("3", "32")), "type 'int', num_bits 3, group_size 32 is no weight format"},
      {COMPRESSED(WEIGHTS("4", "16")), "num_bits 4, group_size 16 is no weight format"},
      {COMPRESSED(WEIGHTS("4", "-1")), "num_bits 4, group_size -1 is no weight format"},
      {COMPRESSED("{\"num_bits\":4,\"type\":\"int\",\"strategy\":\"channel\",\"symmetric\":true}"),
       "strategy 'channel' is no weight format"},
      {COMPRESSED("{\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\",\"symmetric\":false}"),
       "not symmetric is no weight format"},
      {COMPRESSED("{\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\"}"),
       "type 'float', num_bits 8, strategy 'channel' is no weight format"},
      {COMPRESSED("{\"num_bits\":\"4\"}"), "'num_bits' is not a number"},
      {COMPRESSED("{\"num_bits\":4,\"type\":\"nf\",\"strategy\":\"group\",\"group_size\":32}"),
       "type 'nf'"},
      {"{\"quant_method\":\"compressed-tensors\",\"format\":\"marlin-24\",\"config_groups\":{"
       "\"g\":{\"weights\":" WEIGHTS("4", "32") "}}}",
       "format 'marlin-24' is not known"},
      /* The scheme has no scale of the matrix, or one that the format has not; other codes. */
      {AS("mxfp4-pack-quantized", "float", "4", "16"), "num_bits 4, group_size 16 is no weight"},
      {AS("float-quantized", "float", "4", "16"), "num_bits 4, group_size 16 is no weight format"},
      {AS("nvfp4-pack-quantized", "float", "4", "32"), "num_bits 4, group_size 32 is no weight"},
      {AS("float-quantized", "int", "8", "128"), "num_bits 8, group_size 128 is no weight format"},
      {"{\"quant_method\":\"compressed-tensors\",\"config_groups\":{}}", "no group with weights"},
      {"{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}",
       "quant_method 'bitsandbytes' is not known; known are mxfp4, fp8, fbgemm_fp8, "
       "compressed-tensors, awq, gptq"},
      {"{\"quant_method\":\"hqq\"}", "quant_method 'hqq' is not known"},
      {"{\"bits\":4}", "has no text 'quant_method'"},
      {"[]", "has no text 'quant_method'"},
      {GPTQ(",\"checkpoint_format\":\"marlin\""), "checkpoint_format 'marlin' is not known"},
      {GPTQ(",\"dynamic\":{\"-:.*\":{}}"), "'dynamic' asks for"},
      {"{\"quant_method\":\"gptq\",\"bits\":2}", "bits 2, group_size 128 is no weight format"},
      {"{\"quant_method\":\"gptq\"}", "has no key 'bits'"},
      {"{\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":128,\"sym\":false}",
       "bits 8, group_size 128, not symmetric is no weight format"},
      {"{\"quant_method\":\"awq\",\"bits\":4,\"version\":\"gemv\"}",
       "version is 'gemv', expected 'gemm'"},
      {"{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}",
       "weight_block_size [64, 128] is no weight format"},
      {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}",
       "'weight_block_size' is not a list of two"},
      {"{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", "fmt is 'e5m2', expected 'e4m3'"},
  };
  make_model(packed, COUNT(packed));
  for (size_t i = 0; i < COUNT(bad); i++)
    expect(bad[i].config, MOECL_ERROR_UNSUPPORTED, bad[i].message);
  expect(NULL, MOECL_ERROR_IO, "has no tensor '" AT "experts.0.w1.weight'");
}

static void test_bad_tensors(void **state) {
  (void)state;
#define W2 AT "experts.1.w2"
  make_model(packed, COUNT(packed));
  snprintf(find(W2 ".weight_packed")->name, 96, "other");
  expect(INT4, MOECL_ERROR_IO, "has no tensor '" W2 ".weight_packed'");
  make_model(packed, COUNT(packed));
  snprintf(find(W2 ".weight_scale")->name, 96, "other");
  expect(INT4, MOECL_ERROR_IO, "has no tensor '" W2 ".weight_scale'");
  make_model(packed, COUNT(packed));
  find(W2 ".weight_packed")->dtype = "F32";
  expect(INT4, MOECL_ERROR_UNSUPPORTED, "is of type F32, expected I32 as codes of int4-g32");
  make_model(packed, COUNT(packed));
  raw *t = find(W2 ".weight_scale");
  t->shape[0] = SIZE / 2;
  t->shape[1] = 2;
  expect(INT4, MOECL_ERROR_IO, W2 ".weight_scale' has shape [16, 2], expected [32, 1]");
  make_model(packed, COUNT(packed));
  t = find(W2 ".weight_packed");
  t->shape[0] = 4;
  t->shape[1] = SIZE;
  expect(INT4, MOECL_ERROR_IO, W2 ".weight_packed' has shape [4, 32], expected [32, 4]");
  make_model(packed, COUNT(packed));
  put_half(find(W2 ".weight_scale"), 5, INFINITY);
  expect(INT4, MOECL_ERROR_IO, W2 ".weight_scale': row 5, column 0 is not a finite number");
  make_model(packed, COUNT(packed));
  t = find(W2 ".weight_packed");
  *t = (raw){.dtype = "F16", .rank = 2, .shape = {SIZE, SIZE}, .size = SIZE * SIZE * 2};
  snprintf(t->name, sizeof t->name, W2 ".weight");
  snprintf(find(W2 ".weight_scale")->name, 96, "other");
  expect(INT4, MOECL_ERROR_UNSUPPORTED,
         W2 ".weight' is stored as F16, expected int4-g32 as the layer's first expert");
  /* A scale that fp16 has not: fp32's, beyond its digits. */
  make_model(packed, COUNT(packed));
  t = find(W2 ".weight_scale");
  t->dtype = "F32";
  t->size = SIZE * 4;
  for (int i = 0; i < SIZE; i++) memcpy(t->data + 4 * i, &(float){i == 9 ? 0.1f : 0.25f}, 4);
  expect(INT4, MOECL_ERROR_UNSUPPORTED, "row 9, column 0 is a scale of 0.100000001");
  make_model(packed, COUNT(packed));
  t = add(W2 ".weight_shape", "I64", 2, 0, 16);
  memset(t->data, 0, 16);
  t->data[0] = SIZE;
  t->data[8] = SIZE - 1;
  expect(INT4, MOECL_ERROR_IO, W2 ".weight_shape' says [32, 31], expected [32, 32]");
  make_model(packed, COUNT(packed));
  add(W2 ".weight_bias_of_another_kind", "F32", 2, 0, 8);
  expect(INT4, MOECL_ERROR_UNSUPPORTED, "does not know what it is for");
}

static void test_bad_numbers(void **state) {
  (void)state;
  for (int sign = 0; sign < 2; sign++) {
    make_model(fp8_parts, COUNT(fp8_parts));
    expect(FP8, MOECL_OK, NULL);
    find(W2 ".weight")->data[3 * SIZE + 7] = sign ? 0xff : 0x7f;
    expect(FP8, MOECL_ERROR_IO, W2 ".weight': row 3, column 7 is NaN");
  }
  make_gptq();
  expect(GPTQ(""), MOECL_OK, NULL);
  find(W2 ".qzeros")->data[1] = 0x78;
  expect(GPTQ(""), MOECL_ERROR_IO,
         W2 ".qzeros': row 2, column 0 is not the zero point of symmetric weights");
  make_gptq();
  find(W2 ".g_idx")->data[4 * 6] = 1;
  expect(GPTQ(""), MOECL_ERROR_UNSUPPORTED, W2 ".g_idx': element 6 is another group");
  /* Of the first expert: the layer's weights are dequantized, but there is no such group. */
  make_gptq();
  find(AT "experts.0.w1.g_idx")->data[4 * 6] = 1;
  find(W2 ".g_idx")->data[4 * 6] = 1;
  expect(GPTQ(""), MOECL_ERROR_IO, W2 ".g_idx': row 0, column 6 is no group's number");
}

/* Two groups: each module is of the first that has it among its targets. */
static void test_groups(void **state) {
  (void)state;
#define TWO(first)                                                                                 \
  "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"     \
  "\"a\":{\"targets\":[\"" first                                                                   \
  "\"],\"weights\":" WEIGHTS("4", "64") "},\"b\":{\"targets\":[\"re:.*\\\\.experts\\\\.[0-9]+"     \
                                        "\\\\.w[123]$\"],\"weights\":" WEIGHTS("4", "32") "}}}"
  make_model(packed, COUNT(packed));
  expect(TWO("re:.*self_attn.*"), MOECL_OK, NULL);
  expect(TWO("re:.*(?=self_attn).*"), MOECL_OK, NULL);
  expect(
      "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"
      "\"a\":{\"targets\":[\"re:x\"],\"weights\":" WEIGHTS(
          "4", "64") "},\"b\":{\"targets\":[\"re:(?=y)\"],\"weights\":" WEIGHTS("4", "32") "}}}",
      MOECL_ERROR_UNSUPPORTED, "a regular expression among the targets of config_groups");
}

static void test_patterns(void **state) {
  (void)state;
  static const struct {
    const char *expression, *name;
    name_match match;
  } all[] = {
      {".*mlp.gate$", "model.layers.1.mlp.gate", NAME_MATCHES},
      {".*mlp.gate$", "model.layers.1.mlp.gate_proj", NAME_OTHER},
      {"model.layers.1", "model.layers.10.mlp", NAME_MATCHES},
      {"layers", "model.layers.10.mlp", NAME_OTHER},
      {".*\\.(gate|up|down)_proj$", "a.up_proj", NAME_MATCHES},
      {".*\\.(gate|up|down)_proj$", "a.q_proj", NAME_OTHER},
      {".*layers\\.\\d+\\.[a-c_]+$", "layers.12.a_c", NAME_MATCHES},
      {".*layers\\.\\d+\\.[^a-c_]+$", "layers.12.a_c", NAME_OTHER},
      {"(?:x|lm)_?head", "lmhead", NAME_MATCHES},
      {"(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NAME_OTHER},
      {"", "", NAME_MATCHES},
      {"(?!a)b", "b", NAME_UNKNOWN},
      {"a{2}", "aa", NAME_UNKNOWN},
      {"(", "a", NAME_UNKNOWN},
      {"[", "a", NAME_UNKNOWN},
      {"\\", "a", NAME_UNKNOWN},
      {"*", "a", NAME_UNKNOWN},
      {"\\bx", "x", NAME_UNKNOWN},
  };
  for (size_t i = 0; i < COUNT(all); i++)
    if (name_match_expression(all[i].expression, all[i].name) != all[i].match)
      fail_msg("'%s' and '%s'", all[i].expression, all[i].name);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bit_for_bit), cmocka_unit_test(test_gptq),
      cmocka_unit_test(test_bad_configs), cmocka_unit_test(test_bad_tensors),
      cmocka_unit_test(test_bad_numbers), cmocka_unit_test(test_groups),
      cmocka_unit_test(test_patterns),
  };
  return cmocka_run_group_tests_name("checkpoint_quantized", tests, NULL, NULL);
}
