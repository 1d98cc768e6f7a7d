// SPDX-License-Identifier: MIT
#include "base/base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads in pieces instead of asking for the size first: works on pipes and
 * /proc, and a file that changes meanwhile is no trouble. */
static moecl_status read_all(int fd, base_text *text) {
  char piece[16384];
  ssize_t got;
  base_text_add(text, "", 0);
  while ((got = read(fd, piece, sizeof piece)) != 0) {
    if (got > 0) base_text_add(text, piece, (size_t)got);
    else if (errno != EINTR) return MOECL_ERROR_IO;
  }
  return text->failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_OK;
}

moecl_status base_file_read(const char *path, char **data, size_t *size) {
  *data = NULL;
  *size = 0;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return MOECL_ERROR_IO;
  const moecl_status status = base_fd_read(fd, data, size);
  close(fd);
  return status;
}

moecl_status base_fd_read(int fd, char **data, size_t *size) {
  *data = NULL;
  *size = 0;
  base_text text = {0};
  const moecl_status status = read_all(fd, &text);
  if (status != MOECL_OK) {
    base_text_free(&text);
    return status;
  }
  *data = text.data;
  *size = text.size;
  return MOECL_OK;
}

static bool write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t wrote = write(fd, data, size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    data += wrote;
    size -= (size_t)wrote;
  }
  return true;
}

moecl_status base_file_write_atomic(const char *path, const void *data, size_t size) {
  base_text name = {0};
  base_text_addf(&name, "%s.XXXXXX", path);
  if (name.failed) {
    base_text_free(&name);
    return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  }
  moecl_status status = MOECL_ERROR_IO;
  int fd = mkstemp(name.data);
  if (fd >= 0) {
    /* mkstemp makes files that only their owner can read; others may share
     * the folder. */
    bool ok = write_all(fd, data, size) && fchmod(fd, 0644) == 0;
    ok = close(fd) == 0 && ok;
    if (ok && rename(name.data, path) == 0) status = MOECL_OK;
    else unlink(name.data);
  }
  base_text_free(&name);
  return status;
}

static bool make_directory(const char *path) {
  struct stat info;
  if (mkdir(path, 0700) == 0) return true;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

moecl_status base_make_directories(const char *path) {
  if (!path || !*path) return MOECL_ERROR_INVALID_ARGUMENT;
  char *copy = strdup(path);
  if (!copy) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  bool ok = true;
  for (char *slash = strchr(copy + 1, '/'); ok && slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    ok = make_directory(copy);
    *slash = '/';
  }
  ok = ok && make_directory(copy);
  free(copy);
  return ok ? MOECL_OK : MOECL_ERROR_IO;
}
