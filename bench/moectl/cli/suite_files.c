// SPDX-License-Identifier: MIT
#include "cli/suite_files.h"
#include "base/complain.h"
#include "base/files.h"
#include "base/suggest.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the folder ---- */

static bool is_folder(const char *path) {
  struct stat info;
  return path && stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Where the program lies, malloc'ed; NULL: the system does not tell. */
static char *program_folder(void) {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return NULL;
  path[length] = '\0';
  char *slash = strrchr(path, '/');
  if (slash) *slash = '\0';
  return format_text("%s", path);
}

/* Installed files are found from the program, so that the whole may be moved. */
static char *own_folder(void) {
  char *program = program_folder();
  char *installed = program ? format_text("%s/%s/suite", program, MOECTL_INSTALLED_CONFIGS) : NULL;
  char *plain = installed ? realpath(installed, NULL) : NULL; /* without what leads up */
  free(program);
  free(installed);
  if (is_folder(plain)) return plain;
  free(plain);
  return format_text("%s/suite", MOECTL_SOURCE_CONFIGS);
}

/* A path below the working directory without that one's name. */
static char *shortened(char *path) {
  char here[4096];
  const size_t length = getcwd(here, sizeof here) ? strlen(here) : 0;
  if (!path || length < 2 || strncmp(path, here, length) != 0 || path[length] != '/') return path;
  char *rest = format_text("%s", path + length + 1);
  if (rest) free(path);
  return rest ? rest : path;
}

static char *find_folder(const char *from, bool full) {
  char *whole = from ? format_text("%s", from) : own_folder();
  char *folder = whole ? format_text("%s%s", whole, full ? "/full" : "") : NULL;
  free(whole);
  folder = shortened(folder);
  errno = 0;
  if (!folder) complain("no memory");
  if (is_folder(folder)) return folder;
  if (folder)
    complain("%s: %s; expected a folder with experiments%s", folder,
             errno ? strerror(errno) : "it is not a folder",
             from ? "" : ": name one with --from DIR");
  free(folder);
  return NULL;
}

/* ---- its files ---- */

/* "# Decode: ..." without its "# ", malloc'ed. */
static char *question_of(const char *path) {
  char line[512];
  FILE *file = fopen(path, "r");
  const bool read = file && fgets(line, sizeof line, file);
  if (file) fclose(file);
  if (!read || strncmp(line, "# ", 2) != 0) return NULL;
  line[strcspn(line, "\r\n")] = '\0';
  return format_text("%s", line + 2);
}

static bool is_experiment(const char *name) {
  const size_t length = strlen(name);
  return name[0] != '.' && length > 5 && strcmp(name + length - 5, ".yaml") == 0;
}

static bool add(suite_files *files, const char *folder, const char *name) {
  suite_file *more = realloc(files->list, (files->count + 1) * sizeof *more);
  if (!more) return false;
  files->list = more;
  suite_file *file = &more[files->count++];
  file->name = format_text("%.*s", (int)strlen(name) - 5, name);
  file->path = format_text("%s/%s", folder, name);
  file->question = file->path ? question_of(file->path) : NULL;
  file->chosen = true;
  return file->name && file->path;
}

static int by_name(const void *a, const void *b) {
  const suite_file *x = a, *y = b;
  return strcmp(x->name, y->name);
}

static bool read_folder(const char *folder, suite_files *files) {
  DIR *open = opendir(folder);
  bool ok = open != NULL;
  if (!ok) complain("%s could not be read: %s", folder, strerror(errno));
  for (const struct dirent *one; ok && (one = readdir(open));)
    if (is_experiment(one->d_name) && !(ok = add(files, folder, one->d_name)))
      complain("no memory");
  if (open) closedir(open);
  if (ok && files->count == 0) complain("%s holds no experiment: expected *.yaml", folder);
  if (ok && files->count > 0) qsort(files->list, files->count, sizeof *files->list, by_name);
  return ok && files->count > 0;
}

/* ---- some of them ---- */

static void release(suite_file *file) {
  free(file->name);
  free(file->path);
  free(file->question);
}

/* Complained about: there is none of that name. */
static bool check_name(const suite_files *files, const char *name, size_t length) {
  suggestion nearest = suggest_begin(name, length);
  for (size_t i = 0; i < files->count; i++) {
    if (strlen(files->list[i].name) == length && strncmp(files->list[i].name, name, length) == 0)
      return true;
    suggest_try(&nearest, files->list[i].name);
  }
  char expected[512] = "";
  for (size_t i = 0, used = 0; i < files->count && used < sizeof expected; i++)
    used += (size_t)snprintf(expected + used, sizeof expected - used, "%s%s", i > 0 ? ", " : "",
                             files->list[i].name);
  complain("--only: the suite has no part '%.*s'%s%s%s; expected some of %s", (int)length, name,
           nearest.best ? "; did you mean '" : "", nearest.best ? nearest.best : "",
           nearest.best ? "'?" : "", expected);
  return false;
}

static bool is_named(const char *only, const char *name) {
  const size_t length = strlen(name);
  for (const char *at = only; at; at = strchr(at, ',')) {
    at += *at == ',';
    if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) return true;
  }
  return false;
}

static bool has_results(const char *folder, const char *name) {
  char *path = format_text("%s/%s/results.json", folder, name);
  const bool found = path && access(path, F_OK) == 0;
  free(path);
  return found;
}

static bool keep_only(suite_files *files, const char *only, const char *results) {
  for (const char *at = only; at; at = strchr(at, ',')) {
    at += *at == ',';
    if (!check_name(files, at, strcspn(at, ","))) return false;
  }
  size_t kept = 0;
  for (size_t i = 0; i < files->count; i++) {
    suite_file *file = &files->list[i];
    file->chosen = is_named(only, file->name);
    if (file->chosen || (results && has_results(results, file->name))) files->list[kept++] = *file;
    else release(file);
  }
  files->count = kept;
  return true;
}

bool suite_files_find(const char *from, bool full, const char *only, const char *results,
                      suite_files *files) {
  *files = (suite_files){0};
  char *folder = find_folder(from, full);
  const bool found =
      folder && read_folder(folder, files) && (!only || keep_only(files, only, results));
  free(folder);
  return found;
}

bool suite_files_fit(const suite_files *files, const char *folder) {
  char *other = NULL;
  for (size_t i = 0; i < files->count; i++)
    if (has_results(folder, files->list[i].name)) return true;
  DIR *open = opendir(folder);
  for (const struct dirent *one; open && !other && (one = readdir(open));)
    if (one->d_name[0] != '.' && has_results(folder, one->d_name))
      other = format_text("%s", one->d_name);
  if (open) closedir(open);
  if (other)
    complain("%s holds results of '%s', which is no part of this suite; resume with the --from and "
             "--full that it was begun with, or start anew with --out",
             folder, other);
  free(other);
  return !other;
}

void suite_files_release(suite_files *files) {
  for (size_t i = 0; i < files->count; i++) release(&files->list[i]);
  free(files->list);
  *files = (suite_files){0};
}
