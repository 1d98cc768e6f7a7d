// SPDX-License-Identifier: MIT
#include "results/lock.h"
#include "base/files.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct folder_lock {
  char *path;
  int file;
};

static bool is_taken(const char *folder, int file, char **error) {
  char holder[32] = "";
  const ssize_t size = pread(file, holder, sizeof holder - 1, 0);
  const bool known = size > 0 && holder[strspn(holder, "0123456789")] == '\n';
  return fail_text(error,
                   "another run%s%.*s%s is writing into %s: wait until it ends, or choose another "
                   "folder with --out",
                   known ? " (process " : "", known ? (int)strcspn(holder, "\n") : 0, holder,
                   known ? ")" : "", folder);
}

/* Whether the file is still the one of that name: its last holder removed it on
 * leaving, perhaps between our opening and locking it. */
static bool is_current(int file, const char *path) {
  struct stat ours, there;
  return fstat(file, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
         ours.st_dev == there.st_dev;
}

/* The locked file; -1 with a message. */
static int lock_file(const char *folder, const char *path, char **error) {
  for (;;) {
    const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) {
      fail_text(error, "%s could not be made: %s", path, strerror(errno));
      return -1;
    }
    const bool locked = flock(file, LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno == EWOULDBLOCK) {
      is_taken(folder, file, error);
      close(file);
      return -1;
    }
    /* A file system without locks: results there are as safe as they can be. */
    if (!locked || is_current(file, path)) return file;
    close(file);
  }
}

folder_lock *folder_lock_take(const char *folder, char **error) {
  folder_lock *lock = calloc(1, sizeof *lock);
  if (lock) lock->path = format_text("%s/.lock", folder);
  if (!lock || !lock->path) {
    free(lock);
    fail_text(error, "no memory");
    return NULL;
  }
  lock->file = lock_file(folder, lock->path, error);
  if (lock->file >= 0) {
    /* For the message that another run gives; nothing depends on it. */
    if (ftruncate(lock->file, 0) == 0) dprintf(lock->file, "%ld\n", (long)getpid());
    return lock;
  }
  free(lock->path);
  free(lock);
  return NULL;
}

void folder_lock_release(folder_lock **lock) {
  if (!lock || !*lock) return;
  unlink((*lock)->path); /* while it is held: afterwards it may be another's */
  close((*lock)->file);
  free((*lock)->path);
  free(*lock);
  *lock = NULL;
}
