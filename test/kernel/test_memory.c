// SPDX-License-Identifier: MIT
/* What moecl_layer_memory tells is what a layer and its forward then take. This
 * program's own clCreateBuffer, which the library calls, counts the memory. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "kernel/variant.h"
#include "layer_run.h"
#include "moecl/opencl.h"
#include "op/gemm/gemm.h"
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

static moecl_context *context;
static test_log logged = {.level = MOECL_LOG_ERROR};

/* ---- every buffer that lives ---- */

enum { MOST_BUFFERS = 256 };
static size_t live[MOST_BUFFERS]; /* bytes; 0: free */
static bool too_many;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void CL_CALLBACK gone(cl_mem mem, void *entry) {
  (void)mem;
  pthread_mutex_lock(&lock);
  *(size_t *)entry = 0;
  pthread_mutex_unlock(&lock);
}

static size_t *keep(size_t bytes) {
  size_t *entry = NULL;
  pthread_mutex_lock(&lock);
  for (size_t i = 0; !entry && i < MOST_BUFFERS; i++)
    if (live[i] == 0) *(entry = &live[i]) = bytes;
  too_many |= !entry;
  pthread_mutex_unlock(&lock);
  return entry;
}

typedef cl_mem(CL_API_CALL *create_fn)(cl_context, cl_mem_flags, size_t, void *, cl_int *);

CL_API_ENTRY cl_mem CL_API_CALL clCreateBuffer(cl_context cl, cl_mem_flags flags, size_t bytes,
                                               void *host, cl_int *code) {
  create_fn create;
  *(void **)&create = dlsym(RTLD_NEXT, "clCreateBuffer");
  const cl_mem mem = create(cl, flags, bytes, host, code);
  size_t *entry = mem ? keep(bytes) : NULL;
  if (entry) clSetMemObjectDestructorCallback(mem, gone, entry);
  return mem;
}

static uint64_t live_now(uint64_t *largest) {
  uint64_t sum = 0;
  *largest = 0;
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < MOST_BUFFERS; i++) {
    sum += live[i];
    if (live[i] > *largest) *largest = live[i];
  }
  pthread_mutex_unlock(&lock);
  assert_false(too_many);
  return sum;
}

/* Drivers give up a buffer some time after its last command is done: waits for what is
 * beyond `expected` bytes to go, a minute at most, and no more once that was in vain.
 * Less than that never becomes more: it is a mismatch at once. */
static uint64_t live_bytes(uint64_t expected, uint64_t *largest) {
  enum { TRIES = 60000 };
  static bool in_vain;
  uint64_t bytes = live_now(largest);
  assert_ok(moecl_context_finish_wait(context));
  for (int tries = 0; bytes > expected && tries < (in_vain ? 0 : TRIES); tries++) {
    usleep(1000);
    bytes = live_now(largest);
  }
  in_vain |= bytes > expected;
  return bytes;
}

/* ---- told and taken ---- */

static bool agrees(const case_data *data, const char *variant, const char *what, uint64_t told,
                   uint64_t taken) {
  if (told == taken) return true;
  fprintf(stderr, "case '%s', %s, variant %s: %s: %llu bytes told, %llu taken\n",
          data->source->name, moecl_dtype_name(data->layer.dtype), variant, what,
          (unsigned long long)told, (unsigned long long)taken);
  return false;
}

/* Some variants take multiples of 8 only. */
static bool takes(const char *variant, const moe_case *source) {
  const moecl_layer_params *p = &source->layer;
  if (takes_odd_sizes(variant)) return true;
  return p->hidden_size % 8 == 0 && p->intermediate_size % 8 == 0;
}

static bool check(const char *name, moecl_dtype dtype, const char *variant) {
  const moe_case *source = case_find(name);
  case_data data;
  assert_non_null(source);
  if (!takes(variant, source)) return true;
  assert_true(case_make(source, dtype, case_seed(), &data));
  moecl_layer_params params = data.layer;
  params.grouped_gemm_variant = variant;
  uint64_t largest;
  moecl_memory told;
  assert_ok(moecl_layer_memory(context, &params, source->num_tokens, &told));
  bool ok = agrees(&data, variant, "telling allocates", 0, live_bytes(0, &largest));
  moecl_layer *layer = make_layer(context, &data, variant, NULL);
  ok = agrees(&data, variant, "weights", told.weight_bytes,
              live_bytes(told.weight_bytes, &largest)) &&
       ok;
  ok = agrees(&data, variant, "moecl_layer_weight_bytes", told.weight_bytes,
              moecl_layer_weight_bytes(layer)) &&
       ok;
  ok = agrees(&data, variant, "moecl_layer_workspace_size", told.workspace_bytes,
              moecl_layer_workspace_size(layer, source->num_tokens)) &&
       ok;
  moecl_buffer *input = upload(context, data.hidden, case_hidden_bytes(&data), 0), *output = NULL;
  assert_ok(moecl_buffer_create(context, case_hidden_bytes(&data), &output));
  const moecl_forward_params forward = {
      .num_tokens = source->num_tokens, .hidden_states = input, .output = output};
  assert_ok(moecl_layer_forward(layer, &forward, NULL));
  const uint64_t all = told.weight_bytes + told.workspace_bytes + 2 * told.hidden_bytes;
  ok = agrees(&data, variant, "layer, forward, input and output", all, live_bytes(all, &largest)) &&
       ok;
  ok = agrees(&data, variant, "the largest buffer", told.largest_buffer_bytes, largest) && ok;
  moecl_buffer_destroy(&input);
  moecl_buffer_destroy(&output);
  moecl_layer_destroy(&layer);
  case_release(&data);
  return ok;
}

static void test_told_is_taken(void **state) {
  static const char *const names[] = {"biases, odd",
                                      "relu",
                                      "one token",
                                      "narrow",
                                      "capacity by probability",
                                      "jitter and capacity",
                                      "deepseek-v3",
                                      "noisy top-k, jitter, three tokens",
                                      "shared expert",
                                      "eights, shared expert",
                                      "eights, weights on inputs"};
  (void)state;
  bool ok = true;
  for (int dtype = 0; dtype < MOECL_DTYPE_COUNT; dtype++) {
    const char *variants[32];
    const size_t count =
        moecl_variants_available(context, "grouped_gemm", (moecl_dtype)dtype, variants, 32);
    assert_true(count >= 1);
    for (size_t v = 0; v < count; v++)
      for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ok = check(names[i], (moecl_dtype)dtype, variants[v]) && ok;
  }
  assert_true(ok);
}

/* Nobody has these layers; telling needs none. */
static void test_huge(void **state) {
  moecl_layer_params params = {.hidden_size = 7168,
                               .intermediate_size = 2048,
                               .num_experts = 256,
                               .top_k = 8,
                               .dtype = MOECL_BF16,
                               .grouped_gemm_variant = "generic"};
  moecl_memory memory;
  (void)state;
  assert_ok(moecl_layer_memory(context, &params, 4096, &memory));
  const uint64_t matrix = UINT64_C(7168) * 2048 * 256 * 2;
  /* The experts, the router, and the offsets of the router's one "expert". */
  assert_true(memory.weight_bytes == 3 * matrix + 7168 * 256 * 2 + 16);
  assert_true(memory.largest_buffer_bytes == 2 * matrix);
  assert_true(memory.hidden_bytes == UINT64_C(4096) * 7168 * 2);
  params.hidden_size = MOECL_MAX_SIZE;
  params.intermediate_size = 64;
  params.num_experts = params.top_k = 1;
  params.grouped_gemm_variant = NULL;
  assert_ok(moecl_layer_memory(context, &params, MOECL_MAX_ASSIGNMENTS, &memory));
  assert_true(memory.workspace_bytes == UINT64_MAX && memory.largest_buffer_bytes == UINT64_MAX);
  assert_true(memory.weight_bytes >= UINT64_C(3) * MOECL_MAX_SIZE * 64 * 2);
}

static void refused(const moecl_layer_params *params, int64_t num_tokens, moecl_status want,
                    const char *message) {
  moecl_memory memory = {1, 1, 1, 1};
  assert_int_equal(moecl_layer_memory(context, params, num_tokens, &memory), want);
  assert_true(test_log_has(&logged, message));
  base_text_free(&logged.text);
  assert_true(memory.weight_bytes == 0 && memory.largest_buffer_bytes == 0);
}

static void test_misuse(void **state) {
  moecl_layer_params params = {
      .hidden_size = 8, .intermediate_size = 8, .num_experts = 4, .top_k = 2};
  moecl_memory memory;
  (void)state;
  assert_int_equal(moecl_layer_memory(NULL, &params, 1, &memory), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_layer_memory(context, NULL, 1, &memory), MOECL_ERROR_INVALID_ARGUMENT);
  assert_int_equal(moecl_layer_memory(context, &params, 1, NULL), MOECL_ERROR_INVALID_ARGUMENT);
  refused(&params, -1, MOECL_ERROR_INVALID_ARGUMENT, "num_tokens is -1");
  refused(&params, INT64_MAX, MOECL_ERROR_INVALID_ARGUMENT, "num_tokens is 9223372036854775807");
  params.grouped_gemm_variant = "fastest";
  refused(&params, 1, MOECL_ERROR_UNSUPPORTED, "no grouped_gemm variant 'fastest'");
  params.top_k = 5;
  refused(&params, 1, MOECL_ERROR_INVALID_ARGUMENT, "top_k is 5");
}

/* ---- large pages ---- */

/* KiB of this process' memory for which they were asked; -1: it can't be told. */
static long asked_for(void) {
  FILE *file = fopen("/proc/self/smaps", "r");
  char line[512];
  long sum = 0, size = 0;
  bool told = false;
  if (!file) return -1;
  while (fgets(line, sizeof line, file)) {
    sscanf(line, "Size: %ld", &size);
    if (strncmp(line, "VmFlags:", 8) != 0) continue;
    told = true;
    if (strstr(line, " hg")) sum += size;
  }
  fclose(file);
  return told ? sum : -1;
}

/* They are asked for where a processor's buffer is large; what the system gives is its own matter.
 */
static void test_large_pages(void **state) {
  enum { BYTES = 64 << 20, KIB = 1024 };
  moecl_buffer *buffer = NULL;
  const long before = asked_for();
  (void)state;
  if (!(moecl_context_device(context)->capabilities & MOECL_CAP_CPU) || before < 0 ||
      access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0)
    skip();
  assert_ok(moecl_buffer_create(context, BYTES, &buffer));
  const long more = asked_for() - before;
  moecl_buffer_destroy(&buffer);
  if (more < BYTES / KIB / 2)
    fail_msg("large pages are asked for %ld KiB of %d", more, BYTES / KIB);
}

int main(void) {
  skip_without_device();
  const moecl_context_params params = {.log = test_log_add, .log_user = &logged};
  if (moecl_context_create(&params, &context) != MOECL_OK) return 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_told_is_taken),
                                     cmocka_unit_test(test_huge), cmocka_unit_test(test_misuse),
                                     cmocka_unit_test(test_large_pages)};
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  moecl_context_destroy(&context);
  base_text_free(&logged.text);
  return failed;
}
