// SPDX-License-Identifier: MIT
/* Whom the program cache trusts: entries that say which program they are, that
 * hold it, and that only the user can have written. */
#define _GNU_SOURCE
#include "cache_fixture.h"
#include "kernel/choose.h"
#include "op/combine/combine.h"
#include "op/router/router.h"
#include "small_layer.h"
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { MOST_ENTRIES = 128 };

/* Paths of all entries, sorted; the caller's to free. */
static size_t list_entries(const fixture *f, char *paths[MOST_ENTRIES]) {
  struct dirent **names;
  size_t count = 0;
  const int found = scandir(f->cache, &names, NULL, alphasort);
  for (int i = 0; i < found; i++) {
    if (names[i]->d_name[0] != '.' && count < MOST_ENTRIES)
      assert_true(asprintf(&paths[count++], "%s/%s", f->cache, names[i]->d_name) > 0);
    free(names[i]);
  }
  if (found >= 0) free(names);
  return count;
}

static void free_entries(char **paths, size_t count) {
  for (size_t i = 0; i < count; i++) free(paths[i]);
}

/* ---- entries under another's name ---- */

static void run_layer(const fixture *f, test_log *log, float *output) {
  moecl_context *context = NULL;
  moecl_layer *layer = NULL;
  const moecl_context_params params = {.log = test_log_add, .log_user = log, .cache_dir = f->cache};
  log->level = MOECL_LOG_DEBUG;
  assert_ok(moecl_context_create(&params, &context));
  assert_ok(moecl_layer_create(context, &small_params, &layer));
  assert_ok(small_weights(layer, &small_params));
  assert_ok(small_forward(context, layer, NULL, output));
  moecl_layer_destroy(&layer);
  moecl_context_destroy(&context);
}

/* Every entry gets its neighbour's name: all are sound, and none is what its name says. */
static void test_exchanged_names(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  char *paths[MOST_ENTRIES];
  float want[SMALL_TOKENS * SMALL_HIDDEN], got[SMALL_TOKENS * SMALL_HIDDEN];
  run_layer(f, &log, want);
  base_text_free(&log.text);
  const size_t count = list_entries(f, paths);
  assert_true(count >= 3);
  char away[128];
  snprintf(away, sizeof away, "%s/away", f->root);
  assert_int_equal(rename(paths[0], away), 0);
  for (size_t i = 0; i + 1 < count; i++) assert_int_equal(rename(paths[i + 1], paths[i]), 0);
  assert_int_equal(rename(away, paths[count - 1]), 0);
  run_layer(f, &log, got);
  assert_memory_equal(got, want, sizeof want);
  assert_int_equal(test_log_count(&log, "holds another program than its name says"), count);
  assert_false(test_log_has(&log, "\n0 ")); /* nothing was an error */
  base_text_free(&log.text);
  run_layer(f, &log, got); /* they are sound again */
  assert_memory_equal(got, want, sizeof want);
  assert_int_equal(test_log_count(&log, "program cache: hit"), count);
  assert_false(test_log_has(&log, "built"));
  base_text_free(&log.text);
  free_entries(paths, count);
}

/* ---- another program under the right key ---- */

/* The entry that creating a kernel writes or takes; the caller's to free. */
static char *entry_of(const fixture *f, const char *source, const char *entry, int plus) {
  test_log log = {0};
  char defines[32];
  ocl_kernel *kernel = NULL;
  moecl_context *context = open_context(f, &log);
  snprintf(defines, sizeof defines, "PLUS %d\n", plus);
  assert_ok(ocl_kernel_create(context, source, defines, entry, &kernel));
  ocl_kernel_destroy(&kernel);
  moecl_context_destroy(&context);
  const char *at = NULL;
  for (const char *next = log.text.data; (next = strstr(next, "program cache: ")); next++)
    if (strncmp(next + 15, "hit ", 4) == 0 || strncmp(next + 15, "wrote ", 6) == 0) at = next + 15;
  assert_non_null(at);
  at += strcspn(at, " ") + 1;
  char *path = strndup(at, strcspn(at, "\n"));
  base_text_free(&log.text);
  return path;
}

/* `to` keeps its key and gets the binary of `from`, with a right checksum. */
static void transplant(const char *from, const char *to) {
  char *donor, *entry;
  size_t size, old;
  assert_ok(base_file_read(from, &donor, &size));
  assert_ok(base_file_read(to, &entry, &old));
  memcpy(donor + ENTRY_KEY, entry + ENTRY_KEY, 32);
  assert_ok(base_file_write_atomic(to, donor, size));
  free(donor);
  free(entry);
}

static void test_lacking_kernel(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  moecl_status status;
  write_file(f->kernels, "other.cl", "__kernel void other(__global int *out) { out[0] = 0; }\n");
  char *mine = entry_of(f, "answer.cl", "answer", 2), *other = entry_of(f, "other.cl", "other", 0);
  assert_string_not_equal(mine, other);
  transplant(other, mine);
  moecl_context *context = open_context(f, &log);
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_ok(status);
  assert_int_equal(test_log_count(&log, "built answer.cl"), 1);
  assert_int_equal(test_log_count(&log, "may hold the wrong program"), 1);
  assert_false(test_log_has(&log, "0 answer.cl: no kernel"));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  context = open_context(f, &log);
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_false(test_log_has(&log, "built"));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  free(mine);
  free(other);
}

/* What a layer does with a variant, with the fixture's kernel: it has to answer 42. */
typedef struct trial {
  moecl_context *context;
  int tries;
} trial;

static moecl_status try_answer(void *user, const kernel_variant *variant) {
  trial *t = user;
  moecl_status status;
  t->tries++;
  const int32_t got = ask(t->context, "answer.cl", 2, &status);
  if (status != MOECL_OK || got == 42) return status;
  return log_error(&t->context->log, MOECL_ERROR_BUILD, "%s answers %d", variant->name, (int)got);
}

/* Returns how often the variant was tried. */
static int choose(const fixture *f, moecl_status want, test_log *log) {
  moecl_context *context = open_context(f, log);
  const kernel_variant *chosen = NULL;
  size_t set_aside = 99;
  trial t = {context, 0};
  const kernel_choice choice = {.table = &op_combine_table,
                                .asked = "generic",
                                .format = desc_format_of(MOECL_F32),
                                .try_variant = try_answer,
                                .user = &t};
  assert_int_equal(kernel_choose(context, &choice, &chosen, &set_aside), want);
  moecl_context_destroy(&context);
  return t.tries;
}

static void test_failing_check(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  char *mine = entry_of(f, "answer.cl", "answer", 2),
       *wrong = entry_of(f, "answer.cl", "answer", 3);
  transplant(wrong, mine);
  assert_int_equal(choose(f, MOECL_OK, &log), 2);
  assert_true(test_log_has(&log, "1 generic answers 43"));
  assert_false(test_log_has(&log, "0 generic")); /* nothing failed in the end */
  assert_int_equal(test_log_count(&log, "built answer.cl"), 1);
  base_text_free(&log.text);
  assert_int_equal(choose(f, MOECL_OK, &log), 1);
  assert_false(test_log_has(&log, "built"));
  base_text_free(&log.text);
  free(mine);
  free(wrong);
}

/* A kernel that is wrong itself: what was just built is not built once more, what
 * the cache had is, once. */
static void test_wrong_source(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  write_file(f->kernels, "sub/value.clh", "#define VALUE 50\n");
  for (int i = 0; i < 2; i++) {
    assert_int_equal(choose(f, MOECL_ERROR_BUILD, &log), i + 1);
    assert_true(test_log_has(&log, "0 generic answers 52"));
    assert_int_equal(test_log_count(&log, "built answer.cl"), 1);
    base_text_free(&log.text);
  }
}

/* The probes' answers are believed only of programs from source: here the cache's
 * has the kernel, and it computes nothing. */
static void test_wrong_probe(void **state) {
  const fixture *f = *state;
  test_log log = {0};
  char *paths[MOST_ENTRIES];
  write_file(f->kernels, "wrong.cl",
             "__kernel void basic(__global int *a, __global int *b) {\n"
             "  a[get_global_id(0)] = b[get_global_id(0)] = 0;\n}\n");
  char *other = entry_of(f, "wrong.cl", "basic", 0);
  const size_t count = list_entries(f, paths);
  for (size_t i = 0; i < count; i++)
    if (strcmp(paths[i], other) != 0) transplant(other, paths[i]);
  const moecl_context_params params = {
      .log = test_log_add, .log_user = &log, .cache_dir = f->cache};
  moecl_context *context = NULL;
  log.level = MOECL_LOG_WARNING;
  assert_ok(moecl_context_create(&params, &context));
  assert_true(test_log_has(&log, "may hold the wrong program"));
  assert_false(test_log_has(&log, "fails the basic probe"));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  free(other);
  free_entries(paths, count);
}

/* A device that fails a probe by itself, such as one that leaves long loops early, is
 * no reason to say a word against the cache. */
static void test_failing_device(void **state) {
  const fixture *f = *state;
  for (int i = 0; i < 2; i++) {
    test_log log = {.level = MOECL_LOG_WARNING};
    const moecl_context_params params = {
        .log = test_log_add, .log_user = &log, .cache_dir = f->cache};
    moecl_context *context = NULL;
    assert_ok(moecl_context_create(&params, &context));
    assert_false(test_log_has(&log, "program cache"));
    moecl_context_destroy(&context);
    base_text_free(&log.text);
  }
}

/* ---- folders and files of others ---- */

/* What a context says of its cache, and whether it used it. */
static void expect_refused(const fixture *f, const char *message) {
  test_log log = {0};
  moecl_context *context = NULL;
  moecl_status status;
  const moecl_context_params params = {
      .log = test_log_add, .log_user = &log, .kernel_dir = f->kernels, .cache_dir = f->cache};
  const size_t before = each_entry(f, NULL);
  log.level = MOECL_LOG_DEBUG;
  assert_ok(moecl_context_create(&params, &context));
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_int_equal(ask(context, "answer.cl", 9, &status), 49);
  assert_int_equal(test_log_count(&log, message), 1);
  assert_false(test_log_has(&log, "program cache: hit"));
  assert_true(test_log_has(&log, "built answer.cl"));
  assert_int_equal(each_entry(f, NULL), before); /* nothing was written */
  moecl_context_destroy(&context);
  base_text_free(&log.text);
}

static void test_folder_of_others(void **state) {
  const fixture *f = *state;
  static const mode_t modes[] = {0770, 0702, 0777, 01777, 0722};
  const mode_t before = umask(0002); /* as some systems have it: still the user's alone */
  free(entry_of(f, "answer.cl", "answer", 2));
  umask(before);
  struct stat info;
  assert_int_equal(stat(f->cache, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0700);
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    assert_int_equal(chmod(f->cache, modes[i]), 0);
    expect_refused(f, "can be written by others");
  }
  assert_int_equal(chmod(f->cache, 0755), 0);
  test_log log = {0};
  moecl_status status;
  moecl_context *context = open_context(f, &log);
  assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
  assert_true(test_log_has(&log, "program cache: hit"));
  moecl_context_destroy(&context);
  base_text_free(&log.text);
  if (geteuid() != 0) {
    printf("SKIP: only root can give a folder to another user\n");
    return;
  }
  assert_int_equal(chown(f->cache, 65534, 65534), 0);
  expect_refused(f, "belongs to another user");
}

static void let_others_write(const char *path) { assert_int_equal(chmod(path, 0646), 0); }
static void give_away(const char *path) { assert_int_equal(chown(path, 65534, 65534), 0); }

static void test_entries_of_others(void **state) {
  const fixture *f = *state;
  void (*const changes[])(const char *) = {let_others_write, give_away};
  for (size_t i = 0; i < (geteuid() == 0 ? 2 : 1); i++) {
    test_log log = {0};
    moecl_status status;
    free(entry_of(f, "answer.cl", "answer", 2));
    each_entry(f, changes[i]);
    moecl_context *context = open_context(f, &log);
    assert_int_equal(ask(context, "answer.cl", 2, &status), 42);
    assert_true(test_log_has(&log, "can be written by others; building from source"));
    assert_true(test_log_has(&log, "built answer.cl"));
    moecl_context_destroy(&context);
    base_text_free(&log.text);
  }
}

/* ---- a program with raised privileges ---- */

/* The other end: 0 where the environment named nothing, 77 where the file system
 * gives no privileges. _exit, since no leak checker can trace such a process. */
static void secure_main(void) {
  moecl_context *context = NULL;
  if (!getauxval(AT_SECURE)) _exit(TEST_SKIP);
  moecl_status status = moecl_context_create(NULL, &context);
  _exit(status != MOECL_OK ? 2 : moecl_context_kernel_dir(context) != NULL);
}

/* A copy of this program that belongs to nobody and is run by root. */
static void test_raised_privileges(void **state) {
  const fixture *f = *state;
  char program[96], scratch[96], command[512];
  if (geteuid() != 0) {
    printf("SKIP: only root can make a program of another user\n");
    return;
  }
  snprintf(program, sizeof program, "%s/program", f->root);
  snprintf(scratch, sizeof scratch, "%s/scratch", f->root);
  snprintf(command, sizeof command, "cp /proc/%d/exe %s && chown 65534 %s && chmod 4755 %s",
           (int)getpid(), program, program, program);
  assert_int_equal(system(command), 0);
  assert_int_equal(mkdir(scratch, 0777), 0);
  assert_int_equal(chown(scratch, 65534, 65534), 0);
  assert_int_equal(mkdir(f->cache, 0755), 0);
  assert_int_equal(chown(f->cache, 65534, 65534), 0);
  assert_int_equal(chmod(f->root, 0755), 0);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    setenv("MOECL_KERNEL_DIR", f->kernels, 1);
    setenv("MOECL_CACHE_DIR", f->cache, 1);
    setenv("POCL_CACHE_DIR", scratch, 1);
    execl(program, program, "secure", (char *)NULL);
    _exit(127);
  }
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == TEST_SKIP) {
    printf("SKIP: the file system of %s gives no privileges (nosuid)\n", f->root);
    return;
  }
  assert_int_equal(WEXITSTATUS(status), 0);
  assert_int_equal(each_entry(f, NULL), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "secure") == 0) secure_main();
  const struct CMUnitTest tests[] = {
      CASE(test_exchanged_names),  CASE(test_lacking_kernel),    CASE(test_failing_check),
      CASE(test_wrong_source),     CASE(test_wrong_probe),       CASE(test_failing_device),
      CASE(test_folder_of_others), CASE(test_entries_of_others), CASE(test_raised_privileges),
  };
  skip_without_device();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
