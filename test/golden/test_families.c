/* Published-format model folders and what transformers' own code made of hidden
 * states (scripts/make_goldens.py): layers loaded from the folders give the same. */
#include "../unit/unit.h"
#include "moecl/moecl.h"
#include <math.h>
#include <stdlib.h>

static const char *const families[] = {
    "mixtral",     "mixtral-hot",      "olmoe",       "qwen2_moe",   "qwen3_moe",
    "deepseek_v2", "deepseek_v2-lite", "deepseek_v3", "gpt_oss",     "deepseek_v3-negative",
    "llama4",      "llama4_text-top2", "phimoe",      "granitemoe",  "granitemoeshared",
    "jetmoe",      "minimax_m2",       "glm4_moe",    "switch_transformers",
    "dots1",       "ernie4_5_moe",     "flex_olmo",   "minimax",     "hunyuan_v1_moe",
    "qwen3_next",  "lfm2_moe",         "afmoe",       "aria",        "jamba",
    "nemotron_h",  "dbrx",             "nllb_moe",    "nllb_moe-prioritized"};

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
  float *output;
  moecl_routing routing;
} run;

static run forward(moecl_layer *layer, const moecl_layer_params *params, const double *hidden,
                   int64_t tokens) {
  const uint64_t count = (uint64_t)(tokens * params->hidden_size), bytes = count * sizeof(float);
  run r = {.tokens = tokens, .output = malloc((size_t)bytes + 1)};
  moecl_buffer *input = NULL, *output = NULL;
  assert_non_null(r.output);
  moecl_from_double(MOECL_F32, hidden, (size_t)count, r.output);
  assert_ok(moecl_buffer_create(context, bytes, &input));
  assert_ok(moecl_buffer_create(context, bytes, &output));
  assert_ok(moecl_buffer_write_wait(input, 0, bytes, r.output));
  const moecl_forward_params params_of = {
      .num_tokens = tokens, .hidden_states = input, .output = output};
  assert_ok(moecl_layer_forward(layer, &params_of, NULL));
  assert_ok(moecl_buffer_read_wait(output, 0, bytes, r.output));
  assert_ok(moecl_layer_read_routing_wait(layer, &r.routing));
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  return r;
}

static double error_of(const float *got, const double *want, int64_t count) {
  double *values = malloc((size_t)(count + 1) * sizeof *values);
  assert_non_null(values);
  moecl_to_double(MOECL_F32, got, (size_t)count, values);
  const double error = moecl_relative_error(values, want, (size_t)count);
  free(values);
  return error;
}

/* The same experts, whatever their order, with the same weights; a dropped choice
 * was recorded with weight 0. */
static bool same_choices(const moecl_layer_params *params, const run *r, const double *ids,
                         const double *weights) {
  const int64_t top_k = r->routing.top_k;
  for (int64_t i = 0; i < r->tokens * top_k; i++) {
    const int64_t first = i / top_k * top_k;
    int64_t at = first;
    while (at < first + top_k && r->routing.topk_ids[at] != (int32_t)ids[i]) at++;
    const bool found = at < first + top_k;
    double kept[MOECL_MAX_TOP_K];
    moecl_reference_kept_weights(params, r->routing.topk_weights + first, r->routing.kept + first,
                                 kept);
    const double weight = found ? kept[at - first] : 0;
    if (found && fabs(weight - weights[i]) <= 1e-5 * fabs(weights[i]) + 1e-12) continue;
    fprintf(stderr, "token %lld, expert %d: weight %.9g, recorded %.9g%s\n", (long long)(i / top_k),
            (int)ids[i], weight, weights[i], found ? "" : " (not chosen)");
    return false;
  }
  return true;
}

static bool check_family(const char *family) {
  moecl_checkpoint *checkpoint = NULL;
  moecl_safetensors *file = NULL;
  moecl_checkpoint_layer described;
  moecl_layer *layer = NULL;
  assert_ok(moecl_checkpoint_open(path_of(family, NULL), say, NULL, &checkpoint));
  assert_ok(moecl_safetensors_open(path_of(family, "io.safetensors"), say, NULL, &file));
  const int64_t index = strtoll(moecl_safetensors_metadata(file, "layer"), NULL, 10);
  assert_ok(moecl_checkpoint_get_layer(checkpoint, index, &described));
  assert_true(described.is_moe);
  moecl_layer_params params = described.params;
  params.dtype = MOECL_F32; /* holds what is stored exactly */
  assert_ok(moecl_layer_create(context, &params, &layer));
  assert_ok(moecl_layer_load(layer, checkpoint, index));
  const int64_t tokens = moecl_safetensors_find(file, "hidden_states")->shape[0];
  const uint64_t hidden = (uint64_t)(tokens * params.hidden_size);
  const uint64_t slots = (uint64_t)(tokens * params.top_k);
  double *input = recorded(file, "hidden_states", hidden), *want = recorded(file, "output", hidden);
  double *logits = recorded(file, "router_logits", (uint64_t)(tokens * params.num_experts));
  double *ids = recorded(file, "topk_ids", slots), *weights = recorded(file, "topk_weights", slots);
  run r = forward(layer, &params, input, tokens);
  const double of_logits = error_of(r.routing.router_logits, logits, tokens * params.num_experts);
  const double of_output = error_of(r.output, want, (int64_t)hidden);
  const bool chosen = same_choices(&params, &r, ids, weights);
  const bool ok = chosen && of_logits <= 1e-5 && of_output <= 1e-5;
  printf("%s (%s): logits %.2g, output %.2g%s\n", family, moecl_checkpoint_family(checkpoint),
         of_logits, of_output, ok ? "" : "  WRONG");
  double *all[] = {input, want, logits, ids, weights};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
  free(r.output);
  moecl_routing_destroy(&r.routing);
  moecl_layer_destroy(&layer);
  moecl_safetensors_destroy(&file);
  moecl_checkpoint_destroy(&checkpoint);
  return ok;
}

static void test_families(void **state) {
  bool ok = true;
  (void)state;
  for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
    ok = check_family(families[i]) && ok;
  assert_true(ok);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_families)};
  skip_without_device();
  const moecl_context_params params = {.log = say};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("families", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
