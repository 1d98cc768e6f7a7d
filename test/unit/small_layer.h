// SPDX-License-Identifier: MIT
/* A layer of a few weights and tokens, for tests of what stands around it. */
#ifndef MOECL_TEST_SMALL_LAYER_H
#define MOECL_TEST_SMALL_LAYER_H

#include "unit.h"

enum { SMALL_TOKENS = 5, SMALL_HIDDEN = 16, SMALL_INNER = 8, SMALL_EXPERTS = 4 };

static const moecl_layer_params small_params = {.hidden_size = SMALL_HIDDEN,
                                                .intermediate_size = SMALL_INNER,
                                                .num_experts = SMALL_EXPERTS,
                                                .top_k = 2};

/* Numbers in [-1, 1), the same for the same `which`. */
static inline void small_fill(float *values, size_t count, unsigned which) {
  uint64_t state = which * UINT64_C(0x9e3779b97f4a7c15) + 1;
  for (size_t i = 0; i < count; i++) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    values[i] = (float)(state >> 40) * 0x1p-23f - 1;
  }
}

/* Gives an fp32 layer all its weights. */
static inline moecl_status small_weights(moecl_layer *layer, const moecl_layer_params *params) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    float values[SMALL_EXPERTS * 2 * SMALL_INNER * SMALL_HIDDEN];
    const int64_t items = moecl_layer_tensor_items(params, (moecl_tensor)t);
    const size_t count = (size_t)(items * moecl_layer_tensor_size(params, (moecl_tensor)t));
    if (count == 0) continue;
    assert_true(count <= sizeof values / sizeof *values);
    small_fill(values, count, (unsigned)t);
    MOECL_TRY(moecl_layer_set_weights(layer, (moecl_tensor)t, 0, items, values));
  }
  return MOECL_OK;
}

/* One forward after `before`, its output read back; `profile` and `before` may be NULL. */
static inline moecl_status small_forward_after(moecl_context *context, moecl_layer *layer,
                                               moecl_profile *profile, moecl_event *before,
                                               float output[SMALL_TOKENS * SMALL_HIDDEN]) {
  const uint64_t bytes = SMALL_TOKENS * SMALL_HIDDEN * sizeof(float);
  float input[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_buffer *hidden = NULL, *result = NULL;
  moecl_event *event = NULL;
  small_fill(input, sizeof input / sizeof *input, 1000);
  moecl_status status = moecl_buffer_create(context, bytes, &hidden);
  if (status == MOECL_OK) status = moecl_buffer_create(context, bytes, &result);
  if (status == MOECL_OK) status = moecl_buffer_write_wait(hidden, 0, bytes, input);
  const moecl_forward_params forward = {.num_tokens = SMALL_TOKENS,
                                        .hidden_states = hidden,
                                        .output = result,
                                        .seed = 7,
                                        .wait_list = before ? &before : NULL,
                                        .wait_count = before ? 1 : 0,
                                        .profile = profile};
  if (status == MOECL_OK) status = moecl_layer_forward(layer, &forward, &event);
  if (status == MOECL_OK) status = moecl_event_wait(event);
  if (status == MOECL_OK) status = moecl_buffer_read_wait(result, 0, bytes, output);
  moecl_event_destroy(&event);
  moecl_buffer_destroy(&result);
  moecl_buffer_destroy(&hidden);
  return status;
}

static inline moecl_status small_forward(moecl_context *context, moecl_layer *layer,
                                         moecl_profile *profile,
                                         float output[SMALL_TOKENS * SMALL_HIDDEN]) {
  return small_forward_after(context, layer, profile, NULL, output);
}

#endif
