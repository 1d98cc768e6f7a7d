// SPDX-License-Identifier: MIT
/* What an embedding program does, with each call of OpenCL and each allocation made
 * to fail, one at a time, alone and with all that come after it: nothing crashes, nothing is kept,
 * the call is named, and what succeeds all the same is right.
 *
 * A place is a call with its nearest callers; each fails once, in the first
 * scenario that comes by, and with MOECL_TEST_ALL=1 every single call does. */
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS /* clCreateCommandQueue, which every driver has */
#include "faults.h"
#include "../kernel/stand_in.h"
#include "small_layer.h"
#include "moecl/block.h"
#include "moecl/checkpoint.h"
#include "moecl/group.h"
#include "moecl/offload.h"
#include "moecl/opencl.h"
#include "moecl/random.h"
#include "moecl/routing.h"
#include <math.h>
#include <signal.h>
#include <unistd.h>

enum { MOST_CALLS = 200000, OUTPUTS = SMALL_TOKENS * SMALL_HIDDEN, LOG_SIZE = 1 << 16 };

/* ---- what is said, kept without an allocation ---- */

static char log_text[LOG_SIZE];
static size_t log_size;

static void keep_log(void *user, moecl_log_level level, const char *message) {
  (void)user;
  const int size =
      snprintf(log_text + log_size, LOG_SIZE - log_size, "%d %s\n", (int)level, message);
  if (size > 0 && log_size + (size_t)size < LOG_SIZE) log_size += (size_t)size;
}

/* ---- scenarios: each undoes all it did, and stops at the first failure ---- */

typedef struct outcome {
  moecl_status status;
  float output[OUTPUTS];
} outcome;

static moecl_layer_params rich_params(void) {
  moecl_layer_params params = small_params;
  params.shared_intermediate_size = 6;
  params.shared_gate = true;
  params.score_correction_bias = true;
  params.jitter = 0.0625f;
  params.routed_scaling_factor = 2.5f;
  params.capacity_factor = 1.25;
  params.drop_policy = MOECL_DROP_PROBABILITY;
  params.renormalize_after_capacity = true;
  return params;
}

static moecl_status use_layer(moecl_context *context, const moecl_layer_params *params,
                              float *output) {
  moecl_layer *layer = NULL;
  moecl_profile *profile = NULL;
  moecl_routing routing = {0};
  moecl_kernel_times kernels[4];
  size_t count;
  double ms[MOECL_STAGE_COUNT];
  moecl_status status = moecl_layer_create(context, params, &layer);
  if (status == MOECL_OK) status = small_weights(layer, params);
  if (status == MOECL_OK) status = moecl_profile_create(context, &profile);
  moecl_profile_keep_kernels(profile, true);
  if (status == MOECL_OK) status = small_forward(context, layer, profile, output);
  if (status == MOECL_OK) status = moecl_profile_kernels_wait(profile, kernels, 4, &count);
  if (status == MOECL_OK) status = moecl_layer_read_routing_wait(layer, &routing);
  if (status == MOECL_OK) status = moecl_profile_read_wait(profile, ms, MOECL_STAGE_COUNT);
  moecl_routing_destroy(&routing);
  moecl_profile_destroy(&profile);
  moecl_layer_destroy(&layer);
  return status;
}

static moecl_status use_random(moecl_context *context) {
  const moecl_skewed_params skewed = {
      .num_tokens = 4, .hidden_size = 8, .num_clusters = 2, .exponent = 1, .noise = 0.5};
  moecl_buffer *buffer = NULL;
  moecl_status status = moecl_buffer_create(context, 4 * 8 * sizeof(float), &buffer);
  if (status == MOECL_OK) status = moecl_fill_skewed(buffer, &skewed);
  if (status == MOECL_OK) status = moecl_context_finish_wait(context);
  moecl_buffer_destroy(&buffer);
  return status;
}

static void run_layer(outcome *out) {
  moecl_device_info *devices = NULL;
  size_t count = 0;
  moecl_context *context = NULL;
  const moecl_context_params params = {.log = keep_log};
  const moecl_layer_params layer = rich_params();
  moecl_devices_list(&devices, &count); /* neither has a log to name a call in */
  moecl_devices_explain(NULL, 0);
  moecl_devices_destroy(&devices);
  moecl_status status = moecl_context_create(&params, &context);
  if (status == MOECL_OK) status = use_layer(context, &layer, out->output);
  if (status == MOECL_OK) status = use_random(context);
  moecl_context_destroy(&context);
  out->status = status;
}

/* A program with OpenCL objects of its own, and weights of its own on the device. */
static cl_context own_context;
static cl_command_queue own_queue, own_unordered; /* the second one out of order, where it can be */
static cl_device_id own_device;
static cl_event own_event; /* of the first one */

static moecl_status give_weights(moecl_context *context, moecl_layer *layer) {
  const moecl_tensor tensor = MOECL_GATE_UP_PROJ;
  float values[SMALL_EXPERTS * 2 * SMALL_INNER * SMALL_HIDDEN];
  moecl_buffer *buffer = NULL;
  small_fill(values, sizeof values / sizeof *values, (unsigned)tensor);
  moecl_status status = moecl_buffer_create(context, sizeof values, &buffer);
  if (status == MOECL_OK) status = moecl_buffer_write_wait(buffer, 0, sizeof values, values);
  if (status == MOECL_OK)
    status = moecl_layer_set_weights_buffer(layer, tensor, 0, SMALL_EXPERTS, buffer, 0);
  moecl_buffer_destroy(&buffer);
  return status;
}

static void run_own(outcome *out) {
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  const moecl_context_params params = {.log = keep_log};
  moecl_status status =
      moecl_context_create_from_cl(own_context, own_device, own_queue, &params, &context);
  if (status == MOECL_OK) status = moecl_layer_create(context, &small_params, &layer);
  if (status == MOECL_OK) status = small_weights(layer, &small_params);
  if (status == MOECL_OK) status = give_weights(context, layer);
  if (status == MOECL_OK) status = small_forward(context, layer, NULL, out->output);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  out->status = status;
}

/* Work of its own comes first, on another queue, and the layer's has no order of itself. */
static void run_after(outcome *out) {
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  moecl_event *before = NULL;
  const moecl_context_params params = {.log = keep_log};
  moecl_status status =
      moecl_context_create_from_cl(own_context, own_device, own_unordered, &params, &context);
  if (status == MOECL_OK) status = moecl_event_wrap(context, own_event, &before);
  if (status == MOECL_OK) status = moecl_layer_create(context, &small_params, &layer);
  if (status == MOECL_OK) status = small_weights(layer, &small_params);
  if (status == MOECL_OK) status = small_forward_after(context, layer, NULL, before, out->output);
  moecl_event_destroy(&before);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  out->status = status;
}

static void run_checkpoint(outcome *out) {
  char folder[1024];
  const char *golden = getenv("MOECL_GOLDEN_DIR");
  snprintf(folder, sizeof folder, "%s/families/deepseek_v3", golden ? golden : "test/golden");
  moecl_checkpoint *checkpoint = NULL;
  moecl_checkpoint_layer described;
  moecl_checkpoint_size size;
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  const moecl_context_params params = {.log = keep_log};
  moecl_status status = moecl_checkpoint_open(folder, keep_log, NULL, &checkpoint);
  if (status == MOECL_OK) status = moecl_checkpoint_measure(checkpoint, &size);
  if (status == MOECL_OK) status = moecl_checkpoint_get_layer(checkpoint, 1, &described);
  if (status == MOECL_OK) status = moecl_checkpoint_check(checkpoint, 1);
  if (status == MOECL_OK) status = moecl_context_create(&params, &context);
  if (status == MOECL_OK) status = moecl_layer_create(context, &described.params, &layer);
  if (status == MOECL_OK) status = moecl_layer_load(layer, checkpoint, 1);
  moecl_checkpoint_destroy(&checkpoint);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  out->status = status;
}

/* Codes as they are, and as numbers; no device. */
static moecl_status read_quantized(moecl_checkpoint *checkpoint) {
  enum { MOST = 2 * 128 * 64 };
  float *values = malloc(MOST * sizeof *values);
  moecl_checkpoint_layer layer;
  moecl_status status = values ? MOECL_OK : MOECL_ERROR_OUT_OF_HOST_MEMORY;
  if (status == MOECL_OK) status = moecl_checkpoint_get_layer(checkpoint, 1, &layer);
  if (status == MOECL_OK) status = moecl_checkpoint_check(checkpoint, 1);
  for (int i = 0; status == MOECL_OK && i < 2; i++) {
    const moecl_tensor tensor = i ? MOECL_GATE_UP_PROJ : MOECL_DOWN_PROJ;
    assert_true(moecl_layer_tensor_size(&layer.params, tensor) <= MOST);
    status = moecl_checkpoint_read_as(checkpoint, 1, tensor, 0, &layer.params, values);
    if (status == MOECL_OK)
      status = moecl_checkpoint_read(checkpoint, 1, tensor, 0, MOECL_F32, values);
  }
  if (status == MOECL_OK) {
    layer.params.weight_format = MOECL_FORMAT_INT8;
    status = moecl_checkpoint_read_as(checkpoint, 1, MOECL_DOWN_PROJ, 0, &layer.params, values);
  }
  free(values);
  return status;
}

static void run_quantized(outcome *out) {
  static const char *const names[] = {"qwen3_moe-compressed-tensors-int4-zp",
                                      "qwen3_moe-gptq-act_order"};
  const char *golden = getenv("MOECL_GOLDEN_DIR");
  out->status = MOECL_OK;
  for (int i = 0; out->status == MOECL_OK && i < 2; i++) {
    char folder[1024];
    moecl_checkpoint *checkpoint = NULL;
    snprintf(folder, sizeof folder, "%s/families/%s", golden ? golden : "test/golden", names[i]);
    out->status = moecl_checkpoint_open(folder, keep_log, NULL, &checkpoint);
    if (out->status == MOECL_OK) out->status = read_quantized(checkpoint);
    moecl_checkpoint_destroy(&checkpoint);
  }
}

static moecl_status give_block(moecl_block *block, const moecl_block_params *params) {
  enum { MOST = 3 * SMALL_HIDDEN * SMALL_HIDDEN };
  moecl_status status = small_weights(moecl_block_layer(block), &params->layer);
  for (int t = 0; status == MOECL_OK && t < MOECL_BLOCK_TENSOR_COUNT; t++) {
    float values[MOST];
    const int64_t size = moecl_block_tensor_size(params, (moecl_block_tensor)t);
    assert_true(size <= MOST);
    small_fill(values, (size_t)size, 100 + (unsigned)t);
    if (size > 0) status = moecl_block_set_weights(block, (moecl_block_tensor)t, values);
  }
  return status;
}

/* One token, then the others behind it in a cache. */
static moecl_status use_block(moecl_context *context, moecl_block *block, float *output) {
  const uint64_t row = SMALL_HIDDEN * sizeof(float);
  float input[OUTPUTS];
  moecl_cache *cache = NULL;
  moecl_buffer *hidden = NULL, *result = NULL;
  small_fill(input, OUTPUTS, 1000);
  moecl_status status = moecl_cache_create(block, SMALL_TOKENS, &cache);
  if (status == MOECL_OK) status = moecl_buffer_create(context, sizeof input, &hidden);
  if (status == MOECL_OK) status = moecl_buffer_create(context, sizeof input, &result);
  for (int64_t first = 0; status == MOECL_OK && first < 2; first++) {
    const int64_t tokens = first ? SMALL_TOKENS - 1 : 1;
    const moecl_block_forward_params forward = {
        .num_tokens = tokens, .hidden_states = hidden, .output = result, .cache = cache};
    status =
        moecl_buffer_write_wait(hidden, 0, (uint64_t)tokens * row, input + first * SMALL_HIDDEN);
    if (status == MOECL_OK) status = moecl_block_forward(block, &forward, NULL);
    if (status == MOECL_OK)
      status =
          moecl_buffer_read_wait(result, 0, (uint64_t)tokens * row, output + first * SMALL_HIDDEN);
  }
  moecl_buffer_destroy(&result);
  moecl_buffer_destroy(&hidden);
  moecl_cache_destroy(&cache);
  return status;
}

static void run_block(outcome *out) {
  const moecl_block_params with = {.attention = {.num_heads = 4,
                                                 .num_kv_heads = 2,
                                                 .sinks = true,
                                                 .qkv_bias = true,
                                                 .qk_norm = MOECL_QK_NORM_HEAD,
                                                 .relative_attention_num_buckets = 4,
                                                 .rope = {.theta = 10000}},
                                   .layer = small_params};
  moecl_context *context = NULL;
  moecl_block *block = NULL;
  const moecl_context_params params = {.log = keep_log};
  moecl_status status = moecl_context_create(&params, &context);
  if (status == MOECL_OK) status = moecl_block_create(context, &with, &block);
  if (status == MOECL_OK) status = give_block(block, &with);
  if (status == MOECL_OK) status = use_block(context, block, out->output);
  moecl_block_destroy(&block);
  moecl_context_destroy(&context);
  out->status = status;
}

/* The layer of a few tokens on two devices, of which one has most of them. */
static moecl_status use_group(moecl_context *const *contexts, moecl_group_layer *layer,
                              float *output) {
  enum { FIRST = 4 };
  const uint64_t row = SMALL_HIDDEN * sizeof(float);
  const int64_t split[] = {FIRST, SMALL_TOKENS - FIRST}, first[] = {0, FIRST};
  float input[OUTPUTS];
  moecl_group_tokens tokens[2] = {{0}};
  moecl_buffer *hidden[2] = {NULL}, *result[2] = {NULL};
  moecl_event *events[2] = {NULL};
  moecl_group_statistics statistics;
  moecl_routing routing = {0};
  moecl_status status = MOECL_OK;
  small_fill(input, OUTPUTS, 1000);
  for (int m = 0; status == MOECL_OK && m < 2; m++) {
    const uint64_t bytes = (uint64_t)split[m] * row;
    status = moecl_buffer_create(contexts[m], bytes, &hidden[m]);
    if (status == MOECL_OK) status = moecl_buffer_create(contexts[m], bytes, &result[m]);
    if (status == MOECL_OK)
      status = moecl_buffer_write_wait(hidden[m], 0, bytes, input + first[m] * SMALL_HIDDEN);
    tokens[m] = (moecl_group_tokens){
        .num_tokens = split[m], .hidden_states = hidden[m], .output = result[m]};
  }
  const moecl_group_forward_params forward = {.tokens = tokens, .seed = 7, .measured = true};
  if (status == MOECL_OK) status = moecl_group_layer_forward(layer, &forward, events);
  for (int m = 0; m < 2; m++) {
    if (status == MOECL_OK) status = moecl_event_wait(events[m]);
    if (status == MOECL_OK)
      status = moecl_buffer_read_wait(result[m], 0, (uint64_t)split[m] * row,
                                      output + first[m] * SMALL_HIDDEN);
    if (status == MOECL_OK)
      status = moecl_group_layer_statistics_wait(layer, (size_t)m, &statistics);
    moecl_event_destroy(&events[m]);
    moecl_buffer_destroy(&hidden[m]);
    moecl_buffer_destroy(&result[m]);
  }
  if (status == MOECL_OK) status = moecl_group_layer_read_routing_wait(layer, &routing);
  moecl_routing_destroy(&routing);
  return status;
}

static void run_group(outcome *out) {
  moecl_context *contexts[2] = {NULL};
  moecl_group *group = NULL;
  moecl_group_layer *layer = NULL;
  const moecl_context_params params = {.log = keep_log};
  moecl_group_layer_params with = {.layer = small_params, .chunks = 2};
  with.layer.capacity_factor = 1.25;
  with.layer.drop_policy = MOECL_DROP_PRIORITIZED;
  with.layer.renormalize_after_capacity = true;
  moecl_status status = moecl_context_create(&params, &contexts[0]);
  if (status == MOECL_OK) status = moecl_context_create(&params, &contexts[1]);
  if (status == MOECL_OK) status = moecl_group_create(contexts, 2, NULL, &group);
  if (status == MOECL_OK) status = moecl_group_layer_create(group, &with, &layer);
  for (int t = 0; status == MOECL_OK && t < MOECL_TENSOR_COUNT; t++) {
    float values[SMALL_EXPERTS * 2 * SMALL_INNER * SMALL_HIDDEN];
    const int64_t items = moecl_layer_tensor_items(&with.layer, (moecl_tensor)t);
    small_fill(values, BASE_COUNT(values), (unsigned)t);
    if (items > 0) status = moecl_group_layer_set_weights(layer, (moecl_tensor)t, 0, items, values);
  }
  if (status == MOECL_OK) status = use_group(contexts, layer, out->output);
  moecl_group_layer_destroy(&layer);
  moecl_group_destroy(&group);
  moecl_context_destroy(&contexts[0]);
  moecl_context_destroy(&contexts[1]);
  out->status = status;
}

/* More experts than places. A forward that failed is made again, and has to be right then. */
static void run_offload(outcome *out) {
  static float sound[OUTPUTS]; /* of the first run, where nothing fails */
  static bool is_sound;
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  moecl_offload_statistics statistics;
  const moecl_context_params params = {.log = keep_log};
  moecl_layer_params with = small_params;
  with.expert_cache = 2;
  with.down_bias = true;
  with.weight_on_input = true;
  moecl_status status = moecl_context_create(&params, &context);
  if (status == MOECL_OK) status = moecl_layer_create(context, &with, &layer);
  if (status == MOECL_OK) status = small_weights(layer, &with);
  if (status == MOECL_OK) status = small_forward(context, layer, NULL, out->output);
  if (status == MOECL_OK) status = small_forward(context, layer, NULL, out->output);
  else if (layer && moecl_layer_weight_bytes(layer) > 0 && is_sound && !faults.lasting) {
    const moecl_status again = small_forward(context, layer, NULL, out->output);
    if (again != MOECL_ERROR_NOT_READY) { /* weights were set */
      assert_ok(again);
      assert_memory_equal(out->output, sound, sizeof sound);
    }
  }
  if (status == MOECL_OK) status = moecl_layer_offload_statistics_wait(layer, &statistics);
  if (!is_sound) memcpy(sound, out->output, sizeof sound);
  is_sound = true;
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  out->status = status;
}

/* Host memory through pinned pieces, as on a device with a memory of its own: one after the other,
 * so that a thread alone sends them and a piece is used again. */
static void run_upload(outcome *out) {
  enum { BYTES = 1 << 20, TURNS = 3 };
  static float values[BYTES / sizeof(float)];
  moecl_context *context = NULL;
  moecl_buffer *buffer = NULL;
  const moecl_context_params params = {.log = keep_log};
  moecl_status status = moecl_context_create(&params, &context);
  if (status == MOECL_OK) context->one_memory = false;
  if (status == MOECL_OK) status = moecl_buffer_create(context, BYTES, &buffer);
  for (unsigned i = 0; i < TURNS && status == MOECL_OK; i++) {
    small_fill(values, BYTES / sizeof(float), i);
    status = moecl_buffer_write_wait(buffer, 0, BYTES, values);
  }
  if (status == MOECL_OK)
    status =
        moecl_buffer_read_wait(buffer, BYTES - sizeof out->output, sizeof out->output, out->output);
  moecl_buffer_destroy(&buffer);
  moecl_context_destroy(&context);
  out->status = status;
}

/* ---- the walk ---- */

static const struct {
  const char *name;
  void (*run)(outcome *out);
} scenarios[] = {
    {"layer", run_layer},           {"own objects", run_own}, {"after others", run_after},
    {"checkpoint", run_checkpoint}, {"block", run_block},     {"quantized", run_quantized},
    {"group", run_group},           {"offload", run_offload}, {"upload", run_upload}};

/* For a signal's handler: what was being done. */
static char doing[256];
static void tell_crash(int number) {
  static const char what[] = "crashed in: ";
  if (write(2, what, sizeof what - 1) < 0 || write(2, doing, strlen(doing)) < 0) _exit(2);
  signal(number, SIG_DFL);
  raise(number);
}

static void run(size_t scenario, fault_kind kind, size_t target, bool lasting, cl_int code,
                outcome *out) {
  *out = (outcome){MOECL_OK, {0}};
  log_size = 0;
  log_text[0] = '\0';
  uint64_t *places = faults.places;
  faults = (fault_state){.kind = kind,
                         .target = target,
                         .lasting = lasting,
                         .code = code,
                         .places = places,
                         .most = MOST_CALLS};
  snprintf(doing, sizeof doing, "scenario '%s', %s %zu%s\n", scenarios[scenario].name,
           kind == FAULT_OPENCL ? "OpenCL call" : "allocation", target,
           lasting ? " and all after it" : "");
  scenarios[scenario].run(out);
}

/* A line of at least the level that has the text. */
static bool was_said(moecl_log_level level, const char *text) {
  for (const char *line = log_text; *line;) {
    const size_t size = strcspn(line, "\n");
    const char *at = strstr(line, text);
    if (at && at < line + size && *line - '0' <= (int)level) return true;
    line += size + (line[size] == '\n');
  }
  return false;
}

static double distance(const float *a, const float *b) {
  double most = 0;
  for (int i = 0; i < OUTPUTS; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
  return most;
}

/* What is wrong with how a fault ended; NULL: nothing. */
static const char *judge(fault_kind kind, const outcome *out, const outcome *sound) {
  if (faults.objects != 0 || faults.kernels != 0) return "OpenCL objects are kept";
  if (faults.blocks != 0) return "memory is kept";
  if (out->status == MOECL_OK) {
    if (!(distance(out->output, sound->output) < 1e-5)) return "success, and a wrong output";
    return NULL;
  }
  if (kind == FAULT_MEMORY && strcmp(faults.name, "Jansson") == 0 && out->status == MOECL_ERROR_IO)
    return was_said(MOECL_LOG_ERROR, "is not sound JSON") ? NULL : "the log does not name the file";
  if (kind == FAULT_MEMORY)
    return out->status == MOECL_ERROR_OUT_OF_HOST_MEMORY ? NULL : "not an error of memory";
  /* With MOECL_DEVICE=cpu: one whose type can't be read is of none. */
  if (was_said(MOECL_LOG_ERROR, "no OpenCL device matches")) return NULL;
  return was_said(MOECL_LOG_WARNING, faults.lasting ? "cl" : faults.name)
             ? NULL
             : "the log does not name the call";
}

/* The calls that come from a place for the first time; returns how many. */
static size_t find_targets(size_t calls, const uint64_t *places, size_t *targets) {
  enum { MOST_PLACES = 20000 };
  static uint64_t seen[MOST_PLACES];
  static size_t num_seen;
  const bool all = getenv("MOECL_TEST_ALL") != NULL;
  size_t count = 0;
  for (size_t i = 0; i < calls; i++) {
    bool known = false;
    for (size_t j = 0; !all && !known && j < num_seen; j++) known = seen[j] == places[i];
    if (known) continue;
    targets[count++] = i;
    if (num_seen < MOST_PLACES) seen[num_seen++] = places[i];
  }
  return count;
}

/* One fault; false, and why, where it did not end well. `lasting`: all calls after it
 * fail too, as on a device that is lost: what cleans up has faults of its own. */
static bool try_fault(size_t scenario, fault_kind kind, size_t target, bool lasting,
                      const outcome *sound, bool *survived) {
  outcome out;
  run(scenario, kind, target, lasting, CL_OUT_OF_RESOURCES, &out);
  *survived = out.status == MOECL_OK;
  const char *fault = faults.name ? judge(kind, &out, sound) : "another sequence of calls";
  if (!fault) return true;
  fprintf(stderr, "%s, call %zu%s, %s: %s (%s; %lld objects, %lld kernels, %lld blocks)\n%s",
          scenarios[scenario].name, target, lasting ? " and all after it" : "",
          faults.name ? faults.name : "?", fault, moecl_status_string(out.status),
          (long long)faults.objects, (long long)faults.kernels, (long long)faults.blocks, log_text);
  return false;
}

/* Copies to and from the host that are under way cannot be waited for where not even that call
 * works: on a device that is lost they have ended, here they have not. */
static bool can_last(size_t scenario, fault_kind kind) {
  const char *name = scenarios[scenario].name;
  return kind != FAULT_OPENCL || (strcmp(name, "group") != 0 && strcmp(name, "offload") != 0);
}

static void walk(size_t scenario, fault_kind kind) {
  static uint64_t places[MOST_CALLS];
  static size_t targets[MOST_CALLS];
  outcome sound;
  size_t wrong = 0, survivors = 0;
  run(scenario, kind, 0, false, 0, &sound); /* fills the caches */
  faults.places = places;
  run(scenario, kind, 0, false, 0, &sound);
  faults.places = NULL;
  assert_ok(sound.status);
  assert_null(judge(kind, &sound, &sound));
  const size_t calls = faults.calls;
  assert_true(calls > 0 && calls < MOST_CALLS);
  const size_t count = find_targets(calls, places, targets);
  for (size_t i = 0; i < count; i++)
    for (int lasting = 0; lasting < 1 + can_last(scenario, kind); lasting++) {
      bool survived;
      wrong += !try_fault(scenario, kind, targets[i] + 1, lasting != 0, &sound, &survived);
      survivors += survived && !lasting;
    }
  printf("%s, %s: %zu of %zu calls failed, %zu without an error of the whole\n",
         scenarios[scenario].name, kind == FAULT_OPENCL ? "OpenCL" : "memory", count, calls,
         survivors);
  faults.kind = FAULT_KINDS;
  assert_int_equal(wrong, 0);
}

static void test_layer_opencl(void **state) { (void)state, walk(0, FAULT_OPENCL); }
static void test_layer_memory(void **state) { (void)state, walk(0, FAULT_MEMORY); }
static void test_own_opencl(void **state) { (void)state, walk(1, FAULT_OPENCL); }
static void test_own_memory(void **state) { (void)state, walk(1, FAULT_MEMORY); }
static void test_after_opencl(void **state) { (void)state, walk(2, FAULT_OPENCL); }
static void test_after_memory(void **state) { (void)state, walk(2, FAULT_MEMORY); }
static void test_checkpoint_opencl(void **state) { (void)state, walk(3, FAULT_OPENCL); }
static void test_checkpoint_memory(void **state) { (void)state, walk(3, FAULT_MEMORY); }
static void test_block_opencl(void **state) { (void)state, walk(4, FAULT_OPENCL); }
static void test_block_memory(void **state) { (void)state, walk(4, FAULT_MEMORY); }
static void test_quantized_memory(void **state) { (void)state, walk(5, FAULT_MEMORY); }
static void test_group_opencl(void **state) { (void)state, walk(6, FAULT_OPENCL); }
static void test_group_memory(void **state) { (void)state, walk(6, FAULT_MEMORY); }
static void test_offload_opencl(void **state) { (void)state, walk(7, FAULT_OPENCL); }
static void test_offload_memory(void **state) { (void)state, walk(7, FAULT_MEMORY); }
static void test_upload_opencl(void **state) { (void)state, walk(8, FAULT_OPENCL); }
static void test_upload_memory(void **state) { (void)state, walk(8, FAULT_MEMORY); }

/* Each grouped GEMM has kernels of its own: after a layer of every variant that runs
 * here, or has a stand-in, nothing is kept. */
static moecl_status open_any(const stand_in *where, moecl_context **context) {
  const moecl_status status = stand_in_open(where, context);
  /* Local memory that is not dedicated is slow, and right all the same. */
  if (status == MOECL_OK) (*context)->info.capabilities |= MOECL_CAP_LOCAL_MEMORY;
  return status;
}

static void count_variant(const stand_in *where, const char *name, moecl_dtype dtype) {
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  moecl_layer_params with = small_params;
  with.grouped_gemm_variant = name;
  with.dtype = dtype;
  with.shared_intermediate_size = 8;
  with.router_variant = "generic";
  faults = (fault_state){.kind = FAULT_KINDS};
  assert_ok(open_any(where, &context));
  const int64_t without = faults.kernels;
  assert_ok(moecl_layer_create(context, &with, &layer));
  assert_true(faults.kernels > without);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  /* CLBlast's events are made by CLBlast, and given up here. */
  const bool library = strcmp(name, "clblast") == 0;
  if ((faults.objects != 0 && !(library && faults.objects < 0)) || faults.kernels != 0 ||
      faults.blocks != 0)
    fail_msg("variant '%s', %s: %lld objects, %lld kernels and %lld blocks are kept", name,
             moecl_dtype_name(dtype), (long long)faults.objects, (long long)faults.kernels,
             (long long)faults.blocks);
}

static void test_variants(void **state) {
  enum { MOST = 32 };
  stand_in where;
  size_t persistent = 0;
  (void)state;
  if (!stand_in_make(&where)) fail_msg("no copy of the kernels in %s", where.root);
  where.params.log = keep_log;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
    const char *names[MOST];
    moecl_context *context = NULL;
    assert_ok(open_any(&where, &context));
    const size_t count =
        moecl_variants_available(context, "grouped_gemm", (moecl_dtype)dtype, names, MOST);
    moecl_context_destroy(&context);
    for (size_t v = 0; v < count; v++) {
      persistent += is_persistent(names[v]);
      count_variant(&where, names[v], (moecl_dtype)dtype);
    }
  }
  assert_true(persistent > 0);
  stand_in_remove(&where);
}

static bool open_unordered(void) {
  cl_command_queue_properties can = 0;
  cl_int code;
  if (clGetDeviceInfo(own_device, CL_DEVICE_QUEUE_PROPERTIES, sizeof can, &can, NULL) != CL_SUCCESS)
    return false;
  own_unordered = clCreateCommandQueue(own_context, own_device,
                                       can & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &code);
  return code == CL_SUCCESS &&
         clEnqueueMarkerWithWaitList(own_queue, 0, NULL, &own_event) == CL_SUCCESS &&
         clFlush(own_queue) == CL_SUCCESS;
}

static int open_own(void **state) {
  (void)state;
  moecl_context *context = NULL;
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  own_context = moecl_context_cl(context);
  own_queue = moecl_context_cl_queue(context);
  const bool ok = clGetCommandQueueInfo(own_queue, CL_QUEUE_DEVICE, sizeof own_device, &own_device,
                                        NULL) == CL_SUCCESS &&
                  clRetainContext(own_context) == CL_SUCCESS &&
                  clRetainCommandQueue(own_queue) == CL_SUCCESS && open_unordered();
  moecl_context_destroy(&context);
  return !ok;
}

static int close_own(void **state) {
  (void)state;
  return clReleaseEvent(own_event) != CL_SUCCESS ||
         clReleaseCommandQueue(own_unordered) != CL_SUCCESS ||
         clReleaseCommandQueue(own_queue) != CL_SUCCESS ||
         clReleaseContext(own_context) != CL_SUCCESS;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_variants),
      cmocka_unit_test(test_group_opencl),
      cmocka_unit_test(test_group_memory),
      cmocka_unit_test(test_offload_opencl),
      cmocka_unit_test(test_offload_memory),
      cmocka_unit_test(test_upload_opencl),
      cmocka_unit_test(test_upload_memory),
      cmocka_unit_test(test_layer_opencl),
      cmocka_unit_test(test_layer_memory),
      cmocka_unit_test_setup_teardown(test_own_opencl, open_own, close_own),
      cmocka_unit_test_setup_teardown(test_own_memory, open_own, close_own),
      cmocka_unit_test_setup_teardown(test_after_opencl, open_own, close_own),
      cmocka_unit_test_setup_teardown(test_after_memory, open_own, close_own),
      cmocka_unit_test(test_checkpoint_opencl),
      cmocka_unit_test(test_checkpoint_memory),
      cmocka_unit_test(test_block_opencl),
      cmocka_unit_test(test_block_memory),
      cmocka_unit_test(test_quantized_memory)};
  faults.kind = FAULT_KINDS; /* none */
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  skip_without_device();
  faults_begin();
  signal(SIGSEGV, tell_crash);
  signal(SIGABRT, tell_crash);
  signal(SIGFPE, tell_crash);
  if (getenv("MOECL_TEST_FILTER")) cmocka_set_test_filter(getenv("MOECL_TEST_FILTER"));
  return cmocka_run_group_tests(tests, NULL, NULL);
}
