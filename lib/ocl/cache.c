// SPDX-License-Identifier: MIT
/* Program binaries on disk: one file a program. Nothing that goes wrong here
 * fails a call; the program is then built from source. A binary is native code,
 * so it is taken from the user's own folder and files alone, and only where it
 * says itself which program it is. A file's time is that of its last use; the folder is kept below
 * a limit by removing those unused for longest. Processes need not agree on anything: an entry that
 * another one removes is at worst built again. */
#include "base/grow.h"
#include "ocl/program.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CACHE_VERSION 2
#define CACHE_LIMIT (UINT64_C(256) << 20) /* bytes of all entries */
#define ABANDONED_SECONDS 3600            /* a temporary file's age: its writer died */

typedef struct cache_header {
  char magic[8];
  uint64_t version;
  uint64_t size;     /* of the binary that follows */
  char key[32];      /* of the program, hexadecimal: the name may be another file's */
  char checksum[32]; /* of the binary, likewise */
} cache_header;
static const char cache_magic[8] = "MOECLBIN"; /* eight letters, no NUL */

moecl_status ocl_cache_key(moecl_context *context, const base_text *source, const char *options,
                           char key[33]) {
  base_text all = {0};
  cl_platform_id platform = NULL;
  char version[256] = "";
  /* A platform that will not say its version only makes the key coarser. */
  if (clGetDeviceInfo(context->device, CL_DEVICE_PLATFORM, sizeof platform, &platform, NULL) ==
          CL_SUCCESS &&
      clGetPlatformInfo(platform, CL_PLATFORM_VERSION, sizeof version, version, NULL) != CL_SUCCESS)
    version[0] = '\0';
  version[sizeof version - 1] = '\0';
  base_text_addf(&all, "%d\n%s\n%s\n%s\n%s\n%s\n%s\n", CACHE_VERSION, context->info.platform,
                 version, context->info.name, context->info.driver, context->info.opencl_version,
                 options);
  base_text_add(&all, source->data, source->size);
  if (!all.failed) base_hash_hex(all.data, all.size, key);
  moecl_status status = all.failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_OK;
  base_text_free(&all);
  return status;
}

static moecl_status entry_path(const moecl_context *context, const char *key, base_text *path) {
  base_text_addf(path, "%s/%s.bin", context->cache_dir, key);
  return path->failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_OK;
}

/* Others could have put native code there. What root owns is root's to change. */
static bool is_ours(const struct stat *info) {
  return (info->st_uid == geteuid() || info->st_uid == 0) && !(info->st_mode & (S_IWGRP | S_IWOTH));
}

/* A cache that can't be used is not asked again: one warning is enough. */
static void give_up(moecl_context *context, const char *why) {
  log_write(&context->log, MOECL_LOG_WARNING, "program cache: %s %s; going on without",
            context->cache_dir, why);
  free(context->cache_dir);
  context->cache_dir = NULL;
}

/* A folder that isn't there yet is usable: storing makes it. */
static bool is_usable(moecl_context *context) {
  struct stat info;
  if (!context->cache_dir) return false;
  if (stat(context->cache_dir, &info) != 0 || is_ours(&info)) return true;
  give_up(context, info.st_mode & (S_IWGRP | S_IWOTH)
                       ? "can be written by others, and programs in it would be run (chmod go-w "
                         "makes it yours alone; remove what others put there)"
                       : "belongs to another user, and programs in it would be run (name another "
                         "folder with MOECL_CACHE_DIR)");
  return false;
}

/* An entry's bytes; false where there is none that may be used. */
static bool read_entry(moecl_context *context, const char *path, char **data, size_t *size) {
  struct stat info;
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  bool ok = fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (ok && !is_ours(&info)) {
    log_write(&context->log, MOECL_LOG_WARNING,
              "program cache: %s belongs to or can be written by others; building from source",
              path);
    ok = false;
  }
  ok = ok && base_fd_read(fd, data, size) == MOECL_OK;
  if (fd >= 0) close(fd);
  return ok;
}

/* NULL: sound; otherwise what is wrong. */
static const char *find_fault(const char *data, size_t size, const char *key) {
  cache_header header;
  char checksum[33];
  if (size < sizeof header) return "is truncated";
  memcpy(&header, data, sizeof header);
  if (memcmp(header.magic, cache_magic, sizeof cache_magic) != 0) return "has a wrong magic number";
  if (header.version != CACHE_VERSION) return "has another format version";
  if (header.size != size - sizeof header) return "has a wrong size";
  base_hash_hex(data + sizeof header, size - sizeof header, checksum);
  if (memcmp(header.checksum, checksum, 32) != 0) return "has a wrong checksum";
  if (memcmp(header.key, key, 32) != 0) return "holds another program than its name says";
  return NULL;
}

cl_program ocl_entry_program(moecl_context *context, const ocl_entry *entry, const char *text) {
  if (!entry->data) return NULL;
  const unsigned char *binary = (const unsigned char *)entry->data + sizeof(cache_header);
  const size_t size = entry->size - sizeof(cache_header);
  cl_int binary_status = CL_SUCCESS, code;
  cl_program program = clCreateProgramWithBinary(context->cl, 1, &context->device, &size, &binary,
                                                 &binary_status, &code);
  if (code == CL_SUCCESS && binary_status == CL_SUCCESS)
    code = ocl_program_build(context, program, ocl_program_options(text));
  if (code == CL_SUCCESS && binary_status == CL_SUCCESS) return program;
  if (program) clReleaseProgram(program);
  log_write(&context->log, MOECL_LOG_WARNING, "program cache: the driver refuses a binary: %s",
            ocl_error_name(code != CL_SUCCESS ? code : binary_status));
  return NULL;
}

void ocl_entry_read(moecl_context *context, const char *key, ocl_entry *entry) {
  base_text path = {0};
  *entry = (ocl_entry){0};
  if (!is_usable(context)) return;
  if (entry_path(context, key, &path) == MOECL_OK &&
      read_entry(context, path.data, &entry->data, &entry->size)) {
    const char *fault = find_fault(entry->data, entry->size, key);
    if (fault) {
      log_write(&context->log, MOECL_LOG_WARNING, "program cache: %s %s; building from source",
                path.data, fault);
      ocl_entry_release(entry);
    }
  }
  base_text_free(&path);
}

void ocl_entry_release(ocl_entry *entry) {
  free(entry->data);
  *entry = (ocl_entry){0};
}

void ocl_cache_used(moecl_context *context, const char *key) {
  base_text path = {0};
  if (context->cache_dir && entry_path(context, key, &path) == MOECL_OK) {
    log_write(&context->log, MOECL_LOG_DEBUG, "program cache: hit %s", path.data);
    utimensat(AT_FDCWD, path.data, NULL, 0); /* used now; a folder of others may refuse */
  }
  base_text_free(&path);
}

void ocl_cache_remove(moecl_context *context, const char *key) {
  base_text path = {0};
  if (context->cache_dir && entry_path(context, key, &path) == MOECL_OK) unlink(path.data);
  base_text_free(&path);
}

/* Appends the binary for the context's device; a program made of the caller's
 * cl_context may have slots for other devices as well. */
static moecl_status add_binary(moecl_context *context, const char *key, cl_program program,
                               base_text *entry) {
  cl_uint count = 0, mine = 0;
  MOECL_TRY(ocl_check(context,
                      clGetProgramInfo(program, CL_PROGRAM_NUM_DEVICES, sizeof count, &count, NULL),
                      "clGetProgramInfo"));
  cl_device_id *devices = calloc(count, sizeof *devices);
  size_t *sizes = calloc(count, sizeof *sizes);
  unsigned char **binaries = calloc(count, sizeof *binaries);
  moecl_status status = MOECL_ERROR_DEVICE;
  if (!devices || !sizes || !binaries) {
    status = MOECL_ERROR_OUT_OF_HOST_MEMORY;
  } else if (clGetProgramInfo(program, CL_PROGRAM_DEVICES, count * sizeof *devices, devices,
                              NULL) == CL_SUCCESS &&
             clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, count * sizeof *sizes, sizes,
                              NULL) == CL_SUCCESS) {
    while (mine + 1 < count && devices[mine] != context->device) mine++;
    if (sizes[mine] > 0 && (binaries[mine] = malloc(sizes[mine])) &&
        clGetProgramInfo(program, CL_PROGRAM_BINARIES, count * sizeof *binaries, binaries, NULL) ==
            CL_SUCCESS) {
      cache_header header = {.version = CACHE_VERSION, .size = sizes[mine]};
      char checksum[33];
      memcpy(header.magic, cache_magic, sizeof cache_magic);
      memcpy(header.key, key, 32);
      base_hash_hex(binaries[mine], sizes[mine], checksum);
      memcpy(header.checksum, checksum, 32);
      base_text_add(entry, (const char *)&header, sizeof header);
      base_text_add(entry, (const char *)binaries[mine], sizes[mine]);
      status = entry->failed ? MOECL_ERROR_OUT_OF_HOST_MEMORY : MOECL_OK;
    }
    free(binaries[mine]);
  }
  free(binaries);
  free(sizes);
  free(devices);
  return status;
}

typedef struct cache_entry {
  char name[64];
  struct timespec used;
  uint64_t size;
} cache_entry;

typedef struct cache_listing {
  cache_entry *entries;
  size_t count, capacity;
  uint64_t bytes;
} cache_listing;

static int by_last_use(const void *a, const void *b) {
  const struct timespec *x = &((const cache_entry *)a)->used, *y = &((const cache_entry *)b)->used;
  if (x->tv_sec != y->tv_sec) return (x->tv_sec > y->tv_sec) - (x->tv_sec < y->tv_sec);
  return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

/* "<key>.bin", with "" after it, or "<key>.bin.XXXXXX" while it is written;
 * NULL for what is not the cache's, whatever else lies in the folder. */
static const char *after_entry_name(const char *name) {
  if (strspn(name, "0123456789abcdef") != 32 || strncmp(name + 32, ".bin", 4) != 0) return NULL;
  return name[36] == '\0' || (name[36] == '.' && strlen(name) == 43) ? name + 36 : NULL;
}

/* Adds a file of the folder if it is an entry; removes what a writer left. */
static bool list_file(int folder, const char *name, cache_listing *listing) {
  struct stat info;
  const char *after = after_entry_name(name);
  if (!after || fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode))
    return true;
  if (*after) {
    if (time(NULL) - info.st_mtime > ABANDONED_SECONDS) unlinkat(folder, name, 0);
    return true;
  }
  cache_entry *grown =
      base_grow(listing->entries, listing->count + 1, &listing->capacity, sizeof *grown);
  if (!grown) return false;
  listing->entries = grown;
  cache_entry *entry = &grown[listing->count++];
  *entry = (cache_entry){.used = info.st_mtim, .size = (uint64_t)info.st_size};
  memcpy(entry->name, name, 37);
  listing->bytes += entry->size;
  return true;
}

/* Removes the entries unused for longest until the rest is within the limit;
 * `key`, just written, stays. What can't be removed is passed over. */
static void evict(moecl_context *context, const char *key) {
  cache_listing listing = {0};
  size_t removed = 0;
  DIR *folder = opendir(context->cache_dir);
  if (!folder) return;
  for (struct dirent *file; (file = readdir(folder));)
    if (!list_file(dirfd(folder), file->d_name, &listing)) break;
  if (listing.bytes > CACHE_LIMIT)
    qsort(listing.entries, listing.count, sizeof *listing.entries, by_last_use);
  for (size_t i = 0; i < listing.count && listing.bytes > CACHE_LIMIT; i++) {
    const cache_entry *entry = &listing.entries[i];
    if (strncmp(entry->name, key, 32) == 0) continue;
    const bool gone = unlinkat(dirfd(folder), entry->name, 0) == 0;
    if (!gone && errno != ENOENT) continue;
    listing.bytes -= entry->size; /* also where another process was faster */
    removed += gone;
  }
  closedir(folder);
  free(listing.entries);
  if (removed > 0)
    log_write(&context->log, MOECL_LOG_DEBUG,
              "program cache: removed %llu entries unused for longest",
              (unsigned long long)removed);
}

void ocl_cache_store(moecl_context *context, const char *key, cl_program program) {
  base_text entry = {0}, path = {0};
  if (!is_usable(context)) return;
  if (add_binary(context, key, program, &entry) != MOECL_OK) {
    log_write(&context->log, MOECL_LOG_DEBUG, "program cache: the driver gives no binary");
  } else if (entry_path(context, key, &path) == MOECL_OK) {
    if (base_make_directories(context->cache_dir) == MOECL_OK && is_usable(context) &&
        base_file_write_atomic(path.data, entry.data, entry.size) == MOECL_OK) {
      log_write(&context->log, MOECL_LOG_DEBUG, "program cache: wrote %s", path.data);
      evict(context, key);
    } else if (context->cache_dir) {
      give_up(context, "cannot be written to");
    }
  }
  base_text_free(&path);
  base_text_free(&entry);
}
