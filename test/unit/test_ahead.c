// SPDX-License-Identifier: MIT
/* Programs that are built ahead by several threads: those that are asked for later, right ones, and
 * no others. */
#include "cache_fixture.h"
#include "ocl/ocl.h"
#include "small_layer.h"

enum { PROGRAMS = 5 };

/* Notes the kernels of answer.cl, each twice, and one of a source that does not compile. */
static void note(moecl_context *context) {
  char defines[32];
  assert_true(ocl_ahead_begin(context));
  assert_false(ocl_ahead_begin(context)); /* once at a time */
  for (int i = 0; i < 2 * PROGRAMS; i++) {
    ocl_kernel *kernel = NULL;
    snprintf(defines, sizeof defines, "PLUS %d\n", i % PROGRAMS);
    assert_ok(ocl_kernel_create(context, "answer.cl", defines, "answer", &kernel));
    assert_null(kernel->cl);
    ocl_kernel_destroy(&kernel);
  }
  ocl_kernel *wrong = NULL;
  assert_ok(ocl_kernel_create(context, "wrong.cl", NULL, "wrong", &wrong));
  ocl_kernel_destroy(&wrong);
  ocl_ahead_end(context);
  assert_false(ocl_is_ahead(context));
}

static void run_noted(const fixture *f, test_log *log) {
  moecl_status status;
  ocl_kernel *wrong = NULL;
  moecl_context *context = open_context(f, log);
  context->build_threads = 3;
  note(context);
  assert_true(test_log_has(log, "built ahead 5 programs of 6"));
  assert_false(test_log_has(log, "\n0 ")); /* nothing was an error yet */
  for (int i = 0; i < PROGRAMS; i++)
    assert_int_equal(ask(context, "answer.cl", i, &status), 40 + i);
  assert_false(test_log_has(log, "built answer.cl")); /* all were there */
  assert_int_equal(ocl_kernel_create(context, "wrong.cl", NULL, "wrong", &wrong),
                   MOECL_ERROR_BUILD);
  assert_true(test_log_has(log, "wrong.cl did not compile"));
  moecl_context_destroy(&context);
}

static void test_programs(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  write_file(f->kernels, "wrong.cl", "__kernel void wrong(__global int *out) { out[0] = none; }\n");
  run_noted(f, &log);
  assert_false(test_log_has(&log, "program cache: hit"));
  base_text_free(&log.text);
  run_noted(f, &log); /* from the disk */
  assert_int_equal(test_log_count(&log, "program cache: hit"), PROGRAMS);
  base_text_free(&log.text);
}

static void test_one_thread(void **state) {
  test_log log = {0};
  moecl_context *context = open_context(*state, &log);
  context->build_threads = 1;
  assert_false(ocl_ahead_begin(context));
  ocl_ahead_end(context);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* A layer's kernels, those of its self-checks among them, are all foreseen, and noting them leaves
 * no memory behind. */
static void run_layer(const fixture *f, int threads, float *output) {
  test_log log = {.level = MOECL_LOG_DEBUG};
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  const moecl_context_params with = {.log = test_log_add, .log_user = &log, .cache_dir = f->cache};
  assert_ok(moecl_context_create(&with, &context));
  base_text_free(&log.text);
  context->build_threads = threads;
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  if (threads > 1) {
    assert_true(test_log_has(&log, "built ahead"));
    assert_int_equal(test_log_count(&log, "built "), 1);
  }
  assert_ok(small_weights(layer, &small_params));
  assert_ok(small_forward(context, layer, NULL, output));
  moecl_layer_destroy(&layer);
  assert_int_equal(moecl_context_memory(context, NULL), 0);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void test_layer(void **state) {
  float one[SMALL_TOKENS * SMALL_HIDDEN], many[SMALL_TOKENS * SMALL_HIDDEN];
  run_layer(*state, 3, many);
  run_layer(*state, 1, one);
  assert_memory_equal(one, many, sizeof one);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {CASE(test_programs), CASE(test_one_thread), CASE(test_layer)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
