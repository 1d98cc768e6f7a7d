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

moecl_format workload_dispatch_format(const experiment_point *point) {
  return experiment_members(point) > 0 ? point->parallel.dispatch_format : MOECL_FORMAT_DTYPE;
}

bool workload_has_other_formats(const experiment_point *point) {
  const moecl_layer_params *layer = &point->layer;
  moecl_layer_params plain = *layer;
  plain.weight_format = MOECL_FORMAT_DTYPE;
  return point->what == WHAT_LAYER && (workload_dispatch_format(point) != MOECL_FORMAT_DTYPE ||
                                       layer->activation_format != MOECL_FORMAT_DTYPE ||
                                       moecl_layer_tensor_format(layer, MOECL_DOWN_PROJ) !=
                                           moecl_layer_tensor_format(&plain, MOECL_DOWN_PROJ));
}

/* ---- formats with scales: codes first, and behind them the fp32 numbers that they are of ---- */

static bool is_encoded(const experiment_point *point, moecl_tensor tensor) {
  return moecl_layer_tensor_dtype(&point->layer, tensor) == MOECL_DTYPE_COUNT;
}
static uint64_t numbers_bytes(const experiment_point *point, moecl_tensor tensor) {
  return (uint64_t)moecl_layer_tensor_size(&point->layer, tensor) * sizeof(float);
}
/* Of an item on its way into the layer. */
static uint64_t item_bytes(const experiment_point *point, moecl_tensor tensor) {
  const uint64_t bytes = moecl_layer_tensor_bytes(&point->layer, tensor);
  return is_encoded(point, tensor) ? bytes + numbers_bytes(point, tensor) : bytes;
}

/* What lies behind the item's codes becomes these. */
static moecl_status encode(const experiment_point *point, moecl_tensor tensor,
                           moecl_buffer *buffer) {
  const uint64_t bytes = moecl_layer_tensor_bytes(&point->layer, tensor);
  int64_t rows, columns;
  moecl_layer_tensor_shape(&point->layer, tensor, &rows, &columns);
  const bool is_pair = moecl_activation_is_gated(point->layer.activation) &&
                       (tensor == MOECL_GATE_UP_PROJ || tensor == MOECL_SHARED_GATE_UP_PROJ);
  const int64_t matrices = is_pair ? 2 : 1; /* gate and up each by itself */
  const moecl_quantize_params params = {.dtype = MOECL_F32,
                                        .format = moecl_layer_tensor_format(&point->layer, tensor),
                                        .scale_search = point->scale_search,
                                        .matrices = (uint64_t)matrices,
                                        .rows = (uint64_t)(rows / matrices),
                                        .columns = (uint64_t)columns};
  return moecl_quantize(&params, buffer, bytes, buffer, 0);
}

/* ---- weights ---- */

/* Of a checkpoint's layer, from its files: as they are stored there, or as the layer has them. */
static moecl_status read_weights(const experiment_point *point, moecl_tensor tensor, int64_t item,
                                 moecl_buffer *buffer) {
  moecl_checkpoint *checkpoint = point->source->checkpoint;
  const uint64_t codes = moecl_layer_tensor_bytes(&point->layer, tensor);
  moecl_checkpoint_layer stored;
  moecl_status status = moecl_checkpoint_get_layer(checkpoint, point->source->layer, &stored);
  const bool encoded =
      is_encoded(point, tensor) && stored.params.weight_format != point->layer.weight_format;
  const uint64_t bytes = encoded ? numbers_bytes(point, tensor) : codes;
  void *values = malloc((size_t)bytes);
  if (!values) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK && encoded)
    status =
        moecl_checkpoint_read(checkpoint, point->source->layer, tensor, item, MOECL_F32, values);
  else if (status == MOECL_OK)
    status = moecl_checkpoint_read_as(checkpoint, point->source->layer, tensor, item, &point->layer,
                                      values);
  if (status == MOECL_OK)
    status = moecl_buffer_write_wait(buffer, encoded ? codes : 0, bytes, values);
  if (status == MOECL_OK && encoded) status = encode(point, tensor, buffer);
  free(values);
  return status;
}

moecl_status workload_draw_weights(const experiment_point *point, moecl_tensor tensor, int64_t item,
                                   moecl_buffer *buffer) {
  if (point->source) return read_weights(point, tensor, item, buffer);
  const bool encoded = is_encoded(point, tensor);
  const uint64_t at = encoded ? moecl_layer_tensor_bytes(&point->layer, tensor) : 0;
  const moecl_random_params random = {
      .dtype = encoded ? MOECL_F32 : moecl_layer_tensor_dtype(&point->layer, tensor),
      .distribution = MOECL_NORMAL,
      .scale = (float)scale_of(&point->layer, tensor),
      .seed = point->seed,
      .stream = stream_of((int)tensor, item)};
  const moecl_status status =
      moecl_fill_random(buffer, at / sizeof(float),
                        (uint64_t)moecl_layer_tensor_size(&point->layer, tensor), &random);
  return status == MOECL_OK && encoded ? encode(point, tensor, buffer) : status;
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
    const uint64_t size = item_bytes(point, (moecl_tensor)tensor);
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
