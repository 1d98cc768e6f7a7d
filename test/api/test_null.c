// SPDX-License-Identifier: MIT
/* NULL where an object, parameters or an array are expected, in every call: an error, and
 * never a crash (the unit tests run under ASan too). test_null_calls.py holds that no call
 * with a pointer is left out. */
#include "../unit/small_layer.h"
#include "moecl/opencl.h"
#include <math.h>

#define REFUSED(call) assert_int_equal((call), MOECL_ERROR_INVALID_ARGUMENT)
/* Refused, and the new handle is NULL whatever was there before. */
#define MAKES_NOTHING(handle, call)                                                                \
  do {                                                                                             \
    (handle) = (void *)(uintptr_t)64;                                                              \
    REFUSED(call);                                                                                 \
    assert_null(handle);                                                                           \
  } while (0)

/* What needs no device. */
static void test_host_calls(void **state) {
  (void)state;
  double number = 7, two[2] = {1, 2};
  float narrow[2] = {3, 4};
  size_t chosen, count;
  moecl_device_info *devices;
  char message[128];

  moecl_to_double(MOECL_F32, NULL, 1, &number);
  moecl_to_double(MOECL_F32, narrow, 1, NULL);
  moecl_from_double(MOECL_F32, NULL, 1, narrow);
  moecl_from_double(MOECL_F32, two, 1, NULL);
  assert_true(number == 7 && narrow[0] == 3);

  REFUSED(moecl_devices_list(NULL, &count));
  REFUSED(moecl_devices_list(&devices, NULL));
  assert_true(moecl_devices_explain(NULL, 100) == moecl_devices_explain(NULL, 0));
  moecl_devices_destroy(NULL);
  REFUSED(moecl_device_choose(NULL, 1, NULL, &chosen));
  REFUSED(moecl_device_choose(NULL, 0, NULL, NULL));
  assert_int_equal(moecl_device_choose(NULL, 0, NULL, &chosen), MOECL_ERROR_NO_DEVICE);

  moecl_peaks peaks;
  REFUSED(moecl_measure_peaks_wait(NULL, &peaks));
  REFUSED(moecl_measure_peaks_wait(NULL, NULL));
  assert_null(moecl_context_cache_dir(NULL));

  const moecl_random_params random = {.scale = 1};
  REFUSED(moecl_random_host(NULL, 1, &random));
  REFUSED(moecl_random_host(narrow, 1, NULL));

  const moecl_quantize_params quantize = {
      .format = MOECL_FORMAT_INT8, .matrices = 1, .rows = 1, .columns = 2};
  REFUSED(moecl_quantize_host(NULL, two, narrow));
  REFUSED(moecl_quantize_host(&quantize, NULL, narrow));
  REFUSED(moecl_quantize_host(&quantize, two, NULL));

  REFUSED(moecl_layer_params_check(NULL, message, sizeof message));
  REFUSED(moecl_layer_params_check(NULL, NULL, sizeof message));
  assert_ok(moecl_layer_params_check(&small_params, NULL, 0));
  assert_int_equal(moecl_layer_tensor_size(NULL, MOECL_DOWN_PROJ), 0);
  assert_int_equal(moecl_layer_tensor_items(NULL, MOECL_DOWN_PROJ), 0);
  assert_int_equal(moecl_layer_tensor_dtype(NULL, MOECL_DOWN_PROJ), MOECL_F32);
  assert_int_equal(moecl_layer_tensor_format(NULL, MOECL_DOWN_PROJ), MOECL_FORMAT_F32);
  assert_int_equal(moecl_layer_tensor_bytes(NULL, MOECL_DOWN_PROJ), 0);
  int64_t rows = 1, columns = 1;
  moecl_layer_tensor_shape(NULL, MOECL_DOWN_PROJ, &rows, &columns);
  assert_true(rows == 0 && columns == 0);
  moecl_layer_tensor_shape(&small_params, MOECL_DOWN_PROJ, NULL, NULL);
  double one = 1;
  moecl_format_to_double(MOECL_FORMAT_DTYPE, &one, 1, 1, &one);
  moecl_format_from_double(MOECL_FORMAT_F32, NULL, 1, 1, &one);
  moecl_format_to_double(MOECL_FORMAT_F32, NULL, 1, 1, &one);
  assert_int_equal(moecl_format_get_layout(MOECL_FORMAT_F32, 1, 1, NULL),
                   MOECL_ERROR_INVALID_ARGUMENT);
  moecl_layer_tensor_to_double(NULL, MOECL_DOWN_PROJ, &one, &one);
  moecl_layer_tensor_from_double(NULL, MOECL_DOWN_PROJ, &one, &one);
  assert_true(one == 1);
  assert_int_equal(moecl_expert_capacity(NULL, 1), 0);
}

static void test_statistics(void **state) {
  (void)state;
  moecl_routing_statistics statistics;
  const moecl_routing empty = {.num_tokens = 1, .num_experts = 1, .top_k = 1};
  const moecl_routing *const none[] = {NULL, &empty};
  moecl_routing_statistics_compute(&empty, NULL);
  moecl_routing_statistics_compute(NULL, NULL);
  for (int i = 0; i < 2; i++) {
    memset(&statistics, 0xa5, sizeof statistics);
    moecl_routing_statistics_compute(none[i], &statistics);
    assert_true(statistics.entropy == 0 && statistics.max_mean_imbalance == 0);
    assert_int_equal(statistics.first_nonfinite_token, -1);
  }
  moecl_routing_destroy(NULL);
}

/* The reference: `p` and each array in turn. */
static void test_reference_router(void **state) {
  (void)state;
  const moecl_layer_params *p = &small_params;
  double x[SMALL_EXPERTS * SMALL_HIDDEN] = {0}, y[SMALL_HIDDEN] = {0};
  int32_t ids[2];
  moecl_reference_logits(NULL, x, x, NULL, 0, 0, y);
  moecl_reference_logits(p, NULL, x, NULL, 0, 0, y);
  moecl_reference_logits(p, x, NULL, NULL, 0, 0, y);
  moecl_reference_logits(p, x, x, NULL, 0, 0, NULL);
  const double *const no_tensors[MOECL_BLOCK_TENSOR_COUNT] = {NULL};
  const moecl_block_params block = {.attention = {.num_heads = 1}, .layer = *p};
  REFUSED(moecl_reference_attention(NULL, 1, x, no_tensors, y, y));
  REFUSED(moecl_reference_attention(&block, 1, NULL, no_tensors, y, y));
  REFUSED(moecl_reference_attention(&block, 1, x, NULL, y, y));
  REFUSED(moecl_reference_attention(&block, 1, x, no_tensors, y, y));
  const int64_t token = 0;
  REFUSED(moecl_reference_attention_tokens(NULL, 1, x, no_tensors, 1, &token, 1, y, y));
  REFUSED(moecl_reference_attention_tokens(&block, 1, NULL, no_tensors, 1, &token, 1, y, y));
  REFUSED(moecl_reference_attention_tokens(&block, 1, x, NULL, 1, &token, 1, y, y));
  REFUSED(moecl_reference_attention_tokens(&block, 1, x, no_tensors, 1, NULL, 1, y, y));
  moecl_reference_add_noise(NULL, x, 0, 0, y);
  moecl_reference_add_noise(p, NULL, 0, 0, y);
  moecl_reference_add_noise(p, x, 0, 0, NULL);
  assert_true(moecl_reference_topk(NULL, x, NULL, 0, 0, ids, y, NULL) == 0);
  assert_true(moecl_reference_topk(p, NULL, NULL, 0, 0, ids, y, NULL) == 0);
  assert_true(moecl_reference_topk(p, x, NULL, 0, 0, NULL, y, NULL) == 0);
  assert_true(moecl_reference_topk(p, x, NULL, 0, 0, ids, NULL, NULL) == 0);
  assert_true(moecl_reference_weight_floor(NULL) == 0);
  assert_true(moecl_reference_priority(NULL, 2) == 0);
  for (int i = 0; i < SMALL_HIDDEN; i++) assert_true(y[i] == 0);
}

static void test_reference_capacity(void **state) {
  (void)state;
  const moecl_layer_params *p = &small_params;
  const int32_t ids[2] = {0, 1};
  const float weights[2] = {1, 1};
  uint8_t kept[2] = {1, 1};
  double factors[2];
  REFUSED(moecl_reference_capacity(NULL, 1, ids, weights, NULL, kept));
  REFUSED(moecl_reference_capacity(p, 1, NULL, weights, NULL, kept));
  REFUSED(moecl_reference_capacity(p, 1, ids, NULL, NULL, kept));
  REFUSED(moecl_reference_capacity(p, 1, ids, weights, NULL, NULL));
  assert_ok(moecl_reference_capacity(p, 0, NULL, NULL, NULL, NULL));
  moecl_reference_kept_weights(NULL, weights, kept, factors);
  moecl_reference_kept_weights(p, NULL, kept, factors);
  moecl_reference_kept_weights(p, weights, NULL, factors);
  moecl_reference_kept_weights(p, weights, kept, NULL);
  assert_false(moecl_reference_is_identity(NULL, 0));
  REFUSED(moecl_reference_round_rows(MOECL_F32, MOECL_FORMAT_FP8_G128, 1, 1, NULL));
}

static void test_reference_experts(void **state) {
  (void)state;
  const moecl_layer_params *p = &small_params;
  double x[2 * SMALL_INNER * SMALL_HIDDEN] = {0}, y[SMALL_HIDDEN];
  REFUSED(moecl_reference_expert(NULL, x, x, NULL, x, NULL, y));
  REFUSED(moecl_reference_expert(p, NULL, x, NULL, x, NULL, y));
  REFUSED(moecl_reference_expert(p, x, NULL, NULL, x, NULL, y));
  REFUSED(moecl_reference_expert(p, x, x, NULL, NULL, NULL, y));
  REFUSED(moecl_reference_expert(p, x, x, NULL, x, NULL, NULL));
  REFUSED(moecl_reference_expert_tokens(NULL, 1, x, x, NULL, x, NULL, 1, y));
  REFUSED(moecl_reference_expert_tokens(p, 1, NULL, x, NULL, x, NULL, 1, y));
  REFUSED(moecl_reference_expert_tokens(p, 1, x, NULL, NULL, x, NULL, 1, y));
  REFUSED(moecl_reference_expert_tokens(p, 1, x, x, NULL, NULL, NULL, 1, y));
  REFUSED(moecl_reference_expert_tokens(p, 1, x, x, NULL, x, NULL, 1, NULL));
  assert_ok(moecl_reference_expert_tokens(p, 0, NULL, NULL, NULL, NULL, NULL, 1, NULL));
  REFUSED(moecl_reference_intermediate_tokens(NULL, 1, x, x, NULL, 1, y));
  REFUSED(moecl_reference_intermediate_tokens(p, 1, NULL, x, NULL, 1, y));
  REFUSED(moecl_reference_intermediate_tokens(p, 1, x, NULL, NULL, 1, y));
  REFUSED(moecl_reference_intermediate_tokens(p, 1, x, x, NULL, 1, NULL));
  assert_int_equal(moecl_reference_shared(NULL).num_experts, 0);
  assert_true(moecl_reference_shared_weight(NULL, x, NULL) == 0);
  assert_true(moecl_reference_shared_weight(p, NULL, x) == 0);
  assert_true(moecl_reference_shared_weight(p, NULL, NULL) == 1);
  /* No error is what nobody could measure. */
  assert_true(isinf(moecl_relative_error(NULL, x, 1)) && isinf(moecl_relative_error(x, NULL, 1)));
  assert_true(isinf(moecl_relative_error_above(NULL, x, 1, 1)));
  assert_true(moecl_relative_error(NULL, NULL, 0) == 0);
}

static void test_files(void **state) {
  (void)state;
  moecl_safetensors *file;
  moecl_checkpoint *checkpoint;
  moecl_checkpoint_layer layer;
  moecl_checkpoint_size size;
  const moecl_safetensors_tensor *tensor;
  float values[2];
  REFUSED(moecl_safetensors_open("x", NULL, NULL, NULL));
  MAKES_NOTHING(file, moecl_safetensors_open(NULL, NULL, NULL, &file));
  moecl_safetensors_destroy(NULL);
  moecl_safetensors_destroy(&file);
  assert_int_equal(moecl_safetensors_count(NULL), 0);
  assert_null(moecl_safetensors_at(NULL, 0));
  assert_null(moecl_safetensors_find(NULL, "x"));
  assert_null(moecl_safetensors_metadata(NULL, "x"));
  assert_null(moecl_safetensors_path(NULL));
  assert_false(moecl_safetensors_dtype(NULL, NULL));
  assert_true(moecl_safetensors_dtype(&(moecl_safetensors_tensor){.dtype = "F32"}, NULL));
  REFUSED(moecl_safetensors_to_double(NULL, NULL, 0, 1, NULL));

  REFUSED(moecl_checkpoint_open("x", NULL, NULL, NULL));
  MAKES_NOTHING(checkpoint, moecl_checkpoint_open(NULL, NULL, NULL, &checkpoint));
  moecl_checkpoint_destroy(NULL);
  moecl_checkpoint_destroy(&checkpoint);
  assert_null(moecl_checkpoint_family(NULL));
  assert_null(moecl_checkpoint_model_type(NULL));
  assert_int_equal(moecl_checkpoint_num_layers(NULL), 0);
  REFUSED(moecl_checkpoint_get_layer(NULL, 0, &layer));
  REFUSED(moecl_checkpoint_get_layer(NULL, 0, NULL));
  REFUSED(moecl_checkpoint_measure(NULL, &size));
  REFUSED(moecl_checkpoint_measure(NULL, NULL));
  const moecl_checkpoint_quantize_params quantize = {.format = MOECL_FORMAT_INT8};
  REFUSED(moecl_checkpoint_quantize(NULL, &quantize, "folder"));
  REFUSED(moecl_checkpoint_check(NULL, 0));
  MAKES_NOTHING(tensor, moecl_checkpoint_find(NULL, "x", NULL, &tensor));
  REFUSED(moecl_checkpoint_find(NULL, "x", NULL, NULL));
  REFUSED(moecl_checkpoint_read(NULL, 0, MOECL_DOWN_PROJ, 0, MOECL_F32, values));
  REFUSED(moecl_checkpoint_read(NULL, 0, MOECL_DOWN_PROJ, 0, MOECL_F32, NULL));
  REFUSED(moecl_checkpoint_read_as(NULL, 0, MOECL_DOWN_PROJ, 0, NULL, values));
  REFUSED(moecl_checkpoint_read_as(NULL, 0, MOECL_DOWN_PROJ, 0, NULL, NULL));
  REFUSED(moecl_checkpoint_read_expert_scale(NULL, 0, values));
  REFUSED(moecl_checkpoint_read_expert_scale(NULL, 0, NULL));
  REFUSED(moecl_checkpoint_quantize(NULL, &(moecl_checkpoint_quantize_params){0}, "x"));
  REFUSED(moecl_layer_load(NULL, NULL, 0));
  REFUSED(moecl_block_load(NULL, NULL, 0));
  moecl_block_params block_params;
  REFUSED(moecl_checkpoint_get_block(NULL, 0, &block_params));
  REFUSED(moecl_checkpoint_check_block(NULL, 0));
  REFUSED(moecl_checkpoint_read_block(NULL, 0, MOECL_O_PROJ, MOECL_F32, &block_params));
}

/* A context and what it holds, and calls that get them beside a NULL. */
typedef struct objects {
  moecl_context *context;
  moecl_layer *layer;
  moecl_buffer *buffer;
  moecl_profile *profile;
} objects;

static int set_up(void **state) {
  static objects o;
  *state = &o;
  if (moecl_context_create(NULL, &o.context) != MOECL_OK) return -1;
  if (moecl_layer_create(o.context, &small_params, &o.layer) != MOECL_OK) return -1;
  if (moecl_buffer_create(o.context, 1024, &o.buffer) != MOECL_OK) return -1;
  if (moecl_profile_create(o.context, &o.profile) != MOECL_OK) return -1;
  return (int)small_weights(o.layer, &small_params);
}

static int tear_down(void **state) {
  objects *o = *state;
  moecl_profile_destroy(&o->profile);
  moecl_buffer_destroy(&o->buffer);
  moecl_layer_destroy(&o->layer);
  moecl_context_destroy(&o->context);
  return 0;
}

static void test_context_calls(void **state) {
  const objects *o = *state;
  moecl_context *made;
  moecl_event *event;
  char text[64];
  REFUSED(moecl_context_create(NULL, NULL));
  REFUSED(moecl_context_create_from_cl(NULL, NULL, NULL, NULL, NULL));
  MAKES_NOTHING(made, moecl_context_create_from_cl(NULL, NULL, NULL, NULL, &made));
  MAKES_NOTHING(
      made, moecl_context_create_from_cl(moecl_context_cl(o->context), NULL, NULL, NULL, &made));
  moecl_context_destroy(NULL);
  moecl_context_destroy(&made);
  assert_null(moecl_context_device(NULL));
  assert_null(moecl_context_kernel_dir(NULL));
  assert_null(moecl_context_cl(NULL));
  assert_null(moecl_context_cl_queue(NULL));
  REFUSED(moecl_context_kernel_hash(NULL, text));
  assert_string_equal(text, "");
  REFUSED(moecl_context_kernel_hash(o->context, NULL));
  assert_int_equal(moecl_context_take_errors(NULL, text, sizeof text), 0);
  moecl_context_take_errors(o->context, NULL, sizeof text);
  moecl_context_take_errors(NULL, NULL, sizeof text);
  REFUSED(moecl_context_finish_wait(NULL));
  uint64_t most = 1;
  assert_int_equal(moecl_context_memory(NULL, &most), 0);
  assert_int_equal(most, 0);
  assert_true(moecl_context_memory(o->context, NULL) >= 1024);
  moecl_context_reset_memory(NULL);
  REFUSED(moecl_event_wait(NULL));
  moecl_event_destroy(NULL);
  assert_null(moecl_event_cl(NULL));
  MAKES_NOTHING(event, moecl_event_wrap(NULL, NULL, &event));
  MAKES_NOTHING(event, moecl_event_wrap(o->context, NULL, &event));
  REFUSED(moecl_event_wrap(o->context, NULL, NULL));
  moecl_event_destroy(&event);
}

static void test_buffer_calls(void **state) {
  const objects *o = *state;
  moecl_buffer *made;
  const moecl_random_params random = {.scale = 1};
  const moecl_skewed_params skewed = {.num_tokens = 1, .hidden_size = 4, .num_clusters = 1};
  REFUSED(moecl_buffer_create(o->context, 1, NULL));
  MAKES_NOTHING(made, moecl_buffer_create(NULL, 1, &made));
  MAKES_NOTHING(made, moecl_buffer_view(NULL, 0, 1, &made));
  REFUSED(moecl_buffer_view(o->buffer, 0, 1, NULL));
  MAKES_NOTHING(made, moecl_buffer_wrap(NULL, moecl_buffer_cl(o->buffer), &made));
  MAKES_NOTHING(made, moecl_buffer_wrap(o->context, NULL, &made));
  REFUSED(moecl_buffer_wrap(o->context, moecl_buffer_cl(o->buffer), NULL));
  moecl_buffer_destroy(NULL);
  moecl_buffer_destroy(&made);
  assert_int_equal(moecl_buffer_alignment(NULL), 0);
  assert_int_equal(moecl_buffer_size(NULL), 0);
  assert_null(moecl_buffer_cl(NULL));
  REFUSED(moecl_buffer_read_wait(NULL, 0, 1, &(int){0}));
  REFUSED(moecl_buffer_read_wait(o->buffer, 0, 1, NULL));
  REFUSED(moecl_buffer_write_wait(NULL, 0, 1, &(int){0}));
  REFUSED(moecl_buffer_write_wait(o->buffer, 0, 1, NULL));
  REFUSED(moecl_buffer_fill_byte(NULL, 0, 1, 0));
  REFUSED(moecl_fill_random(NULL, 0, 1, &random));
  REFUSED(moecl_fill_random(o->buffer, 0, 1, NULL));
  const moecl_quantize_params quantize = {.format = MOECL_FORMAT_INT8};
  REFUSED(moecl_quantize(NULL, o->buffer, 0, o->buffer, 0));
  REFUSED(moecl_quantize(&quantize, NULL, 0, o->buffer, 0));
  REFUSED(moecl_quantize(&quantize, o->buffer, 0, NULL, 0));
  REFUSED(moecl_fill_skewed(NULL, &skewed));
  REFUSED(moecl_fill_skewed(o->buffer, NULL));
}

static void test_layer_calls(void **state) {
  const objects *o = *state;
  moecl_layer *made;
  moecl_memory memory;
  moecl_routing routing;
  const float weights[SMALL_EXPERTS * SMALL_HIDDEN] = {0};
  moecl_offload_statistics offload = {.places = 7};
  REFUSED(moecl_layer_create(o->context, &small_params, NULL));
  MAKES_NOTHING(made, moecl_layer_create(NULL, &small_params, &made));
  MAKES_NOTHING(made, moecl_layer_create(o->context, NULL, &made));
  moecl_layer_destroy(NULL);
  moecl_layer_destroy(&made);
  REFUSED(moecl_layer_set_weights(NULL, MOECL_ROUTER_WEIGHT, 0, 1, weights));
  REFUSED(moecl_layer_set_weights(o->layer, MOECL_ROUTER_WEIGHT, 0, 1, NULL));
  REFUSED(moecl_layer_set_weights_buffer(NULL, MOECL_ROUTER_WEIGHT, 0, 1, o->buffer, 0));
  REFUSED(moecl_layer_set_weights_buffer(o->layer, MOECL_ROUTER_WEIGHT, 0, 1, NULL, 0));
  REFUSED(moecl_layer_load(o->layer, NULL, 0));
  assert_int_equal(moecl_layer_weight_bytes(NULL), 0);
  assert_int_equal(moecl_layer_workspace_size(NULL, 1), 0);
  REFUSED(moecl_layer_reserve(NULL, 1));
  assert_int_equal(moecl_layer_host_bytes(NULL), 0);
  REFUSED(moecl_layer_offload_statistics_wait(NULL, &offload));
  REFUSED(moecl_layer_offload_statistics_wait(o->layer, NULL));
  assert_int_equal(offload.places, 0);
  REFUSED(moecl_layer_memory(NULL, &small_params, 1, &memory));
  assert_int_equal(memory.weight_bytes, 0);
  REFUSED(moecl_layer_memory(o->context, NULL, 1, &memory));
  REFUSED(moecl_layer_memory(o->context, &small_params, 1, NULL));
  assert_null(moecl_layer_variant(NULL, "router", NULL));
  assert_null(moecl_layer_variant(o->layer, NULL, NULL));
  assert_non_null(moecl_layer_variant(o->layer, "router", NULL));
  assert_true(moecl_layer_roundoff(NULL) == 0 && moecl_layer_output_roundoff(NULL) == 0);
  assert_int_equal(moecl_variants_available(NULL, "router", MOECL_F32, NULL, 0), 0);
  assert_int_equal(moecl_variants_available(o->context, NULL, MOECL_F32, NULL, 0), 0);
  assert_true(moecl_variants_available(o->context, "router", MOECL_F32, NULL, 9) > 0);
  assert_int_equal(moecl_variants_for_format(NULL, "router", MOECL_FORMAT_F32, NULL, 0), 0);
  assert_int_equal(moecl_variants_for_format(o->context, NULL, MOECL_FORMAT_F32, NULL, 0), 0);
  assert_int_equal(moecl_variants_for_format(o->context, "router", MOECL_FORMAT_DTYPE, NULL, 0), 0);
  assert_int_equal(moecl_variants_for_format(o->context, "router", MOECL_FORMAT_COUNT, NULL, 0), 0);
  assert_int_equal(moecl_variants_for_format(o->context, "router", (moecl_format)-1, NULL, 0), 0);
  assert_true(moecl_variants_for_format(o->context, "router", MOECL_FORMAT_F32, NULL, 9) > 0);
  assert_false(moecl_variant_uses_matrix_units(NULL, "generic"));
  assert_false(moecl_variant_uses_matrix_units("grouped_gemm", NULL));
  assert_false(moecl_variant_uses_matrix_units("grouped_gemm", "nonesuch"));
  assert_false(moecl_variant_uses_matrix_units("grouped_gemm", "generic"));
  assert_true(moecl_variant_uses_matrix_units("grouped_gemm", "nvidia_sm80"));
  REFUSED(moecl_layer_read_routing_wait(o->layer, NULL));
  REFUSED(moecl_layer_read_routing_wait(NULL, &routing));
  assert_null(routing.topk_ids);
}

static void test_forward_calls(void **state) {
  const objects *o = *state;
  moecl_event *event;
  moecl_event *const no_event = NULL;
  moecl_buffer *output;
  double times[MOECL_STAGE_COUNT];
  assert_ok(moecl_buffer_create(o->context, 1024, &output));
  const moecl_forward_params good = {.num_tokens = 1, .hidden_states = o->buffer, .output = output};
  moecl_forward_params without = good;
  MAKES_NOTHING(event, moecl_layer_forward(NULL, &good, &event));
  MAKES_NOTHING(event, moecl_layer_forward(o->layer, NULL, &event));
  without.hidden_states = NULL;
  MAKES_NOTHING(event, moecl_layer_forward(o->layer, &without, &event));
  without = good;
  without.output = NULL;
  MAKES_NOTHING(event, moecl_layer_forward(o->layer, &without, &event));
  without = good;
  without.wait_count = 1;
  MAKES_NOTHING(event, moecl_layer_forward(o->layer, &without, &event));
  without.wait_list = &no_event;
  MAKES_NOTHING(event, moecl_layer_forward(o->layer, &without, &event));
  without.num_tokens = 0;
  MAKES_NOTHING(event, moecl_layer_forward(o->layer, &without, &event));
  REFUSED(moecl_layer_forward(o->layer, &without, NULL));
  assert_ok(moecl_layer_forward(o->layer, &good, NULL));
  moecl_buffer_destroy(&output);

  moecl_profile *profile;
  MAKES_NOTHING(profile, moecl_profile_create(NULL, &profile));
  REFUSED(moecl_profile_create(o->context, NULL));
  moecl_profile_destroy(NULL);
  moecl_profile_destroy(&profile);
  moecl_profile_layer_only(NULL, true);
  REFUSED(moecl_profile_read_wait(NULL, times, MOECL_STAGE_COUNT));
  REFUSED(moecl_profile_read_wait(o->profile, NULL, 1));
  moecl_profile_keep_kernels(NULL, true);
  size_t count = 1;
  REFUSED(moecl_profile_kernels_wait(NULL, NULL, 0, &count));
  assert_int_equal(count, 0);
  REFUSED(moecl_profile_kernels_wait(o->profile, NULL, 1, &count));
  REFUSED(moecl_profile_kernels_wait(o->profile, NULL, 0, NULL));
}

static void test_block_calls(void **state) {
  const objects *o = *state;
  moecl_block_params params = {.attention = {.num_heads = 2}, .layer = small_params};
  moecl_block *block;
  moecl_cache *cache;
  moecl_event *event;
  assert_int_equal(moecl_block_tensor_size(NULL, MOECL_QKV_PROJ), 0);
  REFUSED(moecl_block_params_check(NULL, NULL, 0));
  assert_ok(moecl_block_params_check(&params, NULL, 9));
  MAKES_NOTHING(block, moecl_block_create(NULL, &params, &block));
  MAKES_NOTHING(block, moecl_block_create(o->context, NULL, &block));
  REFUSED(moecl_block_create(o->context, &params, NULL));
  moecl_block_destroy(NULL);
  moecl_block_destroy(&block);
  assert_null(moecl_block_layer(NULL));
  assert_int_equal(moecl_block_weight_bytes(NULL), 0);
  assert_int_equal(moecl_block_workspace_size(NULL, 1, false), 0);
  REFUSED(moecl_block_reserve(NULL, 1, false));
  assert_null(moecl_block_variant(NULL, "norm", NULL));
  MAKES_NOTHING(cache, moecl_cache_create(NULL, 1, &cache));
  moecl_cache_destroy(NULL);
  moecl_cache_destroy(&cache);
  assert_int_equal(moecl_cache_tokens(NULL), 0);
  assert_int_equal(moecl_cache_bytes(NULL), 0);
  REFUSED(moecl_cache_set_tokens(NULL, 0));
  assert_ok(moecl_block_create(o->context, &params, &block));
  assert_non_null(moecl_block_variant(block, "attention", NULL));
  assert_non_null(moecl_block_variant(block, "combine", NULL));
  assert_null(moecl_block_variant(block, NULL, NULL));
  REFUSED(moecl_cache_create(block, 1, NULL));
  REFUSED(moecl_block_set_weights(NULL, MOECL_O_PROJ, o));
  REFUSED(moecl_block_set_weights(block, MOECL_O_PROJ, NULL));
  REFUSED(moecl_block_set_weights_buffer(NULL, MOECL_O_PROJ, o->buffer, 0));
  REFUSED(moecl_block_set_weights_buffer(block, MOECL_O_PROJ, NULL, 0));
  const moecl_block_forward_params forward = {.num_tokens = 1};
  MAKES_NOTHING(event, moecl_block_forward(NULL, &forward, &event));
  MAKES_NOTHING(event, moecl_block_forward(block, NULL, &event));
  moecl_block_destroy(&block);
  moecl_memory memory;
  REFUSED(moecl_block_memory(NULL, &params, 1, 0, &memory));
  REFUSED(moecl_block_memory(o->context, NULL, 1, 0, &memory));
  REFUSED(moecl_block_memory(o->context, &params, 1, 0, NULL));
  moecl_plan *plan;
  MAKES_NOTHING(plan, moecl_block_plan_create(NULL, &params, 1, 0, &plan));
  MAKES_NOTHING(plan, moecl_block_plan_create(o->context, NULL, 1, 0, &plan));
  REFUSED(moecl_block_plan_create(o->context, &params, 1, 0, NULL));
}

static void test_group_calls(void **state) {
  const objects *o = *state;
  moecl_context *nothing[] = {o->context, NULL};
  const moecl_group_layer_params params = {.layer = small_params};
  const moecl_group_forward_params no_tokens = {.seed = 1};
  const float values[1] = {0};
  const int64_t load = 1;
  int32_t expert;
  size_t size;
  moecl_group *group;
  moecl_group_layer *layer;
  moecl_routing routing;
  moecl_group_statistics statistics;
  MAKES_NOTHING(group, moecl_group_create(NULL, 1, NULL, &group));
  MAKES_NOTHING(group, moecl_group_create(nothing, 2, NULL, &group));
  MAKES_NOTHING(group, moecl_group_create(nothing, 0, NULL, &group));
  REFUSED(moecl_group_create(nothing, 1, NULL, NULL));
  moecl_group_destroy(NULL);
  moecl_group_destroy(&group);
  assert_int_equal(moecl_group_size(NULL), 0);
  assert_int_equal(moecl_group_own(NULL, NULL), 0);
  assert_null(moecl_group_context(NULL, 0));
  assert_null(moecl_group_transport(NULL));
  assert_true(moecl_group_transports(NULL, 0) > 0 && moecl_group_transports(NULL, 9) > 0);
  assert_ok(moecl_group_create(nothing, 1, NULL, &group));
  MAKES_NOTHING(layer, moecl_group_layer_create(NULL, &params, &layer));
  MAKES_NOTHING(layer, moecl_group_layer_create(group, NULL, &layer));
  REFUSED(moecl_group_layer_create(group, &params, NULL));
  moecl_group_layer_destroy(NULL);
  moecl_group_layer_destroy(&layer);
  assert_int_equal(moecl_group_layer_experts(NULL, 0, NULL, 0), 0);
  REFUSED(moecl_group_balance(NULL, 1, 1, &expert, &size));
  REFUSED(moecl_group_balance(&load, 1, 1, NULL, &size));
  REFUSED(moecl_group_balance(&load, 1, 1, &expert, NULL));
  assert_null(moecl_group_layer_variant(NULL, 0, "router", NULL));
  assert_int_equal(moecl_group_layer_weight_bytes(NULL, 0), 0);
  assert_true(moecl_group_layer_roundoff(NULL, 0) == 0);
  assert_true(moecl_group_layer_output_roundoff(NULL, 0) == 0);
  REFUSED(moecl_group_layer_set_weights(NULL, MOECL_ROUTER_WEIGHT, 0, 1, values));
  REFUSED(moecl_group_layer_load(NULL, NULL, 0));
  REFUSED(moecl_group_layer_forward(NULL, &no_tokens, NULL));
  REFUSED(moecl_group_layer_read_routing_wait(NULL, &routing));
  REFUSED(moecl_group_layer_statistics_wait(NULL, 0, &statistics));
  assert_ok(moecl_group_layer_create(group, &params, &layer));
  REFUSED(moecl_group_layer_set_weights(layer, MOECL_ROUTER_WEIGHT, 0, 1, NULL));
  REFUSED(moecl_group_layer_load(layer, NULL, 0));
  REFUSED(moecl_group_layer_forward(layer, NULL, NULL));
  REFUSED(moecl_group_layer_forward(layer, &no_tokens, NULL));
  REFUSED(moecl_group_layer_read_routing_wait(layer, NULL));
  REFUSED(moecl_group_layer_statistics_wait(layer, 0, NULL));
  assert_null(moecl_group_layer_variant(layer, 0, NULL, NULL));
  moecl_group_layer_destroy(&layer);
  moecl_group_destroy(&group);
}

static void test_plan_calls(void **state) {
  const objects *o = *state;
  moecl_plan *plan;
  MAKES_NOTHING(plan, moecl_plan_create(NULL, &small_params, 1, &plan));
  MAKES_NOTHING(plan, moecl_plan_create(o->context, NULL, 1, &plan));
  REFUSED(moecl_plan_create(o->context, &small_params, 1, NULL));
  moecl_plan_destroy(NULL);
  moecl_plan_destroy(&plan);
  assert_int_equal(moecl_plan_choices(NULL, NULL, 1), 0);
  assert_int_equal(moecl_plan_steps(NULL, NULL, 1), 0);
  assert_int_equal(moecl_plan_tensors(NULL, NULL, 1), 0);
  assert_int_equal(moecl_plan_memory(NULL).weight_bytes, 0);
  assert_int_equal(moecl_plan_unshared_workspace_bytes(NULL), 0);
  assert_ok(moecl_plan_create(o->context, &small_params, 1, &plan));
  assert_true(moecl_plan_choices(plan, NULL, 1) > 0 && moecl_plan_steps(plan, NULL, 1) > 0);
  assert_true(moecl_plan_tensors(plan, NULL, 1) > 0);
  moecl_plan_destroy(&plan);
}

int main(void) {
  const struct CMUnitTest host[] = {
      cmocka_unit_test(test_host_calls),        cmocka_unit_test(test_statistics),
      cmocka_unit_test(test_reference_router),  cmocka_unit_test(test_reference_capacity),
      cmocka_unit_test(test_reference_experts), cmocka_unit_test(test_files)};
  const struct CMUnitTest device[] = {
      cmocka_unit_test(test_context_calls), cmocka_unit_test(test_buffer_calls),
      cmocka_unit_test(test_layer_calls),   cmocka_unit_test(test_forward_calls),
      cmocka_unit_test(test_block_calls),   cmocka_unit_test(test_plan_calls),
      cmocka_unit_test(test_group_calls)};
  const int failed = cmocka_run_group_tests(host, NULL, NULL);
  if (failed) return failed;
  skip_without_device();
  return cmocka_run_group_tests(device, set_up, tear_down);
}
