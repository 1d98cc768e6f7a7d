// SPDX-License-Identifier: MIT
/* What a call is handed has to be of its own context, and apart in memory. */
#include "../unit/small_layer.h"
#include "moecl/opencl.h"

enum { BYTES = SMALL_TOKENS * SMALL_HIDDEN * sizeof(float) };

/* One context with a layer that is ready, and all that a forward takes. */
typedef struct side {
  test_log log;
  moecl_context *context;
  moecl_layer *layer;
  moecl_buffer *hidden, *output, *workspace;
  moecl_event *event;
  moecl_profile *profile;
} side;

static void fill_side(side *s) {
  float input[SMALL_TOKENS * SMALL_HIDDEN];
  small_fill(input, sizeof input / sizeof *input, 1000);
  assert_ok(moecl_layer_create(s->context, &small_params, &s->layer));
  assert_ok(small_weights(s->layer, &small_params));
  assert_ok(moecl_buffer_create(s->context, BYTES, &s->hidden));
  assert_ok(moecl_buffer_create(s->context, BYTES, &s->output));
  assert_ok(moecl_buffer_create(s->context, moecl_layer_workspace_size(s->layer, SMALL_TOKENS),
                                &s->workspace));
  assert_ok(moecl_buffer_write_wait(s->hidden, 0, BYTES, input));
  assert_ok(moecl_profile_create(s->context, &s->profile));
  const moecl_forward_params forward = {
      .num_tokens = SMALL_TOKENS, .hidden_states = s->hidden, .output = s->output};
  assert_ok(moecl_layer_forward(s->layer, &forward, &s->event));
}

static void release_side(side *s) {
  moecl_profile_destroy(&s->profile);
  moecl_event_destroy(&s->event);
  moecl_buffer_destroy(&s->workspace);
  moecl_buffer_destroy(&s->output);
  moecl_buffer_destroy(&s->hidden);
  moecl_layer_destroy(&s->layer);
  moecl_context_destroy(&s->context);
  base_text_free(&s->log.text);
}

/* Two contexts on the device that tests run on: of a cl_context each, or of the same. */
typedef struct sides {
  side a, b;
} sides;

static cl_device_id device_of(const moecl_context *context) {
  cl_device_id device = NULL;
  assert_int_equal(
      clGetContextInfo(moecl_context_cl(context), CL_CONTEXT_DEVICES, sizeof device, &device, NULL),
      CL_SUCCESS);
  return device;
}

static void open_sides(sides *s, bool same_cl) {
  *s = (sides){0};
  const moecl_context_params a = {.log = test_log_add, .log_user = &s->a.log};
  const moecl_context_params b = {.log = test_log_add, .log_user = &s->b.log};
  assert_ok(moecl_context_create(&a, &s->a.context));
  if (same_cl)
    assert_ok(moecl_context_create_from_cl(moecl_context_cl(s->a.context), device_of(s->a.context),
                                           NULL, &b, &s->b.context));
  else assert_ok(moecl_context_create(&b, &s->b.context));
  fill_side(&s->a);
  fill_side(&s->b);
}

static void close_sides(sides *s) {
  release_side(&s->b);
  release_side(&s->a);
}

static void refused(side *s, moecl_status status, const char *message) {
  assert_int_equal(status, MOECL_ERROR_INVALID_ARGUMENT);
  if (!test_log_has(&s->log, message))
    fail_msg("expected '%s' in the log: %s", message, s->log.text.data ? s->log.text.data : "");
  base_text_free(&s->log.text);
}

/* Everything of b in a forward of a, one after the other; then all of a's own. */
static void check_forward(side *a, const side *b) {
  moecl_event *event = NULL;
  const moecl_forward_params good = {.num_tokens = SMALL_TOKENS,
                                     .hidden_states = a->hidden,
                                     .output = a->output,
                                     .workspace = a->workspace,
                                     .wait_list = &a->event,
                                     .wait_count = 1,
                                     .profile = a->profile};
  moecl_forward_params mixed = good;
#define OTHER(member, value, name)                                                                 \
  mixed = good;                                                                                    \
  mixed.member = (value);                                                                          \
  refused(a, moecl_layer_forward(a->layer, &mixed, &event), name " belongs to another context");   \
  assert_null(event)
  OTHER(hidden_states, b->hidden, "hidden_states");
  OTHER(output, b->output, "output");
  OTHER(workspace, b->workspace, "workspace");
  OTHER(profile, b->profile, "profile");
  OTHER(wait_list, &b->event, "an event of the wait list");
  assert_ok(moecl_layer_forward(a->layer, &good, &event));
  assert_ok(moecl_event_wait(event));
  moecl_event_destroy(&event);
  refused(a, moecl_layer_set_weights_buffer(a->layer, MOECL_ROUTER_WEIGHT, 0, 1, b->hidden, 0),
          "set_weights: src belongs to another context");
  assert_ok(moecl_layer_set_weights_buffer(a->layer, MOECL_ROUTER_WEIGHT, 0, 1, a->hidden, 0));
}

static void test_other_context(void **state) {
  (void)state;
  sides s;
  moecl_buffer *buffer;
  moecl_event *event;
  open_sides(&s, false);
  check_forward(&s.a, &s.b);
  check_forward(&s.b, &s.a);
  refused(&s.a, moecl_buffer_wrap(s.a.context, moecl_buffer_cl(s.b.hidden), &buffer),
          "the cl_mem to wrap belongs to another OpenCL context");
  refused(&s.a, moecl_event_wrap(s.a.context, moecl_event_cl(s.b.event), &event),
          "the cl_event to wrap belongs to another OpenCL context");
  assert_null(buffer);
  assert_null(event);
  close_sides(&s);
}

/* Two contexts on one cl_context: refused likewise, and what is wrapped serves. */
static void test_same_cl_context(void **state) {
  (void)state;
  sides s;
  float expected[SMALL_TOKENS * SMALL_HIDDEN], output[SMALL_TOKENS * SMALL_HIDDEN];
  moecl_buffer *hidden, *result;
  moecl_event *before, *event;
  open_sides(&s, true);
  assert_ok(moecl_buffer_read_wait(s.b.output, 0, BYTES, expected));
  assert_ok(moecl_buffer_fill_byte(s.b.output, 0, BYTES, 0));
  assert_ok(moecl_context_finish_wait(s.b.context));
  assert_ok(moecl_buffer_wrap(s.a.context, moecl_buffer_cl(s.b.hidden), &hidden));
  assert_ok(moecl_buffer_wrap(s.a.context, moecl_buffer_cl(s.b.output), &result));
  assert_ok(moecl_event_wrap(s.a.context, moecl_event_cl(s.b.event), &before));
  const moecl_forward_params forward = {.num_tokens = SMALL_TOKENS,
                                        .hidden_states = hidden,
                                        .output = result,
                                        .wait_list = &before,
                                        .wait_count = 1};
  assert_ok(moecl_layer_forward(s.a.layer, &forward, &event));
  assert_ok(moecl_event_wait(event));
  assert_ok(moecl_buffer_read_wait(s.b.output, 0, BYTES, output));
  assert_memory_equal(output, expected, BYTES);
  moecl_event_destroy(&event);
  moecl_event_destroy(&before);
  moecl_buffer_destroy(&result);
  moecl_buffer_destroy(&hidden);
  check_forward(&s.a, &s.b);
  close_sides(&s);
}

/* A buffer of three parts; views of neighbours are apart, others are not. */
static void test_overlaps(void **state) {
  (void)state;
  sides s;
  open_sides(&s, false);
  side *a = &s.a;
  const uint64_t step = base_round_up(BYTES, moecl_buffer_alignment(a->context));
  const uint64_t space = moecl_buffer_size(a->workspace);
  moecl_buffer *all, *first, *second, *rest, *inner;
  assert_ok(moecl_buffer_create(a->context, 2 * step + space, &all));
  assert_ok(moecl_buffer_view(all, 0, BYTES, &first));
  assert_ok(moecl_buffer_view(all, step, step + space, &rest));
  assert_ok(moecl_buffer_view(rest, 0, BYTES, &second)); /* a view of a view */
  assert_ok(moecl_buffer_view(rest, step, space, &inner));
#define APART(in, out, work, message)                                                              \
  refused(a,                                                                                       \
          moecl_layer_forward(a->layer,                                                            \
                              &(moecl_forward_params){.num_tokens = SMALL_TOKENS,                  \
                                                      .hidden_states = (in),                       \
                                                      .output = (out),                             \
                                                      .workspace = (work)},                        \
                              NULL),                                                               \
          message " overlap")
  APART(all, all, NULL, "output and hidden_states");
  APART(all, second, NULL, "output and hidden_states");
  APART(first, all, NULL, "output and hidden_states");
  APART(second, rest, NULL, "output and hidden_states");
  APART(second, first, rest, "workspace and hidden_states");
  APART(first, second, rest, "workspace and output");

  float input[SMALL_TOKENS * SMALL_HIDDEN], expected[SMALL_TOKENS * SMALL_HIDDEN];
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  assert_ok(moecl_buffer_read_wait(a->hidden, 0, BYTES, input));
  assert_ok(moecl_buffer_read_wait(a->output, 0, BYTES, expected));
  assert_ok(moecl_buffer_write_wait(first, 0, BYTES, input));
  const moecl_forward_params apart = {
      .num_tokens = SMALL_TOKENS, .hidden_states = first, .output = second, .workspace = inner};
  assert_ok(moecl_layer_forward(a->layer, &apart, NULL));
  assert_ok(moecl_buffer_read_wait(second, 0, BYTES, output));
  assert_memory_equal(output, expected, BYTES);
  moecl_buffer_destroy(&inner);
  moecl_buffer_destroy(&second);
  moecl_buffer_destroy(&rest);
  moecl_buffer_destroy(&first);
  moecl_buffer_destroy(&all);
  close_sides(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_other_context),
                                     cmocka_unit_test(test_same_cl_context),
                                     cmocka_unit_test(test_overlaps)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
