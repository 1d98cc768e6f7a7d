// SPDX-License-Identifier: MIT
#include "run/workload.h"
#include "base/clock.h"
#include <math.h>
#include <stdlib.h>

/* Stream numbers: the tensor in the upper half, the item in the lower. */
static uint64_t stream_of(int tensor, int64_t item) {
  return ((uint64_t)tensor + 1) << 32 | (uint64_t)item;
}
enum { HIDDEN_STREAM = 100, CONTEXT_STREAM = 101, BLOCK_STREAMS = 200 };

static double scale_of(const moecl_layer_params *params, moecl_tensor tensor) {
  switch (tensor) {
  case MOECL_ROUTER_WEIGHT:
  case MOECL_ROUTER_NOISE_WEIGHT:
  case MOECL_GATE_UP_PROJ:
  case MOECL_SHARED_GATE_UP_PROJ:
  case MOECL_SHARED_GATE: return 1.0 / sqrt((double)params->hidden_size);
  case MOECL_DOWN_PROJ: return 1.0 / sqrt((double)params->intermediate_size);
  case MOECL_SHARED_DOWN_PROJ: return 1.0 / sqrt((double)params->shared_intermediate_size);
  default: return 0.1;
  }
}

bool workload_has_other_formats(const experiment_point *point) {
  const moecl_layer_params *layer = &point->layer;
  moecl_layer_params plain = *layer;
  plain.weight_format = MOECL_FORMAT_DTYPE;
  return point->what == WHAT_LAYER && (layer->activation_format != MOECL_FORMAT_DTYPE ||
                                       moecl_layer_tensor_format(layer, MOECL_DOWN_PROJ) !=
                                           moecl_layer_tensor_format(&plain, MOECL_DOWN_PROJ));
}

/* fp32 numbers as the tensor's format, which is no data type's. */
static moecl_status write_encoded(const moecl_layer_params *layer, moecl_tensor tensor,
                                  const float *values, moecl_buffer *buffer) {
  const uint64_t bytes = moecl_layer_tensor_bytes(layer, tensor);
  const size_t count = (size_t)moecl_layer_tensor_size(layer, tensor);
  double *numbers = malloc(count * sizeof *numbers);
  void *stored = malloc((size_t)bytes);
  moecl_status status = numbers && stored ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) {
    moecl_to_double(MOECL_F32, values, count, numbers);
    moecl_layer_tensor_from_double(layer, tensor, numbers, stored);
    status = moecl_buffer_write_wait(buffer, 0, bytes, stored);
  }
  free(numbers);
  free(stored);
  return status;
}

/* Of a checkpoint's layer, from its files. */
static moecl_status read_weights(const experiment_point *point, moecl_tensor tensor, int64_t item,
                                 moecl_buffer *buffer) {
  const uint64_t bytes = moecl_layer_tensor_bytes(&point->layer, tensor);
  void *values = malloc((size_t)bytes);
  if (!values) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = moecl_checkpoint_read_as(point->source->checkpoint, point->source->layer,
                                                 tensor, item, &point->layer, values);
  if (status == MOECL_OK) status = moecl_buffer_write_wait(buffer, 0, bytes, values);
  free(values);
  return status;
}

/* fp32 numbers that the device draws, piece by piece through the item's own buffer. */
static moecl_status draw_on_device(const moecl_random_params *random, moecl_buffer *buffer,
                                   float *values, uint64_t count) {
  const uint64_t most = moecl_buffer_size(buffer) / sizeof *values / 2 * 2; /* indices are even */
  moecl_random_params piece = *random;
  moecl_status status = most > 0 ? MOECL_OK : moecl_random_host(values, count, random);
  for (uint64_t at = 0; most > 0 && status == MOECL_OK && at < count; at += most) {
    const uint64_t drawn = count - at < most ? count - at : most;
    piece.first_index = random->first_index + at;
    status = moecl_fill_random(buffer, 0, drawn, &piece);
    if (status == MOECL_OK)
      status = moecl_buffer_read_wait(buffer, 0, drawn * sizeof *values, values + at);
  }
  return status;
}

/* Encoded on the host: no kernel knows how every format chooses its scales. */
static moecl_status draw_encoded(const experiment_point *point, moecl_tensor tensor,
                                 const moecl_random_params *random, moecl_buffer *buffer) {
  const uint64_t count = (uint64_t)moecl_layer_tensor_size(&point->layer, tensor);
  moecl_random_params in_fp32 = *random;
  in_fp32.dtype = MOECL_F32;
  float *values = malloc((size_t)count * sizeof *values);
  moecl_status status =
      values ? draw_on_device(&in_fp32, buffer, values, count) : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = write_encoded(&point->layer, tensor, values, buffer);
  free(values);
  return status;
}

moecl_status workload_draw_weights(const experiment_point *point, moecl_tensor tensor, int64_t item,
                                   moecl_buffer *buffer) {
  if (point->source) return read_weights(point, tensor, item, buffer);
  const moecl_random_params random = {.dtype = moecl_layer_tensor_dtype(&point->layer, tensor),
                                      .distribution = MOECL_NORMAL,
                                      .scale = (float)scale_of(&point->layer, tensor),
                                      .seed = point->seed,
                                      .stream = stream_of((int)tensor, item)};
  if (random.dtype == MOECL_DTYPE_COUNT) return draw_encoded(point, tensor, &random, buffer);
  return moecl_fill_random(buffer, 0, (uint64_t)moecl_layer_tensor_size(&point->layer, tensor),
                           &random);
}

/* q and k, and so v, are larger than what keeps the variance. */
static double block_scale_of(const moecl_block_params *params, moecl_block_tensor tensor) {
  const double hidden = (double)params->layer.hidden_size;
  const bool is_norm = params->attention.qk_norm != MOECL_QK_NORM_NONE;
  switch (tensor) {
  case MOECL_ATTENTION_NORM:
  case MOECL_FEED_FORWARD_NORM: return params->attention_norm.plus_one ? 0.2 : 1;
  case MOECL_Q_NORM:
  case MOECL_K_NORM: return params->attention.qk_norm_plus_one ? 1 : sqrt(2);
  case MOECL_QKV_PROJ: return sqrt((is_norm ? 1 : 2) / hidden);
  case MOECL_O_PROJ: return sqrt(hidden / (double)moecl_block_tensor_size(params, tensor));
  case MOECL_SINKS:
  case MOECL_RELATIVE_BIAS: return 1;
  default: return 0.1;
  }
}

/* Of a checkpoint's, from its files. */
static moecl_status read_block_weights(const experiment_point *point, moecl_block_tensor tensor,
                                       moecl_buffer *buffer) {
  const uint64_t bytes = workload_block_bytes(point, tensor);
  void *values = malloc((size_t)bytes);
  if (!values) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = moecl_checkpoint_read_block(point->source->checkpoint, point->source->layer,
                                                    tensor, point->layer.dtype, values);
  if (status == MOECL_OK) status = moecl_buffer_write_wait(buffer, 0, bytes, values);
  free(values);
  return status;
}

moecl_status workload_draw_block_weights(const experiment_point *point, moecl_block_tensor tensor,
                                         moecl_buffer *buffer) {
  const moecl_block_params params = experiment_block_params(point);
  if (point->source) return read_block_weights(point, tensor, buffer);
  const moecl_random_params random = {.dtype = params.layer.dtype,
                                      .distribution = MOECL_NORMAL,
                                      .scale = (float)block_scale_of(&params, tensor),
                                      .seed = point->seed,
                                      .stream = stream_of(BLOCK_STREAMS + (int)tensor, 0)};
  return moecl_fill_random(buffer, 0, (uint64_t)moecl_block_tensor_size(&params, tensor), &random);
}

uint64_t workload_block_bytes(const experiment_point *point, moecl_block_tensor tensor) {
  if (point->what != WHAT_BLOCK) return 0;
  const moecl_block_params params = experiment_block_params(point);
  return (uint64_t)moecl_block_tensor_size(&params, tensor) * moecl_dtype_size(params.layer.dtype);
}

uint64_t workload_staging_bytes(const experiment_point *point) {
  uint64_t largest = 0;
  for (int tensor = 0; tensor < MOECL_TENSOR_COUNT; tensor++) {
    const uint64_t size = moecl_layer_tensor_bytes(&point->layer, (moecl_tensor)tensor);
    if (size > largest) largest = size;
  }
  for (int tensor = 0; tensor < MOECL_BLOCK_TENSOR_COUNT; tensor++) {
    const uint64_t size = workload_block_bytes(point, (moecl_block_tensor)tensor);
    if (size > largest) largest = size;
  }
  return largest;
}

static moecl_status set_block_weights(const experiment_point *point, moecl_block *block,
                                      moecl_buffer *staging) {
  moecl_status status = MOECL_OK;
  for (int i = 0; status == MOECL_OK && i < MOECL_BLOCK_TENSOR_COUNT; i++) {
    const moecl_block_tensor tensor = (moecl_block_tensor)i;
    if (workload_block_bytes(point, tensor) == 0) continue;
    status = workload_draw_block_weights(point, tensor, staging);
    if (status == MOECL_OK) status = moecl_block_set_weights_buffer(block, tensor, staging, 0);
  }
  return status;
}

moecl_status workload_set_weights(moecl_context *context, const experiment_point *point,
                                  moecl_layer *layer, moecl_block *block) {
  moecl_buffer *staging;
  moecl_status status = moecl_buffer_create(context, workload_staging_bytes(point), &staging);
  if (status == MOECL_OK && block) status = set_block_weights(point, block, staging);
  for (int tensor = 0; status == MOECL_OK && tensor < MOECL_TENSOR_COUNT; tensor++) {
    const int64_t items = moecl_layer_tensor_items(&point->layer, (moecl_tensor)tensor);
    for (int64_t item = 0; status == MOECL_OK && item < items; item++) {
      status = workload_draw_weights(point, (moecl_tensor)tensor, item, staging);
      if (status == MOECL_OK)
        status = moecl_layer_set_weights_buffer(layer, (moecl_tensor)tensor, item, 1, staging, 0);
    }
  }
  if (status == MOECL_OK) status = moecl_context_finish_wait(context);
  moecl_buffer_destroy(&staging);
  return status;
}

moecl_status workload_weights_seconds(moecl_context *context, const experiment_point *point,
                                      moecl_layer *layer, double *seconds) {
  moecl_buffer *staging;
  moecl_status status = moecl_buffer_create(context, workload_staging_bytes(point), &staging);
  *seconds = 0;
  for (int tensor = 0; status == MOECL_OK && tensor < MOECL_TENSOR_COUNT; tensor++) {
    const int64_t items = moecl_layer_tensor_items(&point->layer, (moecl_tensor)tensor);
    if (items == 0) continue;
    const double begun = seconds_now();
    status = workload_draw_weights(point, (moecl_tensor)tensor, items - 1, staging);
    if (status == MOECL_OK)
      status =
          moecl_layer_set_weights_buffer(layer, (moecl_tensor)tensor, items - 1, 1, staging, 0);
    if (status == MOECL_OK) status = moecl_context_finish_wait(context);
    *seconds += (double)items * (seconds_now() - begun);
  }
  moecl_buffer_destroy(&staging);
  return status;
}

/* `rows` rows from row `first` on. */
static moecl_status copy_recording(const experiment_point *point, const recording *recording,
                                   int64_t first, int64_t rows, moecl_buffer *buffer) {
  const size_t width = (size_t)point->layer.hidden_size, count = (size_t)rows * width;
  const size_t bytes = count * moecl_dtype_size(point->layer.dtype);
  if (count == 0) return MOECL_OK;
  void *converted = malloc(bytes);
  if (!converted) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_from_double(point->layer.dtype, recording->values + (size_t)first * width, count,
                    converted);
  moecl_status status = moecl_buffer_write_wait(buffer, 0, bytes, converted);
  free(converted);
  return status;
}

static moecl_status draw_rows(const experiment_point *point, uint64_t stream, int64_t rows,
                              moecl_buffer *buffer) {
  const moecl_layer_params *layer = &point->layer;
  if (point->distribution == WORKLOAD_SKEWED) {
    const moecl_skewed_params skewed = {.dtype = layer->dtype,
                                        .num_tokens = rows,
                                        .hidden_size = layer->hidden_size,
                                        .seed = point->seed,
                                        .stream = stream,
                                        .num_clusters = point->skew_clusters ? point->skew_clusters
                                                                             : layer->num_experts,
                                        .exponent = (float)point->skew_exponent,
                                        .noise = (float)point->skew_noise};
    return moecl_fill_skewed(buffer, &skewed);
  }
  const moecl_random_params random = {.dtype = layer->dtype,
                                      .distribution = MOECL_NORMAL,
                                      .scale = 1.0f,
                                      .seed = point->seed,
                                      .stream = stream};
  return moecl_fill_random(buffer, 0, (uint64_t)(rows * layer->hidden_size), &random);
}

moecl_status workload_draw_hidden(const experiment_point *point, const recording *recording,
                                  int set, moecl_buffer *buffer) {
  if (point->distribution == WORKLOAD_FILE)
    return copy_recording(point, recording, point->context, point->num_tokens, buffer);
  return draw_rows(point, stream_of(HIDDEN_STREAM, set), point->num_tokens, buffer);
}

moecl_status workload_draw_context(const experiment_point *point, const recording *recording,
                                   moecl_buffer *buffer) {
  if (point->distribution == WORKLOAD_FILE)
    return copy_recording(point, recording, 0, point->context, buffer);
  return draw_rows(point, stream_of(CONTEXT_STREAM, 0), point->context, buffer);
}
