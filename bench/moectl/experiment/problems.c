// SPDX-License-Identifier: MIT
#include "experiment/problems.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Counts a message and keeps it, if it is still to be shown. */
__attribute__((format(printf, 3, 0))) static void keep(problems *problems, tree_mark mark,
                                                       const char *format, va_list list) {
  if (problems->count >= PROBLEMS_SHOWN) {
    problems->count++;
    return;
  }
  va_list again;
  va_copy(again, list);
  const int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  char *text = length < 0 ? NULL : malloc((size_t)length + 1);
  if (text == NULL) {
    problems->out_of_memory = true;
    return;
  }
  vsnprintf(text, (size_t)length + 1, format, list);
  problems->list[problems->count++] = (problem){mark, text};
}

void problem_add(problems *problems, tree_mark mark, const char *format, ...) {
  va_list list;
  va_start(list, format);
  keep(problems, mark, format, list);
  va_end(list);
}

void problem_add_file(problems *problems, const char *format, ...) {
  va_list list;
  va_start(list, format);
  keep(problems, (tree_mark){NULL, 0, 0}, format, list);
  va_end(list);
}

void problem_out_of_memory(problems *problems) { problems->out_of_memory = true; }

bool problems_any(const problems *problems) {
  return problems->count > 0 || problems->out_of_memory;
}

bool problems_full(const problems *problems) { return problems->count >= PROBLEMS_SHOWN; }

/* Overrides stay in the order of the command line. */
static bool is_before(const problem *a, const problem *b) {
  if (a->mark.set != NULL || b->mark.set != NULL) return a->mark.set == NULL && b->mark.set != NULL;
  return a->mark.line < b->mark.line ||
         (a->mark.line == b->mark.line && a->mark.column < b->mark.column);
}

/* By insertion: those of one place stay in the order in which they were found. */
static void sort(problem *list, size_t count) {
  for (size_t i = 1; i < count; i++) {
    const problem moved = list[i];
    size_t at = i;
    for (; at > 0 && is_before(&moved, &list[at - 1]); at--) list[at] = list[at - 1];
    list[at] = moved;
  }
}

static void print_one(const char *path, const problem *one, FILE *file) {
  char shown[128];
  const tree_mark mark = one->mark;
  if (mark.set != NULL)
    fprintf(file, "--set %s: ", printable(mark.set, strlen(mark.set), shown, sizeof shown));
  else if (mark.line == 0) fprintf(file, "%s: ", path);
  else fprintf(file, "%s:%zu:%zu: ", path, mark.line, mark.column);
  fputs(one->text, file);
}

char *problems_take(problems *problems) {
  char *text = NULL;
  size_t size = 0;
  const size_t shown = problems->count < PROBLEMS_SHOWN ? problems->count : PROBLEMS_SHOWN;
  FILE *file = open_memstream(&text, &size);
  sort(problems->list, shown);
  for (size_t i = 0; i < shown; i++) {
    if (file != NULL && i > 0) fputc('\n', file);
    if (file != NULL) print_one(problems->path, &problems->list[i], file);
    free(problems->list[i].text);
  }
  if (file != NULL && problems->count > shown)
    fprintf(file, "\n%s: %zu more problems not shown", problems->path, problems->count - shown);
  if (file != NULL && problems->out_of_memory)
    fprintf(file, "%sout of memory", shown > 0 ? "\n" : "");
  problems->count = 0;
  if (file != NULL && fclose(file) == 0) return text;
  free(text);
  return NULL;
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
