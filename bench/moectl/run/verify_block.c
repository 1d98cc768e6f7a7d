// SPDX-License-Identifier: MIT
/* What a block makes of sampled tokens before its layer, by the reference. */
#include "moecl/reference.h"
#include "run/verify_parts.h"
#include <stdlib.h>

/* All hidden states of the sequence [context + T,H], and the block's tensors. */
typedef struct sequence {
  double *hidden;
  double *tensors[MOECL_BLOCK_TENSOR_COUNT];
  int64_t *positions; /* [count]: of the sampled tokens */
} sequence;

static void release(sequence *sequence) {
  free(sequence->hidden);
  free(sequence->positions);
  for (int i = 0; i < MOECL_BLOCK_TENSOR_COUNT; i++) free(sequence->tensors[i]);
}

/* `count` of the layer's elements. Waits. */
static moecl_status read_doubles(const experiment_point *point, const moecl_buffer *buffer,
                                 size_t count, double *values) {
  const size_t bytes = count * moecl_dtype_size(point->layer.dtype);
  void *raw = malloc(bytes + 1);
  const moecl_status status =
      raw ? moecl_buffer_read_wait(buffer, 0, bytes, raw) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) moecl_to_double(point->layer.dtype, raw, count, values);
  free(raw);
  return status;
}

static moecl_status read_hidden(const verify_input *input, sequence *sequence) {
  const experiment_point *point = input->point;
  const size_t width = (size_t)point->layer.hidden_size;
  const size_t before = (size_t)point->context * width, tokens = (size_t)point->num_tokens * width;
  sequence->hidden = malloc((before + tokens) * sizeof *sequence->hidden);
  if (!sequence->hidden) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = MOECL_OK;
  if (before > 0) status = read_doubles(point, input->context_states, before, sequence->hidden);
  return status == MOECL_OK
             ? read_doubles(point, input->hidden_states, tokens, sequence->hidden + before)
             : status;
}

/* The tensor, drawn again. */
static moecl_status draw_tensor(const verify_input *input, moecl_block_tensor tensor,
                                double **values) {
  const experiment_point *point = input->point;
  const uint64_t bytes = workload_block_bytes(point, tensor);
  const size_t count = (size_t)bytes / moecl_dtype_size(point->layer.dtype);
  moecl_buffer *drawn = NULL;
  if (bytes == 0) return MOECL_OK;
  *values = malloc(count * sizeof **values);
  moecl_status status =
      *values ? moecl_buffer_create(input->context, bytes, &drawn) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = workload_draw_block_weights(point, tensor, drawn);
  if (status == MOECL_OK) status = read_doubles(point, drawn, count, *values);
  moecl_buffer_destroy(&drawn);
  return status;
}

moecl_status verify_block(const verify_input *input, sample *sample) {
  const experiment_point *point = input->point;
  const moecl_block_params params = experiment_block_params(point);
  sequence sequence = {.positions = malloc(((size_t)sample->count + 1) * sizeof(int64_t))};
  moecl_status status =
      sequence.positions ? read_hidden(input, &sequence) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  for (int i = 0; status == MOECL_OK && i < MOECL_BLOCK_TENSOR_COUNT; i++)
    status = draw_tensor(input, (moecl_block_tensor)i, &sequence.tensors[i]);
  for (int64_t i = 0; status == MOECL_OK && i < sample->count; i++)
    sequence.positions[i] = point->context + sample->tokens[i];
  if (status == MOECL_OK)
    status = moecl_reference_attention_tokens(
        &params, point->context + point->num_tokens, sequence.hidden,
        (const double *const *)sequence.tensors, sample->count, sequence.positions, 0,
        sample->expected, sample->hidden);
  release(&sequence);
  return status;
}
