// SPDX-License-Identifier: MIT
#include "base/base.h"
#include "ocl/ocl.h"
#include "moecl/random.h"
#include <Random123/philox.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PER_ITEM 16 /* elements a work-item draws, as in random.cl */

/* The standard deviation of the sum of four numbers uniform in 0..65535. */
static double sum_deviation(void) { return sqrt(4294967295.0 / 3.0); }

/* Brings the kernel's centred integers to scale. */
static float factor_of(const moecl_random_params *params) {
  return params->distribution == MOECL_NORMAL ? (float)(params->scale / sum_deviation())
                                              : (float)ldexp(params->scale, -23);
}

static bool params_are_valid(const moecl_random_params *params) {
  return moecl_dtype_size(params->dtype) != 0 &&
         (params->distribution == MOECL_NORMAL || params->distribution == MOECL_UNIFORM) &&
         isfinite(params->scale) && params->first_index % 2 == 0;
}

/* `log` may be NULL. */
static moecl_status check_params(const moecl_log *log, const moecl_random_params *params) {
  if (!params || !params_are_valid(params))
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "fill_random: dtype, distribution, a finite scale and an even first_index "
                     "are required");
  return log_check_reserved(log, "moecl_random_params", params->reserved,
                            BASE_COUNT(params->reserved));
}

static moecl_status open_kernel(moecl_context *context, moecl_dtype dtype, const char *entry,
                                ocl_kernel **kernel) {
  char defines[32];
  snprintf(defines, sizeof defines, "DTYPE %d\n", (int)dtype);
  return ocl_kernel_create(context, "random/random.cl", defines, entry, kernel);
}

moecl_status moecl_fill_random(moecl_buffer *buffer, uint64_t offset, uint64_t count,
                               const moecl_random_params *params) {
  if (!buffer) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_context *context = buffer->context;
  MOECL_TRY(check_params(&context->log, params));
  uint64_t room = buffer->bytes / moecl_dtype_size(params->dtype);
  if (offset > room || count > room - offset)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "fill_random: elements %llu + %llu are outside a buffer of %llu",
                     (unsigned long long)offset, (unsigned long long)count,
                     (unsigned long long)room);
  if (count == 0) return MOECL_OK;
  ocl_kernel *kernel = NULL;
  ocl_chain chain = {.context = context};
  moecl_status status =
      open_kernel(context, params->dtype,
                  params->distribution == MOECL_NORMAL ? "fill_normal" : "fill_uniform", &kernel);
  if (status == MOECL_OK)
    status = ocl_kernel_args(kernel, "bLLLLLf", buffer, offset, count, params->first_index / 2,
                             params->stream, params->seed, (double)factor_of(params));
  if (status == MOECL_OK) status = ocl_launch_items(&chain, kernel, base_div_up(count, PER_ITEM));
  if (status == MOECL_OK) status = ocl_keep_order(context);
  ocl_kernel_destroy(&kernel);
  return status;
}

static float host_value(const moecl_random_params *params, float factor, uint32_t a, uint32_t b) {
  int32_t centred = params->distribution == MOECL_NORMAL
                        ? (int32_t)((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) - 131070
                        : (int32_t)(a >> 8) - 8388608;
  return (float)centred * factor;
}

moecl_status moecl_random_host(void *dst, uint64_t count, const moecl_random_params *params) {
  MOECL_TRY(check_params(NULL, params));
  if (!dst && count > 0) return MOECL_ERROR_INVALID_ARGUMENT;
  const float factor = factor_of(params);
  const size_t size = moecl_dtype_size(params->dtype);
  const philox4x32_key_t key = {{(uint32_t)params->seed, (uint32_t)(params->seed >> 32)}};
  for (uint64_t i = 0; i < count; i += 2) {
    uint64_t index = params->first_index / 2 + i / 2;
    philox4x32_ctr_t counter = {{(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)params->stream,
                                 (uint32_t)(params->stream >> 32)}};
    philox4x32_ctr_t r = philox4x32(counter, key);
    double pair[2] = {host_value(params, factor, r.v[0], r.v[1]),
                      host_value(params, factor, r.v[2], r.v[3])};
    moecl_from_double(params->dtype, pair, count - i < 2 ? 1 : 2, (char *)dst + i * size);
  }
  return MOECL_OK;
}

/* Cumulative Zipf probabilities as 32-bit thresholds. */
static uint32_t *zipf_thresholds(int64_t num_clusters, float exponent) {
  uint32_t *thresholds = malloc((size_t)num_clusters * sizeof *thresholds);
  if (!thresholds) return NULL;
  double total = 0, sum = 0;
  for (int64_t c = 0; c < num_clusters; c++) total += pow((double)(c + 1), -(double)exponent);
  for (int64_t c = 0; c < num_clusters; c++) {
    sum += pow((double)(c + 1), -(double)exponent);
    double threshold = floor(sum / total * 4294967296.0);
    thresholds[c] = threshold >= 4294967295.0 ? UINT32_MAX : (uint32_t)threshold;
  }
  return thresholds;
}

static moecl_status check_skewed(const moecl_buffer *buffer, const moecl_skewed_params *params) {
  const moecl_log *log = &buffer->context->log;
  if (!params || moecl_dtype_size(params->dtype) == 0 || params->num_tokens < 0 ||
      params->hidden_size < 1 || params->num_clusters < 1 || params->num_clusters > 65536 ||
      !isfinite(params->exponent) || params->exponent < 0 || !(params->noise >= 0) ||
      !(params->noise <= 1))
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "fill_skewed: a parameter is out of its documented range");
  MOECL_TRY(log_check_reserved(log, "moecl_skewed_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  uint64_t elements, bytes;
  if (!base_mul((uint64_t)params->num_tokens, (uint64_t)params->hidden_size, &elements) ||
      !base_mul(elements, moecl_dtype_size(params->dtype), &bytes) || bytes > buffer->bytes)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "fill_skewed: [%lld, %lld] does not fit a buffer of %llu bytes",
                     (long long)params->num_tokens, (long long)params->hidden_size,
                     (unsigned long long)buffer->bytes);
  return MOECL_OK;
}

/* Draws each token's cluster into `clusters`. */
static moecl_status draw_clusters(ocl_chain *chain, const moecl_skewed_params *params,
                                  moecl_buffer *clusters) {
  moecl_context *context = chain->context;
  moecl_buffer *thresholds = NULL;
  ocl_kernel *kernel = NULL;
  uint64_t bytes = (uint64_t)params->num_clusters * sizeof(uint32_t);
  uint32_t *host = zipf_thresholds(params->num_clusters, params->exponent);
  if (!host) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = ocl_buffer_filled(context, bytes, host, &thresholds);
  free(host);
  if (status == MOECL_OK) status = open_kernel(context, params->dtype, "skewed_clusters", &kernel);
  if (status == MOECL_OK)
    status = ocl_kernel_args(kernel, "bbuLLL", clusters, thresholds, (uint32_t)params->num_clusters,
                             (uint64_t)params->num_tokens, params->stream, params->seed);
  if (status == MOECL_OK) status = ocl_launch_items(chain, kernel, (uint64_t)params->num_tokens);
  ocl_kernel_destroy(&kernel);
  moecl_buffer_destroy(&thresholds);
  return status;
}

/* Some drivers take no more than 65535 groups in the second dimension. */
#define MAX_ROWS 65535

static moecl_status draw_rows(ocl_chain *chain, moecl_buffer *buffer, const moecl_buffer *clusters,
                              const moecl_skewed_params *params) {
  ocl_kernel *kernel = NULL;
  double noise = params->noise;
  double centre_factor = (float)(sqrt(1.0 - noise * noise) / sum_deviation());
  double own_factor = (float)(noise / sum_deviation());
  uint64_t rows = (uint64_t)params->num_tokens, width = (uint64_t)params->hidden_size;
  uint64_t row_blocks = base_div_up(width, 2);
  moecl_status status = open_kernel(chain->context, params->dtype, "fill_skewed", &kernel);
  for (uint64_t first = 0; status == MOECL_OK && first < rows; first += MAX_ROWS) {
    uint64_t some = rows - first < MAX_ROWS ? rows - first : MAX_ROWS;
    status = ocl_kernel_args(kernel, "bbLLLLLff", buffer, clusters, first, width, row_blocks,
                             params->stream, params->seed, centre_factor, own_factor);
    if (status == MOECL_OK)
      status = ocl_launch_items_2d(chain, kernel, base_div_up(width, PER_ITEM), some);
  }
  ocl_kernel_destroy(&kernel);
  return status;
}

moecl_status moecl_fill_skewed(moecl_buffer *buffer, const moecl_skewed_params *params) {
  if (!buffer) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(check_skewed(buffer, params));
  if (params->num_tokens == 0) return MOECL_OK;
  ocl_chain chain = {.context = buffer->context};
  moecl_buffer *clusters = NULL;
  moecl_status status = moecl_buffer_create(
      buffer->context, (uint64_t)params->num_tokens * sizeof(uint32_t), &clusters);
  if (status == MOECL_OK) status = draw_clusters(&chain, params, clusters);
  if (status == MOECL_OK) status = draw_rows(&chain, buffer, clusters, params);
  if (status == MOECL_OK) status = ocl_keep_order(buffer->context);
  moecl_buffer_destroy(&clusters);
  return status;
}
