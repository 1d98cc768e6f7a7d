// SPDX-License-Identifier: MIT
/* The calls of include/moecl/random.h: checks of what a caller hands over, and the same
 * numbers in plain C. */
#include "base/base.h"
#include "moecl/random.h"
#include "op/random/random.h"
#include <Random123/philox.h>
#include <math.h>
#include <string.h>

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

/* Draws once, in order with what the context's queue has and gets. */
static moecl_status draw(moecl_context *context, const op_random_desc *desc,
                         const op_random_io *io) {
  op_random random;
  ocl_chain chain = {.context = context};
  const op_choice choice = {.kind = &op_random_kind, .desc = desc, .format = desc->format};
  MOECL_TRY(op_choose(context, &choice, &random, NULL, NULL));
  moecl_status status = op_random_enqueue(&random, &chain, io);
  if (status == MOECL_OK) status = ocl_keep_order(context);
  op_random_kind.release(&random);
  return status;
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
  const op_random_desc desc = {.format = desc_format_of(params->dtype),
                               .draws = (int)params->distribution,
                               .scale = params->scale};
  const op_random_io io = {.output = buffer,
                           .seed = params->seed,
                           .stream = params->stream,
                           .offset = offset,
                           .count = count,
                           .first_index = params->first_index};
  return draw(context, &desc, &io);
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
  const float factor = op_random_factor((int)params->distribution, params->scale);
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

moecl_status moecl_fill_skewed(moecl_buffer *buffer, const moecl_skewed_params *params) {
  if (!buffer) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(check_skewed(buffer, params));
  if (params->num_tokens == 0) return MOECL_OK;
  const op_random_desc desc = {.format = desc_format_of(params->dtype),
                               .draws = DRAWS_SKEWED,
                               .hidden_size = params->hidden_size,
                               .num_clusters = params->num_clusters,
                               .exponent = params->exponent,
                               .noise = params->noise};
  moecl_buffer *clusters = NULL;
  MOECL_TRY(moecl_buffer_create(buffer->context, (uint64_t)params->num_tokens * sizeof(uint32_t),
                                &clusters));
  const op_random_io io = {.output = buffer,
                           .seed = params->seed,
                           .stream = params->stream,
                           .num_tokens = params->num_tokens,
                           .clusters = clusters};
  const moecl_status status = draw(buffer->context, &desc, &io);
  moecl_buffer_destroy(&clusters);
  return status;
}
