// SPDX-License-Identifier: MIT
#include "base/files.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *format_list(const char *format, va_list args) {
  va_list again;
  va_copy(again, args);
  const int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  char *text = length < 0 ? NULL : malloc((size_t)length + 1);
  if (text) vsnprintf(text, (size_t)length + 1, format, args);
  return text;
}

char *format_text(const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *text = format_list(format, args);
  va_end(args);
  return text;
}

bool fail_text(char **error, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *text = format_list(format, args);
  va_end(args);
  free(*error);
  *error = text;
  return false;
}

/* An existing folder is fine; something else of that name is not. */
static bool make_directory(const char *path, const char *whole, char **error) {
  struct stat info;
  if (mkdir(path, 0777) == 0) return true;
  int reason = errno;
  const bool exists = stat(path, &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) return true;
  if (exists) reason = ENOTDIR;
  return fail_text(error, "the folder %s could not be made: %s: %s", whole, path, strerror(reason));
}

void keep_error(void *error, moecl_log_level level, const char *message) {
  if (level == MOECL_LOG_ERROR) fail_text(error, "%s", message);
}

bool make_directories(const char *path, char **error) {
  char *part = format_text("%s", path);
  if (!part) return fail_text(error, "no memory");
  bool ok = true;
  for (char *c = part; *c && ok; c++) {
    if (*c != '/' || c == part) continue;
    *c = '\0';
    ok = make_directory(part, path, error);
    *c = '/';
  }
  if (ok) ok = make_directory(part, path, error);
  free(part);
  return ok;
}

char *read_whole_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  size_t capacity = 1 << 16, used = 0;
  char *text = malloc(capacity);
  while (text) {
    errno = 0;
    used += fread(text + used, 1, capacity - used - 1, file);
    if (used < capacity - 1) break;
    char *larger = realloc(text, capacity *= 2);
    if (!larger) free(text);
    text = larger;
  }
  const int reason = ferror(file) ? (errno ? errno : EIO) : text ? 0 : ENOMEM;
  fclose(file);
  if (text) text[used] = '\0';
  if (reason) {
    free(text);
    errno = reason;
    return NULL;
  }
  *size = used;
  return text;
}

static bool cannot_write(const pending_file *pending, int reason, char **error) {
  return fail_text(error, "%s could not be written: %s", pending->path,
                   strerror(reason ? reason : EIO));
}

bool pending_open(pending_file *pending, const char *path, char **error) {
  /* A name without a process number: a crash leaves at most one behind, which
   * the next run writes over. */
  *pending =
      (pending_file){.path = format_text("%s", path), .temporary = format_text("%s.tmp", path)};
  bool ok = pending->path && pending->temporary;
  if (!ok) {
    fail_text(error, "no memory");
  } else if (!(pending->file = fopen(pending->temporary, "wb"))) {
    ok = cannot_write(pending, errno, error);
  }
  if (ok) return true;
  free(pending->path);
  free(pending->temporary);
  *pending = (pending_file){0};
  return false;
}

bool pending_write(pending_file *pending, const void *data, size_t bytes, char **error) {
  errno = 0;
  if (bytes == 0 || fwrite(data, 1, bytes, pending->file) == bytes) return true;
  return cannot_write(pending, errno, error);
}

bool pending_sync(pending_file *pending, char **error) {
  if (!pending->file) return true;
  errno = 0;
  bool ok = fflush(pending->file) == 0 && fsync(fileno(pending->file)) == 0;
  int reason = errno;
  ok = fclose(pending->file) == 0 && ok; /* may report what a network disk refused */
  if (!ok && !reason) reason = errno;
  pending->file = NULL;
  return ok || cannot_write(pending, reason, error);
}

/* The new name, too, must outlive a power cut. */
void sync_folder(const char *path) {
  const char *slash = strrchr(path, '/');
  char *folder = slash ? format_text("%.*s", (int)(slash - path) + 1, path) : format_text(".");
  const int handle = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (handle >= 0) {
    fsync(handle);
    close(handle);
  }
  free(folder);
}

bool pending_commit(pending_file *pending, char **error) {
  bool ok = pending_sync(pending, error);
  if (ok && rename(pending->temporary, pending->path) != 0)
    ok = cannot_write(pending, errno, error);
  if (ok) sync_folder(pending->path);
  else unlink(pending->temporary);
  free(pending->path);
  free(pending->temporary);
  *pending = (pending_file){0};
  return ok;
}

bool replace_file(const char *path, const void *data, size_t bytes, char **error) {
  pending_file pending;
  if (!pending_open(&pending, path, error)) return false;
  if (pending_write(&pending, data, bytes, error)) return pending_commit(&pending, error);
  pending_discard(&pending);
  return false;
}

void pending_discard(pending_file *pending) {
  if (pending->file) fclose(pending->file);
  if (pending->temporary) unlink(pending->temporary);
  free(pending->path);
  free(pending->temporary);
  *pending = (pending_file){0};
}
