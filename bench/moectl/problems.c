// SPDX-License-Identifier: MIT
#include "problems.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than this many messages help nobody. */
enum { SHOWN = 20 };

static void append(problems *problems, const char *text, size_t size) {
  char *grown = realloc(problems->text, problems->size + size + 1);
  if (grown == NULL) {
    problems->out_of_memory = true;
    return;
  }
  memcpy(grown + problems->size, text, size);
  problems->text = grown;
  problems->size += size;
  problems->text[problems->size] = '\0';
}

static void append_format(problems *problems, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void append_list(problems *problems, const char *format, va_list list) {
  va_list again;
  va_copy(again, list);
  int length = vsnprintf(NULL, 0, format, list);
  char *text = length < 0 ? NULL : malloc((size_t)length + 1);
  if (text == NULL) {
    problems->out_of_memory = true;
  } else {
    vsnprintf(text, (size_t)length + 1, format, again);
    append(problems, text, (size_t)length);
    free(text);
  }
  va_end(again);
}
static void append_format(problems *problems, const char *format, ...) {
  va_list list;
  va_start(list, format);
  append_list(problems, format, list);
  va_end(list);
}

/* Counts a message and says whether it is still to be shown. */
static bool begin(problems *problems) {
  if (problems->count++ >= SHOWN) return false;
  if (problems->size > 0) append(problems, "\n", 1);
  return true;
}

void problem_add(problems *problems, tree_mark mark, const char *format, ...) {
  if (!begin(problems)) return;
  if (mark.set != NULL) {
    char shown[128];
    append_format(problems,
                  "--set %s: ", printable(mark.set, strlen(mark.set), shown, sizeof shown));
  } else {
    append_format(problems, "%s:%zu:%zu: ", problems->path, mark.line, mark.column);
  }
  va_list list;
  va_start(list, format);
  append_list(problems, format, list);
  va_end(list);
}

void problem_add_file(problems *problems, const char *format, ...) {
  if (!begin(problems)) return;
  append_format(problems, "%s: ", problems->path);
  va_list list;
  va_start(list, format);
  append_list(problems, format, list);
  va_end(list);
}

void problem_out_of_memory(problems *problems) { problems->out_of_memory = true; }

bool problems_any(const problems *problems) {
  return problems->count > 0 || problems->out_of_memory;
}

bool problems_full(const problems *problems) { return problems->count >= SHOWN; }

char *problems_take(problems *problems) {
  if (problems->count > SHOWN)
    append_format(problems, "\n%s: %zu more problems not shown", problems->path,
                  problems->count - SHOWN);
  if (problems->out_of_memory)
    append_format(problems, "%sout of memory", problems->size ? "\n" : "");
  char *text = problems->text;
  problems->text = NULL;
  problems->size = problems->count = 0;
  return text;
}

const char *printable(const char *text, size_t length, char *buffer, size_t size) {
  size_t used = 0;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    /* Room for one escape, the dots and the NUL; cut only before a whole
     * character, so that what is shown stays valid UTF-8. */
    bool starts_character = (c & 0xC0) != 0x80;
    if (used + 12 > size && starts_character) {
      used += (size_t)snprintf(buffer + used, size - used, "...");
      break;
    }
    if (used + 8 > size) break; /* not UTF-8 at all: a run of continuation bytes */
    if (c == '\n') {
      used += (size_t)snprintf(buffer + used, size - used, "\\n");
    } else if (c < 0x20 || c == 0x7F) {
      used += (size_t)snprintf(buffer + used, size - used, "\\x%02x", c);
    } else {
      buffer[used++] = (char)c;
    }
  }
  buffer[used] = '\0';
  return buffer;
}
