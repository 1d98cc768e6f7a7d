// SPDX-License-Identifier: MIT
/* moecl_checkpoint_quantize: what it writes has the codes and scales that the host's encoder makes
 * of the source's numbers, all else as it was, and what files can't say is refused. */
#define MODEL_FOLDER "checkpoint_writer"
#include "model_folder.h"
#include "base/base.h"
#include <jansson.h>
#include <math.h>

enum { H = 128, I = 128, SHARED = 256, EXPERTS = 2 };
#define LAYER "model.layers.1.mlp."
#define BEHIND "model.layers.2.mlp." /* the layers that config.json counts */

/* ---- the source: two shards, a layer of each kind ---- */

static void add(base_text *header, base_text *data, const char *name, int64_t rows,
                int64_t columns) {
  const size_t begin = data->size;
  uint32_t random = (uint32_t)strlen(name) * 77 + (uint32_t)name[strlen(name) - 10];
  for (int64_t i = 0; i < rows * columns; i++) {
    random = random * 1664525u + 1013904223u;
    const double value = (double)(random >> 8) / 0x1p23 - 1;
    char bytes[2];
    moecl_from_double(MOECL_BF16, &value, 1, bytes);
    base_text_add(data, bytes, sizeof bytes);
  }
  base_text_addf(
      header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%lld,%lld],\"data_offsets\":[%zu,%zu]}",
      header->size > 1 ? "," : "", name, (long long)rows, (long long)columns, begin, data->size);
}

static void write_shard(const char *name, base_text *header, base_text *data, json_t *map,
                        const char *const *names, const int64_t (*sizes)[2], size_t count) {
  char path[1024];
  base_text_addf(header, "{\"__metadata__\":{\"format\":\"pt\"}");
  for (size_t i = 0; i < count; i++) {
    add(header, data, names[i], sizes[i][0], sizes[i][1]);
    json_object_set_new(map, names[i], json_string(name));
  }
  base_text_addf(header, "}");
  snprintf(path, sizeof path, "%s/%s", folder(), name);
  write_safetensors(path, header->data, data->data, data->size);
  base_text_free(header);
  base_text_free(data);
}

static const char *const first_names[] = {"model.embed_tokens.weight",
                                          "model.layers.0.mlp.gate_proj.weight",
                                          "model.layers.0.mlp.up_proj.weight",
                                          "model.layers.0.mlp.down_proj.weight",
                                          "model.layers.1.self_attn.q_proj.weight",
                                          LAYER "experts.0.gate_proj.weight",
                                          LAYER "experts.0.up_proj.weight",
                                          LAYER "experts.0.down_proj.weight",
                                          LAYER "experts.1.gate_proj.weight"};
static const int64_t first_sizes[][2] = {{8, H}, {I, H}, {I, H}, {H, I}, {H, H},
                                         {I, H}, {I, H}, {H, I}, {I, H}};
static const char *const second_names[] = {
    LAYER "experts.1.up_proj.weight",       LAYER "experts.1.down_proj.weight",
    LAYER "shared_expert.gate_proj.weight", LAYER "shared_expert.up_proj.weight",
    LAYER "shared_expert.down_proj.weight", LAYER "gate.weight",
    LAYER "shared_expert_gate.weight",      "lm_head.weight",
    BEHIND "experts.0.up_proj.weight"};
static const int64_t second_sizes[][2] = {
    {I, H}, {H, I}, {SHARED, H}, {SHARED, H}, {H, SHARED}, {EXPERTS, H}, {1, H}, {8, H}, {I, H}};

static const char config[] =
    "{\"model_type\":\"qwen2_moe\",\"num_hidden_layers\":2,\"hidden_size\":128,"
    "\"intermediate_size\":128,\"moe_intermediate_size\":128,"
    "\"shared_expert_intermediate_size\":256,\"num_experts\":2,\"num_experts_per_tok\":1,"
    "\"mlp_only_layers\":[0],\"norm_topk_prob\":false,\"torch_dtype\":\"bfloat16\"}";

static void make_source(void) {
  base_text header = {0}, data = {0};
  json_t *map = json_object();
  drop("model.safetensors");
  write_shard("model-00001-of-00002.safetensors", &header, &data, map, first_names, first_sizes,
              COUNT(first_names));
  write_shard("model-00002-of-00002.safetensors", &header, &data, map, second_names, second_sizes,
              COUNT(second_names));
  json_t *index =
      json_pack("{s:{s:i,s:s},s:o}", "metadata", "total_size", 1, "kept", "yes", "weight_map", map);
  char *text = json_dumps(index, 0);
  in_folder("model.safetensors.index.json", text, strlen(text));
  in_folder("config.json", config, strlen(config));
  in_folder("tokenizer.json", "[1, 2]", 6);
  in_folder("pytorch_model.bin", "old", 3);
  free(text);
  json_decref(index);
}

/* ---- what is written ---- */

static char out[1024];

static const char *new_folder(const char *name) {
  char command[1200];
  snprintf(out, sizeof out, "%s/../checkpoint_writer-%s", folder(), name);
  snprintf(command, sizeof command, "rm -rf '%s'", out);
  assert_int_equal(system(command), 0);
  return out;
}

static moecl_checkpoint *open_folder(const char *path, test_log *log) {
  moecl_checkpoint *checkpoint = NULL;
  assert_ok(moecl_checkpoint_open(path, log ? test_log_add : NULL, log, &checkpoint));
  return checkpoint;
}

/* Of nvfp4 the matrix' scale comes back by way of its reciprocal. */
static void compare_codes(moecl_format format, uint64_t rows, const uint8_t *got,
                          const uint8_t *want, uint64_t columns) {
  static double a[SHARED * H], b[SHARED * H];
  moecl_format_layout at;
  assert_ok(moecl_format_get_layout(format, rows, columns, &at));
  if (format != MOECL_FORMAT_NVFP4) {
    assert_memory_equal(got, want, at.bytes);
    return;
  }
  assert_memory_equal(got, want, at.matrix_scale);
  moecl_format_to_double(format, got, rows, columns, a);
  moecl_format_to_double(format, want, rows, columns, b);
  for (uint64_t i = 0; i < rows * columns; i++)
    assert_true(fabs(a[i] - b[i]) <= 0x1p-23 * fabs(b[i]));
}

static void check_item(moecl_checkpoint *source, moecl_checkpoint *written,
                       const moecl_quantize_params *how, moecl_tensor tensor, int64_t item) {
  static float numbers[2 * SHARED * H];
  static double wide[2 * SHARED * H];
  static uint8_t got[4 * SHARED * H], want[4 * SHARED * H];
  moecl_checkpoint_layer layer;
  int64_t rows, columns;
  assert_ok(moecl_checkpoint_get_layer(written, 1, &layer));
  assert_int_equal(layer.params.weight_format, how->format);
  moecl_layer_tensor_shape(&layer.params, tensor, &rows, &columns);
  const bool pair = tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_SHARED_GATE_UP_PROJ;
  moecl_quantize_params params = *how;
  params.matrices = pair ? 2 : 1;
  params.rows = (uint64_t)rows / params.matrices;
  params.columns = (uint64_t)columns;
  assert_ok(moecl_checkpoint_read(source, 1, tensor, item, MOECL_F32, numbers));
  moecl_to_double(MOECL_F32, numbers, (size_t)(rows * columns), wide);
  assert_ok(moecl_quantize_host(&params, wide, want));
  assert_ok(moecl_checkpoint_read_as(written, 1, tensor, item, &layer.params, got));
  const uint64_t one = moecl_format_bytes(how->format, params.rows, params.columns);
  for (uint64_t m = 0; m < params.matrices; m++)
    compare_codes(how->format, params.rows, got + m * one, want + m * one, params.columns);
}

static void check_same(moecl_checkpoint *a, moecl_checkpoint *b, const char *name) {
  const moecl_safetensors_tensor *x, *y;
  assert_ok(moecl_checkpoint_find(a, name, NULL, &x));
  assert_ok(moecl_checkpoint_find(b, name, NULL, &y));
  assert_true(x && y);
  assert_string_equal(x->dtype, y->dtype);
  assert_int_equal(x->bytes, y->bytes);
  assert_memory_equal(x->data, y->data, x->bytes);
}

static json_t *read_json(const char *name) {
  char path[1200];
  snprintf(path, sizeof path, "%s/%s", out, name);
  json_t *root = json_load_file(path, 0, NULL);
  assert_non_null(root);
  return root;
}

/* Names that other programs go by: kept, or in the list of what is not quantized. */
static bool is_left(json_t *quantization, const char *name) {
  json_t *list = json_object_get(quantization, "ignore"), *one;
  size_t i;
  if (!list) list = json_object_get(quantization, "modules_to_not_convert");
  json_array_foreach(list, i, one) if (strcmp(json_string_value(one), name) == 0) return true;
  return false;
}

static void check_files(moecl_checkpoint *written, moecl_format format) {
  moecl_checkpoint_size size;
  char path[1200];
  json_t *root = read_json("config.json"), *index = read_json("model.safetensors.index.json");
  json_t *q = json_object_get(root, "quantization_config");
  const bool deepseek = format == MOECL_FORMAT_FP8_BLOCK;
  assert_string_equal(json_string_value(json_object_get(root, "model_type")), "qwen2_moe");
  assert_string_equal(json_string_value(json_object_get(q, "quant_method")),
                      deepseek ? "fp8" : "compressed-tensors");
  assert_true(is_left(q, deepseek ? "model.layers.1.self_attn.q_proj"
                                  : "re:model\\.layers\\.\\d+\\.self_attn\\.q_proj$"));
  assert_true(is_left(q, deepseek ? "lm_head" : "re:lm_head$"));
  assert_true(is_left(q, deepseek ? "model.layers.0.mlp.up_proj"
                                  : "re:model\\.layers\\.\\d+\\.mlp\\.up_proj$"));
  assert_false(is_left(q, deepseek ? LAYER "experts.0.up_proj"
                                   : "re:model\\.layers\\.\\d+\\.mlp\\.experts\\.\\d+\\.up_proj$"));
  /* By its name: an expression would say the experts, too. */
  assert_true(is_left(q, BEHIND "experts.0.up_proj"));
  assert_ok(moecl_checkpoint_measure(written, &size));
  json_t *metadata = json_object_get(index, "metadata");
  assert_int_equal(json_integer_value(json_object_get(metadata, "total_size")), size.bytes);
  assert_string_equal(json_string_value(json_object_get(metadata, "kept")), "yes");
  snprintf(path, sizeof path, "%s/tokenizer.json", out);
  assert_int_equal(access(path, F_OK), 0);
  snprintf(path, sizeof path, "%s/pytorch_model.bin", out);
  assert_int_not_equal(access(path, F_OK), 0);
  json_decref(root);
  json_decref(index);
}

static void check_format(moecl_checkpoint *source, moecl_format format, moecl_scale_search search) {
  test_log log = {0};
  moecl_checkpoint_layer dense;
  const moecl_checkpoint_quantize_params params = {.format = format, .scale_search = search};
  const moecl_quantize_params how = {.format = format, .scale_search = search};
  assert_ok(moecl_checkpoint_quantize(source, &params, new_folder("out")));
  moecl_checkpoint *written = open_folder(out, &log);
  assert_ok(moecl_checkpoint_check(written, 0));
  assert_ok(moecl_checkpoint_check(written, 1));
  assert_ok(moecl_checkpoint_get_layer(written, 0, &dense));
  assert_int_equal(dense.params.weight_format, MOECL_FORMAT_DTYPE);
  for (int64_t e = 0; e < EXPERTS; e++) {
    check_item(source, written, &how, MOECL_GATE_UP_PROJ, e);
    check_item(source, written, &how, MOECL_DOWN_PROJ, e);
  }
  check_item(source, written, &how, MOECL_SHARED_GATE_UP_PROJ, 0);
  check_item(source, written, &how, MOECL_SHARED_DOWN_PROJ, 0);
  for (size_t i = 0; i < 5; i++) check_same(source, written, first_names[i]);
  for (size_t i = 5; i < COUNT(second_names); i++) check_same(source, written, second_names[i]);
  check_files(written, format);
  moecl_checkpoint_destroy(&written);
  base_text_free(&log.text);
}

static void test_formats(void **state) {
  (void)state;
  make_source();
  moecl_checkpoint *source = open_folder(folder(), NULL);
  for (int format = MOECL_FORMAT_INT8; format < MOECL_FORMAT_COUNT; format++)
    check_format(source, (moecl_format)format, (moecl_scale_search)(format % 2));
  moecl_checkpoint_destroy(&source);
}

/* ---- the caller's own quantizing ---- */

typedef struct calls {
  int count;
  moecl_status status;
} calls;

static moecl_status count_call(void *user, const moecl_quantize_params *params,
                               const float *numbers, void *codes) {
  calls *calls = user;
  calls->count++;
  assert_int_equal(params->dtype, MOECL_F32);
  assert_true(params->matrices == 1 && numbers[0] >= -1 && numbers[0] <= 1);
  memset(codes, 0, (size_t)moecl_format_bytes(params->format, params->rows, params->columns));
  return calls->count == 3 ? calls->status : MOECL_OK;
}

static void test_callback(void **state) {
  calls calls = {.status = MOECL_ERROR_DEVICE};
  const moecl_checkpoint_quantize_params params = {
      .format = MOECL_FORMAT_INT8, .quantize = count_call, .user = &calls};
  (void)state;
  make_source();
  moecl_checkpoint *source = open_folder(folder(), NULL), *written = NULL;
  assert_int_equal(moecl_checkpoint_quantize(source, &params, new_folder("out")),
                   MOECL_ERROR_DEVICE);
  assert_int_equal(moecl_checkpoint_open(out, NULL, NULL, &written), MOECL_ERROR_IO);
  calls.status = MOECL_OK, calls.count = 0;
  assert_ok(moecl_checkpoint_quantize(source, &params, new_folder("out")));
  assert_int_equal(calls.count, 3 * EXPERTS + 3);
  moecl_checkpoint_destroy(&source);
}

/* ---- what is refused ---- */

static void refused(moecl_format format, const char *to, moecl_status status, const char *why) {
  test_log log = {0};
  const moecl_checkpoint_quantize_params params = {.format = format};
  moecl_checkpoint *source = open_folder(folder(), &log);
  assert_int_equal(moecl_checkpoint_quantize(source, &params, to), status);
  if (!test_log_has(&log, why)) fail_msg("no '%s' in: %s", why, log.text.data ? log.text.data : "");
  moecl_checkpoint_destroy(&source);
  base_text_free(&log.text);
}

static void test_refusals(void **state) {
  moecl_checkpoint_quantize_params params = {.format = MOECL_FORMAT_INT8};
  static char changed[1024];
  (void)state;
  make_source();
  refused(MOECL_FORMAT_INT8, folder(), MOECL_ERROR_INVALID_ARGUMENT, "has files in it");
  refused(MOECL_FORMAT_BF16, new_folder("out"), MOECL_ERROR_INVALID_ARGUMENT, "format with scales");
  moecl_checkpoint *source = open_folder(folder(), NULL);
  params.reserved[0] = 1;
  assert_int_equal(moecl_checkpoint_quantize(source, &params, out), MOECL_ERROR_INVALID_ARGUMENT);
  params.reserved[0] = 0;
  assert_int_equal(moecl_checkpoint_quantize(source, NULL, out), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_checkpoint_quantize(source, &params, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  assert_ok(moecl_checkpoint_quantize(source, &params, out));
  moecl_checkpoint_destroy(&source);
  /* What is quantized already. */
  char first[1024];
  snprintf(first, sizeof first, "%s", out);
  moecl_checkpoint *written = open_folder(first, NULL);
  assert_int_equal(moecl_checkpoint_quantize(written, &params, new_folder("again")),
                   MOECL_ERROR_UNSUPPORTED);
  moecl_checkpoint_destroy(&written);
  /* A model without experts. */
  snprintf(changed, sizeof changed, "%s", config);
  char *layers = strstr(changed, "\"num_hidden_layers\":2");
  layers[strlen("\"num_hidden_layers\":")] = '1';
  in_folder("config.json", changed, strlen(changed));
  refused(MOECL_FORMAT_INT8, new_folder("none"), MOECL_ERROR_UNSUPPORTED, "no experts");
}

/* Blocks that don't fit, and experts in one tensor. */
static void test_what_files_cannot_express(void **state) {
  static const made narrow[] = {
      {"model.layers.0.block_sparse_moe.gate.weight", "F32", 2, {1, 48}, 0},
      {"model.layers.0.block_sparse_moe.experts.0.w1.weight", "F32", 2, {48, 48}, 0},
      {"model.layers.0.block_sparse_moe.experts.0.w3.weight", "F32", 2, {48, 48}, 0},
      {"model.layers.0.block_sparse_moe.experts.0.w2.weight", "F32", 2, {48, 48}, 0}};
  static const char mixtral[] =
      "{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"hidden_size\":48,"
      "\"intermediate_size\":48,\"num_local_experts\":1,\"num_experts_per_tok\":1}";
  (void)state;
  make("model.safetensors", mixtral, narrow, COUNT(narrow));
  refused(MOECL_FORMAT_INT4_G32, new_folder("out"), MOECL_ERROR_UNSUPPORTED,
          "w1.weight' has 48 columns, no multiple of 32, which files of int4-g32 weights");
  moecl_checkpoint *source = open_folder(folder(), NULL);
  const moecl_checkpoint_quantize_params blocks = {.format = MOECL_FORMAT_FP8_BLOCK};
  assert_ok(moecl_checkpoint_quantize(source, &blocks, new_folder("out")));
  moecl_checkpoint_destroy(&source);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_formats), cmocka_unit_test(test_callback),
      cmocka_unit_test(test_refusals), cmocka_unit_test(test_what_files_cannot_express)};
  return cmocka_run_group_tests_name("checkpoint_writer", tests, NULL, NULL);
}
