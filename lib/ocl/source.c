// SPDX-License-Identifier: MIT
/* Kernel sources: found, and their includes expanded as text, so that one
 * string holds everything a program's binary depends on. */
#include "ocl/program.h"
#include <stdlib.h>
#include <string.h>

#define MAX_FILES 64 /* of one program */

typedef struct expansion {
  moecl_context *context;
  base_text *text;
  char *seen[MAX_FILES]; /* each file is taken once */
  size_t count;
} expansion;

/* Paths lead to files below cl/ and nowhere else. */
static bool is_inside(const char *path) {
  return path[0] && path[0] != '/' && !strstr(path, "..") && !strchr(path, '\\');
}

/* *copy is what the caller frees; it stays NULL for an embedded file. */
static moecl_status find(moecl_context *context, const char *path, const char **data, size_t *size,
                         char **copy) {
  *copy = NULL;
  if (context->kernel_dir) {
    base_text name = {0};
    base_text_addf(&name, "%s/%s", context->kernel_dir, path);
    moecl_status status =
        name.failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : base_file_read(name.data, copy, size);
    if (status != MOECL_OK)
      log_error(&context->log, status, "cannot read the kernel source %s/%s", context->kernel_dir,
                path);
    *data = *copy;
    base_text_free(&name);
    return status;
  }
  for (const struct ocl_embedded *entry = ocl_embedded_sources; entry->path; entry++)
    if (strcmp(entry->path, path) == 0) {
      *data = entry->text;
      *size = entry->size;
      return MOECL_OK;
    }
  return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT, "no kernel source is named %s",
                   path);
}

/* The name in `#include "name"`; false for any other line. */
static bool parse_include(const char *line, size_t size, const char **name, size_t *name_size) {
  const char *end = line + size;
  while (line < end && (*line == ' ' || *line == '\t')) line++;
  if (line == end || *line++ != '#') return false;
  while (line < end && (*line == ' ' || *line == '\t')) line++;
  if (end - line < 7 || memcmp(line, "include", 7) != 0) return false;
  line += 7;
  while (line < end && (*line == ' ' || *line == '\t')) line++;
  if (line == end || *line++ != '"') return false;
  const char *quote = memchr(line, '"', (size_t)(end - line));
  if (!quote) return false;
  *name = line;
  *name_size = (size_t)(quote - line);
  return true;
}

static moecl_status expand(expansion *state, const char *path);

static moecl_status expand_named(expansion *state, const char *from, size_t line, const char *name,
                                 size_t size) {
  char *path = strndup(name, size);
  if (!path) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  moecl_status status = expand(state, path);
  if (status != MOECL_OK)
    log_write(&state->context->log, MOECL_LOG_ERROR, "included from %s:%llu", from,
              (unsigned long long)line);
  free(path);
  return status;
}

static moecl_status expand_lines(expansion *state, const char *path, const char *data,
                                 size_t size) {
  const char *end = data + size;
  base_text_addf(state->text, "#line 1 \"%s\"\n", path);
  for (size_t line = 1; data < end; line++) {
    const char *newline = memchr(data, '\n', (size_t)(end - data));
    size_t length = newline ? (size_t)(newline - data) : (size_t)(end - data);
    const char *name;
    size_t name_size;
    if (parse_include(data, length, &name, &name_size)) {
      MOECL_TRY(expand_named(state, path, line, name, name_size));
      base_text_addf(state->text, "#line %llu \"%s\"\n", (unsigned long long)line + 1, path);
    } else {
      base_text_add(state->text, data, length);
      base_text_add(state->text, "\n", 1);
    }
    data += newline ? length + 1 : length;
  }
  return state->text->failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_OK;
}

static moecl_status expand(expansion *state, const char *path) {
  moecl_context *context = state->context;
  const char *data = NULL;
  char *copy = NULL;
  size_t size = 0;
  for (size_t i = 0; i < state->count; i++)
    if (strcmp(state->seen[i], path) == 0) return MOECL_OK;
  if (!is_inside(path))
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "\"%s\" does not name a file below cl/", path);
  if (state->count == MAX_FILES)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "%s: a program of more than %d files", path, MAX_FILES);
  MOECL_TRY(find(context, path, &data, &size, &copy));
  moecl_status status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  char *name = strdup(path);
  if (name) {
    state->seen[state->count++] = name;
    status = expand_lines(state, path, data, size);
  }
  free(copy);
  return status;
}

moecl_status ocl_source_expand(moecl_context *context, const char *source, base_text *text) {
  expansion state = {.context = context, .text = text};
  moecl_status status = expand(&state, source);
  for (size_t i = 0; i < state.count; i++) free(state.seen[i]);
  return status;
}

const char *moecl_context_kernel_dir(const moecl_context *context) {
  return context ? context->kernel_dir : NULL;
}

const char *moecl_context_cache_dir(const moecl_context *context) {
  return context ? context->cache_dir : NULL;
}

/* Name, size and text, so that no text can pass for another file. */
static void add_to_hash(base_text *all, const char *path, const char *data, size_t size) {
  base_text_addf(all, "%s %llu\n", path, (unsigned long long)size);
  base_text_add(all, data, size);
}

moecl_status moecl_context_kernel_hash(const moecl_context *context, char hash[33]) {
  base_text all = {0};
  if (!hash) return MOECL_ERROR_INVALID_ARGUMENT;
  hash[0] = '\0';
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  moecl_status status = MOECL_OK;
  for (const struct ocl_embedded *entry = ocl_embedded_sources;
       entry->path && status != MOECL_ERROR_OUT_OF_HOST_MEMORY; entry++) {
    char *data = NULL;
    size_t size = 0;
    base_text name = {0};
    if (!context->kernel_dir) {
      add_to_hash(&all, entry->path, entry->text, entry->size);
      continue;
    }
    base_text_addf(&name, "%s/%s", context->kernel_dir, entry->path);
    status = name.failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : base_file_read(name.data, &data, &size);
    if (status == MOECL_OK) add_to_hash(&all, entry->path, data, size);
    free(data);
    base_text_free(&name);
  }
  if (all.failed || status == MOECL_ERROR_OUT_OF_HOST_MEMORY) {
    base_text_free(&all);
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  }
  base_hash_hex(all.data ? all.data : "", all.size, hash);
  base_text_free(&all);
  return MOECL_OK;
}
