// SPDX-License-Identifier: MIT
/* What the layer promises beside right numbers: non-finite input is reported
 * and kept apart, misuse is refused, buffers may be parts of others. */
#include "../unit/event_times.h"
#include "kernel/variant.h"
#include "layer_run.h"
#include "moecl/opencl.h"
#include "layer/layer.h"
#include "op/gemm/driver.h"
#include <math.h>

static moecl_context *context;
static test_log logged = {.level = MOECL_LOG_ERROR};

static int clear_log(void **state) {
  (void)state;
  base_text_free(&logged.text);
  return 0;
}

static const moe_case *plain(void) {
  const moe_case *found = case_find("plain");
  assert_non_null(found);
  return found;
}

static void make(const char *name, moecl_dtype dtype, case_data *data) {
  const moe_case *source = case_find(name);
  assert_non_null(source);
  assert_true(case_make(source, dtype, case_seed(), data));
}

/* ---- input that is not finite ---- */

static void spoil(case_data *data, int64_t token, int64_t element, double value) {
  const int64_t at = token * data->layer.hidden_size + element;
  data->hidden_values[at] = value;
  moecl_from_double(data->layer.dtype, &value, 1,
                    (char *)data->hidden + (size_t)at * moecl_dtype_size(data->layer.dtype));
}

static void check_token_is_out(const case_data *data, const moecl_routing *routing,
                               const double *output, int64_t token) {
  for (int64_t k = 0; k < routing->top_k; k++) {
    const int64_t at = token * routing->top_k + k;
    assert_int_equal(routing->topk_ids[at], -1);
    assert_true(routing->topk_weights[at] == 0.0f);
    assert_int_equal(routing->kept[at], 0);
  }
  for (int64_t h = 0; h < data->layer.hidden_size; h++)
    assert_true(output[token * data->layer.hidden_size + h] == 0.0);
}

/* Everyone else's routing is what it was without the spoilt tokens. */
static void check_others(const moecl_routing *before, const moecl_routing *after) {
  for (int64_t i = 0; i < after->num_tokens * after->top_k; i++) {
    if (after->topk_ids[i] < 0) continue;
    assert_int_equal(after->topk_ids[i], before->topk_ids[i]);
    assert_true(after->topk_weights[i] == before->topk_weights[i]);
  }
}

static void check_nonfinite(const char *name, const char *gemm, moecl_dtype dtype) {
  case_data data;
  moecl_routing before, after;
  make(name, dtype, &data);
  moecl_layer *layer = make_layer(context, &data, gemm, NULL);
  free(run_layer(context, layer, &data, NULL));
  assert_ok(moecl_layer_read_routing_wait(layer, &before));
  const int64_t last = data.source->num_tokens - 1;
  spoil(&data, 7, 3, NAN);
  spoil(&data, 20, 0, INFINITY);
  spoil(&data, last, data.layer.hidden_size - 1, -INFINITY);
  void *output = run_layer(context, layer, &data, NULL);
  assert_ok(moecl_layer_read_routing_wait(layer, &after));
  assert_int_equal(after.statistics.nonfinite_tokens, 3);
  assert_int_equal(after.statistics.first_nonfinite_token, 7);
  assert_true(isfinite(after.statistics.load_balancing_loss));
  assert_true(isfinite(after.statistics.router_z_loss) && isfinite(after.statistics.entropy));
  const size_t count = (size_t)(data.source->num_tokens * data.layer.hidden_size);
  double *values = malloc(count * sizeof *values);
  assert_non_null(values);
  moecl_to_double(dtype, output, count, values);
  check_token_is_out(&data, &after, values, 7);
  check_token_is_out(&data, &after, values, 20);
  check_token_is_out(&data, &after, values, last);
  check_others(&before, &after);
  assert_true(check_output(&data, layer, gemm, &after, output));
  moecl_routing_destroy(&before);
  moecl_routing_destroy(&after);
  moecl_layer_destroy(&layer);
  case_release(&data);
  free(values);
  free(output);
}

static void test_nonfinite(void **state) {
  const char *gemms[32];
  (void)state;
  const size_t count = moecl_variants_available(context, "grouped_gemm", MOECL_F32, gemms, 32);
  for (size_t i = 0; i < count; i++) {
    check_nonfinite("plain", gemms[i], MOECL_F32);
    check_nonfinite("capacity by position", gemms[i], MOECL_F32);
    if (takes_odd_sizes(gemms[i])) check_nonfinite("jitter", gemms[i], MOECL_F32);
  }
  check_nonfinite("capacity by probability", NULL, MOECL_F32);
  check_nonfinite("odd", NULL, MOECL_BF16);
  check_nonfinite("odd", NULL, MOECL_F16);
}

/* Every token spoilt: no expert has anything to do. */
static void test_all_nonfinite(void **state) {
  case_data data;
  moecl_routing routing;
  (void)state;
  make("plain", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  for (int64_t t = 0; t < data.source->num_tokens; t++) spoil(&data, t, 1, NAN);
  float *output = run_layer(context, layer, &data, NULL);
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  assert_int_equal(routing.statistics.nonfinite_tokens, data.source->num_tokens);
  assert_int_equal(routing.statistics.first_nonfinite_token, 0);
  assert_true(routing.statistics.load_balancing_loss == 0.0);
  for (int64_t i = 0; i < data.source->num_tokens * data.layer.hidden_size; i++)
    assert_true(output[i] == 0.0f);
  moecl_routing_destroy(&routing);
  moecl_layer_destroy(&layer);
  case_release(&data);
  free(output);
}

/* ---- several layers, sizes and buffers ---- */

static void check_layer(moecl_layer *layer, const case_data *data, const void *output) {
  moecl_routing routing;
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  assert_true(case_check_routing(data, "default", &routing));
  assert_true(check_output(data, layer, "default", &routing, output));
  moecl_routing_destroy(&routing);
}

/* ---- whole layers of every activation; test_activation.c has every variant ---- */

static void test_activations(void **state) {
  (void)state;
  for (int activation = 0; activation < MOECL_ACTIVATION_COUNT; activation++) {
    const moe_case source = {.name = moecl_activation_name((moecl_activation)activation),
                             .layer = {.hidden_size = 33,
                                       .intermediate_size = 29,
                                       .num_experts = 5,
                                       .top_k = 2,
                                       .gate_up_bias = true,
                                       .down_bias = true,
                                       .shared_intermediate_size = 17,
                                       .activation = (moecl_activation)activation},
                             .num_tokens = 40};
    case_data data;
    assert_true(case_make(&source, MOECL_F32, case_seed(), &data));
    moecl_layer *layer = make_layer(context, &data, NULL, NULL);
    unsigned char *output = run_layer(context, layer, &data, NULL);
    check_layer(layer, &data, output);
    moecl_layer_destroy(&layer);
    case_release(&data);
    free(output);
  }
}

static moecl_buffer *shared_workspace(moecl_layer *a, int64_t tokens_a, moecl_layer *b,
                                      int64_t tokens_b) {
  const uint64_t for_a = moecl_layer_workspace_size(a, tokens_a);
  const uint64_t for_b = moecl_layer_workspace_size(b, tokens_b);
  moecl_buffer *workspace = NULL;
  assert_ok(moecl_buffer_create(context, for_a > for_b ? for_a : for_b, &workspace));
  return workspace;
}

/* Two layers take turns, in workspaces of their own and in a shared one. */
static void test_two_layers(void **state) {
  case_data first, second;
  (void)state;
  make("odd", MOECL_F32, &first);
  make("biases, odd", MOECL_BF16, &second);
  moecl_layer *a = make_layer(context, &first, NULL, NULL);
  moecl_layer *b = make_layer(context, &second, NULL, NULL);
  moecl_buffer *shared =
      shared_workspace(a, first.source->num_tokens, b, second.source->num_tokens);
  for (int turn = 0; turn < 4; turn++) {
    moecl_buffer *workspace = turn % 2 ? shared : NULL;
    void *x = run_layer(context, a, &first, workspace);
    if (workspace) check_layer(a, &first, x); /* before b uses it */
    void *y = run_layer(context, b, &second, workspace);
    if (!workspace) check_layer(a, &first, x);
    check_layer(b, &second, y);
    free(x);
    free(y);
  }
  moecl_buffer_destroy(&shared);
  moecl_layer_destroy(&a);
  moecl_layer_destroy(&b);
  case_release(&first);
  case_release(&second);
}

/* One layer, batches that grow and shrink. */
static void test_batch_sizes(void **state) {
  /* More than a layer keeps plans of, and again. */
  static const int64_t sizes[] = {5, 100, 1, 0, 49, 100, 2, 3, 4, 6, 7, 8, 9, 5, 100, 10, 1};
  const moe_case *base = plain();
  case_data data;
  (void)state;
  assert_true(case_make(base, MOECL_F32, case_seed(), &data));
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    moe_case batch = *base;
    batch.num_tokens = sizes[i];
    data.source = &batch; /* the first rows of the same hidden states */
    void *output = run_layer(context, layer, &data, NULL);
    check_layer(layer, &data, output);
    free(output);
    data.source = base;
  }
  moecl_layer_destroy(&layer);
  case_release(&data);
}

/* Input, output and workspace as parts of one buffer. */
static void test_views(void **state) {
  case_data data;
  (void)state;
  make("odd", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  const uint64_t align = moecl_buffer_alignment(context), bytes = case_hidden_bytes(&data);
  const uint64_t stride = base_round_up(bytes, align) + align;
  const uint64_t need = moecl_layer_workspace_size(layer, data.source->num_tokens);
  moecl_buffer *whole = NULL, *input = NULL, *output = NULL, *workspace = NULL;
  assert_ok(moecl_buffer_create(context, 2 * stride + align + need + align, &whole));
  assert_ok(moecl_buffer_fill_byte(whole, 0, moecl_buffer_size(whole), 0xff));
  assert_ok(moecl_buffer_view(whole, align, bytes, &output));
  assert_ok(moecl_buffer_view(whole, stride + align, bytes, &input));
  assert_ok(moecl_buffer_view(whole, 2 * stride + align, need, &workspace));
  assert_ok(moecl_buffer_write_wait(input, 0, bytes, data.hidden));
  const moecl_forward_params forward = {.num_tokens = data.source->num_tokens,
                                        .hidden_states = input,
                                        .output = output,
                                        .workspace = workspace,
                                        .seed = data.seed};
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  unsigned char *result = read_all(output), *all = read_all(whole);
  check_layer(layer, &data, result);
  for (uint64_t i = 0; i < moecl_buffer_size(whole); i++) {
    const bool outside = i < align || (i >= align + bytes && i < align + stride) ||
                         (i >= align + stride + bytes && i < align + 2 * stride) ||
                         i >= align + 2 * stride + need;
    if (outside) assert_int_equal(all[i], 0xff);
  }
  moecl_buffer_destroy(&whole); /* the views keep it */
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  void *again = read_all(output);
  assert_memory_equal(result, again, bytes);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_buffer_destroy(&workspace);
  moecl_layer_destroy(&layer);
  case_release(&data);
  free(result), free(again), free(all);
}

/* Weights given again replace the old ones. */
static void test_new_weights(void **state) {
  case_data first, second;
  (void)state;
  make("plain", MOECL_F32, &first);
  assert_true(case_make(plain(), MOECL_F32, case_seed() + 1, &second));
  moecl_layer *layer = make_layer(context, &first, NULL, NULL);
  void *output = run_layer(context, layer, &first, NULL);
  check_layer(layer, &first, output);
  free(output);
  for (int i = 0; i < MOECL_TENSOR_COUNT; i++)
    if (second.tensor[i]) set_tensor(context, layer, &second, (moecl_tensor)i, true, true);
  output = run_layer(context, layer, &second, NULL);
  check_layer(layer, &second, output);
  free(output);
  moecl_layer_destroy(&layer);
  case_release(&first);
  case_release(&second);
}

/* On a queue that keeps no order, the source may be overwritten by the caller's
 * next command. */
static void test_source_reused(void **state) {
  const cl_queue_properties properties[] = {CL_QUEUE_PROPERTIES,
                                            CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, 0};
  const moecl_layer_params params = {.hidden_size = 2048,
                                     .intermediate_size = 1024,
                                     .num_experts = 4,
                                     .top_k = 1,
                                     .grouped_gemm_variant = "generic"}; /* packs as it comes */
  moecl_context *own = NULL;
  moecl_layer *layer = NULL;
  moecl_buffer *source = NULL;
  cl_int code;
  (void)state;
  cl_command_queue queue = clCreateCommandQueueWithProperties(moecl_context_cl(context),
                                                              context->device, properties, &code);
  if (code != CL_SUCCESS) skip();
  assert_ok(
      moecl_context_create_from_cl(moecl_context_cl(context), context->device, queue, NULL, &own));
  assert_ok(moecl_layer_create(own, &params, &layer));
  const uint64_t bytes = moecl_buffer_size(layer->gate_up->weights);
  assert_ok(moecl_buffer_create(own, bytes, &source));
  for (int turn = 0; turn < 3; turn++) {
    const unsigned char old = (unsigned char)(turn + 1), new = 0xee;
    assert_ok(moecl_buffer_fill_byte(source, 0, bytes, old));
    assert_ok(moecl_context_finish_wait(own));
    assert_ok(moecl_layer_set_weights_buffer(layer, MOECL_GATE_UP_PROJ, 0, 4, source, 0));
    assert_int_equal(
        clEnqueueFillBuffer(queue, moecl_buffer_cl(source), &new, 1, 0, bytes, 0, NULL, NULL),
        CL_SUCCESS);
    unsigned char *packed = read_all(layer->gate_up->weights);
    for (uint64_t i = 0; i < bytes; i += 4) assert_int_equal(packed[i], old);
    free(packed);
  }
  moecl_buffer_destroy(&source);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&own);
  clReleaseCommandQueue(queue);
}

/* A forward starts after its wait list, and its event tells when it is done. */
static void test_wait_list(void **state) {
  case_data data;
  cl_int code;
  (void)state;
  make("plain", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  const size_t bytes = case_hidden_bytes(&data);
  moecl_buffer *input = upload(context, data.hidden, bytes, 0),
               *output = upload(context, data.hidden, bytes, 0);
  cl_event gate = clCreateUserEvent(moecl_context_cl(context), &code);
  assert_int_equal(code, CL_SUCCESS);
  moecl_event *wait = NULL, *done = NULL;
  assert_ok(moecl_event_wrap(context, gate, &wait));
  const moecl_forward_params forward = {.num_tokens = data.source->num_tokens,
                                        .hidden_states = input,
                                        .output = output,
                                        .wait_list = &wait,
                                        .wait_count = 1};
  assert_ok(moecl_layer_forward(layer, &forward, &done));
  cl_int progress = CL_COMPLETE;
  clGetEventInfo(moecl_event_cl(done), CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof progress,
                 &progress, NULL);
  assert_int_not_equal(progress, CL_COMPLETE);
  assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  assert_ok(moecl_event_wait(done));
  void *result = read_all(output);
  data.seed = 0;
  check_layer(layer, &data, result);
  free(result);
  moecl_event_destroy(&wait);
  moecl_event_destroy(&done);
  clReleaseEvent(gate);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

/* What a forward that failed has left is no routing. */
static void test_failed_forward(void **state) {
  moecl_event *const none = NULL;
  moecl_routing routing;
  case_data data;
  (void)state;
  make("plain", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  free(run_layer(context, layer, &data, NULL));
  moecl_buffer *input = upload(context, data.hidden, case_hidden_bytes(&data), 0),
               *output = upload(context, data.hidden, case_hidden_bytes(&data), 0);
  moecl_forward_params forward = {.num_tokens = data.source->num_tokens - 1,
                                  .hidden_states = input,
                                  .output = output,
                                  .wait_list = &none,
                                  .wait_count = 1};
  assert_int_equal(moecl_layer_forward(layer, &forward, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_layer_read_routing_wait(layer, &routing), MOECL_ERROR_NOT_READY);
  forward.wait_count = 0; /* and the layer goes on */
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  assert_ok(moecl_layer_read_routing_wait(layer, &routing));
  assert_int_equal(routing.num_tokens, data.source->num_tokens - 1);
  moecl_routing_destroy(&routing);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

/* The layer keeps its context alive. */
static void test_lifetime(void **state) {
  moecl_context *own = NULL;
  case_data data;
  (void)state;
  assert_ok(moecl_context_create(NULL, &own));
  make("three tokens", MOECL_F32, &data);
  moecl_layer *layer = make_layer(own, &data, NULL, NULL);
  moecl_buffer *held = NULL;
  assert_ok(moecl_buffer_create(own, 1, &held));
  moecl_context *same = own;
  moecl_context_destroy(&own);
  void *output = run_layer(same, layer, &data, NULL);
  check_layer(layer, &data, output);
  free(output);
  moecl_layer_destroy(&layer);
  moecl_layer_destroy(&layer);
  moecl_layer_destroy(NULL);
  moecl_buffer_destroy(&held);
  case_release(&data);
}

static void test_profile(void **state) {
  case_data data;
  double times[MOECL_STAGE_COUNT], sum = 0;
  moecl_profile *profile = NULL;
  (void)state;
  const bool timed = events_tell_time(context);
  make("plain", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  const size_t bytes = case_hidden_bytes(&data);
  moecl_buffer *input = upload(context, data.hidden, bytes, 0),
               *output = upload(context, data.hidden, bytes, 0);
  assert_ok(moecl_profile_create(context, &profile));
  moecl_forward_params forward = {.num_tokens = data.source->num_tokens,
                                  .hidden_states = input,
                                  .output = output,
                                  .profile = profile};
  for (int i = 0; i < 2; i++) {
    assert_ok(moecl_layer_forward(layer, &forward, NULL));
    assert_ok(moecl_profile_read_wait(profile, times, MOECL_STAGE_COUNT));
    sum = 0;
    for (int stage = 0; stage < MOECL_STAGE_LAYER; stage++) {
      assert_true(stage == MOECL_STAGE_SHARED || !timed ? isnan(times[stage]) : times[stage] > 0);
      if (stage != MOECL_STAGE_SHARED) sum += times[stage];
    }
    assert_true(timed ? times[MOECL_STAGE_LAYER] >= sum * 0.999 : isnan(times[MOECL_STAGE_LAYER]));
  }
  moecl_profile_destroy(&profile);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

/* ---- misuse ---- */

static void refused(moecl_status got, moecl_status want, const char *message) {
  assert_int_equal(got, want);
  if (!test_log_has(&logged, message)) {
    fprintf(stderr, "expected a message with '%s', logged was: %s\n", message,
            logged.text.data ? logged.text.data : "nothing");
    fail();
  }
  base_text_free(&logged.text);
}

/* An event that has failed fails the forward that would wait for it. In a context of
 * its own: what a driver's queue is good for after that is the driver's. */
static void test_failed_wait(void **state) {
  case_data data;
  moecl_context *own = NULL;
  cl_int code;
  (void)state;
  make("plain", MOECL_F32, &data);
  const moecl_context_params params = {.log = test_log_add, .log_user = &logged};
  assert_ok(moecl_context_create(&params, &own));
  moecl_layer *layer = make_layer(own, &data, NULL, NULL);
  const size_t bytes = case_hidden_bytes(&data);
  moecl_buffer *input = upload(own, data.hidden, bytes, 0),
               *output = upload(own, data.hidden, bytes, 0);
  cl_event gate = clCreateUserEvent(moecl_context_cl(own), &code);
  moecl_event *wait = NULL, *done = NULL;
  assert_ok(moecl_event_wrap(own, gate, &wait));
  assert_int_equal(clSetUserEventStatus(gate, -5), CL_SUCCESS);
  const moecl_forward_params forward = {.num_tokens = data.source->num_tokens,
                                        .hidden_states = input,
                                        .output = output,
                                        .wait_list = &wait,
                                        .wait_count = 1};
  refused(moecl_layer_forward(layer, &forward, &done), MOECL_ERROR_DEVICE,
          "event 0 of the wait list has failed: CL_OUT_OF_RESOURCES (-5)");
  assert_null(done);
  moecl_event_destroy(&wait);
  clReleaseEvent(gate);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&own);
  case_release(&data);
}

static void test_not_ready(void **state) {
  case_data data;
  moecl_layer *layer = NULL;
  moecl_routing routing;
  moecl_event *event = (moecl_event *)state;
  make("plain", MOECL_F32, &data);
  assert_ok(moecl_layer_create(context, &data.layer, &layer));
  refused(moecl_layer_read_routing_wait(layer, &routing), MOECL_ERROR_NOT_READY, "no forward yet");
  assert_null(routing.topk_ids);
  const size_t bytes = case_hidden_bytes(&data);
  moecl_buffer *input = upload(context, data.hidden, bytes, 0);
  moecl_buffer *output = upload(context, data.hidden, bytes, 0);
  moecl_forward_params forward = {
      .num_tokens = data.source->num_tokens, .hidden_states = input, .output = output};
  refused(moecl_layer_forward(layer, &forward, &event), MOECL_ERROR_NOT_READY,
          "17 of the layer's weight items were not set");
  assert_null(event);
  assert_ok(moecl_layer_set_weights(layer, MOECL_ROUTER_WEIGHT, 0, 1, data.tensor[0]));
  assert_ok(
      moecl_layer_set_weights(layer, MOECL_GATE_UP_PROJ, 0, 8, data.tensor[MOECL_GATE_UP_PROJ]));
  assert_ok(moecl_layer_set_weights(layer, MOECL_DOWN_PROJ, 0, 7, data.tensor[MOECL_DOWN_PROJ]));
  /* The same ones again do not count twice. */
  assert_ok(moecl_layer_set_weights(layer, MOECL_DOWN_PROJ, 0, 7, data.tensor[MOECL_DOWN_PROJ]));
  refused(moecl_layer_forward(layer, &forward, NULL), MOECL_ERROR_NOT_READY,
          "1 of the layer's weight items");
  const char *last = (char *)data.tensor[MOECL_DOWN_PROJ] + (size_t)7 * 64 * 96 * 4;
  assert_ok(moecl_layer_set_weights(layer, MOECL_DOWN_PROJ, 7, 1, last));
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  void *result = read_all(output);
  data.seed = 0;
  check_layer(layer, &data, result);
  free(result);
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

static void test_unknown_variant(void **state) {
  moecl_layer_params params = plain()->layer;
  moecl_layer *layer = (moecl_layer *)state;
  params.grouped_gemm_variant = "fastest";
  refused(moecl_layer_create(context, &params, &layer), MOECL_ERROR_UNSUPPORTED,
          "there is no grouped_gemm variant 'fastest'; there are: ");
  assert_null(layer);
  const char *names[32];
  const size_t count = moecl_variants_available(context, "grouped_gemm", MOECL_F32, names, 32);
  moecl_layer_create(context, &params, &layer);
  for (size_t i = 0; i < count; i++) assert_true(test_log_has(&logged, names[i]));
  params.grouped_gemm_variant = NULL;
  params.router_variant = "";
  refused(moecl_layer_create(context, &params, &layer), MOECL_ERROR_UNSUPPORTED,
          "there is no router variant ''; there are: serial, generic");
  assert_null(layer);
  assert_int_equal(moecl_variants_available(context, "nonsense", MOECL_F32, names, 32), 0);
  assert_int_equal(moecl_variants_available(context, "grouped_gemm", MOECL_F32, NULL, 0), count);
}

#define FP32                                                                                       \
  .weights = desc_format_of(MOECL_F32), .biases = desc_format_of(MOECL_F32),                       \
  .input = desc_format_of(MOECL_F32), .output = desc_format_of(MOECL_F32)

/* The library counts in 32 bits, and some drivers crash on views that overlap. */
static void test_library_weights(void **state) {
  const kernel_variant *variants = op_gemm_table.rows, *library = NULL;
  const size_t count = op_gemm_table.count;
  op_gemm *gemm = (op_gemm *)state;
  for (size_t i = 0; i < count; i++)
    if (variants[i].traits & KERNEL_LIBRARY) library = &variants[i];
  assert_non_null(library);
  op_gemm_desc shape = {.num_experts = 1, .n = 32768, .k = 32768, FP32, .gated = true};
  refused(op_gemm_create_unchecked(context, library, &shape, &gemm), MOECL_ERROR_UNSUPPORTED,
          "reaches 2147483647 elements of one expert's weights, here are 2147483648");
  assert_null(gemm);
  shape = (op_gemm_desc){.num_experts = 3, .n = 7, .k = 3, FP32};
  assert_ok(op_gemm_create_unchecked(context, library, &shape, &gemm));
  assert_int_equal(gemm->packed_elements * sizeof(float) % moecl_buffer_alignment(context), 0);
  assert_true(gemm->packed_elements >= 7 * 3);
  op_gemm_destroy(&gemm);
}

static void test_bad_params(void **state) {
  moecl_layer_params params = plain()->layer;
  moecl_layer *layer = (moecl_layer *)state;
  params.top_k = 9;
  refused(moecl_layer_create(context, &params, &layer), MOECL_ERROR_INVALID_ARGUMENT, "top_k");
  assert_null(layer);
  assert_int_equal(moecl_layer_create(context, NULL, &layer), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_layer_create(NULL, &params, &layer), MOECL_ERROR_INVALID_ARGUMENT);
}

static void test_bad_weights(void **state) {
  static const struct {
    moecl_tensor tensor;
    int64_t first, count;
  } bad[] = {
      {MOECL_GATE_UP_PROJ, -1, 1},     {MOECL_GATE_UP_PROJ, 0, -1}, {MOECL_GATE_UP_PROJ, 0, 9},
      {MOECL_DOWN_PROJ, 8, 1},         {MOECL_DOWN_PROJ, 7, 2},     {MOECL_DOWN_PROJ, INT64_MAX, 1},
      {MOECL_DOWN_PROJ, 1, INT64_MAX}, {MOECL_ROUTER_WEIGHT, 1, 1}, {MOECL_ROUTER_WEIGHT, 0, 8},
      {MOECL_ROUTER_BIAS, 0, 1},       {MOECL_GATE_UP_BIAS, 0, 1},  {MOECL_DOWN_BIAS, 0, 1},
      {MOECL_TENSOR_COUNT, 0, 1},      {(moecl_tensor)99, 0, 1},    {(moecl_tensor)-1, 0, 1}};
  case_data data;
  moecl_layer *layer = NULL;
  (void)state;
  make("plain", MOECL_F32, &data);
  assert_ok(moecl_layer_create(context, &data.layer, &layer));
  const uint64_t one = 64 * 96 * 4;
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, 16 * one, &buffer));
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    refused(moecl_layer_set_weights(layer, bad[i].tensor, bad[i].first, bad[i].count,
                                    data.tensor[MOECL_DOWN_PROJ]),
            MOECL_ERROR_INVALID_ARGUMENT, "set_weights: ");
    refused(
        moecl_layer_set_weights_buffer(layer, bad[i].tensor, bad[i].first, bad[i].count, buffer, 0),
        MOECL_ERROR_INVALID_ARGUMENT, "set_weights: ");
  }
  assert_int_equal(moecl_layer_set_weights(layer, MOECL_DOWN_PROJ, 0, 1, NULL),
                   MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_layer_set_weights_buffer(layer, MOECL_DOWN_PROJ, 0, 1, NULL, 0),
                   MOECL_ERROR_INVALID_ARGUMENT);
  const uint64_t offsets[] = {15 * one + 4, 16 * one, 2, UINT64_MAX - 3};
  for (size_t i = 0; i < 4; i++)
    refused(moecl_layer_set_weights_buffer(layer, MOECL_DOWN_PROJ, 0, 1, buffer, offsets[i]),
            MOECL_ERROR_INVALID_ARGUMENT, "of a buffer of");
  assert_ok(moecl_layer_set_weights_buffer(layer, MOECL_DOWN_PROJ, 0, 1, buffer, 15 * one));
  assert_ok(moecl_layer_set_weights(layer, MOECL_DOWN_PROJ, 8, 0, data.tensor[MOECL_DOWN_PROJ]));
  moecl_buffer_destroy(&buffer);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

static void test_bad_forward(void **state) {
  case_data data;
  (void)state;
  make("plain", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, NULL, NULL);
  const int64_t tokens = data.source->num_tokens;
  const uint64_t bytes = case_hidden_bytes(&data), need = moecl_layer_workspace_size(layer, tokens);
  moecl_buffer *input = upload(context, data.hidden, bytes, 0), *output = NULL, *workspace = NULL;
  moecl_buffer *small = NULL;
  assert_ok(moecl_buffer_create(context, bytes, &output));
  assert_ok(moecl_buffer_create(context, bytes - 1, &small));
  assert_ok(moecl_buffer_create(context, need - 1, &workspace));
  const moecl_forward_params good = {
      .num_tokens = tokens, .hidden_states = input, .output = output};
  moecl_forward_params bad = good;
  const moecl_status invalid = MOECL_ERROR_INVALID_ARGUMENT;
  bad.workspace = workspace;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "the workspace holds");
  bad = good, bad.num_tokens = -1;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "num_tokens is -1");
  bad = good, bad.num_tokens = INT64_MAX;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "num_tokens is 9223372036854775807");
  bad = good, bad.num_tokens = MOECL_MAX_ASSIGNMENTS / 2 + 1;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "at top_k 2");
  bad = good, bad.num_tokens = MOECL_MAX_ASSIGNMENTS / 2;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "hidden_states must hold");
  bad = good, bad.hidden_states = NULL;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "hidden_states must hold 25600 bytes");
  bad = good, bad.hidden_states = small;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "hidden_states must hold 25600 bytes");
  bad = good, bad.output = NULL;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "output must hold 25600 bytes");
  bad = good, bad.output = small;
  refused(moecl_layer_forward(layer, &bad, NULL), invalid, "output must hold 25600 bytes");
  assert_int_equal(moecl_layer_forward(layer, NULL, NULL), invalid);
  assert_int_equal(moecl_layer_forward(NULL, &good, NULL), invalid);
  assert_ok(moecl_layer_forward(layer, &good, NULL)); /* nothing was left behind */
  moecl_buffer *buffers[] = {input, output, workspace, small};
  for (int i = 0; i < 4; i++) moecl_buffer_destroy(&buffers[i]);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

static void test_asking(void **state) {
  case_data data;
  const char *reason = NULL;
  (void)state;
  make("plain", MOECL_F32, &data);
  moecl_layer *layer = make_layer(context, &data, "generic", NULL);
  assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", &reason), "generic");
  assert_string_equal(reason, "asked for by name");
  assert_non_null(moecl_layer_variant(layer, "router", &reason));
  assert_non_null(strstr(reason, "best"));
  assert_non_null(moecl_layer_variant(layer, "permute", NULL));
  assert_non_null(moecl_layer_variant(layer, "combine", NULL));
  assert_null(moecl_layer_variant(layer, "attention", &reason));
  assert_null(reason);
  const uint64_t weights = (8 * 64 + 8 * 3 * 64 * 96) * 4;
  assert_true(moecl_layer_weight_bytes(layer) >= weights);
  assert_true(moecl_layer_workspace_size(layer, 100) > moecl_layer_workspace_size(layer, 10));
  const int64_t most = MOECL_MAX_ASSIGNMENTS / 2; /* at top_k 2 */
  assert_true(moecl_layer_workspace_size(layer, 0) > 0);
  assert_true(moecl_layer_workspace_size(layer, most) > (uint64_t)most * 2 * (64 + 96) * 4);
  assert_true(moecl_layer_workspace_size(layer, most + 1) == 0);
  assert_true(moecl_layer_workspace_size(layer, INT64_MAX) == 0);
  assert_true(moecl_layer_workspace_size(layer, -1) == 0);
  assert_true(moecl_layer_workspace_size(layer, INT64_MIN) == 0);
  assert_true(moecl_layer_workspace_size(NULL, 1) == 0);
  layer->params.intermediate_size = MOECL_MAX_SIZE; /* no device has such a layer's weights */
  assert_true(moecl_layer_workspace_size(layer, most) == UINT64_MAX);
  moecl_layer_destroy(&layer);
  case_release(&data);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_activations, clear_log),
      cmocka_unit_test_setup(test_nonfinite, clear_log),
      cmocka_unit_test_setup(test_all_nonfinite, clear_log),
      cmocka_unit_test_setup(test_two_layers, clear_log),
      cmocka_unit_test_setup(test_batch_sizes, clear_log),
      cmocka_unit_test_setup(test_views, clear_log),
      cmocka_unit_test_setup(test_new_weights, clear_log),
      cmocka_unit_test_setup(test_source_reused, clear_log),
      cmocka_unit_test_setup(test_wait_list, clear_log),
      cmocka_unit_test_setup(test_failed_forward, clear_log),
      cmocka_unit_test_setup(test_failed_wait, clear_log),
      cmocka_unit_test_setup(test_lifetime, clear_log),
      cmocka_unit_test_setup(test_profile, clear_log),
      cmocka_unit_test_setup(test_not_ready, clear_log),
      cmocka_unit_test_setup(test_unknown_variant, clear_log),
      cmocka_unit_test_setup(test_library_weights, clear_log),
      cmocka_unit_test_setup(test_bad_params, clear_log),
      cmocka_unit_test_setup(test_bad_weights, clear_log),
      cmocka_unit_test_setup(test_bad_forward, clear_log),
      cmocka_unit_test_setup(test_asking, clear_log),
  };
  skip_without_device();
  const moecl_context_params params = {.log = test_log_add, .log_user = &logged};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("layer rules", tests, NULL, NULL);
  moecl_context_destroy(&context);
  base_text_free(&logged.text);
  return failed ? 1 : 0;
}
