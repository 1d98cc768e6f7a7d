// SPDX-License-Identifier: MIT
#include "ocl/program.h"
#include <string.h>

static moecl_status set_argument(ocl_kernel *kernel, uint32_t index, size_t size,
                                 const void *value) {
  cl_int code = clSetKernelArg(kernel->cl, index, size, value);
  if (code == CL_SUCCESS) return MOECL_OK;
  return log_error(&kernel->context->log, MOECL_ERROR_DEVICE,
                   "kernel %s, argument %u: clSetKernelArg failed: %s (%d)", kernel->name,
                   (unsigned)index, ocl_error_name(code), (int)code);
}

moecl_status ocl_kernel_arg_buffer(ocl_kernel *kernel, uint32_t index, const moecl_buffer *buffer) {
  return set_argument(kernel, index, sizeof(cl_mem), buffer ? &buffer->mem : NULL);
}

/* Takes the next of `args` (a pointer, so that it moves on for the caller). */
static moecl_status set_from_list(ocl_kernel *kernel, uint32_t index, char letter, va_list *args) {
  switch (letter) {
  case 'b': return ocl_kernel_arg_buffer(kernel, index, va_arg(*args, const moecl_buffer *));
  case 'i': {
    cl_int value = va_arg(*args, int32_t);
    return set_argument(kernel, index, sizeof value, &value);
  }
  case 'u': {
    cl_uint value = va_arg(*args, uint32_t);
    return set_argument(kernel, index, sizeof value, &value);
  }
  case 'l': {
    cl_long value = va_arg(*args, int64_t);
    return set_argument(kernel, index, sizeof value, &value);
  }
  case 'L': {
    cl_ulong value = va_arg(*args, uint64_t);
    return set_argument(kernel, index, sizeof value, &value);
  }
  case 'f': {
    cl_float value = (cl_float)va_arg(*args, double);
    return set_argument(kernel, index, sizeof value, &value);
  }
  case 's': return set_argument(kernel, index, va_arg(*args, size_t), NULL);
  case 'I': return set_argument(kernel, index, sizeof(cl_int8), va_arg(*args, const int32_t *));
  case 'J': return set_argument(kernel, index, sizeof(cl_long8), va_arg(*args, const int64_t *));
  default:
    return log_error(&kernel->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "kernel %s: '%c' is no argument letter", kernel->name, letter);
  }
}

static moecl_status set_all(ocl_kernel *kernel, uint32_t first, const char *format, va_list *args) {
  for (uint32_t i = 0; format[i]; i++) MOECL_TRY(set_from_list(kernel, first + i, format[i], args));
  return MOECL_OK;
}

moecl_status ocl_kernel_args(ocl_kernel *kernel, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const moecl_status status = set_all(kernel, 0, format, &args);
  va_end(args);
  return status;
}

moecl_status ocl_kernel_args_from(ocl_kernel *kernel, uint32_t first, const char *format, ...) {
  va_list args;
  va_start(args, format);
  const moecl_status status = set_all(kernel, first, format, &args);
  va_end(args);
  return status;
}

static moecl_status launch(ocl_chain *chain, ocl_kernel *kernel, cl_uint dimensions,
                           const size_t *global, const size_t *local) {
  MOECL_TRY(ocl_chain_order(chain));
  ocl_observer *observer = chain->observer;
  const bool watched = observer && observer->wants(observer, chain->last);
  cl_event timed = NULL;
  cl_int code = clEnqueueNDRangeKernel(chain->context->queue, kernel->cl, dimensions, NULL, global,
                                       local, 0, NULL, watched ? &timed : NULL);
  if (code == CL_SUCCESS) return ocl_chain_record(chain, kernel->name, timed);
  log_write(&chain->context->log, MOECL_LOG_ERROR, "kernel %s: global %llu x %llu, local %llu",
            kernel->name, (unsigned long long)global[0],
            (unsigned long long)(dimensions > 1 ? global[1] : 1), (unsigned long long)local[0]);
  return ocl_check(chain->context, code, "clEnqueueNDRangeKernel");
}

moecl_status ocl_launch_2d(ocl_chain *chain, ocl_kernel *kernel, uint64_t groups_x,
                           uint64_t groups_y, uint32_t local_x) {
  uint64_t items;
  if (groups_x == 0 || groups_y == 0) return MOECL_OK;
  if (local_x == 0 || !base_mul(groups_x, local_x, &items) || items > SIZE_MAX ||
      groups_y > SIZE_MAX)
    return log_error(&chain->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "kernel %s: %llu x %llu groups of %u are not a range", kernel->name,
                     (unsigned long long)groups_x, (unsigned long long)groups_y, local_x);
  size_t global[2] = {(size_t)items, (size_t)groups_y};
  size_t local[2] = {local_x, 1};
  return launch(chain, kernel, groups_y == 1 ? 1 : 2, global, local);
}

uint32_t ocl_local_size(const moecl_context *context, uint32_t wanted) {
  const uint64_t most = context->info.max_work_group_size;
  uint32_t size = wanted;
  while (most > 0 && size > most) size /= 2;
  return size;
}

moecl_status ocl_launch_items(ocl_chain *chain, ocl_kernel *kernel, uint64_t items) {
  return ocl_launch_items_2d(chain, kernel, items, 1);
}

moecl_status ocl_launch_items_2d(ocl_chain *chain, ocl_kernel *kernel, uint64_t items,
                                 uint64_t rows) {
  return ocl_launch_2d(chain, kernel, base_div_up(items, kernel->items), rows, kernel->items);
}

moecl_status ocl_launch(ocl_chain *chain, ocl_kernel *kernel, uint64_t groups, uint32_t local) {
  return ocl_launch_2d(chain, kernel, groups, 1, local);
}
