// SPDX-License-Identifier: MIT
/* What comes before a first forward: host memory through pinned pieces, weights by way of them,
 * and a workspace that is reserved. */
#include "../kernel/stand_in.h"
#include "layer/layer.h"
#include "small_layer.h"
#include <stdlib.h>

static moecl_context *open_context(void) {
  moecl_context *context = NULL;
  assert_ok(moecl_context_create(NULL, &context));
  return context;
}

static uint8_t byte_of(uint64_t at, unsigned which) {
  return (uint8_t)(at * 131 + (at >> 12) * 7 + which);
}

/* ---- transfers ---- */

enum { AT = 32 }; /* where in the buffer */

/* `to` has bytes of `which` there, and around them what was there before. */
static void check_bytes(moecl_buffer *to, uint64_t bytes, unsigned which) {
  const uint64_t size = moecl_buffer_size(to);
  uint8_t *got = malloc((size_t)size);
  assert_non_null(got);
  assert_ok(moecl_buffer_read_wait(to, 0, size, got));
  for (uint64_t i = 0; i < bytes; i++)
    if (got[AT + i] != byte_of(i, which)) fail_msg("byte %llu is wrong", (unsigned long long)i);
  for (uint64_t i = 0; i < size; i++)
    if (i < AT || i >= AT + bytes) assert_int_equal(got[i], 0xee);
  free(got);
}

/* Sizes around the pieces', of one transfer after another: src is overwritten as soon as the call
 * returns. */
static void test_transfers(void **state) {
  static const uint64_t sizes[] = {1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5, 21 << 20};
  moecl_context *context = open_context();
  (void)state;
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    moecl_buffer *to = NULL;
    cl_event before = NULL, done = NULL;
    uint8_t *src = malloc((size_t)sizes[s]);
    assert_non_null(src);
    for (uint64_t i = 0; i < sizes[s]; i++) src[i] = byte_of(i, (unsigned)s);
    assert_ok(moecl_buffer_create(context, sizes[s] + 64, &to));
    assert_ok(moecl_buffer_fill_byte(to, 0, sizes[s] + 64, 0xee));
    assert_ok(ocl_queue_mark(context, &before)); /* the copy comes after the filling */
    assert_ok(ocl_upload_write(context, src, to, AT, sizes[s], before, &done));
    memset(src, 0, (size_t)sizes[s]);
    assert_ok(ocl_queue_after(context, &done, 1));
    check_bytes(to, sizes[s], (unsigned)s);
    ocl_event_let_go(&before);
    ocl_event_let_go(&done);
    moecl_buffer_destroy(&to);
    free(src);
  }
  assert_int_equal(atomic_load(&context->references), 1); /* it does not keep itself */
  moecl_context_destroy(&context);
}

/* What a transfer comes after fails, and so it does: its event says so, and the next one is right.
 */
static void test_failed_transfer(void **state) {
  enum { BYTES = 1 << 20 };
  static uint8_t src[BYTES];
  moecl_context *context = open_context();
  moecl_buffer *to = NULL;
  cl_event done = NULL;
  cl_int code;
  (void)state;
  cl_event before = clCreateUserEvent(context->cl, &code);
  assert_int_equal(code, CL_SUCCESS);
  for (uint64_t i = 0; i < BYTES; i++) src[i] = byte_of(i, 3);
  assert_ok(moecl_buffer_create(context, BYTES + 64, &to));
  assert_ok(moecl_buffer_fill_byte(to, 0, BYTES + 64, 0xee));
  assert_ok(moecl_context_finish_wait(context));
  assert_ok(ocl_upload_write(context, src, to, AT, BYTES, before, &done));
  assert_int_equal(clSetUserEventStatus(before, -1), CL_SUCCESS);
  assert_int_equal(ocl_event_await(context, done), MOECL_ERROR_DEVICE);
  ocl_event_let_go(&before);
  ocl_event_let_go(&done);
  assert_ok(ocl_upload_write(context, src, to, AT, BYTES, NULL, &done));
  assert_ok(ocl_event_await(context, done));
  check_bytes(to, BYTES, 3);
  ocl_event_let_go(&done);
  moecl_buffer_destroy(&to);
  moecl_context_destroy(&context);
}

/* A write takes its place among what is enqueued, whichever way it goes. */
static void test_writes(void **state) {
  enum { BYTES = (3 << 20) + 7 };
  uint8_t *src = malloc(BYTES);
  (void)state;
  assert_non_null(src);
  for (int one_memory = 0; one_memory < 2; one_memory++) {
    moecl_context *context = open_context();
    moecl_buffer *to = NULL;
    context->one_memory = one_memory;
    for (uint64_t i = 0; i < BYTES; i++) src[i] = byte_of(i, 5);
    assert_ok(moecl_buffer_create(context, BYTES + 64, &to));
    assert_ok(moecl_buffer_fill_byte(to, 0, BYTES + 64, 0xee));
    assert_ok(moecl_buffer_write_wait(to, AT, BYTES, src));
    assert_int_equal(context->upload != NULL, !one_memory);
    memset(src, 0, BYTES);
    check_bytes(to, BYTES, 5);
    assert_int_equal(moecl_buffer_write_wait(to, 65, BYTES, src), MOECL_ERROR_INVALID_ARGUMENT);
    moecl_buffer_destroy(&to);
    moecl_context_destroy(&context);
  }
  free(src);
}

/* ---- weights ---- */

/* gate_up is packed in two parts, and its last expert is given once more by itself. */
static const moecl_layer_params wide = {.hidden_size = 1024,
                                        .intermediate_size = 1536,
                                        .num_experts = 6,
                                        .top_k = 2,
                                        .activation = MOECL_SWIGLU};
enum { WIDE_TOKENS = 3 };

static void give_weights(moecl_layer *layer) {
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const moecl_tensor tensor = (moecl_tensor)t;
    const int64_t items = moecl_layer_tensor_items(&wide, tensor);
    const size_t each = (size_t)moecl_layer_tensor_size(&wide, tensor);
    if (items == 0) continue;
    float *values = malloc((size_t)items * each * sizeof *values);
    assert_non_null(values);
    small_fill(values, (size_t)items * each, (unsigned)t);
    assert_ok(moecl_layer_set_weights(layer, tensor, 0, items, values));
    assert_ok(
        moecl_layer_set_weights(layer, tensor, items - 1, 1, values + (size_t)(items - 1) * each));
    free(values);
  }
}

static void run_wide(bool one_memory, float *output) {
  const uint64_t bytes = WIDE_TOKENS * 1024 * sizeof(float);
  moecl_context *context = open_context();
  moecl_layer *layer = NULL;
  moecl_buffer *hidden = NULL, *result = NULL;
  context->one_memory = one_memory;
  assert_ok(moecl_layer_create(context, &wide, &layer));
  give_weights(layer);
  const uint64_t held = moecl_context_memory(context, NULL);
  small_fill(output, WIDE_TOKENS * 1024, 99);
  assert_ok(moecl_buffer_create(context, bytes, &hidden));
  assert_ok(moecl_buffer_create(context, bytes, &result));
  assert_ok(moecl_buffer_write_wait(hidden, 0, bytes, output));
  const moecl_forward_params with = {
      .num_tokens = WIDE_TOKENS, .hidden_states = hidden, .output = result};
  assert_ok(moecl_layer_forward(layer, &with, NULL));
  assert_ok(moecl_buffer_read_wait(result, 0, bytes, output));
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&result);
  /* What the copies went through is gone with the last of the missing weights. */
  assert_true(held < moecl_layer_weight_bytes(layer) + (1 << 20));
  moecl_layer_destroy(&layer);
  assert_int_equal(moecl_context_memory(context, NULL), 0);
  moecl_context_destroy(&context);
}

static void test_weights(void **state) {
  static float by_writes[WIDE_TOKENS * 1024], by_uploads[WIDE_TOKENS * 1024];
  (void)state;
  run_wide(true, by_writes);
  run_wide(false, by_uploads);
  assert_memory_equal(by_writes, by_uploads, sizeof by_writes);
}

/* ---- the workspace ---- */

static void test_reserve(void **state) {
  enum { MANY = 300 };
  float output[SMALL_TOKENS * SMALL_HIDDEN], again[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_context *context = open_context();
  moecl_layer *layer = NULL;
  uint64_t most = 0;
  (void)state;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  const uint64_t before = moecl_context_memory(context, NULL);
  assert_ok(moecl_layer_reserve(layer, 0));
  assert_ok(moecl_layer_reserve(layer, MANY)); /* weights may follow */
  const uint64_t held = moecl_context_memory(context, NULL);
  for (int64_t tokens = 1; tokens <= MANY; tokens++) {
    const uint64_t bytes = moecl_layer_workspace_size(layer, tokens);
    most = bytes > most ? bytes : most;
  }
  assert_true(held >= before + most);
  assert_ok(moecl_layer_reserve(layer, MANY / 2));
  assert_int_equal(moecl_context_memory(context, NULL), held);
  assert_ok(small_weights(layer, &small_params));
  assert_ok(small_forward(context, layer, NULL, output));
  assert_int_equal(moecl_context_memory(context, NULL), held);
  assert_ok(moecl_layer_reserve(layer, MANY));
  assert_ok(small_forward(context, layer, NULL, again));
  assert_memory_equal(output, again, sizeof output);
  assert_int_equal(moecl_layer_reserve(layer, -1), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_layer_reserve(layer, MOECL_MAX_ASSIGNMENTS), MOECL_ERROR_INVALID_ARGUMENT);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

/* What a forward left in a workspace of its caller's is still there; in the layer's own, which was
 * too small, it is said to be gone. */
static void test_reserve_behind(void **state) {
  const uint64_t bytes = SMALL_TOKENS * SMALL_HIDDEN * sizeof(float);
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_context *context = open_context();
  moecl_layer *layer = NULL;
  moecl_buffer *workspace = NULL, *hidden = NULL, *result = NULL;
  moecl_routing before, after;
  (void)state;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  const uint64_t needed = moecl_layer_workspace_size(layer, SMALL_TOKENS);
  assert_ok(moecl_buffer_create(context, needed, &workspace));
  assert_ok(moecl_buffer_create(context, bytes, &hidden));
  assert_ok(moecl_buffer_create(context, bytes, &result));
  assert_ok(moecl_buffer_fill_byte(hidden, 0, bytes, 0x3e));
  const moecl_forward_params with = {.num_tokens = SMALL_TOKENS,
                                     .hidden_states = hidden,
                                     .output = result,
                                     .workspace = workspace};
  assert_ok(moecl_layer_forward(layer, &with, NULL));
  assert_ok(moecl_layer_read_routing_wait(layer, &before));
  assert_ok(moecl_layer_reserve(layer, SMALL_TOKENS));
  assert_ok(moecl_layer_read_routing_wait(layer, &after));
  assert_memory_equal(after.topk_weights, before.topk_weights,
                      (size_t)(before.num_tokens * before.top_k) * sizeof(float));
  moecl_routing_destroy(&after);
  assert_ok(small_forward(context, layer, NULL, output));
  assert_ok(moecl_layer_reserve(layer, 100 * SMALL_TOKENS));
  assert_int_equal(moecl_layer_read_routing_wait(layer, &after), MOECL_ERROR_NOT_READY);
  moecl_routing_destroy(&before);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&result);
  moecl_buffer_destroy(&workspace);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

/* However many sizes are reserved where nothing has to grow: the latest forward's routing is there,
 * and the next forward the same. */
static void test_reserve_many(void **state) {
  enum { MANY = 40 };
  float output[SMALL_TOKENS * SMALL_HIDDEN], again[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_context *context = open_context();
  moecl_layer *layer = NULL;
  moecl_routing before, after;
  (void)state;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  assert_ok(moecl_layer_reserve(layer, MANY));
  assert_ok(small_forward(context, layer, NULL, output));
  assert_ok(moecl_layer_read_routing_wait(layer, &before));
  for (int64_t tokens = 0; tokens <= MANY; tokens++) {
    assert_ok(moecl_layer_reserve(layer, tokens));
    assert_ok(moecl_layer_read_routing_wait(layer, &after));
    assert_int_equal(after.num_tokens, SMALL_TOKENS);
    assert_memory_equal(after.topk_weights, before.topk_weights,
                        (size_t)(before.num_tokens * before.top_k) * sizeof(float));
    moecl_routing_destroy(&after);
  }
  moecl_routing_destroy(&before);
  assert_ok(small_forward(context, layer, NULL, again));
  assert_memory_equal(output, again, sizeof output);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

static const moecl_layer_params shapes[] = {
    {.hidden_size = 64, .intermediate_size = 48, .num_experts = 4, .top_k = 2},
    {.hidden_size = 64, .intermediate_size = 512, .num_experts = 64, .top_k = 8},
    {.hidden_size = 2048, .intermediate_size = 64, .num_experts = 16, .top_k = 1},
    /* four tokens take more than five, whose tensors share better */
    {.hidden_size = 184,
     .intermediate_size = 680,
     .num_experts = 4,
     .top_k = 1,
     .shared_intermediate_size = 488},
    {.hidden_size = 128,
     .intermediate_size = 64,
     .num_experts = 8,
     .top_k = 2,
     .shared_intermediate_size = 640,
     .shared_gate = true},
    {.hidden_size = 256, .intermediate_size = 64, .num_experts = 256, .top_k = 8, .jitter = 0.1f},
    {.hidden_size = 64,
     .intermediate_size = 64,
     .num_experts = 32,
     .top_k = 4,
     .capacity_factor = 1.5,
     .drop_policy = MOECL_DROP_PROBABILITY,
     .renormalize_after_capacity = true}};

/* Layers that are described only, of whatever variant the capabilities allow. */
static void check_shape(const stand_in *place, uint32_t capabilities,
                        const moecl_layer_params *shape) {
  enum { MOST = 260 };
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  moecl_layer_params with = *shape;
  uint64_t most = 0, found;
  with.dtype = MOECL_BF16;
  assert_ok(stand_in_open(place, &context));
  if (capabilities) context->info.capabilities = capabilities | MOECL_CAP_LONG_LOOPS;
  context->info.compute_units = 8;
  assert_ok(layer_make(context, &with, true, &layer));
  const plan_builder plans = layer_plans(layer);
  for (int64_t tokens = 0; tokens <= MOST; tokens++) {
    const uint64_t bytes = tokens ? moecl_layer_workspace_size(layer, tokens) : 0;
    most = bytes > most ? bytes : most;
    assert_ok(plan_most_workspace(&plans, context, tokens, 0, &found));
    assert_int_equal(found, most);
  }
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

static void test_largest_workspace(void **state) {
  static const uint32_t capabilities[] = {
      0, MOECL_CAP_LOCAL_MEMORY | MOECL_CAP_PTX_SM80 | MOECL_CAP_PTX_SM90A,
      MOECL_CAP_LOCAL_MEMORY | MOECL_CAP_MFMA, MOECL_CAP_LOCAL_MEMORY};
  stand_in place;
  (void)state;
  assert_true(stand_in_make(&place));
  for (size_t c = 0; c < BASE_COUNT(capabilities); c++)
    for (size_t s = 0; s < BASE_COUNT(shapes); s++)
      check_shape(&place, capabilities[c], &shapes[s]);
  stand_in_remove(&place);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_transfers),    cmocka_unit_test(test_failed_transfer),
      cmocka_unit_test(test_writes),       cmocka_unit_test(test_weights),
      cmocka_unit_test(test_reserve),      cmocka_unit_test(test_reserve_behind),
      cmocka_unit_test(test_reserve_many), cmocka_unit_test(test_largest_workspace)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
