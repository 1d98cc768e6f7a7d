// SPDX-License-Identifier: MIT
/* A cache folder, and a folder of kernel sources with one that answers 40 + PLUS. */
#ifndef MOECL_TEST_CACHE_FIXTURE_H
#define MOECL_TEST_CACHE_FIXTURE_H

#include "ocl/ocl.h"
#include "unit.h"
#include <dirent.h>
#include <unistd.h>

/* Where an entry's key, checksum and binary begin (lib/ocl/cache.c). */
enum { ENTRY_KEY = 24, ENTRY_CHECKSUM = 56, ENTRY_HEADER = 88 };

typedef struct fixture {
  char root[64];
  char cache[96], kernels[96];
} fixture;

static inline void write_file(const char *folder, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(base_file_write_atomic(path, text, strlen(text)));
}

static inline int setup(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (!f) return 1;
  snprintf(f->root, sizeof f->root, "/tmp/moecl-cache-XXXXXX");
  if (!mkdtemp(f->root)) return 1;
  snprintf(f->cache, sizeof f->cache, "%s/cache", f->root);
  snprintf(f->kernels, sizeof f->kernels, "%s/cl", f->root);
  char sub[128];
  snprintf(sub, sizeof sub, "%s/sub", f->kernels);
  if (base_make_directories(sub) != MOECL_OK) return 1;
  write_file(f->kernels, "answer.cl",
             "#include \"sub/value.clh\"\n#include \"sub/value.clh\"\n"
             "__kernel void answer(__global int *out) { out[0] = VALUE + PLUS; }\n");
  write_file(f->kernels, "sub/value.clh", "#define VALUE 40\n");
  *state = f;
  return 0;
}

static inline int teardown(void **state) {
  fixture *f = *state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", f->root);
  int status = system(command);
  free(f);
  return status;
}

/* Opens a context on the fixture's folders, its log in `log`. */
static inline moecl_context *open_context(const fixture *f, test_log *log) {
  moecl_context *context = NULL;
  moecl_context_params params = {
      .log = test_log_add, .log_user = log, .kernel_dir = f->kernels, .cache_dir = f->cache};
  log->level = MOECL_LOG_DEBUG;
  assert_ok(moecl_context_create(&params, &context));
  base_text_free(&log->text); /* what opening logged */
  return context;
}

/* 40 + plus, computed by the kernel; -1 where it did not build. */
static inline int32_t ask(moecl_context *context, const char *source, int plus,
                          moecl_status *status) {
  char defines[32];
  ocl_kernel *kernel = NULL;
  moecl_buffer *buffer = NULL;
  int32_t answer = -1;
  snprintf(defines, sizeof defines, "PLUS %d\n", plus);
  *status = ocl_kernel_create(context, source, defines, "answer", &kernel);
  if (*status != MOECL_OK) return -1;
  ocl_chain chain = {.context = context};
  assert_ok(moecl_buffer_create(context, 4, &buffer));
  assert_ok(ocl_kernel_args(kernel, "b", buffer));
  assert_ok(ocl_launch(&chain, kernel, 1, 1));
  assert_ok(moecl_buffer_read_wait(buffer, 0, 4, &answer));
  moecl_buffer_destroy(&buffer);
  ocl_kernel_destroy(&kernel);
  return answer;
}

/* Applies `change` to every entry; returns how many there were. */
static inline size_t each_entry(const fixture *f, void (*change)(const char *path)) {
  size_t count = 0;
  DIR *folder = opendir(f->cache);
  if (!folder) return 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    char path[512];
    if (entry->d_name[0] == '.') continue;
    /* No temporary file stays behind. */
    assert_non_null(strstr(entry->d_name, ".bin"));
    assert_int_equal(strlen(entry->d_name), 36);
    snprintf(path, sizeof path, "%s/%s", f->cache, entry->d_name);
    if (change) change(path);
    count++;
  }
  closedir(folder);
  return count;
}

#endif
