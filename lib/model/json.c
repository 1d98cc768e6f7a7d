// SPDX-License-Identifier: MIT
#include "model/json.h"

#include "base/base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The parser recurses and allocates as the text says, so nesting and the number
 * of values are counted first. What is not JSON is left for it to refuse. */
static bool within(const char *text, size_t size, json_limits limits) {
  int depth = 0;
  size_t values = 0;
  for (size_t i = 0; i < size; i++) {
    switch (text[i]) {
    case '"':
      for (i++; i < size && text[i] != '"'; i++) i += text[i] == '\\';
      break;
    case '{':
    case '[':
      values++;
      if (++depth > limits.depth) return false;
      break;
    case '}':
    case ']': depth--; break;
    case ',': values++; break;
    default: break;
    }
    if (values > limits.values) return false;
  }
  return true;
}

/* The length of the string that begins at `at`, quotes included; `left` if it has no end. */
static size_t string_size(const char *at, size_t left) {
  size_t size = 1;
  while (size < left && at[size] != '"') size += 1 + (at[size] == '\\');
  return size < left ? size + 1 : left;
}

/* The length of one of Python's numbers that JSON has not; 0: it is none. */
static size_t special_size(const char *at, size_t left) {
  static const char *const names[] = {"NaN", "Infinity", "-Infinity"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const size_t size = strlen(names[i]);
    if (size <= left && memcmp(at, names[i], size) == 0) return size;
  }
  return 0;
}

/* The text with quotes around such numbers, where they stand outside of strings. */
static void quote_specials(const char *text, size_t size, base_text *quoted) {
  for (size_t i = 0, run; i < size; i += run) {
    const size_t special = special_size(text + i, size - i);
    run = special ? special : text[i] == '"' ? string_size(text + i, size - i) : 1;
    if (special) base_text_add(quoted, "\"", 1);
    base_text_add(quoted, text + i, run);
    if (special) base_text_add(quoted, "\"", 1);
  }
}

/* The string that ends last before `position`; names with escaped quotes are cut. */
static const char *name_before(const char *text, size_t size, size_t position, size_t *length) {
  size_t end = position < size ? position : size;
  while (end > 0 && text[end - 1] != '"') end--;
  size_t begin = end > 0 ? --end : 0;
  while (begin > 0 && text[begin - 1] != '"') begin--;
  *length = end - begin;
  return text + begin;
}

static moecl_status parse(const moecl_log *log, const char *path, const char *what,
                          const char *text, size_t size, json_t **root) {
  json_error_t why;
  base_locale locale; /* Jansson puts the locale's point into numbers */
  if (!base_locale_enter(&locale))
    return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
  base_locale_leave(&locale);
  if (json_is_object(*root)) return MOECL_OK;
  const bool parsed = *root != NULL;
  json_decref(*root);
  *root = NULL;
  if (parsed) return log_error(log, MOECL_ERROR_IO, "%s: %s is not a JSON object", path, what);
  if (why.line < 0 || json_error_code(&why) == json_error_out_of_memory)
    return log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "%s: no host memory for %s", path, what);
  if (json_error_code(&why) == json_error_duplicate_key) {
    size_t length;
    const char *name = name_before(text, size, (size_t)why.position, &length);
    return log_error(log, MOECL_ERROR_IO, "%s: %s has '%.*s' twice", path, what,
                     length < 200 ? (int)length : 200, name);
  }
  return log_error(log, MOECL_ERROR_IO, "%s: %s is not sound JSON: %s (line %d, column %d)", path,
                   what, why.text, why.line, why.column);
}

moecl_status json_parse(const moecl_log *log, const char *path, const char *what, const char *text,
                        size_t size, json_limits limits, json_t **root) {
  *root = NULL;
  if (!within(text, size, limits))
    return log_error(log, MOECL_ERROR_IO,
                     "%s: %s is nested deeper than %d or has more than %zu values", path, what,
                     limits.depth, limits.values);
  if (!limits.python) return parse(log, path, what, text, size, root);
  base_text quoted = {0};
  quote_specials(text, size, &quoted);
  const moecl_status status =
      quoted.failed ? log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory")
                    : parse(log, path, what, quoted.data ? quoted.data : "", quoted.size, root);
  base_text_free(&quoted);
  return status;
}

/* Opened before it is looked at: the path may come to name something else. */
static moecl_status open_regular(const moecl_log *log, const char *path, uint64_t max_bytes,
                                 FILE **file, size_t *size) {
  struct stat info;
  /* Do not wait where the path is a pipe without a writer. */
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const bool known = fd >= 0 && fstat(fd, &info) == 0;
  const int code = errno;
  *file = known && S_ISREG(info.st_mode) && (uint64_t)info.st_size <= max_bytes ? fdopen(fd, "rb")
                                                                                : NULL;
  if (*file) {
    *size = (size_t)info.st_size;
    return MOECL_OK;
  }
  if (fd >= 0) close(fd);
  if (!known)
    return log_error(log, MOECL_ERROR_IO, "%s: cannot be read: %s", path, base_error_text(code));
  if (!S_ISREG(info.st_mode))
    return log_error(log, MOECL_ERROR_IO, "%s: is not a regular file", path);
  return log_error(log, MOECL_ERROR_IO, "%s: has %lld bytes, expected at most %lld", path,
                   (long long)info.st_size, (long long)max_bytes);
}

moecl_status json_read(const moecl_log *log, const char *path, uint64_t max_bytes,
                       json_limits limits, json_t **root) {
  FILE *file;
  size_t size = 0;
  *root = NULL;
  MOECL_TRY(open_regular(log, path, max_bytes, &file, &size));
  char *text = malloc(size + 1);
  moecl_status status = MOECL_OK;
  if (!text) status = log_error(log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  else if (fread(text, 1, size, file) != size)
    status = log_error(log, MOECL_ERROR_IO, "%s: became shorter while it was read", path);
  fclose(file);
  if (status == MOECL_OK) status = json_parse(log, path, "it", text, size, limits, root);
  free(text);
  return status;
}

char *json_to_text(const json_t *root, bool indented) {
  base_locale locale;
  char *text = NULL;
  if (base_locale_enter(&locale)) text = json_dumps(root, indented ? JSON_INDENT(2) : JSON_COMPACT);
  base_locale_leave(&locale);
  return text;
}
