// SPDX-License-Identifier: MIT
/* A point against the double-precision reference.
 *
 * Block: norm, attention and residual of sampled tokens are recomputed from the hidden states of
 * all tokens, cached ones included; what they give is what the layer reads.
 * Router: the logits of sampled tokens are recomputed from their hidden states;
 * then every token's choice, in its order, and its weights from the device's own
 * logits, where ties are exact. Capacity and the counts are recomputed for all
 * tokens: integer work and exact. The experts' output of the sampled tokens is
 * recomputed from the device's choices; all other tokens' outputs must be
 * finite, and zero exactly where nothing was kept. Weights are drawn again, an
 * expert at a time: nothing is read back from the layer's packed copy. */
#include "cases.h"
#include "moecl/reference.h"
#include "run/verify_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* About a second of plain C for the sampled tokens' experts, and half of one for
 * drawing and converting the experts they reach. */
enum {
  LEAST_TOKENS = 8,  /* on the largest layers this takes longer */
  FEW = LEAST_TOKENS /* that are looked into where outputs are not finite */
};
/* What a sampled token's attention takes beside its layer, without keys and values. */
static double attention_macs(const experiment_point *point) {
  if (point->what == WHAT_LAYER) return 0;
  const moecl_block_params params = experiment_block_params(point);
  return block_own_flops(&params, 1, point->context + point->num_tokens - 1) / 2;
}

int64_t verify_sample_size(const experiment_point *point) {
  const moecl_layer_params *layer = &point->layer;
  const double matrices = moecl_activation_is_gated(layer->activation) ? 3 : 2;
  const double per_expert =
      matrices * (double)layer->hidden_size * (double)layer->intermediate_size;
  const double per_token =
      per_expert * (double)layer->top_k + (double)layer->num_experts * (double)layer->hidden_size;
  double count = floor(1e9 / (per_token + attention_macs(point)));
  /* Distinct experts cost a draw and a conversion each. */
  if (count * (double)layer->top_k * per_expert > 4e8 &&
      (double)layer->num_experts * per_expert > 4e8)
    count = floor(4e8 / (per_expert * (double)layer->top_k));
  if (count < LEAST_TOKENS) count = LEAST_TOKENS;
  if (count > VERIFY_MOST_TOKENS) count = VERIFY_MOST_TOKENS;
  return count < (double)point->num_tokens ? (int64_t)count : point->num_tokens;
}

void verify_sample_release(sample *sample) {
  free(sample->tokens);
  free(sample->hidden);
  free(sample->expected);
}

moecl_status verify_read_rows(const experiment_point *point, const moecl_buffer *buffer,
                              const sample *sample, double *rows) {
  const size_t hidden = (size_t)point->layer.hidden_size;
  const size_t bytes = hidden * moecl_dtype_size(point->layer.dtype);
  void *row = malloc(bytes);
  if (!row) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = MOECL_OK;
  for (int64_t i = 0; status == MOECL_OK && i < sample->count; i++) {
    status = moecl_buffer_read_wait(buffer, (uint64_t)sample->tokens[i] * bytes, bytes, row);
    if (status == MOECL_OK)
      moecl_to_double(point->layer.dtype, row, hidden, rows + (size_t)i * hidden);
  }
  free(row);
  return status;
}

moecl_status verify_sample_make(const experiment_point *point, int64_t count, sample *sample) {
  const size_t rows = (size_t)(count * point->layer.hidden_size);
  sample->count = count;
  sample->tokens = malloc((size_t)(count + 1) * sizeof *sample->tokens);
  sample->hidden = malloc((rows + 1) * sizeof(double));
  sample->expected = calloc(rows + 1, sizeof(double));
  return sample->tokens && sample->hidden && sample->expected ? MOECL_OK
                                                              : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

moecl_status verify_sample_fill(const verify_input *input, sample *sample) {
  if (input->point->what == WHAT_BLOCK) return verify_block(input, sample);
  return verify_read_rows(input->point, input->hidden_states, sample, sample->hidden);
}

/* Tokens spread evenly from the first to the last. */
static moecl_status sample_take(const verify_input *input, sample *sample) {
  const experiment_point *point = input->point;
  const moecl_status status = verify_sample_make(point, verify_sample_size(point), sample);
  if (status != MOECL_OK) return status;
  for (int64_t i = 0; i < sample->count; i++)
    sample->tokens[i] = sample->count > 1 ? i * (point->num_tokens - 1) / (sample->count - 1) : 0;
  return verify_sample_fill(input, sample);
}

size_t verify_item_bytes(const experiment_point *point, moecl_tensor tensor) {
  return (size_t)moecl_layer_tensor_bytes(&point->layer, tensor);
}

moecl_status verify_weights_make(const verify_input *input, const sample *sample,
                                 weights *weights) {
  const size_t elements = (size_t)(sample->count * input->point->layer.hidden_size);
  weights->hidden = malloc((elements + 1) * sizeof(double));
  weights->output = malloc((elements + 1) * sizeof(double));
  bool ok = weights->hidden && weights->output;
  for (int t = 0; ok && t < EXPERT_TENSORS; t++) {
    const size_t bytes = verify_item_bytes(input->point, (moecl_tensor)(MOECL_GATE_UP_PROJ + t));
    if (bytes) ok = (weights->expert[t] = malloc(bytes)) != NULL;
  }
  return ok ? moecl_buffer_create(input->context, workload_staging_bytes(input->point),
                                  &weights->staging)
            : MOECL_ERROR_OUT_OF_HOST_MEMORY;
}

void verify_weights_release(weights *weights) {
  moecl_buffer_destroy(&weights->staging);
  for (int t = 0; t < EXPERT_TENSORS; t++) free(weights->expert[t]);
  free(weights->hidden);
  free(weights->output);
}

moecl_status verify_draw(const verify_input *input, const weights *weights, moecl_tensor tensor,
                         int64_t item, void *values) {
  const size_t bytes = verify_item_bytes(input->point, tensor);
  if (bytes == 0) return MOECL_OK;
  const moecl_status status = workload_draw_weights(input->point, tensor, item, weights->staging);
  return status == MOECL_OK ? moecl_buffer_read_wait(weights->staging, 0, bytes, values) : status;
}

moecl_status verify_draw_doubles(const verify_input *input, const weights *weights,
                                 moecl_tensor tensor, double **values) {
  const size_t bytes = verify_item_bytes(input->point, tensor);
  const moecl_layer_params *layer = &input->point->layer;
  *values = NULL;
  if (bytes == 0) return MOECL_OK;
  void *raw = malloc(bytes);
  *values = malloc((size_t)moecl_layer_tensor_size(layer, tensor) * sizeof **values);
  const moecl_status status =
      raw && *values ? verify_draw(input, weights, tensor, 0, raw) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) moecl_layer_tensor_to_double(layer, tensor, raw, *values);
  free(raw);
  return status;
}

/* What is wrong with any token's output by itself. */
typedef struct outputs {
  int64_t nonfinite;          /* tokens with a number that is not finite */
  int64_t first[FEW], listed; /* some of them */
  bool zero;                  /* tokens of which nothing was kept have zeros */
} outputs;

static void check_output(const moecl_layer_params *layer, int64_t token, const double *row,
                         bool kept, outputs *outputs) {
  bool finite = true, zero = true;
  for (int64_t h = 0; h < layer->hidden_size; h++) {
    finite = finite && isfinite(row[h]);
    zero = zero && row[h] == 0;
  }
  outputs->zero = outputs->zero && (kept || zero);
  if (finite) return;
  outputs->nonfinite++;
  if (outputs->listed < FEW) outputs->first[outputs->listed++] = token;
}

static moecl_status check_outputs(const verify_input *input, outputs *outputs) {
  const moecl_layer_params *layer = &input->point->layer;
  const size_t hidden = (size_t)layer->hidden_size;
  const size_t bytes = hidden * moecl_dtype_size(layer->dtype);
  const int64_t tokens = input->point->num_tokens;
  char *raw = malloc((size_t)tokens * bytes + 1);
  double *row = malloc(hidden * sizeof *row);
  moecl_status status =
      raw && row ? moecl_buffer_read_wait(input->output, 0, (uint64_t)tokens * bytes, raw)
                 : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  outputs->zero = true;
  for (int64_t t = 0; status == MOECL_OK && t < tokens; t++) {
    /* A block's output has its input in it too. */
    bool kept = layer->shared_intermediate_size > 0 || input->point->what == WHAT_BLOCK;
    for (int64_t k = 0; k < layer->top_k; k++) kept |= input->routing->kept[t * layer->top_k + k];
    moecl_to_double(layer->dtype, raw + (size_t)t * bytes, hidden, row);
    check_output(layer, t, row, kept, outputs);
  }
  free(raw);
  free(row);
  return status;
}

/* Computes tokens whose outputs are not finite exactly, to say why. */
static moecl_status explain(const verify_input *input, const outputs *outputs, weights *weights,
                            verify_result *result) {
  sample sample = {0};
  int64_t reached = 0;
  moecl_status status = verify_sample_make(input->point, outputs->listed, &sample);
  const moecl_dtype dtype = input->point->layer.dtype;
  overflow *overflow =
      overflow_create(dtype, input->output_roundoff > 0x1p-24 ? dtype : MOECL_F32, outputs->listed);
  if (!overflow) status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) {
    memcpy(sample.tokens, outputs->first, (size_t)outputs->listed * sizeof *sample.tokens);
    status = verify_sample_fill(input, &sample);
  }
  if (status == MOECL_OK) status = verify_experts(input, &sample, weights, overflow, &reached);
  if (status == MOECL_OK)
    result->overflows =
        overflow_describe(overflow, sample.tokens, outputs->nonfinite, input->point->num_tokens,
                          result->tolerance, result->cause, sizeof result->cause);
  overflow_destroy(overflow);
  verify_sample_release(&sample);
  return status;
}

static moecl_status compare_output(const verify_input *input, const sample *sample,
                                   verify_result *result) {
  const size_t count = (size_t)(sample->count * input->point->layer.hidden_size);
  double *actual = malloc((count + 1) * sizeof *actual);
  if (!actual) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  const moecl_status status = verify_read_rows(input->point, input->output, sample, actual);
  result->tokens_checked = sample->count;
  if (status == MOECL_OK)
    result->error = moecl_relative_error_above(
        actual, sample->expected, count, moecl_relative_error_floor(input->point->layer.dtype));
  free(actual);
  return status;
}

moecl_status verify_point(const verify_input *input, verify_result *result) {
  sample sample = {0};
  weights weights = {0};
  outputs outputs = {0};
  *result = (verify_result){.ran = true,
                            .tolerance = moe_tolerance(input->roundoff),
                            .weight_error = NAN,
                            .weight_cosine = NAN,
                            .weight_bits = NAN};
  moecl_status status = sample_take(input, &sample);
  if (status == MOECL_OK) status = verify_weights_make(input, &sample, &weights);
  if (status == MOECL_OK) status = verify_router(input, &sample, &weights, result);
  if (status == MOECL_OK) status = check_outputs(input, &outputs);
  if (status == MOECL_OK)
    status = verify_experts(input, &sample, &weights, NULL, &result->experts_checked);
  if (status == MOECL_OK) status = compare_output(input, &sample, result);
  if (status == MOECL_OK && outputs.nonfinite > 0)
    status = explain(input, &outputs, &weights, result);
  if (status == MOECL_OK) status = verify_weight_format(input, &sample, result);
  if (outputs.nonfinite > 0 || !outputs.zero) result->error = INFINITY;
  result->ok =
      result->error <= result->tolerance && result->topk_mismatches == 0 && result->capacity_ok;
  verify_weights_release(&weights);
  verify_sample_release(&sample);
  return status;
}
