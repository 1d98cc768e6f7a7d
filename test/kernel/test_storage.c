// SPDX-License-Identifier: MIT
/* What is stored between a layer's operations, and what becomes of numbers that do not
 * fit: the same in every variant of the grouped GEMM. Layers so small that every number
 * is known by hand. */
#include "../unit/unit.h"
#include "layers.h"
#include "op/gemm/driver.h"
#include "op/check.h"
#include <math.h>
#include <string.h>

enum { N = 8, EXPERTS = 2, TOKENS = 3 }; /* H = I = N */

static moecl_context *context;

/* ---- a layer whose matrices are diagonal ---- */

/* Diagonals of an expert's matrices, and its choice: by logits [token's element 0,
 * expert 1 behind it]. */
typedef struct tiny {
  moecl_layer_params params;
  double gate[EXPERTS], up[EXPERTS], down[EXPERTS];
  double shared;         /* diagonal of both its matrices */
  double bias;           /* correction bias of expert 0, where there is one */
  double hidden[TOKENS]; /* all elements of a token */
} tiny;

static moecl_layer_params tiny_params(moecl_dtype dtype, moecl_activation activation,
                                      int64_t top_k) {
  return (moecl_layer_params){.hidden_size = N,
                              .intermediate_size = N,
                              .num_experts = EXPERTS,
                              .top_k = top_k,
                              .dtype = dtype,
                              .activation = activation,
                              .scoring = MOECL_SCORING_SIGMOID};
}

static void set(moecl_layer *layer, const moecl_layer_params *params, moecl_tensor tensor,
                int64_t item, double first, double second) {
  const int64_t count = moecl_layer_tensor_size(params, tensor);
  const moecl_dtype dtype = moecl_layer_tensor_dtype(params, tensor);
  double values[2 * N * N] = {0};
  char raw[2 * N * N * 4];
  if (count == 0) return;
  for (int64_t i = 0; i < count; i++)
    if (i % (N * N) % (N + 1) == 0) values[i] = i < N * N ? first : second;
  moecl_from_double(dtype, values, (size_t)count, raw);
  assert_ok(moecl_layer_set_weights(layer, tensor, item, 1, raw));
}

/* A weight of 0 for every logit: scores are 1/2, and expert 0 comes first. */
static moecl_layer *make_layer(const tiny *t, const char *gemm, const char *router) {
  moecl_layer_params params = t->params;
  params.grouped_gemm_variant = gemm;
  params.router_variant = router;
  moecl_layer *layer = NULL;
  assert_ok(moecl_layer_create(context, &params, &layer));
  const float zeros[EXPERTS * N] = {0};
  assert_ok(moecl_layer_set_weights(layer, MOECL_ROUTER_WEIGHT, 0, 1, zeros));
  for (int e = 0; e < EXPERTS; e++) {
    set(layer, &params, MOECL_GATE_UP_PROJ, e, t->gate[e], t->up[e]);
    set(layer, &params, MOECL_DOWN_PROJ, e, t->down[e], 0);
  }
  if (params.shared_intermediate_size) {
    set(layer, &params, MOECL_SHARED_GATE_UP_PROJ, 0, t->shared, t->shared);
    set(layer, &params, MOECL_SHARED_DOWN_PROJ, 0, t->shared, 0);
  }
  const float bias[EXPERTS] = {(float)t->bias, 0};
  if (params.score_correction_bias)
    assert_ok(moecl_layer_set_weights(layer, MOECL_SCORE_CORRECTION_BIAS, 0, 1, bias));
  return layer;
}

/* Outputs [TOKENS]: of element 0, which all others equal, or are as little numbers. */
static void run(const tiny *t, moecl_layer *layer, double *output, moecl_routing *routing) {
  const moecl_dtype dtype = t->params.dtype;
  const uint64_t bytes = TOKENS * N * moecl_dtype_size(dtype);
  double values[TOKENS * N];
  char raw[TOKENS * N * 4];
  moecl_buffer *in = NULL, *out = NULL;
  for (int i = 0; i < TOKENS * N; i++) values[i] = t->hidden[i / N];
  moecl_from_double(dtype, values, TOKENS * N, raw);
  assert_ok(moecl_buffer_create(context, bytes, &in));
  assert_ok(moecl_buffer_create(context, bytes, &out));
  assert_ok(moecl_buffer_write_wait(in, 0, bytes, raw));
  const moecl_forward_params forward = {.num_tokens = TOKENS, .hidden_states = in, .output = out};
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  assert_ok(moecl_buffer_read_wait(out, 0, bytes, raw));
  moecl_to_double(dtype, raw, TOKENS * N, values);
  for (int i = 0; i < TOKENS * N; i++) {
    output[i / N] = values[i / N * N];
    if (values[i] != output[i / N] && !(isnan(values[i]) && isnan(output[i / N])))
      fail_msg("element %d is %g, others %g", i, values[i], output[i / N]);
  }
  if (routing) assert_ok(moecl_layer_read_routing_wait(layer, routing));
  moecl_buffer_destroy(&in);
  moecl_buffer_destroy(&out);
}

/* Calls `check` with every variant of the grouped GEMM that can run here. */
static void for_each(moecl_dtype dtype, void (*check)(const char *variant)) {
  const char *names[32];
  const size_t count = moecl_variants_available(context, "grouped_gemm", dtype, names, 32);
  assert_true(count > 0);
  for (size_t i = 0; i < count; i++) check(names[i]);
}

/* ---- overflow ---- */

/* fp16, ReLU: activated 60000 fits, 2 x 60000 does not, though what down makes of it
 * would. */
static void check_overflow(const char *variant) {
  tiny t = {.params = tiny_params(MOECL_F16, MOECL_RELU, 1),
            .gate = {100, 100},
            .down = {1.0 / 64, 1.0 / 64},
            .hidden = {600, 1200, 1}};
  double output[TOKENS];
  moecl_layer *layer = make_layer(&t, variant, NULL);
  run(&t, layer, output, NULL);
  if (!(fabs(output[0] - 60000.0 / 128) < 0.5 && !isfinite(output[1]) &&
        fabs(output[2] - 100.0 / 128) < 1e-3))
    fail_msg("%s: %g %g %g", variant, output[0], output[1], output[2]);
  moecl_layer_destroy(&layer);
}
static void test_overflow(void **state) { (void)state, for_each(MOECL_F16, check_overflow); }

/* Two experts whose outputs cancel but for 2^-7 of them: within the roundoff of what is
 * stored of each, which is none where outputs are fp32. */
static void check_cancel(const char *variant) {
  tiny t = {.params = tiny_params(MOECL_BF16, MOECL_RELU, 2),
            .gate = {1, 1},
            .down = {1.0078125, -1},
            .hidden = {1.0078125, 3, 129}}; /* 1 + 2^-7 */
  double output[TOKENS];
  moecl_layer *layer = make_layer(&t, variant, NULL);
  run(&t, layer, output, NULL);
  for (int i = 0; i < TOKENS; i++) {
    /* Both weights are sigmoid(0). */
    const double x = t.hidden[i], summands = 0.5 * x * (t.down[0] - t.down[1]);
    const double want = 0.5 * x * (t.down[0] + t.down[1]);
    const double bound = 0x1p-8 * want + 2 * moecl_layer_output_roundoff(layer) * summands;
    if (!(fabs(output[i] - want) <= bound))
      fail_msg("%s: %g instead of %g, within %g", variant, output[i], want, bound);
  }
  moecl_layer_destroy(&layer);
}
static void test_cancel(void **state) { (void)state, for_each(MOECL_BF16, check_cancel); }

/* ---- not a number ---- */

static void check_nan(const char *variant) {
  static const moecl_activation all[] = {MOECL_RELU, MOECL_SWIGLU_CLAMPED};
  for (int a = 0; a < 2; a++) { /* test_activation has the others */
    tiny t = {.params = tiny_params(MOECL_BF16, all[a], 1),
              .gate = {NAN, NAN},
              .up = {NAN, NAN},
              .down = {1, 1},
              .hidden = {1, -1, 0}};
    double output[TOKENS];
    moecl_layer *layer = make_layer(&t, variant, NULL);
    run(&t, layer, output, NULL);
    for (int i = 0; i < TOKENS; i++)
      if (!isnan(output[i]))
        fail_msg("%s, %s: %g", variant, moecl_activation_name(all[a]), output[i]);
    moecl_layer_destroy(&layer);
  }
}
static void test_nan(void **state) { (void)state, for_each(MOECL_BF16, check_nan); }

/* A token with NaN is routed nowhere; a shared expert, which it passes, makes NaN of it,
 * and of the others what it would alone where the choice scores are not finite. */
static void test_shared(void **state) {
  tiny t = {.params = tiny_params(MOECL_F32, MOECL_RELU, 2),
            .gate = {1, 1},
            .down = {1, 1},
            .shared = 2,
            .hidden = {1, NAN, 3}};
  double output[TOKENS];
  moecl_routing routing;
  (void)state;
  t.params.shared_intermediate_size = N;
  t.params.score_correction_bias = true;
  for (int bad = 0; bad < 2; bad++) {
    t.bias = bad ? INFINITY : 0;
    moecl_layer *layer = make_layer(&t, NULL, NULL);
    run(&t, layer, output, &routing);
    const moecl_routing_statistics *s = &routing.statistics;
    assert_true(output[0] == 4 + (bad ? 0 : 1) && output[2] == 12 + (bad ? 0 : 3));
    assert_true(isnan(output[1]) && routing.topk_ids[2] == -1 && routing.topk_weights[2] == 0);
    assert_true(s->nonfinite_tokens == 1 && s->first_nonfinite_token == 1);
    assert_true(s->nonfinite_score_tokens == (bad ? 2 : 0));
    assert_true(s->first_nonfinite_score_token == (bad ? 0 : -1));
    assert_true(s->zero_weight_tokens == 0 && s->first_zero_weight_token == -1);
    moecl_routing_destroy(&routing);
    moecl_layer_destroy(&layer);
  }
}

/* ---- next to nothing ---- */

/* A scaling factor below the least normal fp32 is what a device makes of it, or 0, and
 * no fault of a router's. */
static void test_tiny_scale(void **state) {
  tiny t = {.params = tiny_params(MOECL_F32, MOECL_RELU, 2),
            .gate = {1, 1},
            .down = {1, 1},
            .hidden = {1, 2, 3}};
  const char *names[8];
  double output[TOKENS];
  (void)state;
  t.params.routed_scaling_factor = 1e-40f;
  const size_t count = moecl_variants_available(context, "router", MOECL_F32, names, 8);
  for (size_t i = 0; i < count; i++) {
    moecl_layer *layer = make_layer(&t, NULL, names[i]);
    run(&t, layer, output, NULL);
    for (int k = 0; k < TOKENS; k++) assert_true(fabs(output[k]) < 1e-38);
    moecl_layer_destroy(&layer);
  }
}

/* ---- rounding ---- */

static double stored(moecl_dtype dtype, double x) {
  uint32_t bits;
  moecl_from_double(dtype, &x, 1, &bits);
  moecl_to_double(dtype, &bits, 1, &x);
  return x;
}

/* Rows that are kept as fp32 hold the storage type's numbers, bit for bit: random ones
 * of all sizes, and ties. */
static void check_rounding(const kernel_variant *variant, moecl_dtype dtype) {
  enum { ROWS = 500 };
  const op_gemm_desc desc = {.num_experts = 1,
                             .n = N,
                             .k = N,
                             .weights = desc_format_of(dtype),
                             .biases = desc_format_of(dtype),
                             .input = desc_format_of(MOECL_F32),
                             .output = desc_format_of(MOECL_F32),
                             .rounded = desc_format_of(dtype)};
  static float input[ROWS * N], output[ROWS * N];
  uint32_t state = (uint32_t)case_seed();
  for (int i = 0; i < ROWS * N; i++) {
    state = state * 1664525u + 1013904223u;
    const uint32_t low = i % 4 == 0 ? 0 : i % 4 == 1 ? 0x1000 : i % 4 == 2 ? 0x8000 : state >> 16;
    const uint32_t size = (dtype == MOECL_F16 ? 100 + (state >> 8) % 45 : 1 + (state >> 8) % 253)
                          << 23;
    const uint32_t bits = (state & 0x80000000u) | size | ((state << 9 & 0x7f0000u) | low);
    memcpy(&input[i], &bits, 4);
  }
  input[0] = NAN, input[1] = INFINITY, input[2] = 0;
  double one[N * N];
  for (int i = 0; i < N * N; i++) one[i] = i % (N + 1) == 0;
  op_gemm *gemm = NULL;
  assert_ok(op_gemm_create_unchecked(context, variant, &desc, &gemm));
  const int32_t each = (int32_t)op_gemm_tile_rows(gemm, ROWS);
  const int32_t offsets[] = {0, ROWS}, tiles[] = {0, (ROWS + each - 1) / each};
  moecl_buffer *b[5] = {NULL};
  /* The first row would spoil its sums. */
  memset(input + 3, 0, (N - 3) * sizeof *input);
  assert_ok(check_upload_words(context, input, ROWS * N, &b[0]));
  assert_ok(check_upload(context, desc_format_of(dtype), one, N, N, &b[1]));
  assert_ok(check_upload_words(context, offsets, 2, &b[2]));
  assert_ok(check_upload_words(context, tiles, 2, &b[3]));
  assert_ok(moecl_buffer_create(context, sizeof output, &b[4]));
  assert_ok(op_gemm_set_weights(gemm, 0, 1, b[1], 0));
  const op_gemm_io io = {
      .input = b[0], .expert_offsets = b[2], .tile_offsets = b[3], .output = b[4], .rows = ROWS};
  ocl_chain chain = {.context = context};
  assert_ok(op_gemm_enqueue(gemm, &chain, &io));
  assert_ok(moecl_buffer_read_wait(b[4], 0, sizeof output, output));
  for (int i = N; i < ROWS * N; i++)
    if ((double)output[i] != stored(dtype, input[i]))
      fail_msg("%s, %s: %.9g is %.9g instead of %.9g", variant->name, moecl_dtype_name(dtype),
               (double)input[i], (double)output[i], stored(dtype, input[i]));
  assert_true(isnan(output[0]));
  for (int i = 0; i < 5; i++) moecl_buffer_destroy(&b[i]);
  op_gemm_destroy(&gemm);
}

static void test_rounding(void **state) {
  const kernel_variant *variants = op_gemm_table.rows;
  const size_t count = op_gemm_table.count;
  (void)state;
  for (size_t v = 0; v < count; v++)
    for (int dtype = MOECL_F16; dtype <= MOECL_BF16; dtype++)
      if (variants[v].traits & KERNEL_F32_ACTIVATIONS && !(variants[v].traits & KERNEL_LIBRARY) &&
          kernel_variant_serves(&variants[v], desc_format_of((moecl_dtype)dtype),
                                context->info.capabilities))
        check_rounding(&variants[v], (moecl_dtype)dtype);
}

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rounding), cmocka_unit_test(test_overflow),
      cmocka_unit_test(test_cancel),   cmocka_unit_test(test_shared),
      cmocka_unit_test(test_nan),      cmocka_unit_test(test_tiny_scale)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("storage", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
