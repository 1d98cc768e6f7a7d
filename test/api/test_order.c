// SPDX-License-Identifier: MIT
/* In what order a queue runs what was enqueued, and what may be destroyed before it has
 * run. A user event in front of the queue, the gate, holds all of it back until the test
 * has done its worst. */
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include "../unit/small_layer.h"
#include "moecl/opencl.h"

enum { COUNT = SMALL_TOKENS * SMALL_HIDDEN, BYTES = COUNT * sizeof(float) };
#define assert_cl(code) assert_int_equal((code), CL_SUCCESS)

/* OpenCL objects that are the test's, as an embedder has them. */
typedef struct program {
  cl_context cl;
  cl_device_id device;
  cl_command_queue queue;
  cl_mem input, output;
  cl_event gate;
  moecl_context *context;
  moecl_layer *layer;
  float values[COUNT], expected[COUNT]; /* of the input, and the layer's answer */
} program;

/* The answer, from a queue in order that waits for each step. */
static void find_answer(program *p, moecl_context *context) {
  moecl_layer *layer;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  assert_ok(small_forward(context, layer, NULL, p->expected));
  moecl_layer_destroy(&layer);
  small_fill(p->values, COUNT, 1000); /* small_forward's input */
}

/* False where the device has no such queue. */
static bool open_program(program *p, cl_command_queue_properties properties) {
  cl_int code;
  moecl_context *first;
  *p = (program){0};
  assert_ok(moecl_context_create(NULL, &first));
  find_answer(p, first);
  p->cl = moecl_context_cl(first);
  assert_cl(clRetainContext(p->cl));
  assert_cl(clGetContextInfo(p->cl, CL_CONTEXT_DEVICES, sizeof p->device, &p->device, NULL));
  moecl_context_destroy(&first);
  p->queue = clCreateCommandQueue(p->cl, p->device, properties, &code);
  if (code != CL_SUCCESS) {
    clReleaseContext(p->cl);
    return false;
  }
  p->input = clCreateBuffer(p->cl, CL_MEM_READ_WRITE, BYTES, NULL, &code);
  assert_cl(code);
  p->output = clCreateBuffer(p->cl, CL_MEM_READ_WRITE, BYTES, NULL, &code);
  assert_cl(code);
  p->gate = clCreateUserEvent(p->cl, &code);
  assert_cl(code);
  assert_ok(moecl_context_create_from_cl(p->cl, p->device, p->queue, NULL, &p->context));
  assert_ok(moecl_layer_create(p->context, &small_params, &p->layer));
  assert_ok(small_weights(p->layer, &small_params));
  return true;
}

static void close_program(program *p) {
  moecl_layer_destroy(&p->layer);
  moecl_context_destroy(&p->context);
  assert_cl(clReleaseEvent(p->gate));
  assert_cl(clReleaseMemObject(p->input));
  assert_cl(clReleaseMemObject(p->output));
  assert_cl(clReleaseCommandQueue(p->queue));
  assert_cl(clReleaseContext(p->cl));
}

static void open_gate(program *p) {
  assert_cl(clSetUserEventStatus(p->gate, CL_COMPLETE));
  assert_cl(clFinish(p->queue));
}

/* The program's own write, the forward and the program's own read, none of which is told
 * of the others. */
static void run_between_own_commands(program *p, bool with_event) {
  float output[COUNT] = {0};
  moecl_buffer *in, *out;
  moecl_event *event = NULL;
  assert_ok(moecl_buffer_wrap(p->context, p->input, &in));
  assert_ok(moecl_buffer_wrap(p->context, p->output, &out));
  assert_ok(moecl_buffer_fill_byte(in, 0, BYTES, 0));
  assert_ok(moecl_buffer_fill_byte(out, 0, BYTES, 0));
  assert_ok(moecl_context_finish_wait(p->context));
  assert_cl(
      clEnqueueWriteBuffer(p->queue, p->input, CL_FALSE, 0, BYTES, p->values, 1, &p->gate, NULL));
  const moecl_forward_params forward = {
      .num_tokens = SMALL_TOKENS, .hidden_states = in, .output = out, .seed = 7};
  assert_ok(moecl_layer_forward(p->layer, &forward, with_event ? &event : NULL));
  assert_cl(clEnqueueReadBuffer(p->queue, p->output, CL_FALSE, 0, BYTES, output, 0, NULL, NULL));
  assert_cl(clFlush(p->queue));
  open_gate(p);
  assert_memory_equal(output, p->expected, BYTES);
  moecl_event_destroy(&event);
  moecl_buffer_destroy(&in);
  moecl_buffer_destroy(&out);
}

static void test_out_of_order(void **state) {
  (void)state;
  for (int with_event = 0; with_event < 2; with_event++) {
    program p;
    if (!open_program(&p, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE)) skip();
    run_between_own_commands(&p, with_event);
    close_program(&p);
  }
}

/* A forward of no tokens orders too: what follows it runs after its wait list. */
static void test_no_tokens(void **state) {
  (void)state;
  program p;
  float output[COUNT] = {0};
  moecl_event *gate;
  if (!open_program(&p, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE)) skip();
  assert_cl(clEnqueueWriteBuffer(p.queue, p.input, CL_TRUE, 0, BYTES, output, 0, NULL, NULL));
  assert_ok(moecl_event_wrap(p.context, p.gate, &gate));
  assert_ok(moecl_layer_forward(
      p.layer, &(moecl_forward_params){.wait_list = &gate, .wait_count = 1}, NULL));
  cl_event read;
  assert_cl(clEnqueueReadBuffer(p.queue, p.input, CL_FALSE, 0, BYTES, output, 0, NULL, &read));
  assert_cl(clFlush(p.queue));
  cl_int progress;
  assert_cl(
      clGetEventInfo(read, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof progress, &progress, NULL));
  assert_int_not_equal(progress, CL_COMPLETE);
  open_gate(&p);
  assert_cl(clReleaseEvent(read));
  moecl_event_destroy(&gate);
  close_program(&p);
}

/* All that a forward was given, and the context: destroyed while the gate is shut. The
 * wait list and the parameters are the caller's again as soon as the call returns. */
static void destroy_in_flight(program *p) {
  moecl_buffer *in, *out, *workspace;
  moecl_event *gate, *event;
  moecl_profile *profile;
  float output[COUNT] = {0};
  assert_cl(clEnqueueWriteBuffer(p->queue, p->input, CL_TRUE, 0, BYTES, p->values, 0, NULL, NULL));
  assert_ok(moecl_buffer_wrap(p->context, p->input, &in));
  assert_ok(moecl_buffer_wrap(p->context, p->output, &out));
  assert_ok(moecl_buffer_create(p->context, moecl_layer_workspace_size(p->layer, SMALL_TOKENS),
                                &workspace));
  assert_ok(moecl_event_wrap(p->context, p->gate, &gate));
  assert_ok(moecl_profile_create(p->context, &profile));
  moecl_event *waits[1] = {gate};
  moecl_forward_params forward = {.num_tokens = SMALL_TOKENS,
                                  .hidden_states = in,
                                  .output = out,
                                  .workspace = workspace,
                                  .seed = 7,
                                  .wait_list = waits,
                                  .wait_count = 1,
                                  .profile = profile};
  assert_ok(moecl_layer_forward(p->layer, &forward, &event));
  memset(waits, 0xa5, sizeof waits);
  memset(&forward, 0xa5, sizeof forward);
  moecl_event_destroy(&gate);
  moecl_profile_destroy(&profile);
  moecl_buffer_destroy(&workspace);
  moecl_buffer_destroy(&in);
  moecl_buffer_destroy(&out);
  moecl_layer_destroy(&p->layer);
  moecl_context_destroy(&p->context);
  moecl_event_destroy(&event);
  open_gate(p);
  assert_cl(clEnqueueReadBuffer(p->queue, p->output, CL_TRUE, 0, BYTES, output, 0, NULL, NULL));
  assert_memory_equal(output, p->expected, BYTES);
}

static void test_destroyed_in_flight(void **state) {
  (void)state;
  const cl_command_queue_properties kinds[] = {CL_QUEUE_PROFILING_ENABLE,
                                               CL_QUEUE_PROFILING_ENABLE |
                                                   CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE};
  for (int i = 0; i < 2; i++) {
    program p;
    if (!open_program(&p, kinds[i])) continue;
    destroy_in_flight(&p);
    close_program(&p);
  }
}

/* The layer's own workspace goes with it; weights' and random numbers' buffers too. */
static void test_sources_in_flight(void **state) {
  (void)state;
  program p;
  moecl_buffer *in, *out, *drawn, *router;
  float output[COUNT] = {0}, weights[SMALL_EXPERTS * SMALL_HIDDEN];
  const moecl_random_params random = {.scale = 1, .seed = 3};
  assert_true(open_program(&p, 0));
  small_fill(weights, SMALL_EXPERTS * SMALL_HIDDEN, MOECL_ROUTER_WEIGHT);
  assert_cl(clEnqueueWriteBuffer(p.queue, p.input, CL_TRUE, 0, BYTES, p.values, 0, NULL, NULL));
  assert_ok(moecl_buffer_wrap(p.context, p.input, &in));
  assert_ok(moecl_buffer_wrap(p.context, p.output, &out));
  assert_ok(moecl_buffer_create(p.context, sizeof weights, &router));
  assert_ok(moecl_buffer_create(p.context, BYTES, &drawn));
  assert_ok(moecl_buffer_write_wait(router, 0, sizeof weights, weights));
  assert_ok(moecl_layer_set_weights(p.layer, MOECL_ROUTER_WEIGHT, 0, 1,
                                    (float[SMALL_EXPERTS * SMALL_HIDDEN]){0}));
  assert_cl(clEnqueueBarrierWithWaitList(p.queue, 1, &p.gate, NULL));
  assert_ok(moecl_layer_set_weights_buffer(p.layer, MOECL_ROUTER_WEIGHT, 0, 1, router, 0));
  assert_ok(moecl_fill_random(drawn, 0, COUNT, &random));
  assert_ok(moecl_buffer_fill_byte(router, 0, sizeof weights, 0xff));
  assert_ok(moecl_layer_forward(
      p.layer,
      &(moecl_forward_params){
          .num_tokens = SMALL_TOKENS, .hidden_states = in, .output = out, .seed = 7},
      NULL));
  moecl_buffer_destroy(&router);
  moecl_buffer_destroy(&drawn);
  moecl_buffer_destroy(&in);
  moecl_buffer_destroy(&out);
  moecl_layer_destroy(&p.layer);
  moecl_context_destroy(&p.context);
  assert_cl(clFlush(p.queue));
  open_gate(&p);
  assert_cl(clEnqueueReadBuffer(p.queue, p.output, CL_TRUE, 0, BYTES, output, 0, NULL, NULL));
  assert_memory_equal(output, p.expected, BYTES);
  close_program(&p);
}

/* A buffer outlives the handle of its context, and a view that of its parent. */
static void test_kept_alive(void **state) {
  (void)state;
  moecl_context *context;
  moecl_buffer *buffer, *view;
  uint8_t bytes[4] = {0};
  assert_ok(moecl_context_create(NULL, &context));
  assert_ok(moecl_buffer_create(context, 64, &buffer));
  assert_ok(moecl_buffer_view(buffer, 0, 4, &view));
  moecl_context_destroy(&context);
  assert_ok(moecl_buffer_fill_byte(buffer, 0, 64, 9));
  moecl_buffer_destroy(&buffer);
  assert_ok(moecl_buffer_read_wait(view, 0, 4, bytes));
  assert_int_equal(bytes[3], 9);
  moecl_buffer_destroy(&view);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_out_of_order), cmocka_unit_test(test_no_tokens),
      cmocka_unit_test(test_destroyed_in_flight), cmocka_unit_test(test_sources_in_flight),
      cmocka_unit_test(test_kept_alive)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
