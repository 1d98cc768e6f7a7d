// SPDX-License-Identifier: MIT
/* Every variant of the layer's operations against the reference, over the
 * cases of bench/cases/layers.c.
 * usage: test_layer DTYPE [persistent]: those grouped GEMMs alone, by their stand-in
 * (stand_in.h). $MOECL_TEST_FILTER: only the tests whose name
 * matches (* and ?). */
#include "kernel/variant.h"
#include "layer_run.h"
#include "stand_in.h"

enum { MAX_VARIANTS = 32, MAX_TESTS = 4096 };

typedef struct layer_test {
  const moe_case *source;
  const char *gemm, *router;
  char name[160];
} layer_test;

static moecl_context *context;
static moecl_dtype dtype;
static layer_test table[MAX_TESTS];
static struct CMUnitTest tests[MAX_TESTS];
static size_t test_count;

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

/* The second pass has a workspace full of garbage, and must give the same bits. */
static void check_again(moecl_layer *layer, const case_data *data, const char *variant,
                        const unsigned char *first) {
  moecl_buffer *workspace = NULL;
  const uint64_t bytes = moecl_layer_workspace_size(layer, data->source->num_tokens);
  assert_ok(moecl_buffer_create(context, bytes, &workspace));
  assert_ok(moecl_buffer_fill_byte(workspace, 0, bytes, 0xff));
  unsigned char *second = run_layer(context, layer, data, workspace);
  for (size_t i = 0; i < case_hidden_bytes(data); i++)
    if (first[i] != second[i]) {
      case_differs(data, variant, "second run, output's byte", (int64_t)i, second[i], first[i]);
      fail();
    }
  free(second);
  moecl_buffer_destroy(&workspace);
}

static void check_statistics(const case_data *data, const moecl_routing *routing) {
  assert_int_equal(routing->statistics.nonfinite_tokens, 0);
  assert_int_equal(routing->statistics.first_nonfinite_token, -1);
  assert_int_equal(routing->capacity,
                   moecl_expert_capacity(&data->layer, data->source->num_tokens));
}

static void run_case(void **state) {
  const layer_test *test = *state;
  case_data data;
  moecl_routing routing;
  assert_true(case_make(test->source, dtype, case_seed(), &data));
  moecl_layer *layer = make_layer(context, &data, test->gemm, test->router);
  assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", NULL), test->gemm);
  assert_string_equal(moecl_layer_variant(layer, "router", NULL), test->router);
  unsigned char *output = run_layer(context, layer, &data, NULL);
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  const bool routed = case_check_routing(&data, test->name, &routing);
  const bool computed = check_output(&data, layer, test->name, &routing, output);
  assert_true(routed && computed);
  check_statistics(&data, &routing);
  check_again(layer, &data, test->name, output);
  moecl_routing_destroy(&routing);
  free(output);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

/* In fp32 every case; in the narrow types those that reach code of their own. */
static bool wanted(const moe_case *source) {
  static const char *const narrow[] = {
      "odd",         "one token",     "no tokens",           "1024 experts",
      "biases, odd", "deep",          "jitter and capacity", "deepseek-v3",
      "noisy top-k", "shared expert", "shared expert, gate", "weights on inputs"};
  if (dtype == MOECL_F32) return true;
  for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++)
    if (strcmp(source->name, narrow[i]) == 0) return true;
  return false;
}

/* A variant of restricted sizes is asked for those it takes, and for all of them:
 * the narrow types are what it is for. */
static bool takes(const char *gemm, const moe_case *source) {
  if (!takes_odd_sizes(gemm))
    return source->layer.hidden_size % 8 == 0 && source->layer.intermediate_size % 8 == 0;
  return wanted(source);
}

static void add_tests(const char *gemm, const char *router) {
  for (size_t i = 0; i < moe_case_count && test_count < MAX_TESTS; i++) {
    if (!takes(gemm, &moe_cases[i])) continue;
    layer_test *test = &table[test_count];
    *test = (layer_test){.source = &moe_cases[i], .gemm = gemm, .router = router};
    snprintf(test->name, sizeof test->name, "%s gemm, %s router, %s: %s", gemm, router,
             moecl_dtype_name(dtype), moe_cases[i].name);
    tests[test_count++] =
        (struct CMUnitTest){.name = test->name, .test_func = run_case, .initial_state = test};
  }
}

static void add_all(bool persistent) {
  const char *gemms[MAX_VARIANTS], *routers[MAX_VARIANTS];
  const size_t num_gemms =
      moecl_variants_available(context, "grouped_gemm", dtype, gemms, MAX_VARIANTS);
  const size_t num_routers =
      moecl_variants_available(context, "router", dtype, routers, MAX_VARIANTS);
  for (size_t g = 0; persistent && g < num_gemms; g++) /* beside what routers they have there */
    if (is_persistent(gemms[g])) add_tests(gemms[g], "by_block");
  for (size_t g = 0; !persistent && g < num_gemms; g++)
    for (size_t r = 0; r < num_routers; r++)
      /* Routers mix with every GEMM in fp32; elsewhere each is met once. */
      if (dtype == MOECL_F32 || r == g % num_routers) add_tests(gemms[g], routers[r]);
}

int main(int argc, char **argv) {
  stand_in replaced = {0};
  for (int i = 0; argc > 1 && i < MOECL_DTYPE_COUNT; i++)
    if (strcmp(argv[1], moecl_dtype_name((moecl_dtype)i)) == 0) dtype = (moecl_dtype)i;
  const bool persistent = argc > 2 && strcmp(argv[2], "persistent") == 0;
  skip_without_device();
  if (persistent && !stand_in_make(&replaced)) return 1;
  replaced.params.log = log_problem;
  if ((persistent ? stand_in_open(&replaced, &context)
                  : moecl_context_create(&replaced.params, &context)) != MOECL_OK)
    return 1;
  add_all(persistent);
  if (test_count == 0) return 1;
  if (getenv("MOECL_TEST_FILTER")) cmocka_set_test_filter(getenv("MOECL_TEST_FILTER"));
  const bool runs = !persistent || stand_in_runs(context);
  const int failed = runs ? _cmocka_run_group_tests("layer", tests, test_count, NULL, NULL) : 0;
  moecl_context_destroy(&context);
  if (persistent) stand_in_remove(&replaced);
  if (!runs) return TEST_SKIP;
  return failed ? 1 : 0;
}
