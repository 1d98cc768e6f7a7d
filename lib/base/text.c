// SPDX-License-Identifier: MIT
#include "base/base.h"
#include <stdlib.h>
#include <string.h>

/* Makes room for `more` bytes and a NUL. */
static bool reserve(base_text *text, size_t more) {
  if (text->failed) return false;
  if (more >= SIZE_MAX - text->size) {
    text->failed = true;
    return false;
  }
  size_t need = text->size + more + 1;
  if (need <= text->capacity) return true;
  size_t capacity = text->capacity ? text->capacity : 256;
  while (capacity < need) capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
  char *data = realloc(text->data, capacity);
  if (!data) {
    text->failed = true;
    return false;
  }
  text->data = data;
  text->capacity = capacity;
  return true;
}

void base_text_add(base_text *text, const char *data, size_t size) {
  if (!reserve(text, size)) return;
  if (size) memcpy(text->data + text->size, data, size);
  text->size += size;
  text->data[text->size] = '\0';
}

static void add_formatted(base_text *text, const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  int size = base_vformat(NULL, 0, format, args);
  if (size < 0) text->failed = true;
  else if (reserve(text, (size_t)size)) {
    base_vformat(text->data + text->size, (size_t)size + 1, format, again);
    text->size += (size_t)size;
  }
  va_end(again);
}

void base_text_addf(base_text *text, const char *format, ...) {
  va_list args;
  va_start(args, format);
  add_formatted(text, format, args);
  va_end(args);
}

void base_text_free(base_text *text) {
  free(text->data);
  *text = (base_text){0};
}
