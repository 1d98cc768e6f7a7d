// SPDX-License-Identifier: MIT
/* Loading one layer of a checkpoint: which of the file's bytes it touches, and how
 * much memory it takes beside what the device keeps. */
#define _GNU_SOURCE
#include "../unit/unit.h"
#include "moecl/opencl.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Mixtral with three layers of 18 MiB, in one file. */
enum { H = 512, I = 768, E = 8, LAYERS = 3, MATRIX = H * I * 2 };
#define LAYER_BYTES ((uint64_t)E * 3 * MATRIX + E * H * 2)

static char folder[512], file_path[600];
static moecl_context *context;

static void add_tensor(base_text *header, const char *name, int64_t rows, int64_t columns,
                       uint64_t *at) {
  const uint64_t bytes = (uint64_t)(rows * columns) * 2;
  base_text_addf(header,
                 "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%lld,%lld],\"data_offsets\":[%llu,%llu]}",
                 *at ? "," : "", name, (long long)rows, (long long)columns, (unsigned long long)*at,
                 (unsigned long long)(*at + bytes));
  *at += bytes;
}

static void add_layer(base_text *header, int layer, uint64_t *at) {
  static const char *const names[] = {"w1", "w2", "w3"};
  char name[128];
  snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.gate.weight", layer);
  add_tensor(header, name, E, H, at);
  for (int e = 0; e < E; e++)
    for (int i = 0; i < 3; i++) {
      snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.%s.weight", layer, e,
               names[i]);
      add_tensor(header, name, i == 1 ? H : I, i == 1 ? I : H, at);
    }
}

static void write_model(void) {
  base_text header = {0};
  uint64_t at = 0;
  base_text_addf(&header, "{");
  for (int layer = 0; layer < LAYERS; layer++) add_layer(&header, layer, &at);
  base_text_addf(&header, "}");
  assert_false(header.failed);
  const uint64_t length = header.size;
  const int fd = open(file_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  static uint16_t values[MATRIX / 2];
  for (size_t i = 0; i < MATRIX / 2; i++) values[i] = (uint16_t)(0x3c00 + i % 251);
  assert_true(fd >= 0 && write(fd, &length, 8) == 8);
  assert_true(write(fd, header.data, header.size) == (ssize_t)header.size);
  for (uint64_t done = 0; done < at;) {
    const uint64_t left = at - done, some = left < MATRIX ? left : MATRIX;
    const ssize_t wrote = write(fd, values, (size_t)some);
    assert_true(wrote > 0);
    done += (uint64_t)wrote;
  }
  assert_int_equal(fsync(fd), 0);
  close(fd);
  base_text_free(&header);
  char path[600], config[256];
  snprintf(path, sizeof path, "%s/config.json", folder);
  snprintf(config, sizeof config,
           "{\"model_type\":\"mixtral\",\"hidden_size\":%d,\"intermediate_size\":%d,"
           "\"num_local_experts\":%d,\"num_hidden_layers\":%d}",
           H, I, E, LAYERS);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(config, file);
  fclose(file);
}

/* How many bytes of [from, from+size) of the file the system has in memory. */
static uint64_t resident(uint64_t from, uint64_t size) {
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  const uint64_t first = from / page, last = (from + size) / page;
  struct stat info;
  const int fd = open(file_path, O_RDWR);
  assert_true(fd >= 0 && fstat(fd, &info) == 0);
  unsigned char *pages = calloc((size_t)info.st_size / page + 2, 1);
  void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
  assert_true(pages && map != MAP_FAILED);
  assert_int_equal(mincore(map, (size_t)info.st_size, pages), 0);
  uint64_t count = 0;
  for (uint64_t i = first; i < last; i++) count += pages[i] & 1;
  munmap(map, (size_t)info.st_size);
  free(pages);
  close(fd);
  return count * page;
}

/* False where the file system keeps what it is asked to forget. */
static bool forget_file(void) {
  struct stat info;
  const int fd = open(file_path, O_RDONLY);
  assert_true(fd >= 0 && fstat(fd, &info) == 0);
  const bool asked = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
  close(fd);
  return asked && resident(0, (uint64_t)info.st_size) < LAYER_BYTES / 16;
}

/* ---- what the library asks for: the linker sends its calls here ---- */

static uint64_t asked; /* bytes, whatever of them is given back, which drivers do some time later */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
cl_mem __real_clCreateBuffer(cl_context cl, cl_mem_flags flags, size_t size, void *host,
                             cl_int *code);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
cl_mem __wrap_clCreateBuffer(cl_context cl, cl_mem_flags flags, size_t size, void *host,
                             cl_int *code);

static size_t ask(size_t size) {
  __atomic_add_fetch(&asked, size, __ATOMIC_RELAXED);
  return size;
}

void *__wrap_malloc(size_t size) { return __real_malloc(ask(size)); }
void *__wrap_calloc(size_t count, size_t size) {
  ask(count * size);
  return __real_calloc(count, size);
}
void *__wrap_realloc(void *block, size_t size) { return __real_realloc(block, ask(size)); }
cl_mem __wrap_clCreateBuffer(cl_context cl, cl_mem_flags flags, size_t size, void *host,
                             cl_int *code) {
  return __real_clCreateBuffer(cl, flags, ask(size), host, code);
}

/* ---- tests ---- */

static moecl_layer *make_layer(moecl_checkpoint *checkpoint) {
  moecl_checkpoint_layer stored;
  moecl_layer *layer = NULL;
  assert_ok(moecl_checkpoint_get_layer(checkpoint, 1, &stored));
  assert_ok(moecl_layer_create(context, &stored.params, &layer));
  return layer;
}

/* Loads a layer anew; its own bytes that are in memory then. */
static uint64_t load_and_look(void) {
  moecl_checkpoint *checkpoint = NULL;
  assert_ok(moecl_checkpoint_open(folder, NULL, NULL, &checkpoint));
  moecl_layer *layer = make_layer(checkpoint);
  assert_ok(moecl_layer_load(layer, checkpoint, 1));
  struct stat info;
  assert_int_equal(stat(file_path, &info), 0);
  const uint64_t first = (uint64_t)info.st_size - LAYERS * LAYER_BYTES;
  const uint64_t before = resident(first, LAYER_BYTES);
  const uint64_t own = resident(first + LAYER_BYTES, LAYER_BYTES);
  const uint64_t behind = resident(first + 2 * LAYER_BYTES, LAYER_BYTES);
  printf("of layers of %llu bytes: %llu of the one before, %llu of its own, %llu of the next\n",
         (unsigned long long)LAYER_BYTES, (unsigned long long)before, (unsigned long long)own,
         (unsigned long long)behind);
  moecl_layer_destroy(&layer);
  moecl_checkpoint_destroy(&checkpoint);
  assert_true(before + behind < LAYER_BYTES / 64); /* pages that it shares with its neighbours */
  return own;
}

/* Its own are all read; a system that is short of memory may give pages away before they are
 * counted. */
static void test_touches(void **state) {
  enum { TRIES = 5 };
  uint64_t own = 0;
  (void)state;
  for (int i = 0; i < TRIES && own <= LAYER_BYTES / 2; i++) {
    if (!forget_file()) {
      printf("SKIP: %s: the file system keeps files in memory\n", folder);
      skip();
    }
    own = load_and_look();
  }
  assert_true(own > LAYER_BYTES / 2);
}

static void test_memory(void **state) {
  moecl_checkpoint *checkpoint = NULL;
  (void)state;
  assert_ok(moecl_checkpoint_open(folder, NULL, NULL, &checkpoint));
  moecl_layer *layer = make_layer(checkpoint);
  /* Once for what the device keeps, and for what is built and allocated on first use. */
  assert_ok(moecl_layer_load(layer, checkpoint, 1));
  asked = 0;
  assert_ok(moecl_layer_load(layer, checkpoint, 1));
  printf("loading %llu bytes took %llu more\n", (unsigned long long)LAYER_BYTES,
         (unsigned long long)asked);
  assert_true(asked > 0 && asked <= LAYER_BYTES / 2); /* some items: here an expert is an eighth */
  moecl_layer_destroy(&layer);
  moecl_checkpoint_destroy(&checkpoint);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_touches), cmocka_unit_test(test_memory)};
  skip_without_device();
  const char *where = getenv("MOECL_TEST_DIR");
  snprintf(folder, sizeof folder, "%s/load", where ? where : "/tmp");
  mkdir(folder, 0700);
  snprintf(file_path, sizeof file_path, "%s/model.safetensors", folder);
  write_model();
  if (moecl_context_create(NULL, &context) != MOECL_OK) return 1;
  const int failed = cmocka_run_group_tests_name("load", tests, NULL, NULL);
  moecl_context_destroy(&context);
  unlink(file_path);
  return failed ? 1 : 0;
}
