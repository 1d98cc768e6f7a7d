// SPDX-License-Identifier: MIT
/* Every variant's activations at extreme numbers, not a number among them, against
 * double precision: an expert whose weights hand its input through. */
#include "../unit/unit.h"
#include "desc/activation.h"
#include "op/check.h"
#include "op/gemm/driver.h"
#include <math.h>

enum { N = 8, K = 8 }; /* a column's gate is its factor times element 0, its up element 1 */
static const double factor[N] = {1, -1, 0.5, -0.5, 0.25, -0.25, 2, -2};

/* Bits that every storage type holds, but for the range. */
static const double numbers[] = {0,     1e-3, 0.125, 0.5,  0.75, 1,    1.5,      2,   2.5,
                                 3,     3.5,  4,     5,    5.5,  6,    7,        8,   10,
                                 12,    16,   20,    40,   88,   96,   104,      512, 4096,
                                 60000, 1e10, 1e18,  1e19, 1e30, 1e38, INFINITY, NAN};
enum { COUNT = sizeof numbers / sizeof numbers[0], ROWS = 2 * COUNT };

static moecl_context *context;

enum { PLAIN = MOECL_ACTIVATION_COUNT }; /* a linear map: down, the router's logits */
static const double alpha = 1.702, limit = 7;

static const char *name_of(int activation) {
  return activation == PLAIN ? "none" : moecl_activation_name((moecl_activation)activation);
}

static double silu(double x) { return x / (1 + exp(-x)); }
/* x Phi(x), Phi by erfc, and x/2 (1 + tanh(u)) as x / (1 + exp(-2u)). */
static double gelu(double x) { return x / 2 * erfc(-x / sqrt(2)); }
static double gelu_tanh(double x) {
  return x / (1 + exp(-2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static double expected(int activation, double x, double up) {
  const double cut_x = x > limit ? limit : x, cut_up = up > limit    ? limit
                                                       : up < -limit ? -limit
                                                                     : up;
  switch (activation) {
  case PLAIN: return x;
  case MOECL_SWIGLU: return silu(x) * up;
  case MOECL_SILU: return silu(x);
  case MOECL_GEGLU: return gelu(x) * up;
  case MOECL_GELU: return gelu(x);
  case MOECL_GEGLU_TANH: return gelu_tanh(x) * up;
  case MOECL_GELU_TANH: return gelu_tanh(x);
  case MOECL_RELU: return x < 0 ? 0 : x;
  case MOECL_RELU2: return x < 0 ? 0 : x * x;
  case MOECL_SWIGLU_CLAMPED: return cut_x / (1 + exp(-alpha * cut_x)) * (cut_up + 1);
  case MOECL_SWIGLU_LIMITED: return silu(cut_x) * cut_up;
  case MOECL_SWIGLU_LIMITED_SILU: return (silu(x) > limit ? limit : silu(x)) * cut_up;
  }
  fprintf(stderr, "activation %s: say here what it is\n", name_of(activation));
  fail();
  return NAN;
}

/* fp32's exponentials; NVIDIA's variants take 1 + erf for the exact GELU, whose
 * cancellation is left, and a tanh that is good to 2^-11 and exactly 1 from 10 on, where
 * what is left of a sigmoid may be 0. */
static double allowed(const kernel_variant *variant, const op_gemm_desc *desc, double x, double up,
                      double want) {
  static const double rounding[MOECL_DTYPE_COUNT] = {
      [MOECL_F32] = 0, [MOECL_F16] = 0x1p-11, [MOECL_BF16] = 0x1p-8};
  const bool approximate = variant->required & (MOECL_CAP_PTX_SM80 | MOECL_CAP_PTX_SM90A);
  const double least = desc->weights->element == MOECL_F16 ? 0x1p-24 : 0x1p-126;
  double bound = fabs(want) * (rounding[desc->weights->element] + 5e-5) + least;
  const double size = fabs(x) * (desc->gated ? fabs(up) + 1 : 1);
  const int kind = desc->epilogue;
  if (approximate && kind == ACTIVATION_GELU) bound += 1e-7 * size;
  if (approximate && fabs(x) < 20 && kind != ACTIVATION_RELU && kind != ACTIVATION_RELU2)
    bound += 0x1p-11 * size;
  if (approximate && x <= -20) bound += fabs(want);
  return bound;
}

static double stored(moecl_dtype dtype, double x) {
  char bits[4];
  moecl_from_double(dtype, &x, 1, bits);
  moecl_to_double(dtype, bits, 1, &x);
  return x;
}

/* Rows of x and -x with an up of their own. */
static void make_input(moecl_dtype dtype, double *input) {
  for (int r = 0; r < ROWS; r++) {
    const double x = numbers[r / 2] * (r % 2 ? -1 : 1);
    input[r * K] = stored(dtype, stored(MOECL_BF16, x));
    input[r * K + 1] = r % 3 == 0 ? 0.75 : r % 3 == 1 ? -20 : 3;
    for (int k = 2; k < K; k++) input[r * K + k] = 0;
  }
}

static void make_weights(bool gated, double *weights) {
  for (int n = 0; n < N * (gated ? 2 : 1); n++)
    for (int k = 0; k < K; k++)
      weights[n * K + k] = n < N && k == 0 ? factor[n] : n >= N && k == 1 ? 1 : 0;
}

static void check_row(const kernel_variant *variant, const op_gemm_desc *desc, int activation,
                      const double *input, const double *got) {
  for (int n = 0; n < N; n++) {
    /* Through a sum of products: infinity times 0 is not a number. */
    const bool spoilt = desc->gated && !isfinite(input[0]);
    const double x = factor[n] * input[0], up = spoilt ? NAN : desc->gated ? input[1] : 1;
    const double want = expected(activation, x, up);
    const double most = desc->output->element == MOECL_F16 ? 65504 : 0x1.fep127;
    const bool equal =
        isnan(want) ? isnan(got[n])
        : fabs(want) > most * 0.999
            ? !isnan(got[n]) && fabs(got[n]) >= most * 0.99 && signbit(got[n]) == signbit(want)
            : fabs(got[n] - want) <= allowed(variant, desc, x, up, want);
    if (equal) continue;
    fprintf(stderr, "%s, %s, activation %s of %g, %g: %g instead of %g\n", variant->name,
            desc->weights->name, name_of(activation), x, up, got[n], want);
    fail();
  }
}

static moecl_buffer *upload(moecl_dtype dtype, const double *values, size_t count) {
  moecl_buffer *buffer = NULL;
  assert_ok(check_upload(context, desc_format_of(dtype), values, 1, count, &buffer));
  return buffer;
}

static void multiply(const kernel_variant *variant, const op_gemm_desc *desc, const double *input,
                     double *output) {
  op_gemm *gemm = NULL;
  double weights[2 * N * K];
  float raw[ROWS * N];
  assert_ok(op_gemm_create_unchecked(context, variant, desc, &gemm));
  const int32_t each = (int32_t)op_gemm_tile_rows(gemm, ROWS);
  const int32_t offsets[] = {0, ROWS}, tiles[] = {0, (ROWS + each - 1) / each};
  const moecl_dtype out = desc->output->element;
  make_weights(desc->gated, weights);
  moecl_buffer *b[] = {
      upload(desc->input->element, input, ROWS * K),
      upload(desc->weights->element, weights, (size_t)(desc->gated ? 2 : 1) * N * K),
      NULL,
      NULL,
      NULL,
      NULL};
  assert_ok(check_upload_words(context, offsets, 2, &b[2]));
  assert_ok(check_upload_words(context, tiles, 2, &b[3]));
  assert_ok(moecl_buffer_create(context, sizeof raw, &b[4]));
  assert_ok(moecl_buffer_create(context, op_gemm_scratch(gemm, ROWS), &b[5]));
  assert_ok(op_gemm_set_weights(gemm, 0, 1, b[1], 0));
  const op_gemm_io io = {.input = b[0],
                         .expert_offsets = b[2],
                         .tile_offsets = b[3],
                         .output = b[4],
                         .scratch = b[5],
                         .rows = ROWS};
  ocl_chain chain = {.context = context};
  assert_ok(op_gemm_enqueue(gemm, &chain, &io));
  assert_ok(moecl_buffer_read_wait(b[4], 0, ROWS * N * moecl_dtype_size(out), raw));
  moecl_to_double(out, raw, ROWS * N, output);
  for (size_t i = 0; i < sizeof b / sizeof b[0]; i++) moecl_buffer_destroy(&b[i]);
  op_gemm_destroy(&gemm);
}

static void check(const kernel_variant *variant, int activation, moecl_dtype dtype) {
  const desc_activation *row = desc_activation_of((moecl_activation)activation);
  const bool f32 = variant->traits & KERNEL_F32_ACTIVATIONS;
  const op_gemm_desc desc = {.num_experts = 1,
                             .n = N,
                             .k = K,
                             .weights = desc_format_of(dtype),
                             .biases = desc_format_of(dtype),
                             .epilogue = row ? row->kernel : ACTIVATION_NONE,
                             .swiglu_alpha = (float)alpha,
                             .swiglu_limit = (float)limit,
                             .gated = row && row->gated,
                             .input = desc_format_of(f32 ? MOECL_F32 : dtype),
                             .output = desc_format_of(f32 ? MOECL_F32 : dtype)};
  double input[ROWS * K], output[ROWS * N];
  make_input(dtype, input);
  multiply(variant, &desc, input, output);
  for (int r = 0; r < ROWS; r++)
    check_row(variant, &desc, activation, input + r * K, output + r * N);
}

static void test_extremes(void **state) {
  const kernel_variant *variants = op_gemm_table.rows;
  const size_t count = op_gemm_table.count;
  const uint32_t capabilities = context->info.capabilities | MOECL_CAP_LOCAL_MEMORY;
  (void)state;
  for (size_t v = 0; v < count; v++)
    for (int activation = 0; activation <= PLAIN; activation++)
      for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
        if (variants[v].traits & KERNEL_LIBRARY) break; /* a library's products */
        if (!kernel_variant_serves(&variants[v], desc_format_of((moecl_dtype)dtype), capabilities))
          continue;
        check(&variants[v], activation, (moecl_dtype)dtype);
        if (activation != MOECL_SWIGLU_CLAMPED) break; /* the arithmetic is fp32 in all types */
      }
}

static void log_problem(void *user, moecl_log_level level, const char *message) {
  (void)user;
  if (level <= MOECL_LOG_WARNING) fprintf(stderr, "%s\n", message);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_extremes)};
  skip_without_device();
  const moecl_context_params params = {.log = log_problem};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("activation", tests, NULL, NULL);
  moecl_context_destroy(&context);
  return failed ? 1 : 0;
}
