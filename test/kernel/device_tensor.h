// SPDX-License-Identifier: MIT
/* Tensors of tests of single operations: a buffer, and the numbers that it holds. */
#ifndef MOECL_TEST_DEVICE_TENSOR_H
#define MOECL_TEST_DEVICE_TENSOR_H

#include "ops.h"
#include "desc/format.h"

enum { TENSOR_GUARD = 64 }; /* bytes behind it, that nobody may touch */

typedef struct device_tensor {
  double *values; /* as the buffer holds them */
  moecl_buffer *buffer;
  moecl_dtype dtype;
  size_t count;
} device_tensor;

static inline device_tensor tensor_make(const desc_format *format, size_t count) {
  device_tensor tensor = {.dtype = desc_format_dtype(format), .count = count};
  tensor.values = allocate(count * sizeof(double));
  assert_ok(moecl_buffer_create(context, count * moecl_dtype_size(tensor.dtype) + TENSOR_GUARD,
                                &tensor.buffer));
  assert_ok(moecl_buffer_fill_byte(tensor.buffer, 0, moecl_buffer_size(tensor.buffer), 0xff));
  return tensor;
}

static inline device_tensor tensor_draw(const desc_format *format, size_t count, uint64_t seed,
                                        double scale, double shift) {
  device_tensor tensor = tensor_make(format, count);
  float *random = allocate(count * sizeof *random);
  void *raw = allocate(count * sizeof(float));
  const moecl_random_params params = {
      .distribution = MOECL_NORMAL, .scale = 1, .seed = seed, .dtype = MOECL_F32};
  assert_ok(moecl_random_host(random, count, &params));
  for (size_t i = 0; i < count; i++) tensor.values[i] = scale * random[i] + shift;
  moecl_from_double(tensor.dtype, tensor.values, count, raw);
  moecl_to_double(tensor.dtype, raw, count, tensor.values);
  assert_ok(moecl_buffer_write_wait(tensor.buffer, 0, count * moecl_dtype_size(tensor.dtype), raw));
  free(random), free(raw);
  return tensor;
}

/* The buffer's numbers; nothing was written behind them. */
static inline double *tensor_read(const device_tensor *tensor) {
  const size_t bytes = tensor->count * moecl_dtype_size(tensor->dtype);
  unsigned char *raw = allocate(bytes + TENSOR_GUARD);
  double *values = allocate(tensor->count * sizeof *values);
  assert_ok(moecl_buffer_read_wait(tensor->buffer, 0, bytes + TENSOR_GUARD, raw));
  for (size_t i = bytes; i < bytes + TENSOR_GUARD; i++) assert_int_equal(raw[i], 0xff);
  moecl_to_double(tensor->dtype, raw, tensor->count, values);
  free(raw);
  return values;
}

static inline void tensor_release(device_tensor *tensors, int count) {
  for (int i = 0; i < count; i++) {
    free(tensors[i].values);
    moecl_buffer_destroy(&tensors[i].buffer);
  }
}

#endif
