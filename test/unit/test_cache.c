// SPDX-License-Identifier: MIT
/* The program cache and the sources: whatever is in the folder, kernels are
 * built and give the right answer. */
#include "cache_fixture.h"
#include "ocl/program.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* One context's life: builds or finds the kernel, checks it. */
static void run_once(const fixture *f, int plus, test_log *log) {
  moecl_status status;
  moecl_context *context = open_context(f, log);
  assert_int_equal(ask(context, "answer.cl", plus, &status), 40 + plus);
  assert_false(test_log_has(log, "failed"));
  moecl_context_destroy(&context);
}

static void test_hit(void **state) {
  test_log log = {0};
  moecl_context *context = open_context(*state, &log);
  size_t probes = each_entry(*state, NULL); /* opening runs these */
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  run_once(*state, 2, &log);
  assert_true(test_log_has(&log, "built answer.cl"));
  assert_int_equal(each_entry(*state, NULL), probes + 1);
  base_text_free(&log.text);
  run_once(*state, 2, &log);
  assert_true(test_log_has(&log, "program cache: hit"));
  assert_false(test_log_has(&log, "built"));
  base_text_free(&log.text);
  run_once(*state, 3, &log); /* another define, another program */
  assert_true(test_log_has(&log, "built answer.cl"));
  assert_int_equal(each_entry(*state, NULL), probes + 2);
  base_text_free(&log.text);
}

static void test_memory(void **state) {
  test_log log = {0};
  moecl_status status;
  moecl_context *context = open_context(*state, &log);
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_int_equal(test_log_count(&log, "built answer.cl"), 1);
  assert_false(test_log_has(&log, "hit")); /* the second came from memory */
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void test_included_file_counts(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  moecl_status status;
  run_once(f, 2, &log);
  write_file(f->kernels, "sub/value.clh", "#define VALUE 50\n");
  moecl_context *context = open_context(f, &log);
  assert_int_equal(ask(context, "answer.cl", 2, &status), 52);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* Whatever may decide what a binary is, or whether it runs, is in the key: the driver's
 * version above all, which changes under a cache that stays. */
static void test_key(void **state) {
  test_log log = {0};
  char plain[33], other[33];
  base_text source = {0};
  moecl_context *context = open_context(*state, &log);
  const moecl_device_info info = context->info;
  base_text_addf(&source, "__kernel void k(void) {}");
  assert_ok(ocl_cache_key(context, &source, "-DA", plain));
  assert_ok(ocl_cache_key(context, &source, "-DA", other));
  assert_string_equal(plain, other);
  assert_ok(ocl_cache_key(context, &source, "-DB", other));
  assert_string_not_equal(plain, other);
  char *const parts[] = {context->info.driver, context->info.platform, context->info.name,
                         context->info.opencl_version};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    assert_true(strlen(parts[i]) > 0);
    parts[i][strlen(parts[i]) - 1] ^= 1; /* 535.54 and 535.55 */
    assert_ok(ocl_cache_key(context, &source, "-DA", other));
    assert_string_not_equal(plain, other);
    context->info = info;
  }
  base_text_addf(&source, " ");
  assert_ok(ocl_cache_key(context, &source, "-DA", other));
  assert_string_not_equal(plain, other);
  base_text_free(&source);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void flip_last(const char *path) {
  char *data;
  size_t size;
  assert_ok(base_file_read(path, &data, &size));
  data[size - 1] ^= 1;
  assert_ok(base_file_write_atomic(path, data, size));
  free(data);
}
static void flip_first(const char *path) {
  char *data;
  size_t size;
  assert_ok(base_file_read(path, &data, &size));
  data[0] ^= 1;
  assert_ok(base_file_write_atomic(path, data, size));
  free(data);
}
static void raise_version(const char *path) {
  char *data;
  size_t size;
  assert_ok(base_file_read(path, &data, &size));
  data[8]++;
  assert_ok(base_file_write_atomic(path, data, size));
  free(data);
}
static void cut_half(const char *path) {
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(truncate(path, info.st_size / 2), 0);
}
static void cut_to_10(const char *path) { assert_int_equal(truncate(path, 10), 0); }
static void cut_to_0(const char *path) { assert_int_equal(truncate(path, 0), 0); }
static void make_folder(const char *path) {
  assert_int_equal(unlink(path), 0);
  assert_int_equal(mkdir(path, 0777), 0);
}

/* A sound envelope around a binary that the driver cannot take. */
static void forge_payload(const char *path) {
  char *data, hex[33];
  size_t size;
  assert_ok(base_file_read(path, &data, &size));
  memset(data + ENTRY_HEADER, 'x', size - ENTRY_HEADER);
  base_hash_hex(data + ENTRY_HEADER, size - ENTRY_HEADER, hex);
  memcpy(data + ENTRY_CHECKSUM, hex, 32);
  assert_ok(base_file_write_atomic(path, data, size));
  free(data);
}

/* Mesa's rusticl 22.3 ends the process where it should refuse a binary. Nothing but
 * the driver's name tells. */
static bool dies_of_bad_binaries(void) {
  moecl_context *context = NULL;
  assert_ok(moecl_context_create(NULL, &context));
  const bool dies = strstr(moecl_context_device(context)->platform, "rusticl") != NULL;
  moecl_context_destroy(&context);
  if (dies) printf("SKIP: this driver ends the process for a binary that is none\n");
  return dies;
}

static void test_bad_entries(void **state) {
  const struct {
    void (*damage)(const char *path);
    const char *message; /* NULL: none is asked for */
  } cases[] = {{flip_last, "wrong checksum"},
               {flip_first, "wrong magic"},
               {raise_version, "another format version"},
               {cut_half, "wrong size"},
               {cut_to_10, "is truncated"},
               {cut_to_0, "is truncated"},
               {forge_payload, "refuses a binary"},
               {make_folder, NULL}};
  test_log log = {0};
  run_once(*state, 2, &log);
  base_text_free(&log.text);
  size_t entries = each_entry(*state, NULL);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    if (cases[i].damage == forge_payload && dies_of_bad_binaries()) continue;
    assert_int_equal(each_entry(*state, cases[i].damage), entries);
    run_once(*state, 2, &log);
    assert_true(test_log_has(&log, "built answer.cl"));
    if (cases[i].message) assert_true(test_log_has(&log, cases[i].message));
    base_text_free(&log.text);
    if (!cases[i].message) continue;
    run_once(*state, 2, &log); /* the rebuilt entry is sound again */
    assert_true(test_log_has(&log, "program cache: hit"));
    base_text_free(&log.text);
  }
}

/* chmod stops nobody who is root; a parent that is a file stops everybody. */
static void test_unwritable(void **state) {
  fixture *f = *state;
  test_log log = {0};
  moecl_status status;
  write_file(f->root, "file", "");
  snprintf(f->cache, sizeof f->cache, "%s/file/cache", f->root);
  moecl_context_params params = {
      .log = test_log_add, .log_user = &log, .kernel_dir = f->kernels, .cache_dir = f->cache};
  moecl_context *context = NULL;
  log.level = MOECL_LOG_WARNING;
  assert_ok(moecl_context_create(&params, &context));
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_int_equal(ask(context, "answer.cl", 3, &status), 43);
  assert_int_equal(test_log_count(&log, "cannot be written to"), 1);
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

/* By the caller's word; an empty name, of the caller or of the variable, is no place, and nothing
 * else is asked for one. */
static void test_disabled(void **state) {
  const fixture *f = *state;
  const moecl_context_params ways[] = {
      {.kernel_dir = f->kernels, .cache_dir = f->cache, .disable_cache = true},
      {.kernel_dir = f->kernels, .cache_dir = ""},
      {.kernel_dir = f->kernels}};
  for (size_t i = 0; i < BASE_COUNT(ways); i++) {
    moecl_status status;
    moecl_context *context = NULL;
    assert_int_equal(setenv("MOECL_CACHE_DIR", i < 2 ? f->cache : "", 1), 0);
    assert_ok(moecl_context_create(&ways[i], &context));
    assert_null(moecl_context_cache_dir(context));
    assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
    moecl_context_destroy(&context);
  }
  assert_int_equal(each_entry(f, NULL), 0);
}

/* A file of the cache folder with holes for contents, last used `age` seconds
 * ago. */
static void put_sparse(const fixture *f, const char *name, off_t mebibytes, time_t age) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", f->cache, name);
  write_file(f->cache, name, "");
  assert_int_equal(truncate(path, mebibytes << 20), 0);
  const struct timespec then = {.tv_sec = time(NULL) - age}, times[2] = {then, then};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* "<31 zeros><digit>.bin", as entries are named, of 60 MiB. */
static void put_entry(const fixture *f, int digit, time_t age) {
  char name[64];
  snprintf(name, sizeof name, "%032x.bin", (unsigned)digit);
  put_sparse(f, name, 60, age);
}

static bool is_there(const fixture *f, const char *name) {
  char path[512];
  struct stat info;
  snprintf(path, sizeof path, "%s/%s", f->cache, name);
  return stat(path, &info) == 0;
}
static bool entry_there(const fixture *f, int digit) {
  char name[64];
  snprintf(name, sizeof name, "%032x.bin", (unsigned)digit);
  return is_there(f, name);
}

#define HEX32 "0123456789abcdef0123456789abcdef"

/* Beyond 256 MiB the entries unused for longest go, and nothing else does. */
static void test_eviction(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  assert_ok(base_make_directories(f->cache));
  static const time_t ages[6] = {500, 300, 600, 200, 400, 100};
  for (int i = 0; i < 6; i++) put_entry(f, i, ages[i]);
  put_sparse(f, "somebody's.bin", 300, 9999);
  put_sparse(f, "photographs-of-the-summer-house-.bin", 300, 9999);
  put_sparse(f, HEX32 "0.bin", 300, 9999); /* not a key */
  put_sparse(f, HEX32 ".bin.aBcDeF", 1, 9999);
  put_sparse(f, HEX32 ".bin.gHiJkL", 1, 10);
  run_once(f, 2, &log);
  assert_false(entry_there(f, 0));
  assert_true(entry_there(f, 1));
  assert_false(entry_there(f, 2));
  assert_true(entry_there(f, 3));
  assert_true(entry_there(f, 4));
  assert_true(entry_there(f, 5));
  assert_true(is_there(f, "somebody's.bin"));
  assert_true(is_there(f, "photographs-of-the-summer-house-.bin"));
  assert_true(is_there(f, HEX32 "0.bin"));
  assert_false(is_there(f, HEX32 ".bin.aBcDeF")); /* its writer died */
  assert_true(is_there(f, HEX32 ".bin.gHiJkL"));  /* its writer may be at it */
  base_text_free(&log.text);
  run_once(f, 2, &log); /* what was written is still there */
  assert_true(test_log_has(&log, "program cache: hit"));
  base_text_free(&log.text);
}

static void make_old(const char *path) {
  const struct timespec times[2] = {{.tv_sec = 946684800}, {.tv_sec = 946684800}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* A hit is a use: the entry outlives others that were written later. */
static void test_hit_is_use(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  run_once(f, 2, &log);
  run_once(f, 3, &log);
  assert_true(each_entry(f, make_old) >= 2);
  for (int i = 0; i < 6; i++) put_entry(f, i, 1000 - i);
  base_text_free(&log.text);
  run_once(f, 2, &log); /* hit */
  assert_true(test_log_has(&log, "program cache: hit"));
  run_once(f, 4, &log); /* written: the others are too many */
  assert_false(entry_there(f, 0));
  assert_true(entry_there(f, 5));
  base_text_free(&log.text);
  run_once(f, 2, &log);
  assert_false(test_log_has(&log, "built answer.cl"));
  base_text_free(&log.text);
  run_once(f, 3, &log); /* used by nobody since */
  assert_true(test_log_has(&log, "built answer.cl"));
  base_text_free(&log.text);
}

/* What is named as an entry but cannot be one is passed over, also where one
 * alone is beyond the limit. */
static void test_eviction_of_oddities(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  char path[512];
  assert_ok(base_make_directories(f->cache));
  snprintf(path, sizeof path, "%s/" HEX32 ".bin", f->cache);
  assert_int_equal(mkdir(path, 0777), 0);
  put_entry(f, 1, 100);
  put_sparse(f, "00000000000000000000000000000002.bin", 1000, 200);
  run_once(f, 2, &log);
  assert_true(is_there(f, HEX32 ".bin"));
  assert_true(entry_there(f, 1));
  assert_false(entry_there(f, 2));
  assert_false(test_log_has(&log, "cannot"));
  base_text_free(&log.text);
}

#define PROGRAMS 6

/* Two processes fill one cold folder together, and both evict; each starts
 * anew, since an OpenCL driver doesn't survive a fork. */
static void test_two_processes(void **state) {
  const fixture *f = *state;
  pid_t children[2];
  assert_ok(base_make_directories(f->cache));
  for (int i = 0; i < 6; i++) put_entry(f, i, 1000);
  for (int i = 0; i < 2; i++) {
    children[i] = fork();
    assert_true(children[i] >= 0);
    if (children[i] == 0) {
      execl("/proc/self/exe", "test_cache", "child", f->kernels, f->cache, (char *)NULL);
      _exit(127);
    }
  }
  for (int i = 0; i < 2; i++) {
    int status = -1;
    assert_int_equal(waitpid(children[i], &status, 0), children[i]);
    assert_int_equal(status, 0);
  }
  size_t large = 0;
  for (int i = 0; i < 6; i++) large += entry_there(f, i);
  assert_int_equal(large, 4);
  assert_true(each_entry(f, NULL) >= large + PROGRAMS);
}

/* The other end of test_two_processes; 0 when all were right. */
static int child_main(char **argv) {
  moecl_context_params params = {.kernel_dir = argv[2], .cache_dir = argv[3]};
  moecl_context *context = NULL;
  moecl_status status = moecl_context_create(&params, &context);
  int wrong = status != MOECL_OK;
  for (int plus = 0; !wrong && plus < PROGRAMS; plus++)
    wrong = ask(context, "answer.cl", plus, &status) != 40 + plus;
  moecl_context_destroy(&context);
  return wrong;
}

static void expect_failure(const fixture *f, const char *source, moecl_status want,
                           const char *message) {
  test_log log = {0};
  moecl_status status;
  moecl_context *context = open_context(f, &log);
  assert_int_equal(ask(context, source, 2, &status), -1);
  assert_int_equal(status, want);
  if (test_log_has(&log, "<kernel>:") && !test_log_has(&log, message))
    printf("SKIP: this compiler ignores #line, so \"%s\" is not in its log\n", message);
  else assert_true(test_log_has(&log, message));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void test_source_errors(void **state) {
  const fixture *f = *state;
  write_file(f->kernels, "broken.cl",
             "#include \"sub/value.clh\"\n\n__kernel void answer(__global int *out) {\n"
             "  out[0] = undeclared_name;\n}\n");
  write_file(f->kernels, "lost.cl", "\n#include \"sub/nowhere.clh\"\n");
  write_file(f->kernels, "escape.cl", "#include \"../file\"\n");
  write_file(f->kernels, "other.cl", "__kernel void other(__global int *out) { out[0] = 0; }\n");
  expect_failure(f, "broken.cl", MOECL_ERROR_BUILD, "broken.cl:4");
  expect_failure(f, "broken.cl", MOECL_ERROR_BUILD, "undeclared_name");
  expect_failure(f, "lost.cl", MOECL_ERROR_IO, "included from lost.cl:2");
  expect_failure(f, "escape.cl", MOECL_ERROR_INVALID_ARGUMENT, "../file");
  expect_failure(f, "missing.cl", MOECL_ERROR_IO, "missing.cl");
  expect_failure(f, "other.cl", MOECL_ERROR_BUILD, "no kernel answer");
}

/* Every embedded kernel source is what lies below cl/, and the folder named by
 * the environment takes their place. */
static void test_environment(void **state) {
  const fixture *f = *state;
  moecl_status status;
  moecl_context *context = NULL;
  assert_int_equal(setenv("MOECL_KERNEL_DIR", f->kernels, 1), 0);
  assert_int_equal(setenv("MOECL_CACHE_DIR", f->cache, 1), 0);
  assert_ok(moecl_context_create(NULL, &context));
  unsetenv("MOECL_KERNEL_DIR");
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_true(each_entry(f, NULL) >= 1);
  moecl_context_destroy(&context);
  assert_ok(moecl_context_create(NULL, &context));
  assert_int_equal(ask(context, "answer.cl", 2, &status), -1);
  assert_int_equal(status, MOECL_ERROR_INVALID_ARGUMENT); /* no such embedded source */
  moecl_context_destroy(&context);
}

/* The hash of one opened context's kernels, and that of none where there is no
 * folder. */
static void hash_of(const char *kernel_dir, char hash[33]) {
  moecl_context_params params = {.kernel_dir = kernel_dir, .disable_cache = true};
  moecl_context *context = NULL;
  assert_ok(moecl_context_create(&params, &context));
  if (*kernel_dir) assert_string_equal(moecl_context_kernel_dir(context), kernel_dir);
  else assert_null(moecl_context_kernel_dir(context));
  assert_ok(moecl_context_kernel_hash(context, hash));
  assert_int_equal(strlen(hash), 32);
  moecl_context_destroy(&context);
}

static void test_kernel_hash(void **state) {
  const fixture *f = *state;
  char embedded[33], other[33], changed[33], moved[33];
  hash_of("", embedded);
  if (getenv("MOECL_SOURCE_CL")) {
    hash_of(getenv("MOECL_SOURCE_CL"), other);
    assert_string_equal(other, embedded); /* the same text in a folder */
  }
  hash_of(f->kernels, other); /* none of the sources is there */
  assert_string_not_equal(other, embedded);
  write_file(f->kernels, "not-a-source.txt", "1");
  hash_of(f->kernels, changed);
  assert_string_equal(changed, other);
  char sub[160];
  snprintf(sub, sizeof sub, "%s/common", f->kernels);
  assert_ok(base_make_directories(sub));
  write_file(f->kernels, "common/types.clh", "#define VALUE 1\n");
  hash_of(f->kernels, changed);
  assert_string_not_equal(changed, other);
  write_file(f->kernels, "common/types.clh", "");
  write_file(f->kernels, "common/philox.clh", "#define VALUE 1\n");
  hash_of(f->kernels, moved); /* the same text elsewhere */
  assert_string_not_equal(moved, changed);
  char none[33] = "x";
  assert_int_equal(moecl_context_kernel_hash(NULL, none), MOECL_ERROR_INVALID_ARGUMENT);
  assert_string_equal(none, "");
  assert_null(moecl_context_kernel_dir(NULL));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "child") == 0) return child_main(argv);
  const struct CMUnitTest tests[] = {
      CASE(test_hit),           CASE(test_memory),
      CASE(test_key),           CASE(test_included_file_counts),
      CASE(test_bad_entries),   CASE(test_unwritable),
      CASE(test_disabled),      CASE(test_two_processes),
      CASE(test_source_errors), CASE(test_environment),
      CASE(test_kernel_hash),   CASE(test_eviction),
      CASE(test_hit_is_use),    CASE(test_eviction_of_oddities),
  };
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
