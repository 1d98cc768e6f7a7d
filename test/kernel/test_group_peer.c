// SPDX-License-Identifier: MIT
/* The transport between GPUs (lib/group/nvidia_peer.c) on any device: what makes and imports memory
 * is replaced (--wrap) by buffers of one cl_context, which all members have with one queue, and the
 * kernels by test/kernel/peer.cl. What the hardware does is not tested here: run test_group on two
 * GPUs. */
#include "group/group.h"
#include "group_compare.h"
#include <unistd.h>

/* ---- instead of libcuda ---- */

enum { MOST_SHARED = 64 };
static struct ocl_sharer { int unused; } the_sharer;
static moecl_buffer *shared_buffers[MOST_SHARED]; /* open ones, by their files */
static uint64_t most = UINT64_C(1) << 40;
static int sharers, imports, failing_import; /* the last: which one from 1 on fails; 0: none */
static const char *refusal;

const char *__wrap_ocl_sharer_create(moecl_context *context, ocl_sharer **sharer);
const char *__wrap_ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_sharer *other);
void __wrap_ocl_sharer_destroy(ocl_sharer **sharer);
moecl_status __wrap_ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes, ocl_shared *shared);
moecl_status __wrap_ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                                      moecl_buffer **buffer);
void __wrap_ocl_shared_close(ocl_shared *shared);
uint64_t __wrap_ocl_shared_most(void);

const char *__wrap_ocl_sharer_create(moecl_context *context, ocl_sharer **sharer) {
  (void)context;
  *sharer = &the_sharer;
  sharers++;
  return NULL;
}

const char *__wrap_ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_sharer *other) {
  (void)sharer, (void)other;
  return refusal;
}

void __wrap_ocl_sharer_destroy(ocl_sharer **sharer) {
  sharers -= *sharer != NULL;
  *sharer = NULL;
}

moecl_status __wrap_ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes,
                                      ocl_shared *shared) {
  assert_ptr_equal(sharer, &the_sharer);
  assert_true(bytes <= most);
  *shared = (ocl_shared){.owner = contexts[0], .bytes = bytes ? bytes : 1};
  while (shared_buffers[shared->file]) assert_true(++shared->file < MOST_SHARED);
  return moecl_buffer_create(contexts[0], shared->bytes, &shared_buffers[shared->file]);
}

moecl_status __wrap_ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                                      moecl_buffer **buffer) {
  if (++imports == failing_import) return MOECL_ERROR_OUT_OF_DEVICE_MEMORY;
  return moecl_buffer_wrap(context, moecl_buffer_cl(shared_buffers[shared->file]), buffer);
}

void __wrap_ocl_shared_close(ocl_shared *shared) {
  moecl_buffer_destroy(&shared_buffers[shared->file]);
}

uint64_t __wrap_ocl_shared_most(void) { return most; }

/* All stays on the one queue. */
moecl_status __wrap_ocl_aside_enter(moecl_context *context, ocl_aside *aside);
void __wrap_ocl_aside_leave(moecl_context *context, const ocl_aside *aside);
moecl_status __wrap_ocl_trial_enter(moecl_context *context, ocl_trial *trial);
void __wrap_ocl_trial_leave(moecl_context *context, const ocl_trial *trial);

moecl_status __wrap_ocl_aside_enter(moecl_context *context, ocl_aside *aside) {
  (void)context, (void)aside;
  return MOECL_OK;
}

void __wrap_ocl_aside_leave(moecl_context *context, const ocl_aside *aside) {
  (void)context, (void)aside;
}

moecl_status __wrap_ocl_trial_enter(moecl_context *context, ocl_trial *trial) {
  (void)context, (void)trial;
  return MOECL_OK;
}

void __wrap_ocl_trial_leave(moecl_context *context, const ocl_trial *trial) {
  (void)context, (void)trial;
}

/* ---- tests ---- */

static const int64_t split[] = {70, 0, 80};

static moecl_layer_params params_by_name(void) {
  moecl_layer_params params = plain;
  params.grouped_gemm_variant = "generic";
  params.router_variant = "generic";
  return params;
}

static void check_split(const moecl_layer_params *params, int32_t chunks, const char *what) {
  const moecl_group_layer_params with = {.chunks = chunks};
  problem p = make_problem(params, TOKENS);
  compare(&p, &with, 3, split, what);
  free_problem(&p);
  assert_int_equal(sharers, 0);
  for (int i = 0; i < MOST_SHARED; i++) assert_null(shared_buffers[i]);
}

static void test_whole(void **state) {
  moecl_layer_params params = params_by_name();
  (void)state;
  check_split(&params, 2, "imports in one piece");
  params.hidden_size = 37; /* rows that are no multiple of what a work-item copies */
  params.dtype = MOECL_F16;
  check_split(&params, 1, "odd rows");
}

/* Three words of a choice, and so more copies than a launch makes. */
static void test_priorities(void **state) {
  moecl_layer_params params = params_by_name();
  (void)state;
  params.capacity_factor = 0.7;
  params.drop_policy = MOECL_DROP_PRIORITIZED;
  params.renormalize_after_capacity = true;
  check_split(&params, 1, "priorities");
}

static void *run_by(const char *transport, const problem *p, const moecl_group_layer_params *with) {
  moecl_status status;
  setenv("MOECL_TEST_TRANSPORT", transport, 1);
  together t = make_together(p, with, 3, split);
  void *got = run_together(&t, 11, &status);
  assert_ok(status);
  free_together(&t);
  return got;
}

/* Codes are sent, and what comes back is stored where it belongs. */
static void test_codes(void **state) {
  const moecl_layer_params params = params_by_name();
  const moecl_group_layer_params with = {.chunks = 2, .dispatch_format = MOECL_FORMAT_FP8_G128};
  (void)state;
  problem p = make_problem(&params, TOKENS);
  void *want = run_by("host", &p, &with), *got = run_by("nvidia_peer", &p, &with);
  assert_memory_equal(got, want, (size_t)TOKENS * p.row_bytes);
  free(got), free(want);
  free_problem(&p);
}

static void test_pieces(void **state) {
  const moecl_layer_params params = params_by_name();
  (void)state;
  most = 1000; /* 6.25 rows */
  check_split(&params, 3, "imports in pieces");
  most = UINT64_C(1) << 40;
}

/* Every import that fails: the host serves, or an error where it was asked for. */
static void test_failing_imports(void **state) {
  moecl_group *group = NULL;
  const moecl_group_params by_peer = {.transport = "nvidia_peer"};
  (void)state;
  for (failing_import = 1; failing_import < 12; failing_import++) {
    imports = 0;
    assert_ok(moecl_group_create(contexts, 2, NULL, &group));
    assert_string_equal(moecl_group_transport(group), "host");
    moecl_group_destroy(&group);
    imports = 0;
    assert_int_not_equal(moecl_group_create(contexts, 2, &by_peer, &group), MOECL_OK);
    assert_null(group);
    assert_int_equal(sharers, 0);
    if (failing_import == 8) break; /* a trial has eight: flags and words of two, by two */
  }
  failing_import = 0;
  refusal = "the test says so";
  moecl_context_take_errors(contexts[0], NULL, 0);
  char text[400];
  assert_int_equal(moecl_group_create(contexts, 2, &by_peer, &group), MOECL_ERROR_UNSUPPORTED);
  moecl_context_take_errors(contexts[0], text, sizeof text);
  assert_non_null(strstr(text, refusal));
  refusal = NULL;
}

/* ---- contexts ---- */

static char root[] = "/tmp/moecl-peer-XXXXXX";

static void make_kernels(void) {
  const char *cl = getenv("MOECL_SOURCE_CL");
  char command[1000];
  assert_non_null(cl);
  assert_non_null(mkdtemp(root));
  snprintf(command, sizeof command,
           "cp -r '%s' '%s/cl' && cp '%s/../test/kernel/peer.cl' '%s/cl/dispatch/nvidia_peer.cl'",
           cl, root, cl, root);
  assert_int_equal(system(command), 0);
}

static void make_members(void) {
  char kernels[64];
  make_kernels();
  snprintf(kernels, sizeof kernels, "%s/cl", root);
  const moecl_context_params params = {
      .log = log_problem, .log_user = "0", .kernel_dir = kernels, .disable_cache = true};
  assert_ok(moecl_context_create(&params, &contexts[0]));
  for (int m = 1; m < MOST_MEMBERS; m++)
    assert_ok(moecl_context_create_from_cl(contexts[0]->cl, contexts[0]->device, contexts[0]->queue,
                                           &params, &contexts[m]));
  for (int m = 0; m < MOST_MEMBERS; m++) contexts[m]->info.capabilities |= MOECL_CAP_PTX_SM80;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_whole), cmocka_unit_test(test_priorities), cmocka_unit_test(test_codes),
      cmocka_unit_test(test_pieces), cmocka_unit_test(test_failing_imports)};
  char command[100];
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  skip_without_device();
  setenv("MOECL_TEST_TRANSPORT", "nvidia_peer", 1);
  make_members();
  const int failed = cmocka_run_group_tests_name("group_peer", tests, NULL, NULL);
  destroy_contexts();
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  return system(command) != 0 || failed ? 1 : 0;
}
