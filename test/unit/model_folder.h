// SPDX-License-Identifier: MIT
/* A model folder that tests make up and read, MODEL_FOLDER below theirs. */
#ifndef MOECL_TEST_MODEL_FOLDER_H
#define MOECL_TEST_MODEL_FOLDER_H

#include "test_files.h"
#include "moecl/checkpoint.h"
#include <sys/stat.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* A tensor of a file that tests write: element i is first + i. */
typedef struct made {
  const char *name, *dtype;
  int rank;
  int64_t shape[3];
  double first;
} made;

static inline const char *folder(void) {
  const char *path = test_path(MODEL_FOLDER);
  mkdir(path, 0700);
  return path;
}

static inline void in_folder(const char *name, const void *data, size_t size) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", folder(), name);
  write_file(path, data, size);
}

static inline void drop(const char *name) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", folder(), name);
  unlink(path);
}

/* The file and config.json; no index, no other shard. */
static inline void make(const char *file, const char *config, const made *tensors, size_t count) {
  base_text header = {0}, data = {0};
  base_text_addf(&header, "{");
  for (size_t i = 0; i < count; i++) {
    const made *t = &tensors[i];
    const moecl_dtype dtype = strcmp(t->dtype, "F16") == 0    ? MOECL_F16
                              : strcmp(t->dtype, "BF16") == 0 ? MOECL_BF16
                                                              : MOECL_F32;
    const size_t begin = data.size;
    int64_t elements = 1;
    base_text_addf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name,
                   t->dtype);
    for (int d = 0; d < t->rank; d++) {
      base_text_addf(&header, "%s%lld", d ? "," : "", (long long)t->shape[d]);
      elements *= t->shape[d];
    }
    for (int64_t e = 0; e < elements; e++) {
      const double value = t->first + (double)e;
      char bytes[4];
      moecl_from_double(dtype, &value, 1, bytes);
      base_text_add(&data, bytes, moecl_dtype_size(dtype));
    }
    base_text_addf(&header, "],\"data_offsets\":[%zu,%zu]}", begin, data.size);
  }
  base_text_addf(&header, "}");
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", folder(), file);
  write_safetensors(path, header.data, data.data ? data.data : "", data.size);
  base_text_free(&header);
  base_text_free(&data);
  drop("model.safetensors.index.json");
  in_folder("config.json", config, strlen(config));
}

static inline moecl_checkpoint *open_made(void) {
  moecl_checkpoint *checkpoint = NULL;
  assert_ok(moecl_checkpoint_open(folder(), NULL, NULL, &checkpoint));
  return checkpoint;
}

static inline void check_read(moecl_checkpoint *checkpoint, int64_t layer, moecl_tensor tensor,
                              int64_t item, const float *expected, size_t count) {
  float values[64];
  assert_true(count <= 64);
  assert_ok(moecl_checkpoint_read(checkpoint, layer, tensor, item, MOECL_F32, values));
  for (size_t i = 0; i < count; i++)
    if (values[i] != expected[i])
      fail_msg("tensor %d, item %lld, element %zu: %g, expected %g", (int)tensor, (long long)item,
               i, (double)values[i], (double)expected[i]);
}
#define CHECK(layer, tensor, item, ...)                                                            \
  check_read(checkpoint, layer, tensor, item, (const float[]){__VA_ARGS__},                        \
             sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

#endif
