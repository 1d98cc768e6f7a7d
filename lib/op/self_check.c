#include "op/self_check.h"
#include "base/base.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the experts: more than one tile of any variant, none, a partial one. */
enum { EXPERTS = 3, N = 40, INNER = 88, ROWS = 150 };
static const int32_t offsets[EXPERTS + 1] = {0, 147, 147, ROWS};

typedef struct problem {
  op_gemm_shape shape; /* the layer's, with the small sizes */
  int64_t weight_rows;
  double *input, *weights, *bias; /* multiples of 1/8: exact in every storage type */
  double *expected;
} problem;

/* A fixed sequence of multiples of 1/8 in [-1, 1]. */
static double *values(size_t count, uint32_t *state) {
  double *out = malloc(count * sizeof *out);
  for (size_t i = 0; out && i < count; i++) {
    *state = *state * 1664525u + 1013904223u;
    out[i] = ((int)(*state >> 24) % 17 - 8) / 8.0;
  }
  return out;
}

static double epilogue(op_epilogue kind, double x) {
  switch (kind) {
  case OP_EPILOGUE_SILU: return x / (1.0 + exp(-x));
  case OP_EPILOGUE_GELU: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
  case OP_EPILOGUE_RELU: return x > 0.0 ? x : 0.0;
  default: return x;
  }
}

static double product(const problem *p, int64_t expert, int64_t row, int64_t column) {
  const double *w = p->weights + (expert * p->weight_rows + column) * INNER;
  double sum = p->shape.bias ? p->bias[expert * p->weight_rows + column] : 0.0;
  for (int64_t k = 0; k < INNER; k++) sum += p->input[row * INNER + k] * w[k];
  return sum;
}

/* Slot s reads row ROWS-1-s where the shape gathers. */
static int32_t source_row(const problem *p, int32_t slot) {
  return p->shape.gather ? ROWS - 1 - slot : slot;
}

static void expect(problem *p) {
  for (int32_t e = 0; e < EXPERTS; e++)
    for (int32_t slot = offsets[e]; slot < offsets[e + 1]; slot++)
      for (int32_t n = 0; n < N; n++) {
        const int32_t row = source_row(p, slot);
        double v = epilogue(p->shape.epilogue, product(p, e, row, n));
        if (p->shape.gated) v *= product(p, e, row, N + n);
        p->expected[slot * N + n] = v;
      }
}

static bool make_problem(problem *p) {
  uint32_t state = 1;
  const size_t weights = (size_t)EXPERTS * (size_t)p->weight_rows;
  p->input = values(ROWS * INNER, &state);
  p->weights = values(weights * INNER, &state);
  p->bias = values(weights, &state);
  p->expected = malloc(ROWS * N * sizeof *p->expected);
  if (!p->input || !p->weights || !p->bias || !p->expected) return false;
  expect(p);
  return true;
}

static void release_problem(problem *p) {
  free(p->input);
  free(p->weights);
  free(p->bias);
  free(p->expected);
}

/* Doubles into a new device buffer of a storage type. */
static moecl_status upload(moecl_context *context, moecl_dtype dtype, const double *data,
                           size_t count, moecl_buffer **buffer) {
  const size_t bytes = count * moecl_dtype_size(dtype);
  void *raw = malloc(bytes);
  if (!raw) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_from_double(dtype, data, count, raw);
  moecl_status status = moecl_buffer_create(context, bytes, buffer);
  if (status == MOECL_OK) status = moecl_buffer_write_wait(*buffer, 0, bytes, raw);
  free(raw);
  return status;
}

static moecl_status upload_ints(moecl_context *context, const int32_t *data, size_t count,
                                moecl_buffer **buffer) {
  MOECL_TRY(moecl_buffer_create(context, count * sizeof *data, buffer));
  return moecl_buffer_write_wait(*buffer, 0, count * sizeof *data, data);
}

typedef struct device_side {
  op_gemm *gemm;
  moecl_buffer *input, *weights, *bias, *rows, *offsets, *tiles, *output, *scratch;
} device_side;

static void release_device(device_side *d) {
  moecl_buffer **all[] = {&d->input,   &d->weights, &d->bias,   &d->rows,
                          &d->offsets, &d->tiles,   &d->output, &d->scratch};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) moecl_buffer_destroy(all[i]);
  op_gemm_destroy(&d->gemm);
}

static moecl_status upload_lists(moecl_context *context, const problem *p, device_side *d) {
  int32_t rows[ROWS], tiles[EXPERTS + 1] = {0};
  const int32_t tile_m = (int32_t)op_gemm_tile_rows(d->gemm, ROWS);
  for (int32_t slot = 0; slot < ROWS; slot++) rows[slot] = source_row(p, slot);
  for (int e = 0; e < EXPERTS; e++)
    tiles[e + 1] = tiles[e] + (offsets[e + 1] - offsets[e] + tile_m - 1) / tile_m;
  MOECL_TRY(upload_ints(context, rows, ROWS, &d->rows));
  MOECL_TRY(upload_ints(context, offsets, EXPERTS + 1, &d->offsets));
  return upload_ints(context, tiles, EXPERTS + 1, &d->tiles);
}

static moecl_status run(moecl_context *context, const kernel_variant *variant, const problem *p,
                        device_side *d, double *actual) {
  const op_gemm_shape *shape = &p->shape;
  const size_t weights = (size_t)EXPERTS * (size_t)p->weight_rows;
  const moecl_dtype out = shape->output_f32 ? MOECL_F32 : shape->dtype;
  float raw[ROWS * N]; /* holds any storage type */
  MOECL_TRY(op_gemm_create(context, variant, shape, &d->gemm));
  MOECL_TRY(upload(context, shape->input_f32 ? MOECL_F32 : shape->dtype, p->input, ROWS * INNER,
                   &d->input));
  MOECL_TRY(upload(context, shape->dtype, p->weights, weights * INNER, &d->weights));
  MOECL_TRY(upload(context, shape->dtype, p->bias, weights, &d->bias));
  MOECL_TRY(upload_lists(context, p, d));
  MOECL_TRY(moecl_buffer_create(context, sizeof raw, &d->output));
  MOECL_TRY(moecl_buffer_create(context, op_gemm_scratch(d->gemm, ROWS), &d->scratch));
  MOECL_TRY(op_gemm_set_weights(d->gemm, 0, EXPERTS, d->weights, 0));
  if (shape->bias) MOECL_TRY(op_gemm_set_bias(d->gemm, 0, EXPERTS, d->bias, 0));
  ocl_chain chain = {.context = context};
  const op_gemm_io io = {.input = d->input,
                         .slot_token = d->rows,
                         .expert_offsets = d->offsets,
                         .tile_offsets = d->tiles,
                         .output = d->output,
                         .scratch = d->scratch,
                         .rows = ROWS};
  MOECL_TRY(op_gemm_enqueue(d->gemm, &chain, &io));
  MOECL_TRY(moecl_buffer_read_wait(d->output, 0, ROWS * N * moecl_dtype_size(out), raw));
  moecl_to_double(out, raw, ROWS * N, actual);
  return MOECL_OK;
}

/* Every element, against rounding of the storage type. */
static moecl_status compare(moecl_context *context, const kernel_variant *variant,
                            const problem *p, const double *actual) {
  const double tolerance = p->shape.dtype == MOECL_F32 ? 1e-5 : 1e-2;
  for (int i = 0; i < ROWS * N; i++)
    if (!(fabs(actual[i] - p->expected[i]) <= tolerance * (1.0 + fabs(p->expected[i]))))
      return log_error(&context->log, MOECL_ERROR_BUILD,
                       "variant '%s' fails its self-check on %s: row %d, column %d is %g, "
                       "expected %g",
                       variant->name, context->info.name, i / N, i % N, actual[i],
                       p->expected[i]);
  return MOECL_OK;
}

moecl_status op_gemm_self_check(moecl_context *context, const kernel_variant *variant,
                                const op_gemm_shape *shape) {
  problem p = {.shape = *shape, .weight_rows = shape->gated ? 2 * N : N};
  p.shape.num_experts = EXPERTS;
  p.shape.n = N;
  p.shape.k = INNER;
  device_side d = {0};
  double *actual = malloc(ROWS * N * sizeof *actual);
  moecl_status status = actual && make_problem(&p) ? run(context, variant, &p, &d, actual)
                                                   : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = compare(context, variant, &p, actual);
  release_device(&d);
  release_problem(&p);
  free(actual);
  return status;
}
