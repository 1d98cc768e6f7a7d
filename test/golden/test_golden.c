/* Layers computed by transformers' own blocks (scripts/make_layer_golden.py):
 * the reference and the engine give the same. */
#include "../golden.h"
#include "../unit/unit.h"
#include <math.h>

enum { FROM_REFERENCE, FROM_ENGINE };

typedef struct layer_file {
  moecl_layer_params params;
  int64_t tokens;
  double *hidden, *router, *gate_up, *down, *logits, *ids, *weights, *output, *loss;
} layer_file;

static moecl_activation activation_named(const char *name) {
  for (int i = 0; i < MOECL_ACTIVATION_COUNT; i++)
    if (strcmp(moecl_activation_name((moecl_activation)i), name) == 0) return (moecl_activation)i;
  fail_msg("no activation %s", name);
  return MOECL_SWIGLU;
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
  const int64_t t = golden_length(file, "hidden_states", 0), k = golden_length(file, "topk_ids", 1);
  const int64_t h = golden_length(file, "hidden_states", 1);
  const int64_t e = golden_length(file, "router.weight", 0);
  const int64_t i = golden_length(file, "experts.down_proj", 2);
  layer_file layer = {
      .params = {.hidden_size = h, .intermediate_size = i, .num_experts = e, .top_k = k,
                 .activation = activation_named(golden_metadata(file, "activation")),
                 .renormalize = strcmp(golden_metadata(file, "renormalize"), "true") == 0},
      .tokens = t,
      .hidden = tensor(file, "hidden_states", t * h),
      .router = tensor(file, "router.weight", e * h),
      .gate_up = tensor(file, "experts.gate_up_proj", e * 2 * i * h),
      .down = tensor(file, "experts.down_proj", e * h * i),
      .logits = tensor(file, "router_logits", t * e),
      .ids = tensor(file, "topk_ids", t * k),
      .weights = tensor(file, "topk_weights", t * k),
      .output = tensor(file, "output", t * h),
      .loss = tensor(file, "load_balancing_loss", 1)};
  printf("%s: %s of transformers %s\n", name, golden_metadata(file, "block"),
         golden_metadata(file, "transformers"));
  golden_close(&file);
  return layer;
}

static void close_layer(layer_file *layer) {
  double *all[] = {layer->hidden, layer->router,  layer->gate_up, layer->down, layer->logits,
                   layer->ids,    layer->weights, layer->output,  layer->loss};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
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
  return (moecl_routing){.num_tokens = t, .num_experts = e, .top_k = k,
                         .router_logits = allocate(t * e * 4), .topk_ids = allocate(t * k * 4),
                         .topk_weights = allocate(t * k * 4), .kept = allocate(t * k),
                         .tokens_per_expert = allocate(e * 8),
                         .tokens_per_expert_after_capacity = allocate(e * 8)};
}

static void reference_token(const layer_file *layer, int64_t t, moecl_routing *routing,
                            double *output) {
  const moecl_layer_params *p = &layer->params;
  const int64_t h = p->hidden_size, i = p->intermediate_size, e = p->num_experts;
  const double *hidden = layer->hidden + t * h;
  double logits[64], weights[64], one[64];
  int32_t *ids = routing->topk_ids + t * p->top_k;
  moecl_reference_logits(p, hidden, layer->router, NULL, 0, t, logits);
  moecl_reference_topk(p, logits, NULL, 0, 0, ids, weights, NULL);
  moecl_from_double(MOECL_F32, logits, (size_t)e, routing->router_logits + t * e);
  moecl_from_double(MOECL_F32, weights, (size_t)p->top_k, routing->topk_weights + t * p->top_k);
  for (int64_t k = 0; k < p->top_k; k++) {
    routing->tokens_per_expert[ids[k]]++;
    assert_ok(moecl_reference_expert(p, hidden, layer->gate_up + ids[k] * 2 * i * h, NULL,
                                     layer->down + ids[k] * h * i, NULL, one));
    for (int64_t c = 0; c < h; c++) output[t * h + c] += weights[k] * one[c];
  }
}

static float *run_reference(const layer_file *layer, moecl_routing *routing) {
  const int64_t count = layer->tokens * layer->params.hidden_size;
  double *output = allocate(count * 8);
  assert_true(layer->params.hidden_size <= 64 && layer->params.num_experts <= 64);
  *routing = empty_routing(layer);
  for (int64_t t = 0; t < layer->tokens; t++) reference_token(layer, t, routing, output);
  moecl_routing_statistics_compute(routing, &routing->statistics);
  float *floats = to_floats(output, count);
  free(output);
  return floats;
}

/* ---- the engine ---- */

static void set(moecl_layer *layer, moecl_tensor which, int64_t items, const double *values,
                int64_t count) {
  float *floats = to_floats(values, count);
  assert_ok(moecl_layer_set_weights(layer, which, 0, items, floats));
  free(floats);
}

static float *run_engine(const layer_file *file, moecl_routing *routing) {
  const int64_t h = file->params.hidden_size, i = file->params.intermediate_size;
  const int64_t e = file->params.num_experts, count = file->tokens * h;
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  moecl_buffer *input = NULL, *output = NULL;
  float *hidden = to_floats(file->hidden, count);
  assert_ok(moecl_context_create(NULL, &context));
  assert_ok(moecl_layer_create(context, &file->params, &layer));
  set(layer, MOECL_ROUTER_WEIGHT, 1, file->router, e * h);
  set(layer, MOECL_GATE_UP_PROJ, e, file->gate_up, e * 2 * i * h);
  set(layer, MOECL_DOWN_PROJ, e, file->down, e * h * i);
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

static void check_layer(const char *name, int from) {
  layer_file layer = open_layer(name);
  moecl_routing routing;
  float *output = from == FROM_ENGINE ? run_engine(&layer, &routing)
                                      : run_reference(&layer, &routing);
  const int64_t t = layer.tokens, e = layer.params.num_experts, k = layer.params.top_k;
  assert_true(error_of_floats(routing.router_logits, layer.logits, t * e) <= 1e-5);
  for (int64_t i = 0; i < t * k; i++) assert_int_equal(routing.topk_ids[i], (int64_t)layer.ids[i]);
  assert_true(error_of_floats(routing.topk_weights, layer.weights, t * k) <= 1e-5);
  assert_true(error_of_floats(output, layer.output, t * layer.params.hidden_size) <= 1e-5);
  assert_true(fabs(routing.statistics.load_balancing_loss - *layer.loss) <= 1e-5 * *layer.loss);
  moecl_routing_destroy(&routing);
  free(output);
  close_layer(&layer);
}

static const char *const files[] = {"mixtral.safetensors", "olmoe.safetensors",
                                    "olmoe_geglu_odd.safetensors", "qwen3_moe.safetensors"};

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
