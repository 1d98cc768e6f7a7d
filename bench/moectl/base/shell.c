// SPDX-License-Identifier: MIT
#include "base/shell.h"
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_control(char c) { return (unsigned char)c < 0x20 || c == 0x7f; }

void shell_quote(FILE *file, const char *text) {
  bool control = false;
  for (const char *c = text; *c; c++) control = control || is_control(*c);
  fputs(control ? "$'" : "'", file);
  for (const char *c = text; *c; c++) {
    if (is_control(*c)) fprintf(file, "\\%03o", (unsigned)(unsigned char)*c);
    else if (control && (*c == '\'' || *c == '\\')) fprintf(file, "\\%c", *c);
    else if (*c == '\'') fputs("'\\''", file);
    else fputc(*c, file);
  }
  fputc('\'', file);
}

void shell_word(FILE *file, const char *text) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                              "/._-+=,:@%";
  if (*text && text[strspn(text, plain)] == '\0') fputs(text, file);
  else shell_quote(file, text);
}

char *shell_text(const char *text) {
  char *word = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&word, &size);
  if (!file) return NULL;
  shell_word(file, text);
  if (fclose(file) == 0) return word;
  free(word);
  return NULL;
}

char *shell_command(char *const *words, int count) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = count > 0 ? open_memstream(&text, &size) : NULL;
  if (!file) return NULL;
  for (int i = 0; i < count; i++) {
    if (i > 0) fputc(' ', file);
    shell_word(file, words[i]);
  }
  if (fclose(file) == 0) return text;
  free(text);
  return NULL;
}

const char *shell_launcher(int64_t processes, char text[SHELL_LAUNCHER_SIZE]) {
  text[0] = '\0';
  if (processes > 1) snprintf(text, SHELL_LAUNCHER_SIZE, "mpirun -n %" PRId64 " ", processes);
  return text;
}
