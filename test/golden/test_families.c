// SPDX-License-Identifier: MIT
/* Published-format model folders and what transformers' own code made of hidden
 * states (test/golden/make/make_goldens.py): layers loaded from the folders give the same. */
#include "../unit/unit.h"
#include "moecl/moecl.h"
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static moecl_context *context;

static void say(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

static char *path_of(const char *family, const char *file) {
  const char *folder = getenv("MOECL_GOLDEN_DIR");
  static char path[1024];
  snprintf(path, sizeof path, "%s/families/%s%s%s", folder ? folder : "test/golden", family,
           file ? "/" : "", file ? file : "");
  return path;
}

/* A recorded tensor as doubles, which the caller frees. */
static double *recorded(const moecl_safetensors *file, const char *name, uint64_t count) {
  const moecl_safetensors_tensor *tensor = moecl_safetensors_find(file, name);
  assert_non_null(tensor);
  assert_true(tensor->count == count);
  double *values = malloc((size_t)(count + 1) * sizeof *values);
  assert_non_null(values);
  assert_ok(moecl_safetensors_to_double(file, tensor, 0, count, values));
  return values;
}

typedef struct run {
  int64_t tokens;
  double *output;
  moecl_routing routing;
} run;

static run forward(moecl_layer *layer, const moecl_layer_params *params, const double *hidden,
                   int64_t tokens) {
  const uint64_t count = (uint64_t)(tokens * params->hidden_size);
  const uint64_t bytes = count * moecl_dtype_size(params->dtype);
  run r = {.tokens = tokens, .output = malloc((size_t)(count + 1) * sizeof *r.output)};
  moecl_buffer *input = NULL, *output = NULL;
  void *raw = malloc((size_t)bytes + 1);
  assert_true(r.output && raw);
  moecl_from_double(params->dtype, hidden, (size_t)count, raw);
  assert_ok(moecl_buffer_create(context, bytes, &input));
  assert_ok(moecl_buffer_create(context, bytes, &output));
  assert_ok(moecl_buffer_write_wait(input, 0, bytes, raw));
  const moecl_forward_params params_of = {
      .num_tokens = tokens, .hidden_states = input, .output = output};
  assert_ok(moecl_layer_forward(layer, &params_of, NULL));
  assert_ok(moecl_buffer_read_wait(output, 0, bytes, raw));
  assert_ok(moecl_layer_read_routing_wait(layer, &r.routing));
  moecl_to_double(params->dtype, raw, (size_t)count, r.output);
  free(raw);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  return r;
}

/* The same experts, whatever their order, with the same weights, once these are times
 * what the family multiplies each expert's by; a dropped choice was recorded with weight 0. In bf16
 * the recorded logits are rounded, of which small weights feel more: they are held to the token's
 * largest one. */
static bool same_choices(const moecl_layer_params *params, const float *expert_scale, const run *r,
                         const double *ids, const double *weights, double tolerance) {
  const int64_t top_k = r->routing.top_k;
  for (int64_t i = 0; i < r->tokens * top_k; i++) {
    const int64_t first = i / top_k * top_k;
    int64_t at = first;
    while (at < first + top_k && r->routing.topk_ids[at] != (int32_t)ids[i]) at++;
    const bool found = at < first + top_k;
    double kept[MOECL_MAX_TOP_K];
    moecl_reference_kept_weights(params, r->routing.topk_weights + first, r->routing.kept + first,
                                 kept);
    const double weight = found ? kept[at - first] * (double)expert_scale[(int)ids[i]] : 0;
    double scale = fabs(weights[i]);
    for (int64_t k = 0; params->dtype != MOECL_F32 && k < top_k; k++)
      scale = fmax(scale, fabs(weights[first + k]));
    if (found && fabs(weight - weights[i]) <= tolerance * scale + 1e-12) continue;
    fprintf(stderr, "token %lld, expert %d: weight %.9g, recorded %.9g%s\n", (long long)(i / top_k),
            (int)ids[i], weight, weights[i], found ? "" : " (not chosen)");
    return false;
  }
  return true;
}

/* Runs a record's hidden states, which follow the rounding of its own type. */
static bool check_layer(const char *what, moecl_layer *layer, const moecl_layer_params *params,
                        const float *expert_scale, const moecl_safetensors *file) {
  const double tolerance = params->dtype == MOECL_F32 ? 1e-5 : 1e-2;
  const int64_t tokens = moecl_safetensors_find(file, "hidden_states")->shape[0];
  const size_t hidden = (size_t)(tokens * params->hidden_size);
  const size_t slots = (size_t)(tokens * params->top_k),
               all = (size_t)(tokens * params->num_experts);
  double *input = recorded(file, "hidden_states", hidden), *want = recorded(file, "output", hidden);
  double *logits = recorded(file, "router_logits", all), *ours = malloc((all + 1) * sizeof *ours);
  double *ids = recorded(file, "topk_ids", slots), *weights = recorded(file, "topk_weights", slots);
  assert_non_null(ours);
  run r = forward(layer, params, input, tokens);
  moecl_to_double(MOECL_F32, r.routing.router_logits, all, ours);
  const double of_logits = moecl_relative_error(ours, logits, all);
  const double of_output = moecl_relative_error(r.output, want, hidden);
  const bool chosen = same_choices(params, expert_scale, &r, ids, weights, tolerance);
  const bool ok = chosen && of_logits <= tolerance && of_output <= tolerance;
  printf("%s: %s, logits %.2g, output %.2g%s\n", what, moecl_dtype_name(params->dtype), of_logits,
         of_output, ok ? "" : "  WRONG");
  double *values[] = {input, want, logits, ours, ids, weights, r.output};
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) free(values[i]);
  moecl_routing_destroy(&r.routing);
  return ok;
}

/* The layer that the recorded block is: an encoder's come before a decoder's. */
static int64_t find_layer(moecl_checkpoint *checkpoint, const moecl_safetensors *file,
                          moecl_checkpoint_layer *layer) {
  char block[256];
  snprintf(block, sizeof block, "%s.", moecl_safetensors_metadata(file, "block"));
  for (int64_t i = 0; i < moecl_checkpoint_num_layers(checkpoint); i++) {
    assert_ok(moecl_checkpoint_get_layer(checkpoint, i, layer));
    if (strncmp(block, layer->prefix, strlen(layer->prefix)) == 0) return i;
  }
  fail_msg("no layer is block %s", block);
  return -1;
}

static bool check_record(const char *family, const char *record) {
  moecl_checkpoint *checkpoint = NULL;
  moecl_safetensors *file = NULL;
  moecl_checkpoint_layer described;
  moecl_layer *layer = NULL;
  char what[256];
  snprintf(what, sizeof what, "%s/%s", family, record);
  assert_ok(moecl_checkpoint_open(path_of(family, NULL), say, NULL, &checkpoint));
  assert_ok(moecl_safetensors_open(path_of(family, record), say, NULL, &file));
  const int64_t index = find_layer(checkpoint, file, &described);
  assert_true(described.is_moe);
  moecl_layer_params params = described.params;
  assert_true(
      moecl_safetensors_dtype(moecl_safetensors_find(file, "hidden_states"), &params.dtype));
  assert_ok(moecl_layer_create(context, &params, &layer));
  assert_ok(moecl_layer_load(layer, checkpoint, index));
  float expert_scale[MOECL_MAX_EXPERTS];
  assert_ok(moecl_checkpoint_read_expert_scale(checkpoint, index, expert_scale));
  const bool ok = check_layer(what, layer, &params, expert_scale, file);
  moecl_layer_destroy(&layer);
  moecl_safetensors_destroy(&file);
  moecl_checkpoint_destroy(&checkpoint);
  return ok;
}

static bool check_folder(const char *family, int *records) {
  bool ok = true;
  DIR *files = opendir(path_of(family, NULL));
  for (const struct dirent *file; files && (file = readdir(files));)
    if (strncmp(file->d_name, "io", 2) == 0) {
      ok = check_record(family, file->d_name) && ok;
      ++*records;
    }
  if (files) closedir(files);
  return ok;
}

/* Quantized folders: the format that their weights are taken in, exactly as they are; or that they
 * are dequantized, and why is said. */
static void test_formats(void **state) {
  static const struct {
    const char *folder, *quantization;
    moecl_format format;
    const char *activations, *remark;
  } all[] = {
      {"gpt_oss-mxfp4", "mxfp4", MOECL_FORMAT_MXFP4, NULL, NULL},
      {"deepseek_v3-fp8", "fp8", MOECL_FORMAT_FP8_BLOCK, "activation_scheme", NULL},
      {"mixtral-fp8", "fp8", MOECL_FORMAT_FP8, "activation_scheme", NULL},
      {"qwen3_moe-compressed-tensors-int8", "compressed-tensors", MOECL_FORMAT_INT8, NULL, NULL},
      {"qwen3_moe-compressed-tensors-int4", "compressed-tensors", MOECL_FORMAT_INT4_G32, NULL,
       NULL},
      {"qwen3_moe-compressed-tensors-int4-zp", "compressed-tensors", MOECL_FORMAT_INT4_G64_ZP, NULL,
       NULL},
      {"qwen3_moe-compressed-tensors-fp8", "compressed-tensors", MOECL_FORMAT_FP8_ROW, NULL, NULL},
      {"qwen3_moe-compressed-tensors-nvfp4", "compressed-tensors", MOECL_FORMAT_NVFP4, NULL, NULL},
      {"qwen3_moe-awq", "awq", MOECL_FORMAT_INT4_G32_ZP, NULL, NULL},
      {"qwen3_moe-gptq", "gptq", MOECL_FORMAT_INT4_G32, NULL, NULL},
      {"qwen3_moe-gptq-zp", "gptq", MOECL_FORMAT_INT4_G64_ZP, NULL, NULL},
      {"qwen3_moe-gptq-int8", "gptq", MOECL_FORMAT_INT8_G128, NULL, NULL},
      {"qwen3_moe-gptq-act_order", "gptq", MOECL_FORMAT_DTYPE, NULL, "(act-order)"},
      {"deepseek_v3-shared-bf16", "compressed-tensors", MOECL_FORMAT_DTYPE, NULL,
       "as int4-g32 and 'model.layers.1.mlp.shared_experts.gate_proj.weight' as BF16"},
      {"mixtral", NULL, MOECL_FORMAT_DTYPE, NULL, NULL},
  };
  (void)state;
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    moecl_checkpoint *checkpoint = NULL;
    moecl_checkpoint_layer layer;
    assert_ok(moecl_checkpoint_open(path_of(all[i].folder, NULL), NULL, NULL, &checkpoint));
    assert_ok(moecl_checkpoint_get_layer(checkpoint, 1, &layer));
    const char *const said[] = {layer.quantization, layer.activations, layer.remark};
    const char *const expected[] = {all[i].quantization, all[i].activations, all[i].remark};
    for (int s = 0; s < 3; s++)
      if (!said[s] != !expected[s] || (said[s] && !strstr(said[s], expected[s])))
        fail_msg("%s: '%s', expected '%s'", all[i].folder, said[s] ? said[s] : "nothing",
                 expected[s] ? expected[s] : "nothing");
    if (layer.params.weight_format != all[i].format)
      fail_msg("%s: %s", all[i].folder, moecl_format_name(layer.params.weight_format));
    assert_ok(moecl_checkpoint_check(checkpoint, 1));
    moecl_checkpoint_destroy(&checkpoint);
  }
}

/* Every record of every folder. */
static void test_families(void **state) {
  enum { FOLDERS = 79, RECORDS = 89 };
  bool ok = true;
  int folders = 0, records = 0;
  (void)state;
  DIR *families = opendir(path_of(".", NULL));
  for (const struct dirent *family; families && (family = readdir(families));) {
    int found = 0;
    if (family->d_name[0] != '.') ok = check_folder(family->d_name, &found) && ok;
    folders += found > 0;
    records += found;
  }
  if (families) closedir(families);
  assert_true(ok);
  assert_true(folders >= FOLDERS && records >= RECORDS);
}

/* A layer of other sizes, or with other tensors, takes none of the weights. */
static void test_other_layer(void **state) {
  moecl_checkpoint *checkpoint = NULL;
  moecl_checkpoint_layer described;
  (void)state;
  assert_ok(moecl_checkpoint_open(path_of("deepseek_v3", NULL), NULL, NULL, &checkpoint));
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 1, &described));
  for (int i = 0; i < 6; i++) {
    moecl_layer_params params = described.params;
    moecl_layer *layer = NULL;
    params.hidden_size += i == 0 ? 32 : 0;
    params.intermediate_size += i == 1 ? 4 : 0;
    params.num_experts += i == 2 ? 4 : 0;
    params.down_bias = i == 3;
    params.shared_intermediate_size -= i == 4 ? 20 : 0;
    params.score_correction_bias = i != 5;
    assert_ok(moecl_layer_create(context, &params, &layer));
    assert_int_equal(moecl_layer_load(layer, checkpoint, 1), MOECL_ERROR_INVALID_ARGUMENT);
    moecl_layer_destroy(&layer);
  }
  moecl_checkpoint_destroy(&checkpoint);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats),
                                     cmocka_unit_test(test_families),
                                     cmocka_unit_test(test_other_layer)};
  skip_without_device();
  const moecl_context_params params = {.log = say};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("families", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
