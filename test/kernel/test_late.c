// SPDX-License-Identifier: MIT
/* Kernels that a layer, or a block, gets with the first forward that wants them, or by
 * moecl_layer_reserve and moecl_block_reserve: how many programs there are when, the same bits as
 * with all of them from the beginning, and what serves where one turns out wrong. The kernels are
 * stand-ins (stand_in.h). */
#include "block/block.h"
#include "moecl/group.h"
#include "moecl/opencl.h"
#include "stand_in.h"
#include <math.h>

enum { TOKENS = 220, HIDDEN = 64, EXPERTS = 8, TOP_K = 2 };

/* A router without a kernel that routes few tokens in one launch: their logits are the GEMM's on
 * every device. */
static const moecl_layer_params params = {.dtype = MOECL_BF16,
                                          .router_variant = "generic",
                                          .hidden_size = HIDDEN,
                                          .intermediate_size = 48,
                                          .num_experts = EXPERTS,
                                          .top_k = TOP_K,
                                          .activation = MOECL_SWIGLU};

static stand_in place;

static size_t programs(const moecl_context *context) {
  size_t count = 0;
  for (const ocl_program *program = context->programs; program; program = program->next) count++;
  return count;
}

/* In bf16, in [-1, 1). */
static void fill(uint16_t *values, size_t count, unsigned which) {
  uint32_t state = which * 2654435761u + 1;
  for (size_t i = 0; i < count; i++) {
    state = state * 1664525u + 1013904223u;
    const float x = (float)(state >> 24) / 128.0f - 1.0f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    values[i] = (uint16_t)(bits >> 16);
  }
}

static void give_weights(moecl_layer *layer) {
  static uint16_t values[EXPERTS * 2 * HIDDEN * HIDDEN];
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(&params, (moecl_tensor)t);
    const size_t count = (size_t)(items * moecl_layer_tensor_size(&params, (moecl_tensor)t));
    assert_true(count <= BASE_COUNT(values));
    fill(values, count, (unsigned)t);
    if (count) assert_ok(moecl_layer_set_weights(layer, (moecl_tensor)t, 0, items, values));
  }
}

static void run(moecl_layer *layer, int64_t tokens, moecl_buffer *workspace,
                uint16_t output[TOKENS * HIDDEN]) {
  const uint64_t bytes = (uint64_t)tokens * HIDDEN * sizeof *output;
  moecl_buffer *hidden = NULL, *result = NULL;
  fill(output, (size_t)tokens * HIDDEN, 99);
  assert_ok(moecl_buffer_create(layer->context, bytes, &hidden));
  assert_ok(moecl_buffer_create(layer->context, bytes, &result));
  assert_ok(moecl_buffer_write_wait(hidden, 0, bytes, output));
  const moecl_forward_params with = {
      .num_tokens = tokens, .hidden_states = hidden, .output = result, .workspace = workspace};
  assert_ok(moecl_layer_forward(layer, &with, NULL));
  assert_ok(moecl_buffer_read_wait(result, 0, bytes, output));
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&result);
}

/* A layer of the variant; `early`: with all kernels that so many tokens and fewer want. */
static moecl_layer *make(moecl_context *context, const char *gemm, bool early) {
  moecl_layer_params with = params;
  moecl_layer *layer = NULL;
  with.grouped_gemm_variant = gemm;
  assert_ok(moecl_layer_create(context, &with, &layer));
  give_weights(layer);
  if (early) assert_ok(moecl_layer_reserve(layer, TOKENS));
  return layer;
}

/* ---- what is built when ---- */

/* Programs that come with the first forward of so many tokens. An expert has a quarter of so many
 * rows on average. */
typedef struct growth {
  int64_t tokens;
  size_t programs;
} growth;

typedef struct variant_growth {
  const char *name;
  size_t late; /* programs that a layer is made without, of those that it then gets */
  growth steps[4];
} variant_growth;

/* gate_up's and down's, and one for few tokens of the logits. AMD's have theirs for few tokens in
 * the program of the lowest tiles. */
static const variant_growth variants[] = {
    {"nvidia_sm90", 5, {{20, 1}, {200, 2}, {2, 2}, {TOKENS, 0}}},
    {"nvidia_sm80", 3, {{20, 1}, {200, 0}, {2, 2}, {TOKENS, 0}}},
    {"amd_mfma", 4, {{10, 0}, {100, 2}, {200, 2}, {2, 0}}}};

static void check_growth(const variant_growth *v) {
  static uint16_t early[4][TOKENS * HIDDEN], late[TOKENS * HIDDEN];
  moecl_context *context = NULL;
  assert_ok(stand_in_open(&place, &context));
  moecl_layer *layer = make(context, v->name, true);
  const size_t all = programs(context);
  for (size_t i = 0; i < 4; i++) run(layer, v->steps[i].tokens, NULL, early[i]);
  assert_int_equal(programs(context), all);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  assert_ok(stand_in_open(&place, &context));
  layer = make(context, v->name, false);
  assert_int_equal(programs(context), all - v->late);
  for (size_t i = 0; i < 4; i++) {
    const size_t before = programs(context);
    run(layer, v->steps[i].tokens, NULL, late);
    assert_int_equal(programs(context), before + v->steps[i].programs);
    assert_memory_equal(late, early[i], (size_t)v->steps[i].tokens * HIDDEN * sizeof *late);
  }
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

static void test_growth(void **state) {
  (void)state;
  for (size_t v = 0; v < BASE_COUNT(variants); v++) check_growth(&variants[v]);
}

/* What was reserved for needs neither a program nor memory. */
static void test_reserve(void **state) {
  static const int64_t sizes[] = {1, 3, 5, 20, 90, TOKENS};
  static uint16_t output[TOKENS * HIDDEN];
  moecl_context *context = NULL;
  (void)state;
  assert_ok(stand_in_open(&place, &context));
  moecl_layer *layer = make(context, "nvidia_sm90", false);
  const size_t small = programs(context);
  assert_ok(moecl_layer_reserve(layer, 4));
  assert_true(programs(context) > small);
  const size_t some = programs(context);
  assert_ok(moecl_layer_reserve(layer, TOKENS));
  assert_true(programs(context) > some);
  const size_t all = programs(context);
  const uint64_t bytes = moecl_context_memory(context, NULL);
  for (size_t i = 0; i < BASE_COUNT(sizes); i++) run(layer, sizes[i], NULL, output);
  assert_int_equal(programs(context), all);
  assert_int_equal(moecl_context_memory(context, NULL), bytes);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

/* ---- a block ---- */

static moecl_block *make_block(moecl_context *context, const char *gemm) {
  static uint16_t values[4 * HIDDEN * HIDDEN];
  moecl_block_params with = {.attention = {.num_heads = 4}, .layer = params};
  moecl_block *block = NULL;
  with.layer.grouped_gemm_variant = gemm;
  assert_ok(moecl_block_create(context, &with, &block));
  give_weights(moecl_block_layer(block));
  for (int t = 0; t < MOECL_BLOCK_TENSOR_COUNT; t++) {
    const size_t count = (size_t)moecl_block_tensor_size(&with, (moecl_block_tensor)t);
    assert_true(count <= BASE_COUNT(values));
    fill(values, count, 50 + (unsigned)t);
    if (count) assert_ok(moecl_block_set_weights(block, (moecl_block_tensor)t, values));
  }
  return block;
}

static void run_block(moecl_block *block, int64_t tokens, moecl_cache *cache,
                      uint16_t output[TOKENS * HIDDEN]) {
  const uint64_t bytes = (uint64_t)tokens * HIDDEN * sizeof *output;
  moecl_buffer *hidden = NULL, *result = NULL;
  fill(output, (size_t)tokens * HIDDEN, 99);
  assert_ok(moecl_buffer_create(block->context, bytes, &hidden));
  assert_ok(moecl_buffer_create(block->context, bytes, &result));
  assert_ok(moecl_buffer_write_wait(hidden, 0, bytes, output));
  const moecl_block_forward_params with = {
      .num_tokens = tokens, .hidden_states = hidden, .output = result, .cache = cache};
  if (cache) assert_ok(moecl_cache_set_tokens(cache, 0));
  assert_ok(moecl_block_forward(block, &with, NULL));
  assert_ok(moecl_buffer_read_wait(result, 0, bytes, output));
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&result);
}

enum { BLOCK_SIZES = 5 };
static const int64_t block_sizes[BLOCK_SIZES] = {2, 3, 20, 90, TOKENS};

/* Each number of tokens without a cache, and with one. */
static void run_block_sizes(moecl_block *block, moecl_cache *cache,
                            uint16_t output[2 * BLOCK_SIZES][TOKENS * HIDDEN]) {
  for (int i = 0; i < BLOCK_SIZES; i++) {
    run_block(block, block_sizes[i], NULL, output[2 * i]);
    run_block(block, block_sizes[i], cache, output[2 * i + 1]);
  }
}

/* As test_reserve, with the bits of a block that reserves nothing. */
static void test_reserve_block(void **state) {
  static uint16_t want[2 * BLOCK_SIZES][TOKENS * HIDDEN], got[2 * BLOCK_SIZES][TOKENS * HIDDEN];
  moecl_context *context = NULL;
  moecl_cache *cache = NULL;
  (void)state;
  assert_ok(stand_in_open(&place, &context));
  moecl_block *block = make_block(context, "nvidia_sm90");
  assert_ok(moecl_cache_create(block, TOKENS, &cache));
  const size_t made = programs(context);
  run_block_sizes(block, cache, want);
  const size_t wanted = programs(context);
  assert_true(wanted > made);
  moecl_cache_destroy(&cache);
  moecl_block_destroy(&block);
  moecl_context_destroy(&context);
  assert_ok(stand_in_open(&place, &context));
  block = make_block(context, "nvidia_sm90");
  assert_ok(moecl_cache_create(block, TOKENS, &cache));
  assert_ok(moecl_block_reserve(block, 4, true));
  const size_t some = programs(context);
  assert_true(some > made && some < wanted);
  assert_ok(moecl_block_reserve(block, TOKENS, true));
  assert_int_equal(programs(context), wanted);
  assert_ok(moecl_block_reserve(block, TOKENS, false));
  const uint64_t bytes = moecl_context_memory(context, NULL);
  run_block_sizes(block, cache, got);
  assert_memory_equal(got, want, sizeof got);
  assert_int_equal(programs(context), wanted);
  assert_int_equal(moecl_context_memory(context, NULL), bytes);
  assert_int_equal(moecl_block_reserve(block, -1, false), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_block_reserve(block, MOECL_MAX_POSITIONS + 1, true),
                   MOECL_ERROR_INVALID_ARGUMENT);
  moecl_cache_destroy(&cache);
  moecl_block_destroy(&block);
  moecl_context_destroy(&context);
}

/* ---- a group ---- */

/* All kernels of members are made with the group's layer: its forwards build none. */
static void test_group(void **state) {
  enum { MEMBERS = 2 };
  static const int64_t sizes[] = {TOKENS / 2, 10, 1};
  static uint16_t values[EXPERTS * 2 * HIDDEN * HIDDEN];
  moecl_context *contexts[MEMBERS] = {NULL};
  moecl_buffer *rows[MEMBERS][2] = {{NULL}};
  moecl_group *group = NULL;
  moecl_group_layer *layer = NULL;
  moecl_group_layer_params with = {.layer = params};
  size_t made[MEMBERS];
  (void)state;
  with.layer.grouped_gemm_variant = "nvidia_sm90";
  for (int m = 0; m < MEMBERS; m++) assert_ok(stand_in_open(&place, &contexts[m]));
  assert_ok(moecl_group_create(contexts, MEMBERS, NULL, &group));
  assert_ok(moecl_group_layer_create(group, &with, &layer));
  for (int t = 0; t < MOECL_TENSOR_COUNT; t++) {
    const int64_t items = moecl_layer_tensor_items(&params, (moecl_tensor)t);
    const size_t count = (size_t)(items * moecl_layer_tensor_size(&params, (moecl_tensor)t));
    fill(values, count, (unsigned)t);
    if (count) assert_ok(moecl_group_layer_set_weights(layer, (moecl_tensor)t, 0, items, values));
  }
  for (int m = 0; m < MEMBERS; m++) {
    made[m] = programs(contexts[m]);
    for (int i = 0; i < 2; i++) {
      assert_ok(moecl_buffer_create(contexts[m], TOKENS * HIDDEN * 2, &rows[m][i]));
      assert_ok(moecl_buffer_fill_byte(rows[m][i], 0, TOKENS * HIDDEN * 2, 0x3e));
    }
  }
  for (size_t i = 0; i < BASE_COUNT(sizes); i++) {
    moecl_group_tokens tokens[MEMBERS] = {{0}};
    const moecl_group_forward_params forward = {.tokens = tokens};
    for (int m = 0; m < MEMBERS; m++)
      tokens[m] = (moecl_group_tokens){
          .num_tokens = sizes[i], .hidden_states = rows[m][0], .output = rows[m][1]};
    assert_ok(moecl_group_layer_forward(layer, &forward, NULL));
    for (int m = 0; m < MEMBERS; m++) assert_int_equal(programs(contexts[m]), made[m]);
  }
  for (int m = 0; m < MEMBERS; m++)
    for (int i = 0; i < 2; i++) moecl_buffer_destroy(&rows[m][i]);
  moecl_group_layer_destroy(&layer);
  moecl_group_destroy(&group);
  for (int m = 0; m < MEMBERS; m++) moecl_context_destroy(&contexts[m]);
}

/* ---- several programs at a time ---- */

static moecl_context *open_with_builders(test_log *log) {
  moecl_context *context = NULL;
  *log = (test_log){.level = MOECL_LOG_DEBUG};
  place.params.log = test_log_add;
  place.params.log_user = log;
  place.params.cache_dir = ""; /* all are built */
  assert_ok(stand_in_open(&place, &context));
  context->build_threads = 3;
  return context;
}

static void close_with_builders(moecl_context *context, test_log *log) {
  moecl_context_destroy(&context);
  place.params.log = NULL;
  place.params.log_user = NULL;
  place.params.cache_dir = place.cache;
  base_text_free(&log->text);
}

/* Since the log was cleared. */
static void assert_built_ahead(const moecl_context *context, test_log *log, size_t before) {
  char text[64];
  const size_t made = programs(context) - before;
  snprintf(text, sizeof text, "built ahead %zu programs of %zu", made, made);
  if (made < 2 || !test_log_has(log, text) || test_log_count(log, "built ") != 1)
    fail_msg("%zu programs: %s", made, log->text.data);
}

/* All that a reserve's plans want at once, and so all of one plan. */
static void test_built_ahead(void **state) {
  static uint16_t want[TOKENS * HIDDEN], got[TOKENS * HIDDEN];
  test_log log;
  (void)state;
  for (int reserve = 0; reserve < 2; reserve++) {
    moecl_context *context = open_with_builders(&log);
    moecl_layer *layer = make(context, "nvidia_sm90", false);
    const size_t before = programs(context);
    base_text_free(&log.text);
    if (reserve) assert_ok(moecl_layer_reserve(layer, TOKENS));
    else run(layer, TOKENS, NULL, want);
    assert_built_ahead(context, &log, before);
    if (reserve) assert_int_equal(programs(context) - before, 5); /* as in `variants` */
    base_text_free(&log.text);
    if (reserve) run(layer, TOKENS, NULL, got);
    assert_int_equal(test_log_count(&log, "built "), 0);
    moecl_layer_destroy(&layer);
    close_with_builders(context, &log);
  }
  assert_memory_equal(got, want, sizeof got);
}

static void test_block_built_ahead(void **state) {
  test_log log;
  (void)state;
  moecl_context *context = open_with_builders(&log);
  moecl_block *block = make_block(context, "nvidia_sm90");
  const size_t before = programs(context);
  base_text_free(&log.text);
  assert_ok(moecl_block_reserve(block, TOKENS, false));
  assert_built_ahead(context, &log, before);
  moecl_block_destroy(&block);
  close_with_builders(context, &log);
}

/* ---- made while others wait, or lacking memory ---- */

/* While the queue waits for the program, self-checks of late kernels do not. */
static void test_waiting(void **state) {
  static uint16_t want[TOKENS * HIDDEN], got[TOKENS * HIDDEN];
  enum { BYTES = TOKENS * HIDDEN * sizeof *want };
  test_log log = {.level = MOECL_LOG_WARNING};
  moecl_context *context = NULL;
  moecl_buffer *hidden = NULL, *result = NULL;
  moecl_event *gate = NULL;
  cl_int code;
  (void)state;
  place.params.log = test_log_add;
  place.params.log_user = &log;
  assert_ok(stand_in_open(&place, &context));
  moecl_layer *early = make(context, "nvidia_sm90", true);
  run(early, TOKENS, NULL, want);
  moecl_layer_destroy(&early);
  moecl_context_destroy(&context); /* whose programs are checked */
  assert_ok(stand_in_open(&place, &context));
  moecl_layer *layer = make(context, "nvidia_sm90", false);
  run(layer, 20, NULL, got);
  fill(got, TOKENS * HIDDEN, 99);
  assert_ok(moecl_buffer_create(context, BYTES, &hidden));
  assert_ok(moecl_buffer_create(context, BYTES, &result));
  assert_ok(moecl_buffer_write_wait(hidden, 0, BYTES, got));
  cl_event opened = clCreateUserEvent(context->cl, &code);
  assert_int_equal(code, CL_SUCCESS);
  assert_ok(moecl_event_wrap(context, opened, &gate));
  moecl_event *const waits[] = {gate};
  moecl_forward_params with = {.num_tokens = 20,
                               .hidden_states = hidden,
                               .output = result,
                               .wait_list = waits,
                               .wait_count = 1};
  assert_ok(moecl_layer_forward(layer, &with, NULL));
  with.num_tokens = TOKENS;
  with.wait_count = 0;
  assert_ok(moecl_layer_forward(layer, &with, NULL));
  assert_int_equal(clSetUserEventStatus(opened, CL_COMPLETE), CL_SUCCESS);
  assert_ok(moecl_buffer_read_wait(result, 0, BYTES, got));
  assert_memory_equal(got, want, BYTES);
  assert_int_equal(test_log_count(&log, "others do its work"), 0);
  moecl_event_destroy(&gate);
  clReleaseEvent(opened);
  moecl_buffer_destroy(&hidden);
  moecl_buffer_destroy(&result);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  place.params.log = NULL;
  place.params.log_user = NULL;
  base_text_free(&log.text);
}

/* What OpenCL is told to do on the queue that is watched. */
static cl_command_queue watched;
static size_t commands;

/* Each is wrapped by test/meson.build. */
#define WATCHED(call, parameters, ...)                                                             \
  cl_int __real_##call parameters;                                                                 \
  cl_int __wrap_##call parameters;                                                                 \
  cl_int __wrap_##call parameters {                                                                \
    commands += queue == watched;                                                                  \
    return __real_##call(queue, __VA_ARGS__, waits, list, event);                                  \
  }
#define EVENTS cl_uint waits, const cl_event *list, cl_event *event
WATCHED(clEnqueueCopyBuffer,
        (cl_command_queue queue, cl_mem from, cl_mem to, size_t from_offset, size_t to_offset,
         size_t bytes, EVENTS),
        from, to, from_offset, to_offset, bytes)
WATCHED(clEnqueueFillBuffer,
        (cl_command_queue queue, cl_mem mem, const void *pattern, size_t pattern_bytes,
         size_t offset, size_t bytes, EVENTS),
        mem, pattern, pattern_bytes, offset, bytes)
WATCHED(clEnqueueNDRangeKernel,
        (cl_command_queue queue, cl_kernel kernel, cl_uint dims, const size_t *offset,
         const size_t *global, const size_t *local, EVENTS),
        kernel, dims, offset, global, local)
WATCHED(clEnqueueReadBuffer,
        (cl_command_queue queue, cl_mem mem, cl_bool waits_for_it, size_t offset, size_t bytes,
         void *to, EVENTS),
        mem, waits_for_it, offset, bytes, to)
WATCHED(clEnqueueWriteBuffer,
        (cl_command_queue queue, cl_mem mem, cl_bool waits_for_it, size_t offset, size_t bytes,
         const void *from, EVENTS),
        mem, waits_for_it, offset, bytes, from)

/* Kernels come, and are checked, without a command on the program's queue: what it had would be
 * behind all that the program enqueued, and what depends on it, as counters that have to be zeros,
 * would not be there for a self-check elsewhere. */
static void test_made_aside(void **state) {
  static uint16_t output[TOKENS * HIDDEN];
  moecl_context *context = NULL;
  layer_plan *built;
  (void)state;
  for (size_t v = 0; v < BASE_COUNT(variants); v++) {
    assert_ok(stand_in_open(&place, &context));
    moecl_layer *layer = make(context, variants[v].name, false);
    watched = context->queue;
    commands = 0;
    for (size_t i = 0; i < BASE_COUNT(variants[v].steps); i++) {
      const size_t before = programs(context);
      assert_ok(layer_plan_for(layer, variants[v].steps[i].tokens, &built));
      assert_int_equal(programs(context), before + variants[v].steps[i].programs);
      assert_int_equal(commands, 0);
    }
    run(layer, 2, NULL, output);
    assert_true(commands > 0);
    watched = NULL;
    moecl_layer_destroy(&layer);
    moecl_context_destroy(&context);
  }
}

/* A forward that lacks the memory for a kernel's self-check fails, and the next one has the kernel.
 */
static void test_lack_of_memory(void **state) {
  static uint16_t want[TOKENS * HIDDEN], got[TOKENS * HIDDEN];
  moecl_context *context = NULL;
  (void)state;
  assert_ok(stand_in_open(&place, &context));
  moecl_layer *layer = make(context, "nvidia_sm90", true);
  run(layer, TOKENS, NULL, want);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  assert_ok(stand_in_open(&place, &context));
  layer = make(context, "nvidia_sm90", false);
  const uint64_t there = context->info.global_memory_bytes;
  context->info.global_memory_bytes = 1;
  assert_int_equal(moecl_layer_reserve(layer, TOKENS), MOECL_ERROR_OUT_OF_DEVICE_MEMORY);
  context->info.global_memory_bytes = there;
  run(layer, TOKENS, NULL, got);
  assert_memory_equal(got, want, sizeof got);
  const op_gemm *const gemms[] = {layer->gate_up, layer->down};
  for (size_t i = 0; i < BASE_COUNT(gemms); i++) assert_false(op_gemm_has_lost(gemms[i]));
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

/* ---- mistakes ---- */

typedef struct mistake {
  const char *gemm, *file, *from, *to; /* the first `from` reads `to` */
  int64_t tokens;
  const char *message;
} mistake;

#define SM90 "grouped_gemm/nvidia_sm90.cl"
#define MFMA "grouped_gemm/amd_mfma.cl"
static const mistake mistakes[] = {
    {"nvidia_sm90", SM90, "kept ? v : NAN", "kept ? v + (TALL && GATED) : NAN", 200, "tall tiles"},
    {"nvidia_sm90", SM90, "kept ? v : NAN", "kept ? v + (TALL && !GATED) : NAN", 200, "tall tiles"},
    {"nvidia_sm90", SM90, "#define DTYPE", "#if TALL\n#error none\n#endif\n#define DTYPE", 200,
     "tall tiles"},
    {"nvidia_sm90", SM90, "#define DTYPE",
     "#if PARTS == 4 && !DENSE\n#error none\n#endif\n#define DTYPE", 2, "few tokens"},
    {"nvidia_sm90", SM90, "#define DTYPE",
     "#if PARTS == 4 && DENSE\n#error none\n#endif\n#define DTYPE", 2, "few tokens"},
    {"amd_mfma", MFMA, "#define DTYPE", "#if TILE_M == 128\n#error none\n#endif\n#define DTYPE",
     200, "tall tiles"},
    {"amd_mfma", MFMA, "#define DTYPE", "#if TILE_M == 64\n#error none\n#endif\n#define DTYPE", 100,
     "tiles of middle height"}};

/* The file's text before; the caller frees it. */
static char *plant(const mistake *m) {
  char path[160], *data;
  size_t size;
  base_text text = {0};
  snprintf(path, sizeof path, "%s/%s", place.kernels, m->file);
  assert_ok(base_file_read(path, &data, &size));
  const char *at = strstr(data, m->from);
  assert_non_null(at);
  base_text_add(&text, data, (size_t)(at - data));
  base_text_addf(&text, "%s%s", m->to, at + strlen(m->from));
  assert_ok(base_file_write_atomic(path, text.data, text.size));
  base_text_free(&text);
  return data;
}

static void mend(const mistake *m, char *data) {
  char path[160];
  snprintf(path, sizeof path, "%s/%s", place.kernels, m->file);
  assert_ok(base_file_write_atomic(path, data, strlen(data)));
  free(data);
}

static float value(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

static void assert_near(const uint16_t *got, const uint16_t *want, size_t count) {
  double largest = 0;
  for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)value(want[i])));
  assert_true(largest > 0);
  for (size_t i = 0; i < count; i++)
    assert_true(fabs((double)value(got[i]) - (double)value(want[i])) <= 0.01 * largest);
}

static void assert_told(const char *reason, const char *gemm, const char *message) {
  char text[160];
  snprintf(text, sizeof text,
           "asked for by name; the kernel of '%s' for %s is set aside, others do its work", gemm,
           message);
  assert_string_equal(reason, text);
}

/* The layer is made as if nothing were wrong, and the forward warns and is right, in a workspace
 * too that was made for what fails; the next one knows, and so does who asks. */
static void check_mistake(const mistake *m) {
  static uint16_t want[TOKENS * HIDDEN], got[TOKENS * HIDDEN];
  test_log log = {.level = MOECL_LOG_INFO};
  moecl_context *context = NULL;
  moecl_buffer *workspace = NULL;
  const char *reason;
  assert_ok(stand_in_open(&place, &context));
  moecl_layer *layer = make(context, m->gemm, true);
  run(layer, m->tokens, NULL, want);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);

  char *was = plant(m);
  place.params.log = test_log_add;
  place.params.log_user = &log;
  assert_ok(stand_in_open(&place, &context));
  layer = make(context, m->gemm, false);
  assert_int_equal(test_log_count(&log, "others do its work"), 0);
  assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", &reason), m->gemm);
  assert_string_equal(reason, "asked for by name");
  assert_ok(moecl_buffer_create(context, moecl_layer_workspace_size(layer, m->tokens), &workspace));
  for (int again = 0; again < 2; again++) {
    run(layer, m->tokens, workspace, got);
    assert_near(got, want, (size_t)m->tokens * HIDDEN);
    if (test_log_count(&log, "others do its work") != 1 || !test_log_has(&log, m->message))
      fail_msg("%s: no warning of %s: %s", m->to, m->message, log.text.data);
    assert_string_equal(moecl_layer_variant(layer, "grouped_gemm", &reason), m->gemm);
    assert_told(reason, m->gemm, m->message);
  }
  assert_int_equal(test_log_count(&log, "\n0 "), 0);
  assert_int_equal(moecl_context_take_errors(context, NULL, 0), 0);
  moecl_buffer_destroy(&workspace);
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
  place.params.log = NULL;
  place.params.log_user = NULL;
  mend(m, was);
  base_text_free(&log.text);
}

static void test_mistakes(void **state) {
  (void)state;
  for (size_t i = 0; i < BASE_COUNT(mistakes); i++) check_mistake(&mistakes[i]);
}

/* A block's projections, and its router's logits, lose the kernel together and are told apart; what
 * does not want it is not told. */
static void test_block_mistake(void **state) {
  static uint16_t output[TOKENS * HIDDEN];
  const mistake *m = &mistakes[4];
  moecl_context *context = NULL;
  const char *reason;
  (void)state;
  char *was = plant(m);
  assert_ok(stand_in_open(&place, &context));
  moecl_block *block = make_block(context, m->gemm);
  assert_string_equal(moecl_block_variant(block, "projections", &reason), m->gemm);
  assert_string_equal(reason, "asked for by name");
  run_block(block, m->tokens, NULL, output);
  moecl_block_variant(block, "projections", &reason);
  assert_told(reason, m->gemm, m->message);
  moecl_block_variant(block, "grouped_gemm", &reason);
  assert_told(reason, m->gemm, m->message);
  moecl_block_variant(block, "attention", &reason);
  assert_null(strstr(reason, "set aside"));
  moecl_block_destroy(&block);
  moecl_context_destroy(&context);
  mend(m, was);
}

static int open_place(void **state) {
  (void)state;
  return stand_in_make(&place) ? 0 : 1;
}

static int close_place(void **state) {
  (void)state;
  stand_in_remove(&place);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_growth),         cmocka_unit_test(test_reserve),
      cmocka_unit_test(test_reserve_block),  cmocka_unit_test(test_group),
      cmocka_unit_test(test_built_ahead),    cmocka_unit_test(test_block_built_ahead),
      cmocka_unit_test(test_waiting),        cmocka_unit_test(test_made_aside),
      cmocka_unit_test(test_lack_of_memory), cmocka_unit_test(test_mistakes),
      cmocka_unit_test(test_block_mistake)};
  skip_without_device();
  if (getenv("MOECL_TEST_FILTER")) cmocka_set_test_filter(getenv("MOECL_TEST_FILTER"));
  return cmocka_run_group_tests(tests, open_place, close_place);
}
