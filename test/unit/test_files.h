// SPDX-License-Identifier: MIT
/* Small files that tests make: a folder of their own, safetensors from a header
 * and data. */
#ifndef MOECL_TEST_FILES_H
#define MOECL_TEST_FILES_H

#include "unit.h"
#include <unistd.h>

/* $MOECL_TEST_DIR/name; a static buffer for each of four calls in turn. */
static inline const char *test_path(const char *name) {
  static char paths[4][512];
  static int next;
  const char *folder = getenv("MOECL_TEST_DIR");
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder ? folder : "/tmp", name);
  return path;
}

static inline void write_file(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

/* 8 bytes of length, header, data: a safetensors file. */
static inline base_text make_safetensors(const char *header, const void *data, size_t size) {
  base_text text = {0};
  const uint64_t length = strlen(header);
  base_text_add(&text, (const char *)&length, sizeof length);
  base_text_add(&text, header, (size_t)length);
  base_text_add(&text, data, size);
  assert_false(text.failed);
  return text;
}

static inline void write_safetensors(const char *path, const char *header, const void *data,
                                     size_t size) {
  base_text text = make_safetensors(header, data, size);
  write_file(path, text.data, text.size);
  base_text_free(&text);
}

#endif
