// SPDX-License-Identifier: MIT
#include "unit.h"
#include "moecl/opencl.h"
#include "ocl/ocl.h"

static void test_copy(void **state) {
  moecl_buffer *buffer = NULL;
  unsigned char in[100], out[100];
  for (int i = 0; i < 100; i++) in[i] = (unsigned char)(i * 7);
  assert_ok(moecl_buffer_create(*state, 100, &buffer));
  assert_int_equal(moecl_buffer_size(buffer), 100);
  assert_ok(moecl_buffer_write_wait(buffer, 0, 100, in));
  assert_ok(moecl_buffer_read_wait(buffer, 0, 100, out));
  assert_memory_equal(in, out, 100);
  assert_ok(moecl_buffer_fill_byte(buffer, 3, 64, 0xab));
  memset(in + 3, 0xab, 64);
  assert_ok(moecl_buffer_fill_byte(buffer, 96, 4, 0xcd));
  memset(in + 96, 0xcd, 4);
  assert_ok(moecl_buffer_read_wait(buffer, 0, 100, out));
  assert_memory_equal(in, out, 100);
  moecl_buffer_destroy(&buffer);
  assert_null(buffer);
  moecl_buffer_destroy(&buffer);
  moecl_buffer_destroy(NULL);
}

/* What is alive, and the most that was; views and wrapped memory are others'. */
static void test_memory(void **state) {
  moecl_context *context = *state;
  moecl_buffer *a = NULL, *b = NULL, *view = NULL, *wrapped = NULL;
  uint64_t most;
  const uint64_t before = moecl_context_memory(context, NULL);
  moecl_context_reset_memory(context);
  assert_ok(moecl_buffer_create(context, 8192, &a));
  assert_ok(moecl_buffer_create(context, 300, &b));
  assert_ok(moecl_buffer_view(a, 4096, 4096, &view));
  assert_ok(moecl_buffer_wrap(context, moecl_buffer_cl(b), &wrapped));
  assert_int_equal(moecl_context_memory(context, &most) - before, 8492);
  assert_int_equal(most - before, 8492);
  moecl_buffer_destroy(&view);
  moecl_buffer_destroy(&wrapped);
  assert_int_equal(moecl_context_memory(context, NULL) - before, 8492);
  moecl_buffer_destroy(&a);
  assert_int_equal(moecl_context_memory(context, &most) - before, 300);
  assert_int_equal(most - before, 8492);
  moecl_context_reset_memory(context);
  moecl_buffer_destroy(&b);
  assert_int_equal(moecl_context_memory(context, &most), before);
  assert_int_equal(most - before, 300);
}

static void test_bounds(void **state) {
  const uint64_t bad[][2] = {{0, 65},
                             {65, 0},
                             {64, 1},
                             {1, 64},
                             {UINT64_MAX, 2},
                             {2, UINT64_MAX},
                             {UINT64_MAX, UINT64_MAX}};
  moecl_buffer *buffer = NULL, *view = NULL;
  char data[64] = {0};
  assert_ok(moecl_buffer_create(*state, 64, &buffer));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(moecl_buffer_read_wait(buffer, bad[i][0], bad[i][1], data),
                     MOECL_ERROR_INVALID_ARGUMENT);
    assert_int_equal(moecl_buffer_write_wait(buffer, bad[i][0], bad[i][1], data),
                     MOECL_ERROR_INVALID_ARGUMENT);
    assert_int_equal(moecl_buffer_fill_byte(buffer, bad[i][0], bad[i][1], 0),
                     MOECL_ERROR_INVALID_ARGUMENT);
    assert_int_equal(ocl_buffer_view(buffer, bad[i][0], bad[i][1], &view),
                     MOECL_ERROR_INVALID_ARGUMENT);
    assert_null(view);
  }
  assert_ok(moecl_buffer_read_wait(buffer, 64, 0, NULL));
  assert_ok(moecl_buffer_fill_byte(buffer, 64, 0, 1));
  assert_int_equal(moecl_buffer_read_wait(buffer, 0, 1, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  moecl_buffer_destroy(&buffer);
}

static void test_sizes(void **state) {
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(*state, 0, &buffer));
  assert_int_equal(moecl_buffer_size(buffer), 0);
  moecl_buffer_destroy(&buffer);
  const uint64_t huge[] = {UINT64_MAX, INT64_MAX, UINT64_C(1) << 60};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(moecl_buffer_create(*state, huge[i], &buffer),
                     MOECL_ERROR_OUT_OF_DEVICE_MEMORY);
    assert_null(buffer);
  }
}

static void test_views(void **state) {
  moecl_context *context = *state;
  uint64_t align = context->address_align;
  moecl_buffer *buffer = NULL, *view = NULL, *inner = NULL;
  unsigned char value = 0;
  assert_ok(moecl_buffer_create(context, 4 * align, &buffer));
  assert_ok(moecl_buffer_fill_byte(buffer, 0, 4 * align, 1));
  assert_ok(ocl_buffer_view(buffer, align, 3 * align, &view));
  assert_ok(ocl_buffer_view(view, align, align, &inner)); /* a view of a view */
  moecl_buffer_destroy(&view);
  assert_ok(moecl_buffer_fill_byte(inner, 0, align, 9));
  const unsigned char want[] = {1, 1, 9, 1};
  for (uint64_t i = 0; i < 4; i++) {
    assert_ok(moecl_buffer_read_wait(buffer, i * align + align / 2, 1, &value));
    assert_int_equal(value, want[i]);
  }
  moecl_buffer_destroy(&buffer);
  assert_ok(moecl_buffer_read_wait(inner, 0, 1, &value)); /* its parent is gone */
  assert_int_equal(value, 9);
  if (align > 1)
    assert_int_equal(ocl_buffer_view(inner, 1, 1, &view), MOECL_ERROR_INVALID_ARGUMENT);
  assert_ok(ocl_buffer_view(inner, align, 0, &view)); /* empty, at the end */
  moecl_buffer_destroy(&view);
  moecl_buffer_destroy(&inner);
}

/* A buffer has one set of views: cutting another releases the first, whoever's it is. */
static void test_view_sets(void **state) {
  moecl_context *context = *state;
  const uint64_t align = context->address_align, bytes[3] = {1, 0, align};
  moecl_buffer *buffer = NULL, *first[3] = {0}, *second[3] = {0};
  ocl_views a = {.view = first, .count = 3}, b = {.view = second, .count = 3};
  assert_ok(moecl_buffer_create(context, 2 * align, &buffer));
  assert_ok(ocl_views_cut(buffer, bytes, &a));
  assert_ptr_equal(a.parent, buffer);
  assert_true(first[0] && !first[1] && first[2]);
  assert_int_equal(moecl_buffer_size(first[2]), align);
  assert_ok(ocl_views_cut(buffer, bytes, &b)); /* another layer's */
  assert_null(a.parent);
  assert_true(!first[0] && !first[1] && !first[2]);
  assert_ptr_equal(b.parent, buffer);
  assert_true(second[0] && second[2]);
  ocl_views_release(&a); /* takes nothing from b */
  assert_ptr_equal(b.parent, buffer);
  assert_ok(ocl_views_cut(buffer, bytes, &a));
  assert_true(!b.parent && !second[0] && first[0]);
  moecl_buffer_destroy(&buffer); /* with its set */
  assert_true(!a.parent && !first[0] && !first[2]);
  ocl_views_release(&a);
  ocl_views_release(&b);
}

static void test_wrap(void **state) {
  moecl_context *context = *state;
  cl_mem mem = clCreateBuffer(context->cl, CL_MEM_READ_WRITE, 32, NULL, NULL);
  moecl_buffer *buffer = NULL;
  char data[32];
  assert_non_null(mem);
  assert_ok(moecl_buffer_wrap(context, mem, &buffer));
  clReleaseMemObject(mem);
  assert_int_equal(moecl_buffer_size(buffer), 32);
  assert_ptr_equal(moecl_buffer_cl(buffer), mem);
  assert_ok(moecl_buffer_fill_byte(buffer, 0, 32, 5));
  assert_ok(moecl_buffer_read_wait(buffer, 0, 32, data));
  assert_int_equal(data[31], 5);
  moecl_buffer_destroy(&buffer);
}

/* The objects outlive the caller's hold on the context. */
static void test_lifetime(void **state) {
  (void)state;
  moecl_context *context = NULL;
  moecl_buffer *buffer = NULL;
  moecl_event *event = NULL;
  assert_ok(moecl_context_create(NULL, &context));
  assert_ok(moecl_buffer_create(context, 16, &buffer));
  ocl_chain chain = {.context = context};
  assert_ok(ocl_chain_end(&chain, &event));
  moecl_context_destroy(&context);
  char data[16];
  assert_ok(moecl_buffer_fill_byte(buffer, 0, 16, 3));
  assert_ok(moecl_buffer_read_wait(buffer, 0, 16, data));
  moecl_buffer_destroy(&buffer);
  assert_ok(moecl_event_wait(event));
  moecl_event_destroy(&event);
  moecl_event_destroy(&event);
}

/* A context on a queue of its own that keeps no order; the test is skipped where
 * there is none. */
static moecl_context *open_out_of_order(moecl_context *in_order) {
  moecl_context *context = NULL;
  cl_queue_properties properties[] = {
      CL_QUEUE_PROPERTIES, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE | CL_QUEUE_PROFILING_ENABLE, 0};
  cl_int code;
  cl_command_queue queue =
      clCreateCommandQueueWithProperties(in_order->cl, in_order->device, properties, &code);
  if (code != CL_SUCCESS) skip();
  assert_ok(moecl_context_create_from_cl(in_order->cl, in_order->device, queue, NULL, &context));
  clReleaseCommandQueue(queue);
  assert_true(context->out_of_order && context->profiling);
  return context;
}

/* On an out-of-order queue each launch still sees what the one before wrote. */
static void test_out_of_order(void **state) {
  moecl_context *context = open_out_of_order(*state);
  const uint64_t bytes = 1 << 20;
  moecl_buffer *buffer = NULL;
  unsigned char *data = malloc(bytes), *want = malloc(bytes);
  assert_true(data && want);
  assert_ok(moecl_buffer_create(context, bytes, &buffer));
  for (int i = 0; i < 50; i++) assert_ok(moecl_buffer_fill_byte(buffer, 0, bytes, (uint8_t)i));
  moecl_random_params params = {.dtype = MOECL_F32, .scale = 1, .seed = 5};
  assert_ok(moecl_fill_random(buffer, 0, bytes / 4, &params));
  assert_ok(moecl_buffer_read_wait(buffer, 0, bytes, data));
  assert_ok(moecl_random_host(want, bytes / 4, &params));
  assert_memory_equal(data, want, bytes);
  free(data);
  free(want);
  moecl_buffer_destroy(&buffer);
  moecl_context_destroy(&context);
}

/* The last byte as a command of the caller's, without a wait list, reads it. */
static unsigned char last_byte(moecl_context *context, moecl_buffer *buffer) {
  unsigned char last = 0;
  assert_int_equal(clEnqueueReadBuffer(context->queue, buffer->mem, CL_TRUE,
                                       (size_t)buffer->bytes - 1, 1, &last, 0, NULL, NULL),
                   CL_SUCCESS);
  return last;
}

/* ... and the caller's next command sees what a call without an event wrote. */
static void test_order_for_callers(void **state) {
  moecl_context *context = open_out_of_order(*state);
  enum { TOKENS = 4096, HIDDEN = 2048 };
  const uint64_t bytes = (uint64_t)TOKENS * HIDDEN * 4;
  const moecl_random_params params = {.dtype = MOECL_F32, .scale = 1, .seed = 5};
  const moecl_skewed_params skewed = {
      .num_tokens = TOKENS, .hidden_size = HIDDEN, .seed = 5, .num_clusters = 9, .noise = 0.5f};
  moecl_buffer *buffer = NULL;
  assert_ok(moecl_buffer_create(context, bytes, &buffer));
  for (int turn = 0; turn < 9; turn++) {
    assert_ok(moecl_buffer_fill_byte(buffer, 0, bytes, 0xff)); /* a NaN */
    assert_int_equal(last_byte(context, buffer), 0xff);
    assert_ok(moecl_context_finish_wait(context));
    if (turn % 3 == 0) assert_ok(moecl_buffer_fill_byte(buffer, 0, bytes, 1));
    if (turn % 3 == 1) assert_ok(moecl_fill_random(buffer, 0, bytes / 4, &params));
    if (turn % 3 == 2) assert_ok(moecl_fill_skewed(buffer, &skewed));
    assert_int_not_equal(last_byte(context, buffer), 0xff);
    assert_ok(moecl_context_finish_wait(context));
  }
  moecl_buffer_destroy(&buffer);
  moecl_context_destroy(&context);
}

/* A chain waits for its list: a user event holds it back. */
static void test_waits(void **state) {
  moecl_context *context = *state;
  cl_int code;
  cl_event gate = clCreateUserEvent(context->cl, &code);
  assert_int_equal(code, CL_SUCCESS);
  moecl_event *wait = NULL, *end = NULL;
  assert_ok(moecl_event_wrap(context, gate, &wait));
  ocl_chain chain = {.context = context, .waits = &wait, .num_waits = 1};
  assert_ok(ocl_chain_end(&chain, &end));
  cl_int progress = CL_COMPLETE;
  assert_int_equal(clGetEventInfo(moecl_event_cl(end), CL_EVENT_COMMAND_EXECUTION_STATUS,
                                  sizeof progress, &progress, NULL),
                   CL_SUCCESS);
  assert_int_not_equal(progress, CL_COMPLETE);
  assert_int_equal(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  assert_ok(moecl_event_wait(end));
  moecl_event_destroy(&end);
  moecl_event_destroy(&wait);
  clReleaseEvent(gate);
  moecl_event *none = NULL;
  chain = (ocl_chain){.context = context, .waits = &none, .num_waits = 1};
  assert_int_equal(ocl_chain_end(&chain, &end), MOECL_ERROR_INVALID_ARGUMENT);
  assert_null(end);
}

/* What fails after it was waited for, or without the driver's telling those who wait,
 * fails the wait all the same. The work here does not hang on the gate: PoCL 3.1 aborts
 * where a user event fails that commands wait for. */
static void test_failed_wait(void **state) {
  moecl_context *context = *state;
  cl_int code;
  cl_event gate = clCreateUserEvent(context->cl, &code);
  assert_int_equal(code, CL_SUCCESS);
  moecl_event *wait = NULL, *end = NULL;
  assert_ok(moecl_event_wrap(context, gate, &wait));
  ocl_chain chain = {.context = context, .waited = &wait, .num_waited = 1};
  assert_ok(ocl_chain_end(&chain, &end));
  moecl_event_destroy(&wait); /* its OpenCL event is kept */
  clSetUserEventStatus(gate, -5);
  clReleaseEvent(gate);
  assert_int_equal(moecl_event_wait(end), MOECL_ERROR_DEVICE);
  moecl_event_destroy(&end);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_copy),         cmocka_unit_test(test_memory),
      cmocka_unit_test(test_bounds),       cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_views),        cmocka_unit_test(test_view_sets),
      cmocka_unit_test(test_wrap),         cmocka_unit_test(test_lifetime),
      cmocka_unit_test(test_waits),        cmocka_unit_test(test_failed_wait),
      cmocka_unit_test(test_out_of_order), cmocka_unit_test(test_order_for_callers),
  };
  skip_without_device();
  return cmocka_run_group_tests(tests, set_up_context, tear_down_context);
}
