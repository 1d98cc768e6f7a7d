// SPDX-License-Identifier: MIT
#include "base/json_text.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct writer {
  FILE *file;
  int indent;
  bool failed;
} writer;

static void put_value(writer *to, const json_t *value, int depth);

/* jansson has one precision for a whole text: a real is written alone. */
static void put_scalar(writer *to, const json_t *value) {
  char *text = NULL;
  for (int digits = 15; digits <= 17; digits++) {
    free(text);
    text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
    if (!text || !json_is_real(value)) break;
    json_t *back = json_loads(text, JSON_DECODE_ANY, NULL);
    const bool same = back && json_equal(value, back);
    json_decref(back);
    if (same) break;
  }
  if (text) fputs(text, to->file);
  else to->failed = true;
  free(text);
}

static void put_break(writer *to, int depth) {
  if (to->indent > 0) fprintf(to->file, "\n%*s", to->indent * depth, "");
}

static void put_array(writer *to, const json_t *array, int depth) {
  size_t i;
  json_t *item;
  fputc('[', to->file);
  json_array_foreach(array, i, item) {
    if (i > 0) fputc(',', to->file);
    put_break(to, depth + 1);
    put_value(to, item, depth + 1);
  }
  if (json_array_size(array) > 0) put_break(to, depth);
  fputc(']', to->file);
}

static void put_object(writer *to, const json_t *object, int depth) {
  const char *key;
  json_t *item;
  bool first = true;
  fputc('{', to->file);
  json_object_foreach((json_t *)object, key, item) {
    json_t *name = json_string(key);
    if (!first) fputc(',', to->file);
    first = false;
    put_break(to, depth + 1);
    if (name) put_scalar(to, name);
    else to->failed = true;
    json_decref(name);
    fputs(to->indent > 0 ? ": " : ":", to->file);
    put_value(to, item, depth + 1);
  }
  if (!first) put_break(to, depth);
  fputc('}', to->file);
}

static void put_value(writer *to, const json_t *value, int depth) {
  if (json_is_array(value)) put_array(to, value, depth);
  else if (json_is_object(value)) put_object(to, value, depth);
  else if (json_is_integer(value))
    fprintf(to->file, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else put_scalar(to, value);
}

char *json_text(const json_t *value, int indent) {
  char *text = NULL;
  size_t size = 0;
  writer to = {.file = open_memstream(&text, &size), .indent = indent};
  if (!to.file) return NULL;
  put_value(&to, value, 0);
  to.failed = ferror(to.file) || to.failed;
  if (fclose(to.file) == 0 && !to.failed) return text;
  free(text);
  return NULL;
}

json_t *json_words(const char *text) {
  if (!text) return json_null();
  json_t *string = json_string(text);
  if (string) return string;
  char *ascii = strdup(text);
  for (char *c = ascii; c && *c; c++)
    if ((unsigned char)*c >= 0x80) *c = '?';
  string = ascii ? json_string(ascii) : NULL;
  free(ascii);
  return string;
}
