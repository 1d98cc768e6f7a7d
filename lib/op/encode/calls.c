// SPDX-License-Identifier: MIT
/* The calls of include/moecl/quantize.h: checks of what a caller hands over, on the device and in
 * plain C. */
#include "base/base.h"
#include "desc/quantized.h"
#include "moecl/quantize.h"
#include "op/encode/encode.h"

static bool has_scales(moecl_format format) {
  return (int)format > MOECL_FORMAT_DTYPE && format < MOECL_FORMAT_COUNT &&
         desc_is_quantized(&desc_formats[format]);
}

/* Bytes of all matrices, before and after; `log` may be NULL. */
static moecl_status check_params(const moecl_log *log, const moecl_quantize_params *params,
                                 uint64_t *read, uint64_t *written) {
  if (!params || moecl_dtype_size(params->dtype) == 0 || !has_scales(params->format) ||
      (unsigned)params->scale_search >= MOECL_SCALE_SEARCH_COUNT)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "quantize: a dtype, a format with scales and a scale_search are required");
  MOECL_TRY(log_check_reserved(log, "moecl_quantize_params", params->reserved,
                               BASE_COUNT(params->reserved)));
  const uint64_t one = moecl_format_bytes(params->format, params->rows, params->columns);
  uint64_t count;
  if (!base_mul(params->rows, params->columns, &count) ||
      !base_mul(count, moecl_dtype_size(params->dtype), &count) ||
      !base_mul(count, params->matrices, read) || one == UINT64_MAX ||
      !base_mul(one, params->matrices, written) || *written > INT64_MAX || *read > INT64_MAX)
    return log_error(log, MOECL_ERROR_INVALID_ARGUMENT,
                     "quantize: %llu matrices [%llu, %llu] are beyond what 63 bits count",
                     (unsigned long long)params->matrices, (unsigned long long)params->rows,
                     (unsigned long long)params->columns);
  return MOECL_OK;
}

static moecl_status check_range(const moecl_buffer *buffer, const char *what, uint64_t offset,
                                uint64_t bytes, uint64_t align) {
  if (offset % align == 0 && offset <= buffer->bytes && bytes <= buffer->bytes - offset)
    return MOECL_OK;
  return log_error(&buffer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "quantize: %s, %llu bytes from %llu on, has to be within its buffer of %llu and "
                   "to begin at a multiple of %llu",
                   what, (unsigned long long)bytes, (unsigned long long)offset,
                   (unsigned long long)buffer->bytes, (unsigned long long)align);
}

/* Do the ranges share bytes, of one memory? */
static bool overlap(const moecl_buffer *a, uint64_t a_offset, uint64_t a_bytes,
                    const moecl_buffer *b, uint64_t b_offset, uint64_t b_bytes) {
  const uint64_t a_at = a->origin + a_offset, b_at = b->origin + b_offset;
  return a->root == b->root && a_at < b_at + b_bytes && b_at < a_at + a_bytes;
}

/* Once, in order with what the context's queue has and gets. */
static moecl_status encode(moecl_context *context, const op_encode_desc *desc, op_encode_io *io) {
  op_encode op;
  ocl_chain chain = {.context = context};
  moecl_buffer *errors = NULL;
  const op_choice choice = {.kind = &op_encode_kind, .desc = desc, .format = desc->numbers};
  const uint64_t bytes = op_encode_errors_bytes(desc, io->matrices);
  MOECL_TRY(op_choose(context, &choice, &op, NULL, NULL));
  moecl_status status = bytes ? moecl_buffer_create(context, bytes, &errors) : MOECL_OK;
  io->errors = errors;
  if (status == MOECL_OK) status = op_encode_enqueue(&op, &chain, io);
  if (status == MOECL_OK) status = ocl_keep_order(context);
  moecl_buffer_destroy(&errors);
  op_encode_kind.release(&op);
  return status;
}

moecl_status moecl_quantize(const moecl_quantize_params *params, const moecl_buffer *src,
                            uint64_t src_offset, moecl_buffer *dst, uint64_t dst_offset) {
  uint64_t read, written;
  if (!src || !dst) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_context *context = dst->context;
  MOECL_TRY(check_params(&context->log, params, &read, &written));
  MOECL_TRY(ocl_check_owner(context, src->context, "src"));
  const uint64_t size = moecl_dtype_size(params->dtype);
  MOECL_TRY(check_range(src, "src", src_offset, read, size));
  MOECL_TRY(check_range(dst, "dst", dst_offset, written, 16));
  if (overlap(src, src_offset, read, dst, dst_offset, written))
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "quantize: src and dst share memory");
  if (written == 0) return MOECL_OK;
  const op_encode_desc desc = {.numbers = desc_format_of(params->dtype),
                               .codes = &desc_formats[params->format],
                               .search = params->scale_search};
  op_encode_io io = {.matrices = params->matrices,
                     .rows = params->rows,
                     .columns = params->columns,
                     .numbers = src,
                     .codes = dst,
                     .first_number = src_offset / size,
                     .first_byte = dst_offset};
  return encode(context, &desc, &io);
}

moecl_status moecl_quantize_host(const moecl_quantize_params *params, const double *src,
                                 void *dst) {
  uint64_t read, written;
  MOECL_TRY(check_params(NULL, params, &read, &written));
  if (written == 0) return MOECL_OK;
  if (!src || !dst) return MOECL_ERROR_INVALID_ARGUMENT;
  for (uint64_t m = 0; m < params->matrices; m++)
    desc_quantize(&desc_formats[params->format], params->scale_search,
                  src + m * params->rows * params->columns, params->rows, params->columns,
                  (char *)dst + m * (written / params->matrices));
  return MOECL_OK;
}
