// SPDX-License-Identifier: MIT
/* Layers computed by transformers' own blocks (test/golden/make/make_layer_golden.py):
 * the reference and the engine give the same. */
#include "../golden.h"
#include "../unit/unit.h"
#include <math.h>
#include <stdlib.h>

enum { FROM_REFERENCE, FROM_ENGINE };

/* Tensors by moecl_tensor, NULL where the layer has no such one. */
typedef struct layer_file {
  moecl_layer_params params;
  int64_t tokens;
  double *hidden, *tensor[MOECL_TENSOR_COUNT], *logits, *ids, *weights, *output, *loss;
} layer_file;

/* The names of a tensor; those of gate/up in a plain network behind the bar. */
static const char *const names[MOECL_TENSOR_COUNT][2] = {
    [MOECL_ROUTER_WEIGHT] = {"router.weight"},
    [MOECL_ROUTER_BIAS] = {"router.bias"},
    [MOECL_GATE_UP_PROJ] = {"experts.gate_up_proj", "experts.up_proj"},
    [MOECL_GATE_UP_BIAS] = {"experts.gate_up_proj_bias", "experts.up_proj_bias"},
    [MOECL_DOWN_PROJ] = {"experts.down_proj"},
    [MOECL_DOWN_BIAS] = {"experts.down_proj_bias"},
    [MOECL_SCORE_CORRECTION_BIAS] = {"router.correction_bias"},
    [MOECL_ROUTER_NOISE_WEIGHT] = {"router.noise_weight"},
    [MOECL_SHARED_GATE_UP_PROJ] = {"shared.gate_up_proj", "shared.up_proj"},
    [MOECL_SHARED_DOWN_PROJ] = {"shared.down_proj"},
    [MOECL_SHARED_GATE] = {"shared.gate"},
};

static int named(const golden *file, const char *key, const char *(*name_of)(int), int count) {
  const char *value = golden_metadata(file, key);
  for (int i = 0; value && i < count; i++)
    if (strcmp(name_of(i), value) == 0) return i;
  if (value) fail_msg("%s: nothing is called %s", key, value);
  return 0;
}
static const char *activation(int i) { return moecl_activation_name((moecl_activation)i); }
static const char *scoring(int i) { return moecl_scoring_name((moecl_scoring)i); }
static const char *group_score(int i) { return moecl_group_score_name((moecl_group_score)i); }

static bool is_true(const golden *file, const char *key) {
  const char *value = golden_metadata(file, key);
  return value && strcmp(value, "true") == 0;
}
static double number(const golden *file, const char *key) {
  const char *value = golden_metadata(file, key);
  return value ? strtod(value, NULL) : 0;
}
static bool has(const golden *file, const char *tensor) { return golden_count(file, tensor) >= 0; }

static moecl_layer_params read_params(const golden *file) {
  const int64_t shared = golden_length(file, "shared.down_proj", 1);
  moecl_layer_params p = {
      .hidden_size = golden_length(file, "hidden_states", 1),
      .intermediate_size = golden_length(file, "experts.down_proj", 2),
      .num_experts = golden_length(file, "router.weight", 0),
      .top_k = golden_length(file, "topk_ids", 1),
      .activation = (moecl_activation)named(file, "activation", activation, MOECL_ACTIVATION_COUNT),
      .swiglu_limit = (float)number(file, "swiglu_limit"),
      .router_bias = has(file, "router.bias"),
      .gate_up_bias = has(file, "experts.gate_up_proj_bias"),
      .down_bias = has(file, "experts.down_proj_bias"),
      .shared_intermediate_size = shared > 0 ? shared : 0,
      .shared_gate = has(file, "shared.gate"),
      .weight_on_input = is_true(file, "weight_on_input"),
      .scoring = (moecl_scoring)named(file, "scoring", scoring, MOECL_SCORING_COUNT),
      .score_after_topk = is_true(file, "score_after_topk"),
      .sparsemixer_jitter = (float)number(file, "sparsemixer_jitter"),
      .renormalize = is_true(file, "renormalize"),
      .renormalize_epsilon = (float)number(file, "renormalize_epsilon"),
      .renormalize_minimum = (float)number(file, "renormalize_minimum"),
      .routed_scaling_factor = (float)number(file, "routed_scaling_factor"),
      .score_correction_bias = has(file, "router.correction_bias"),
      .num_expert_group = (int64_t)number(file, "num_expert_group"),
      .topk_group = (int64_t)number(file, "topk_group"),
      .group_score =
          (moecl_group_score)named(file, "group_score", group_score, MOECL_GROUP_SCORE_COUNT),
      .min_capacity = (int64_t)number(file, "min_capacity")};
  if (p.min_capacity > 0) p.capacity_factor = 1e-9; /* that number alone counts */
  return p;
}

static double *tensor(const golden *file, const char *name, int64_t count) {
  double *values = golden_doubles(file, name);
  assert_non_null(values);
  assert_int_equal(golden_count(file, name), count);
  return values;
}

static layer_file open_layer(const char *name) {
  golden *file = golden_open(name);
  assert_non_null(file);
  layer_file layer = {.params = read_params(file),
                      .tokens = golden_length(file, "hidden_states", 0)};
  const moecl_layer_params *p = &layer.params;
  const bool gated = moecl_activation_is_gated(p->activation);
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) {
    const int64_t count =
        moecl_layer_tensor_items(p, (moecl_tensor)i) * moecl_layer_tensor_size(p, (moecl_tensor)i);
    if (count > 0) layer.tensor[i] = tensor(file, names[i][!gated && names[i][1]], count);
  }
  layer.hidden = tensor(file, "hidden_states", layer.tokens * p->hidden_size);
  layer.logits = tensor(file, "router_logits", layer.tokens * p->num_experts);
  layer.ids = tensor(file, "topk_ids", layer.tokens * p->top_k);
  layer.weights = tensor(file, "topk_weights", layer.tokens * p->top_k);
  layer.output = tensor(file, "output", layer.tokens * p->hidden_size);
  if (has(file, "load_balancing_loss")) layer.loss = tensor(file, "load_balancing_loss", 1);
  printf("%s: %s of transformers %s\n", name, golden_metadata(file, "block"),
         golden_metadata(file, "transformers"));
  golden_close(&file);
  return layer;
}

static void close_layer(layer_file *layer) {
  double *all[] = {layer->hidden,  layer->logits, layer->ids,
                   layer->weights, layer->output, layer->loss};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) free(layer->tensor[i]);
}

static void *allocate(int64_t bytes) {
  void *memory = calloc((size_t)bytes + 1, 1);
  assert_non_null(memory);
  return memory;
}

static float *to_floats(const double *values, int64_t count) {
  float *floats = allocate(count * 4);
  moecl_from_double(MOECL_F32, values, (size_t)count, floats);
  return floats;
}

static double error_of_floats(const float *got, const double *want, int64_t count) {
  double *values = allocate(count * 8);
  moecl_to_double(MOECL_F32, got, (size_t)count, values);
  const double error = moecl_relative_error(values, want, (size_t)count);
  free(values);
  return error;
}

/* ---- the reference ---- */

static moecl_routing empty_routing(const layer_file *layer) {
  const int64_t t = layer->tokens, e = layer->params.num_experts, k = layer->params.top_k;
  return (moecl_routing){.num_tokens = t,
                         .num_experts = e,
                         .top_k = k,
                         .router_logits = allocate(t * e * 4),
                         .topk_ids = allocate(t * k * 4),
                         .topk_weights = allocate(t * k * 4),
                         .kept = allocate(t * k),
                         .tokens_per_expert = allocate(e * 8),
                         .tokens_per_expert_after_capacity = allocate(e * 8)};
}

static void add(double *output, double weight, const double *one, int64_t count) {
  for (int64_t c = 0; c < count; c++) output[c] += weight * one[c];
}

/* One expert's share of a tensor. */
static const double *share(const layer_file *layer, moecl_tensor which, int64_t expert) {
  const double *all = layer->tensor[which];
  return all ? all + expert * moecl_layer_tensor_size(&layer->params, which) : NULL;
}

static void reference_expert(const layer_file *layer, int64_t t, int64_t e, double weight,
                             double *output) {
  const moecl_layer_params *p = &layer->params;
  double input[64], one[64];
  for (int64_t c = 0; c < p->hidden_size; c++)
    input[c] = (p->weight_on_input ? weight : 1) * layer->hidden[t * p->hidden_size + c];
  assert_ok(moecl_reference_expert(
      p, input, share(layer, MOECL_GATE_UP_PROJ, e), share(layer, MOECL_GATE_UP_BIAS, e),
      share(layer, MOECL_DOWN_PROJ, e), share(layer, MOECL_DOWN_BIAS, e), one));
  add(output, p->weight_on_input ? 1 : weight, one, p->hidden_size);
}

static void reference_shared(const layer_file *layer, int64_t t, double *output) {
  if (layer->params.shared_intermediate_size == 0) return;
  const moecl_layer_params p = moecl_reference_shared(&layer->params);
  const double *hidden = layer->hidden + t * p.hidden_size,
               *gate = layer->tensor[MOECL_SHARED_GATE];
  double one[64];
  assert_ok(moecl_reference_expert(&p, hidden, layer->tensor[MOECL_SHARED_GATE_UP_PROJ], NULL,
                                   layer->tensor[MOECL_SHARED_DOWN_PROJ], NULL, one));
  add(output, moecl_reference_shared_weight(&layer->params, hidden, gate), one, p.hidden_size);
}

static void reference_choice(const layer_file *layer, int64_t t, moecl_routing *routing) {
  const moecl_layer_params *p = &layer->params;
  double logits[64], weights[64];
  int32_t *ids = routing->topk_ids + t * p->top_k;
  moecl_reference_logits(p, layer->hidden + t * p->hidden_size, layer->tensor[MOECL_ROUTER_WEIGHT],
                         layer->tensor[MOECL_ROUTER_BIAS], 0, t, logits);
  moecl_reference_topk(p, logits, layer->tensor[MOECL_SCORE_CORRECTION_BIAS], 0, t, ids, weights,
                       NULL);
  moecl_from_double(MOECL_F32, logits, (size_t)p->num_experts,
                    routing->router_logits + t * p->num_experts);
  moecl_from_double(MOECL_F32, weights, (size_t)p->top_k, routing->topk_weights + t * p->top_k);
  for (int64_t k = 0; k < p->top_k; k++) routing->tokens_per_expert[ids[k]]++;
}

static float *run_reference(const layer_file *layer, moecl_routing *routing) {
  const moecl_layer_params *p = &layer->params;
  const int64_t count = layer->tokens * p->hidden_size;
  double *output = allocate(count * 8);
  assert_true(p->hidden_size <= 64 && p->num_experts <= 64);
  *routing = empty_routing(layer);
  for (int64_t t = 0; t < layer->tokens; t++) reference_choice(layer, t, routing);
  assert_ok(moecl_reference_capacity(p, layer->tokens, routing->topk_ids, routing->topk_weights,
                                     NULL, routing->kept));
  for (int64_t t = 0; t < layer->tokens; t++) {
    for (int64_t i = t * p->top_k; i < (t + 1) * p->top_k; i++)
      if (routing->kept[i])
        reference_expert(layer, t, routing->topk_ids[i], (double)routing->topk_weights[i],
                         output + t * p->hidden_size);
    reference_shared(layer, t, output + t * p->hidden_size);
  }
  moecl_routing_statistics_compute(routing, &routing->statistics);
  float *floats = to_floats(output, count);
  free(output);
  return floats;
}

/* ---- the engine ---- */

static void set(moecl_layer *layer, const layer_file *file, moecl_tensor which) {
  const int64_t items = moecl_layer_tensor_items(&file->params, which);
  if (items == 0) return;
  float *floats =
      to_floats(file->tensor[which], items * moecl_layer_tensor_size(&file->params, which));
  assert_ok(moecl_layer_set_weights(layer, which, 0, items, floats));
  free(floats);
}

static float *run_engine(const layer_file *file, moecl_routing *routing) {
  const int64_t count = file->tokens * file->params.hidden_size;
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  moecl_buffer *input = NULL, *output = NULL;
  float *hidden = to_floats(file->hidden, count);
  assert_ok(moecl_context_create(NULL, &context));
  assert_ok(moecl_layer_create(context, &file->params, &layer));
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++) set(layer, file, (moecl_tensor)i);
  assert_ok(moecl_buffer_create(context, (uint64_t)count * 4, &input));
  assert_ok(moecl_buffer_create(context, (uint64_t)count * 4, &output));
  assert_ok(moecl_buffer_write_wait(input, 0, (uint64_t)count * 4, hidden));
  const moecl_forward_params forward = {
      .num_tokens = file->tokens, .hidden_states = input, .output = output};
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  assert_ok(moecl_buffer_read_wait(output, 0, (uint64_t)count * 4, hidden));
  assert_ok(moecl_layer_read_routing_wait(layer, routing));
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  return hidden;
}

/* ---- both ---- */

/* The same experts with the same weights; some families leave their order open. */
static void check_choices(const layer_file *layer, const moecl_routing *routing) {
  const int64_t top_k = layer->params.top_k;
  for (int64_t i = 0; i < layer->tokens * top_k; i++) {
    const int64_t first = i / top_k * top_k;
    int64_t at = first;
    while (at < first + top_k && routing->topk_ids[at] != (int32_t)layer->ids[i]) at++;
    if (at == first + top_k)
      fail_msg("token %lld: expert %d was not chosen", (long long)(i / top_k), (int)layer->ids[i]);
    assert_true(fabs((double)routing->topk_weights[at] - layer->weights[i]) <=
                1e-5 * fabs(layer->weights[i]));
  }
}

static void check_layer(const char *name, int from) {
  layer_file layer = open_layer(name);
  moecl_routing routing;
  float *output =
      from == FROM_ENGINE ? run_engine(&layer, &routing) : run_reference(&layer, &routing);
  const int64_t t = layer.tokens, e = layer.params.num_experts;
  assert_true(error_of_floats(routing.router_logits, layer.logits, t * e) <= 1e-5);
  check_choices(&layer, &routing);
  assert_true(error_of_floats(output, layer.output, t * layer.params.hidden_size) <= 1e-5);
  if (layer.loss)
    assert_true(fabs(routing.statistics.load_balancing_loss - *layer.loss) <= 1e-5 * *layer.loss);
  moecl_routing_destroy(&routing);
  free(output);
  close_layer(&layer);
}

static const char *const files[] = {
    "mixtral.safetensors",     "olmoe.safetensors",          "olmoe_geglu_odd.safetensors",
    "qwen3_moe.safetensors",   "qwen2_moe.safetensors",      "deepseek_v2.safetensors",
    "deepseek_v3.safetensors", "glm4_moe.safetensors",       "deepseek_v2_lite.safetensors",
    "gpt_oss.safetensors",     "minimax_m2.safetensors",     "llama4.safetensors",
    "phimoe.safetensors",      "granitemoe.safetensors",     "jetmoe.safetensors",
    "switch.safetensors",      "deepseek_v3_low.safetensors"};

static void test_reference(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) check_layer(files[i], FROM_REFERENCE);
}

static void test_engine(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) check_layer(files[i], FROM_ENGINE);
}

/* usage: test_golden reference | engine; the engine needs a device. */
int main(int argc, char **argv) {
  const struct CMUnitTest reference[] = {cmocka_unit_test(test_reference)};
  const struct CMUnitTest engine[] = {cmocka_unit_test(test_engine)};
  if (argc < 2 || strcmp(argv[1], "engine") != 0)
    return cmocka_run_group_tests_name("golden, reference", reference, NULL, NULL);
  skip_without_device();
  return cmocka_run_group_tests_name("golden, engine", engine, NULL, NULL);
}
