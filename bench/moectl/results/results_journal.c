// SPDX-License-Identifier: MIT
/* results.jsonl: a line a point, appended while a run goes on, so that a crash
 * loses nothing that was measured and nothing is written twice. */
#include "base/files.h"
#include "results/results_private.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *journal_path(const results *all) {
  return format_text("%s/results.jsonl", all->folder);
}

static bool write_all(int file, const char *text, size_t size) {
  while (size > 0) {
    const ssize_t written = write(file, text, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text += written;
    size -= (size_t)written;
  }
  return true;
}

bool journal_append(results *all, size_t index, char **error) {
  char *path = journal_path(all), *line = results_json_line(all, index);
  bool ok = path && line;
  int reason = ENOMEM;
  if (ok && all->journal < 0) {
    all->journal = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    reason = errno;
    ok = all->journal >= 0;
    if (ok) sync_folder(path);
  }
  if (ok) {
    const off_t before = lseek(all->journal, 0, SEEK_END);
    ok = before >= 0 && write_all(all->journal, line, strlen(line)) && fsync(all->journal) == 0;
    reason = errno;
    /* Half a line would end up in the middle of the file. */
    if (!ok && before >= 0 && ftruncate(all->journal, before) != 0) journal_close(all);
  }
  if (!ok)
    fail_text(error, "%s could not be written: %s", path ? path : "results.jsonl",
              strerror(reason));
  free(path);
  free(line);
  return ok;
}

bool journal_resume(results *all, char **error) {
  size_t size = 0;
  char *path = journal_path(all);
  if (!path) return fail_text(error, "no memory");
  char *text = read_whole_file(path, &size);
  const bool none = !text && errno == ENOENT;
  const bool ok =
      none   ? true
      : text ? results_journal_read(all, path, text, size, error)
             : fail_text(error, "%s cannot be resumed: %s: %s", all->folder, path, strerror(errno));
  free(text);
  free(path);
  return ok;
}

void journal_close(results *all) {
  if (all->journal >= 0) close(all->journal);
  all->journal = -1;
}

void journal_remove(results *all) {
  char *path = journal_path(all);
  journal_close(all);
  if (path) unlink(path);
  free(path);
}
