// SPDX-License-Identifier: MIT
/* What the layer's tests share: one forward pass with everything around it. */
#ifndef MOECL_TEST_LAYER_RUN_H
#define MOECL_TEST_LAYER_RUN_H

#include "../unit/unit.h"
#include "cases.h"
#include "layers.h"
#include "op/gemm/gemm.h"

/* Does the variant take sizes that are no multiples of 8? */
static inline bool takes_odd_sizes(const char *gemm) {
  const desc_format *any = desc_format_of(MOECL_BF16); /* but one for all */
  const op_gemm_desc odd = {
      .n = 37, .k = 19, .weights = any, .biases = any, .input = any, .output = any};
  for (size_t v = 0; v < op_gemm_table.count; v++)
    if (strcmp(op_gemm_table.rows[v].name, gemm) == 0)
      return kernel_variant_accepts(&op_gemm_table.rows[v], &odd);
  return true;
}

static inline void *read_all(const moecl_buffer *buffer) {
  void *bytes = malloc(moecl_buffer_size(buffer) + 1);
  assert_non_null(bytes);
  assert_ok(moecl_buffer_read_wait(buffer, 0, moecl_buffer_size(buffer), bytes));
  return bytes;
}

/* A buffer that holds `bytes` of src; `before` bytes of something else first. */
static inline moecl_buffer *upload(moecl_context *context, const void *src, uint64_t bytes,
                                   uint64_t before) {
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, before + bytes, &buffer));
  assert_ok(moecl_buffer_fill_byte(buffer, 0, before + bytes, 0xff));
  if (bytes) assert_ok(moecl_buffer_write_wait(buffer, before, bytes, src));
  return buffer;
}

/* One tensor: all of it from the host, all of it from a buffer, or half each. */
static inline void set_tensor(moecl_context *context, moecl_layer *layer, const case_data *data,
                              moecl_tensor tensor, bool from_host, bool from_buffer) {
  const int64_t items = moecl_layer_tensor_items(&data->layer, tensor);
  const size_t one = (size_t)moecl_layer_tensor_bytes(&data->layer, tensor);
  const int64_t on_host = !from_buffer ? items : !from_host ? 0 : (items + 1) / 2;
  const char *bytes = data->tensor[tensor];
  assert_ok(moecl_layer_set_weights(layer, tensor, 0, on_host, bytes));
  if (on_host == items) return;
  const uint64_t before = 48; /* elements of any size, and 16 bytes */
  moecl_buffer *source =
      upload(context, bytes + (size_t)on_host * one, (uint64_t)(items - on_host) * one, before);
  assert_ok(
      moecl_layer_set_weights_buffer(layer, tensor, on_host, items - on_host, source, before));
  moecl_buffer_destroy(&source);
}

/* A layer with the data's weights, given in every way there is. */
static inline moecl_layer *make_layer(moecl_context *context, const case_data *data,
                                      const char *gemm, const char *router) {
  moecl_layer_params params = data->layer;
  params.grouped_gemm_variant = gemm;
  params.router_variant = router;
  moecl_layer *layer = NULL;
  assert_ok(moecl_layer_create(context, &params, &layer));
  const bool many = params.num_experts > 64; /* one by one from the host is slow */
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++)
    if (data->tensor[i])
      set_tensor(context, layer, data, (moecl_tensor)i,
                 !many && i != MOECL_DOWN_PROJ && i != MOECL_GATE_UP_BIAS,
                 many || i == MOECL_GATE_UP_PROJ || i == MOECL_DOWN_PROJ || i == MOECL_DOWN_BIAS);
  return layer;
}

enum { GUARD = 256 }; /* bytes behind the output that nobody may touch */

/* One pass into an output poisoned before; returns the output's bytes. */
static inline void *run_layer(moecl_context *context, moecl_layer *layer, const case_data *data,
                              moecl_buffer *workspace) {
  const size_t bytes = case_hidden_bytes(data);
  moecl_buffer *input = upload(context, data->hidden, bytes, 0), *output = NULL;
  moecl_event *done = NULL;
  assert_ok(moecl_buffer_create(context, bytes + GUARD, &output));
  assert_ok(moecl_buffer_fill_byte(output, 0, bytes + GUARD, 0xff));
  const moecl_forward_params forward = {.num_tokens = data->source->num_tokens,
                                        .hidden_states = input,
                                        .output = output,
                                        .workspace = workspace,
                                        .seed = data->seed};
  assert_ok(moecl_layer_forward(layer, &forward, &done));
  assert_non_null(done);
  assert_ok(moecl_event_wait(done));
  moecl_event_destroy(&done);
  unsigned char *result = read_all(output), *after = read_all(input);
  for (size_t i = bytes; i < bytes + GUARD; i++) assert_int_equal(result[i], 0xff);
  if (bytes) assert_memory_equal(after, data->hidden, bytes);
  free(after);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  return result;
}

/* Not the benchmark's, which may be wrong: what fp32 and the narrower types leave. */
static inline double layer_tolerance(const moecl_layer *layer) {
  const double roundoff = moecl_layer_roundoff(layer);
  return roundoff <= 0x1p-23 ? 1e-5 : 1e-2;
}

static inline bool check_output(const case_data *data, const moecl_layer *layer,
                                const char *variant, const moecl_routing *routing,
                                const void *output) {
  const size_t count = (size_t)(data->source->num_tokens * data->layer.hidden_size);
  double *got = malloc((count + 1) * sizeof *got), *want = case_reference_output(data, routing);
  assert_true(got && want);
  moecl_to_double(data->layer.dtype, output, count, got);
  const bool ok = case_compare(data, variant, "output", got, want, count, layer_tolerance(layer));
  free(got);
  free(want);
  return ok;
}

#endif
