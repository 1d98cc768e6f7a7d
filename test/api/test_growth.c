// SPDX-License-Identifier: MIT
/* What lets the interface grow: version numbers, and the reserved ends of structs. */
#include "../unit/small_layer.h"

/* moecl_version() is the number in meson.build, which the macros have to follow. */
static void test_version(void **state) {
  (void)state;
  int major, minor, patch;
  assert_string_equal(MOECL_VERSION_STRING, moecl_version());
  assert_int_equal(sscanf(moecl_version(), "%d.%d.%d", &major, &minor, &patch), 3);
  assert_int_equal(MOECL_VERSION_MAJOR, major);
  assert_int_equal(MOECL_VERSION_MINOR, minor);
  assert_int_equal(MOECL_VERSION_PATCH, patch);
#if MOECL_VERSION_NUMBER < 100 || MOECL_VERSION_NUMBER >= 1000000
#error "the preprocessor compares MOECL_VERSION_NUMBER"
#endif
  assert_int_equal(MOECL_VERSION_NUMBER, (major * 100 + minor) * 100 + patch);
}

/* What programs compiled against 0.1 have on 64-bit machines: where the last member of each
 * struct was, and how large it was. A new member comes behind it, out of `reserved`. */
#define LAYOUT(type, last, offset, size)                                                           \
  { #type, offsetof(type, last), offset, sizeof(type), size }
static void test_layout(void **state) {
  (void)state;
  const struct {
    const char *member;
    size_t at, was_at, size, size_was;
  } all[] = {
      LAYOUT(moecl_context_params, disable_cache, 40, 112),
      LAYOUT(moecl_layer_params, activation, 48, 464),
      LAYOUT(moecl_layer_params, swiglu_alpha, 56, 464),
      LAYOUT(moecl_layer_params, shared_gate, 72, 464),
      LAYOUT(moecl_layer_params, weight_on_input, 84, 464),
      LAYOUT(moecl_layer_params, scoring, 88, 464),
      LAYOUT(moecl_layer_params, score_after_topk, 92, 464),
      LAYOUT(moecl_layer_params, sparsemixer_jitter, 96, 464),
      LAYOUT(moecl_layer_params, renormalize, 100, 464),
      LAYOUT(moecl_layer_params, renormalize_epsilon, 104, 464),
      LAYOUT(moecl_layer_params, score_correction_bias, 116, 464),
      LAYOUT(moecl_layer_params, num_expert_group, 120, 464),
      LAYOUT(moecl_layer_params, cut_groups_to_zero, 140, 464),
      LAYOUT(moecl_layer_params, second_choice, 144, 464),
      LAYOUT(moecl_layer_params, router_noise, 148, 464),
      LAYOUT(moecl_layer_params, jitter, 152, 464),
      LAYOUT(moecl_layer_params, capacity_of_tokens, 168, 464),
      LAYOUT(moecl_layer_params, drop_policy, 184, 464),
      LAYOUT(moecl_layer_params, renormalize_after_capacity, 188, 464),
      LAYOUT(moecl_layer_params, router_variant, 200, 464),
      LAYOUT(moecl_layer_params, activation_format, 208, 464),
      LAYOUT(moecl_layer_params, batch_invariant, 216, 464),
      LAYOUT(moecl_layer_params, expert_cache, 224, 464),
      LAYOUT(moecl_layer_params, eviction, 232, 464),
      LAYOUT(moecl_forward_params, profile, 56, 192),
      LAYOUT(moecl_forward_params, measured, 64, 192),
      LAYOUT(moecl_offload_counts, bytes, 32, 72),
      LAYOUT(moecl_offload_statistics, hidden_ms, 168, 240),
      LAYOUT(moecl_group_params, transport, 0, 72),
      LAYOUT(moecl_group_params, mpi_comm, 8, 72),
      LAYOUT(moecl_group_layer_params, chunks, 496, 632),
      LAYOUT(moecl_group_layer_params, num_replicated, 512, 632),
      LAYOUT(moecl_group_layer_params, dispatch_format, 520, 632),
      LAYOUT(moecl_group_tokens, profile, 40, 112),
      LAYOUT(moecl_group_forward_params, measured, 16, 88),
      LAYOUT(moecl_group_statistics, hidden_ms, 72, 144),
      LAYOUT(moecl_group_statistics, output_row_bytes, 88, 144),
      LAYOUT(moecl_group_statistics, copied_bytes, 112, 144),
      LAYOUT(moecl_random_params, first_index, 32, 72),
      LAYOUT(moecl_skewed_params, noise, 52, 88),
      LAYOUT(moecl_device_info, capabilities, 708, 840),
      LAYOUT(moecl_memory, largest_buffer_bytes, 24, 96),
      LAYOUT(moecl_memory, cache_bytes, 32, 96),
      LAYOUT(moecl_memory, host_bytes, 40, 96),
      LAYOUT(moecl_routing_statistics, first_zero_weight_token, 104, 240),
      LAYOUT(moecl_routing, statistics, 96, 464),
      LAYOUT(moecl_plan_choice, why, 16, 56),
      LAYOUT(moecl_plan_step, launches, 36, 104),
      LAYOUT(moecl_plan_step, tile_rows, 40, 104),
      LAYOUT(moecl_plan_tensor, block, 52, 120),
      LAYOUT(moecl_checkpoint_layer, stored_dtype, 480, 552),
      LAYOUT(moecl_checkpoint_layer, quantization, 488, 552),
      LAYOUT(moecl_checkpoint_size, other_bytes, 24, 64),
  };
  if (sizeof(void *) != 8) skip();
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    if (all[i].at != all[i].was_at || all[i].size != all[i].size_was)
      fail_msg("%s was at %zu of %zu bytes, and is at %zu of %zu: programs that were compiled "
               "before break",
               all[i].member, all[i].was_at, all[i].size_was, all[i].at, all[i].size);
}

/* One of each struct that a caller fills, and a call that takes it. */
typedef struct asked {
  moecl_context *context;
  moecl_layer *layer;
  moecl_buffer *buffer;
  test_log log;
  moecl_context_params context_params;
  moecl_layer_params layer_params;
  moecl_forward_params forward;
  moecl_random_params random;
  moecl_skewed_params skewed;
} asked;

static moecl_status call_context(asked *a) {
  moecl_context *context;
  const moecl_status status = moecl_context_create(&a->context_params, &context);
  assert_true((status == MOECL_OK) == (context != NULL));
  moecl_context_destroy(&context);
  return status;
}
static moecl_status call_layer(asked *a) {
  moecl_layer *layer;
  const moecl_status status = moecl_layer_create(a->context, &a->layer_params, &layer);
  assert_true((status == MOECL_OK) == (layer != NULL));
  moecl_layer_destroy(&layer);
  return status;
}
static moecl_status call_memory(asked *a) {
  moecl_memory memory;
  return moecl_layer_memory(a->context, &a->layer_params, 1, &memory);
}
static moecl_status call_check(asked *a) {
  char message[256];
  const moecl_status status = moecl_layer_params_check(&a->layer_params, message, sizeof message);
  if (status != MOECL_OK) test_log_add(&a->log, MOECL_LOG_ERROR, message);
  return status;
}
static moecl_status call_forward(asked *a) {
  moecl_event *event = NULL;
  const moecl_status status = moecl_layer_forward(a->layer, &a->forward, &event);
  assert_true((status == MOECL_OK) == (event != NULL));
  moecl_event_destroy(&event);
  return status;
}
static moecl_status call_random(asked *a) { return moecl_fill_random(a->buffer, 0, 4, &a->random); }
static moecl_status call_random_host(asked *a) {
  float values[4];
  const moecl_status status = moecl_random_host(values, 4, &a->random);
  /* It has no log. */
  if (status != MOECL_OK) test_log_add(&a->log, MOECL_LOG_ERROR, "moecl_random_params.reserved[");
  return status;
}
static moecl_status call_skewed(asked *a) { return moecl_fill_skewed(a->buffer, &a->skewed); }

static void set_up_asked(asked *a) {
  const moecl_context_params with_log = {.log = test_log_add, .log_user = &a->log};
  a->context_params = with_log;
  a->layer_params = small_params;
  assert_ok(moecl_context_create(&with_log, &a->context));
  assert_ok(moecl_layer_create(a->context, &small_params, &a->layer));
  assert_ok(small_weights(a->layer, &small_params));
  assert_ok(moecl_buffer_create(a->context, 2 * SMALL_HIDDEN * sizeof(float), &a->buffer));
  a->random = (moecl_random_params){.scale = 1};
  a->skewed = (moecl_skewed_params){.num_tokens = 1, .hidden_size = 4, .num_clusters = 1};
}

/* Each member that a newer caller could set is refused, and named; without, the same call works. */
static void refuse_newer(asked *a, moecl_status (*call)(asked *), const char *type,
                         uint64_t *reserved, size_t count) {
  assert_ok(call(a));
  for (size_t i = 0; i < count; i++) {
    char where[64];
    base_text_free(&a->log.text);
    snprintf(where, sizeof where, "%s.reserved[", type);
    reserved[i] = UINT64_C(1) << (i % 64);
    assert_int_equal(call(a), MOECL_ERROR_INVALID_ARGUMENT);
    assert_true(test_log_has(&a->log, where));
    reserved[i] = 0;
  }
  assert_ok(call(a));
}

static void test_newer_callers(void **state) {
  (void)state;
  asked a = {0};
  set_up_asked(&a);
#define REFUSES(call, member)                                                                      \
  refuse_newer(&a, call, MEMBER_TYPE_##member, a.member.reserved, BASE_COUNT(a.member.reserved))
#define MEMBER_TYPE_context_params "moecl_context_params"
#define MEMBER_TYPE_layer_params "moecl_layer_params"
#define MEMBER_TYPE_forward "moecl_forward_params"
#define MEMBER_TYPE_random "moecl_random_params"
#define MEMBER_TYPE_skewed "moecl_skewed_params"
  REFUSES(call_context, context_params);
  REFUSES(call_layer, layer_params);
  REFUSES(call_memory, layer_params);
  REFUSES(call_check, layer_params);
  REFUSES(call_forward, forward);
  REFUSES(call_random, random);
  REFUSES(call_random_host, random);
  REFUSES(call_skewed, skewed);
  moecl_buffer_destroy(&a.buffer);
  moecl_layer_destroy(&a.layer);
  moecl_context_destroy(&a.context);
  base_text_free(&a.log.text);
}

/* A newer caller finds zeros in members that this library does not know. */
#define IS_CLEAR(of)                                                                               \
  (base_first_set((of).reserved, BASE_COUNT((of).reserved)) == BASE_COUNT((of).reserved))
static void test_older_library(void **state) {
  (void)state;
  asked a = {0};
  set_up_asked(&a);
  float output[SMALL_TOKENS * SMALL_HIDDEN];
  assert_ok(small_forward(a.context, a.layer, NULL, output));
  moecl_routing routing;
  moecl_routing_statistics statistics;
  moecl_memory memory;
  memset(&routing, 0xa5, sizeof routing);
  memset(&statistics, 0xa5, sizeof statistics);
  memset(&memory, 0xa5, sizeof memory);
  assert_ok(moecl_layer_read_routing_wait(a.layer, &routing));
  assert_true(IS_CLEAR(routing) && IS_CLEAR(routing.statistics));
  moecl_routing_statistics_compute(&routing, &statistics);
  assert_true(IS_CLEAR(statistics));
  moecl_routing_destroy(&routing);
  assert_ok(moecl_layer_memory(a.context, &small_params, 1, &memory));
  assert_true(IS_CLEAR(memory));
  assert_true(IS_CLEAR(*moecl_context_device(a.context)));

  moecl_plan *plan;
  moecl_plan_choice choices[2];
  moecl_plan_step steps[2];
  moecl_plan_tensor tensors[8];
  memset(choices, 0xa5, sizeof choices);
  memset(steps, 0xa5, sizeof steps);
  memset(tensors, 0xa5, sizeof tensors);
  assert_ok(moecl_plan_create(a.context, &small_params, SMALL_TOKENS, &plan));
  assert_true(moecl_plan_choices(plan, choices, 2) >= 2 && moecl_plan_steps(plan, steps, 2) >= 2);
  assert_true(moecl_plan_tensors(plan, tensors, 8) >= 8);
  for (int i = 0; i < 2; i++) assert_true(IS_CLEAR(choices[i]) && IS_CLEAR(steps[i]));
  for (int i = 0; i < 8; i++) assert_true(IS_CLEAR(tensors[i])); /* weights and others */
  moecl_plan_destroy(&plan);
  moecl_buffer_destroy(&a.buffer);
  moecl_layer_destroy(&a.layer);
  moecl_context_destroy(&a.context);
  base_text_free(&a.log.text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_version), cmocka_unit_test(test_layout),
                                     cmocka_unit_test(test_newer_callers),
                                     cmocka_unit_test(test_older_library)};
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
