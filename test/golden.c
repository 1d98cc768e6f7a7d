// SPDX-License-Identifier: MIT
#include "golden.h"

#include "moecl/safetensors.h"
#include <stdio.h>
#include <stdlib.h>

struct golden {
  moecl_safetensors *file;
};

static void say(void *user, moecl_log_level level, const char *message) {
  (void)user;
  (void)level;
  fprintf(stderr, "%s\n", message);
}

golden *golden_open(const char *name) {
  const char *folder = getenv("MOECL_GOLDEN_DIR");
  char path[1024];
  golden *file = calloc(1, sizeof *file);
  snprintf(path, sizeof path, "%s/%s", folder ? folder : "test/golden", name);
  if (file && moecl_safetensors_open(path, say, NULL, &file->file) != MOECL_OK) golden_close(&file);
  return file;
}

void golden_close(golden **file) {
  if (!*file) return;
  moecl_safetensors_destroy(&(*file)->file);
  free(*file);
  *file = NULL;
}

const char *golden_metadata(const golden *file, const char *key) {
  return moecl_safetensors_metadata(file->file, key);
}

int64_t golden_length(const golden *file, const char *name, int axis) {
  const moecl_safetensors_tensor *tensor = moecl_safetensors_find(file->file, name);
  return tensor && axis >= 0 && axis < tensor->rank ? tensor->shape[axis] : -1;
}

int64_t golden_count(const golden *file, const char *name) {
  const moecl_safetensors_tensor *tensor = moecl_safetensors_find(file->file, name);
  return tensor ? (int64_t)tensor->count : -1;
}

double *golden_doubles(const golden *file, const char *name) {
  const moecl_safetensors_tensor *tensor = moecl_safetensors_find(file->file, name);
  double *values = tensor ? malloc((size_t)(tensor->count + 1) * sizeof *values) : NULL;
  if (!tensor) fprintf(stderr, "%s: no tensor %s\n", moecl_safetensors_path(file->file), name);
  if (values &&
      moecl_safetensors_to_double(file->file, tensor, 0, tensor->count, values) != MOECL_OK) {
    free(values);
    return NULL;
  }
  return values;
}
