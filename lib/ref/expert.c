// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "desc/tensors.h"
#include "moecl/reference.h"
#include "ref/activation.h"
#include "base/parallel.h"
#include "ref/ref.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double gated(const moecl_layer_params *params, double gate, double up) {
  const double alpha = params->swiglu_alpha > 0 ? params->swiglu_alpha : 1.702;
  const double limit = params->swiglu_limit > 0 ? params->swiglu_limit : 7;
  return ref_activate_gated(params->activation, gate, up, alpha, limit);
}

/* Sums in LANES parts, which a processor adds at the same time; the parts and
 * their order are always the same. */
static double dot(const double *a, const double *b, int64_t count) {
  enum { LANES = 8 };
  double part[LANES] = {0}, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int lane = 0; lane < LANES; lane++) part[lane] += a[i + lane] * b[i + lane];
  for (int lane = 0; lane < LANES; lane++) sum += part[lane];
  for (; i < count; i++) sum += a[i] * b[i];
  return sum;
}

/* A matrix [rows,width], or two of as many rows each, and its bias: doubles, or as a layer
 * stores them. */
typedef struct matrix {
  const void *values, *bias;
  const desc_format *stored, *stored_bias; /* NULL: doubles */
  int64_t rows, width;
} matrix;

/* Row `row` as doubles: converted to `scratch`, or where it is. */
static const double *row_of(const matrix *matrix, int64_t row, double *scratch) {
  if (!matrix->stored) return (const double *)matrix->values + row * matrix->width;
  const uint64_t rows = (uint64_t)matrix->rows, width = (uint64_t)matrix->width;
  const uint64_t before = (uint64_t)row / rows * desc_format_bytes(matrix->stored, rows, width);
  desc_decode_rows(matrix->stored, (const char *)matrix->values + before, rows, width,
                   (uint64_t)row % rows, 1, scratch);
  return scratch;
}

static double bias_of(const matrix *matrix, int64_t row) {
  double value = 0;
  if (!matrix->bias) return 0;
  if (!matrix->stored) return ((const double *)matrix->bias)[row];
  const uint64_t bytes = desc_format_bytes(matrix->stored_bias, 1, (uint64_t)row);
  desc_decode(matrix->stored_bias, (const char *)matrix->bias + bytes, 1, 1, &value);
  return value;
}

/* Rows as the layer's matrices read them: where it has an activation_format rounded to dtype and
 * then to that, else as they are. */
static moecl_status quantize(const moecl_layer_params *params, int64_t count, int64_t width,
                             double *rows) {
  const desc_format *dtype = desc_format_of(params->dtype);
  if (params->activation_format == MOECL_FORMAT_DTYPE) return MOECL_OK;
  void *row = malloc((size_t)width * sizeof(double));
  for (int64_t i = 0; row && i < count; i++, rows += width) {
    desc_encode(dtype, rows, 1, (uint64_t)width, row);
    desc_decode(dtype, row, 1, (uint64_t)width, rows);
    ref_quantize(&desc_formats[params->activation_format], (uint64_t)width, rows);
  }
  free(row);
  return row ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

/* One expert on several tokens. */
typedef struct work {
  const moecl_layer_params *params;
  matrix gate_up, down;
  int64_t num_tokens;
  const double *hidden; /* [tokens,H] */
  double *inner;        /* [tokens,I] */
  double *output;       /* [tokens,H] */
  double *rows;         /* two rows of the wider matrix for each thread */
  int64_t widest;
} work;

/* Rows [first,end) of gate and up, for every token. */
static void make_inner(void *user, int part, int64_t first, int64_t end) {
  const work *work = user;
  const int64_t width = work->gate_up.width, rows = work->params->intermediate_size;
  const bool is_gated = moecl_activation_is_gated(work->params->activation);
  double *scratch = work->rows + part * 2 * work->widest;
  for (int64_t i = first; i < end; i++) {
    const double *gate = row_of(&work->gate_up, i, scratch);
    const double *up = is_gated ? row_of(&work->gate_up, rows + i, scratch + work->widest) : NULL;
    const double gate_bias = bias_of(&work->gate_up, i);
    const double up_bias = is_gated ? bias_of(&work->gate_up, rows + i) : 0;
    for (int64_t t = 0; t < work->num_tokens; t++) {
      const double *x = work->hidden + t * width;
      const double first = gate_bias + dot(gate, x, width);
      work->inner[t * rows + i] = is_gated ? gated(work->params, first, up_bias + dot(up, x, width))
                                           : ref_activate(work->params->activation, first);
    }
  }
}

/* Rows [first,end) of down, for every token. */
static void make_output(void *user, int part, int64_t first, int64_t end) {
  const work *work = user;
  const int64_t width = work->down.width, hidden = work->params->hidden_size;
  double *scratch = work->rows + part * 2 * work->widest;
  for (int64_t h = first; h < end; h++) {
    const double *row = row_of(&work->down, h, scratch);
    const double bias = bias_of(&work->down, h);
    for (int64_t t = 0; t < work->num_tokens; t++)
      work->output[t * hidden + h] = bias + dot(row, work->inner + t * width, width);
  }
}

/* The hidden states as gate_up reads them; *copy is to be freed. */
static moecl_status quantize_hidden(work *work, double **copy) {
  const int64_t width = work->params->hidden_size;
  *copy = NULL;
  if (work->params->activation_format == MOECL_FORMAT_DTYPE) return MOECL_OK;
  *copy = ref_doubles(width, work->num_tokens);
  if (!*copy) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  memcpy(*copy, work->hidden, (size_t)(width * work->num_tokens) * sizeof **copy);
  work->hidden = *copy;
  return quantize(work->params, work->num_tokens, width, *copy);
}

double *ref_doubles(int64_t count, int64_t times) {
  uint64_t elements, bytes;
  if (!base_mul((uint64_t)count, (uint64_t)times, &elements) ||
      !base_mul(elements, sizeof(double), &bytes) || bytes > SIZE_MAX)
    return NULL;
  return malloc((size_t)bytes);
}

static moecl_status run(work *work, int threads) {
  const int64_t hidden = work->params->hidden_size, inner = work->params->intermediate_size;
  work->gate_up.rows = work->down.width = inner;
  work->gate_up.width = work->down.rows = hidden;
  work->widest = hidden > inner ? hidden : inner;
  work->inner = ref_doubles(inner, work->num_tokens);
  work->rows = ref_doubles(work->widest, 2 * threads);
  double *copy;
  moecl_status status = quantize_hidden(work, &copy);
  if (!work->inner || !work->rows) status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) base_parallel(threads, inner, make_inner, work);
  if (status == MOECL_OK) status = quantize(work->params, work->num_tokens, inner, work->inner);
  if (status == MOECL_OK) base_parallel(threads, hidden, make_output, work);
  free(copy);
  free(work->inner);
  free(work->rows);
  return status;
}

moecl_status moecl_reference_expert(const moecl_layer_params *params, const double *hidden,
                                    const double *gate_up, const double *gate_up_bias,
                                    const double *down, const double *down_bias, double *output) {
  if (!params || !hidden || !gate_up || !down || !output) return MOECL_ERROR_INVALID_ARGUMENT;
  work work = {.params = params,
               .gate_up = {.values = gate_up, .bias = gate_up_bias},
               .down = {.values = down, .bias = down_bias},
               .num_tokens = 1,
               .hidden = hidden,
               .output = output};
  return run(&work, 1);
}

moecl_status moecl_reference_expert_tokens(const moecl_layer_params *params, int64_t num_tokens,
                                           const double *hidden, const void *gate_up,
                                           const void *gate_up_bias, const void *down,
                                           const void *down_bias, int threads, double *output) {
  if (num_tokens < 0 || threads < 0) return MOECL_ERROR_INVALID_ARGUMENT;
  if (num_tokens == 0) return MOECL_OK;
  if (!params || !hidden || !gate_up || !down || !output) return MOECL_ERROR_INVALID_ARGUMENT;
  const desc_format *weights = desc_tensor_format(params, MOECL_GATE_UP_PROJ);
  const desc_format *biases = desc_tensor_format(params, MOECL_GATE_UP_BIAS);
  work work = {.params = params,
               .gate_up = {gate_up, gate_up_bias, weights, biases, 0, 0},
               .down = {down, down_bias, weights, biases, 0, 0},
               .num_tokens = num_tokens,
               .hidden = hidden,
               .output = output};
  return run(&work, base_threads(threads));
}

moecl_status moecl_reference_intermediate_tokens(const moecl_layer_params *params,
                                                 int64_t num_tokens, const double *hidden,
                                                 const void *gate_up, const void *gate_up_bias,
                                                 int threads, double *intermediate) {
  if (num_tokens < 0 || threads < 0) return MOECL_ERROR_INVALID_ARGUMENT;
  if (num_tokens == 0) return MOECL_OK;
  if (!params || !hidden || !gate_up || !intermediate) return MOECL_ERROR_INVALID_ARGUMENT;
  work work = {.params = params,
               .gate_up = {gate_up, gate_up_bias, desc_tensor_format(params, MOECL_GATE_UP_PROJ),
                           desc_tensor_format(params, MOECL_GATE_UP_BIAS),
                           params->intermediate_size, params->hidden_size},
               .num_tokens = num_tokens,
               .hidden = hidden,
               .inner = intermediate,
               .widest = params->hidden_size};
  threads = base_threads(threads);
  work.rows = ref_doubles(work.widest, 2 * threads);
  double *copy;
  moecl_status status = quantize_hidden(&work, &copy);
  if (!work.rows) status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) base_parallel(threads, params->intermediate_size, make_inner, &work);
  free(copy);
  free(work.rows);
  return status;
}

moecl_layer_params moecl_reference_shared(const moecl_layer_params *params) {
  if (!params) return (moecl_layer_params){0};
  moecl_layer_params shared = *params;
  shared.num_experts = shared.top_k = 1;
  shared.intermediate_size = params->shared_intermediate_size;
  shared.gate_up_bias = shared.down_bias = false;
  if (params->shared_swiglu_limit > 0) shared.swiglu_limit = params->shared_swiglu_limit;
  return shared;
}

double moecl_reference_shared_weight(const moecl_layer_params *params, const double *hidden,
                                     const double *gate) {
  if (!params || (gate && !hidden)) return 0;
  const double factor = params->shared_scaling_factor > 0 ? params->shared_scaling_factor : 1;
  return gate ? factor / (1 + exp(-dot(hidden, gate, params->hidden_size))) : factor;
}
