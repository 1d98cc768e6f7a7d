// SPDX-License-Identifier: MIT
/* Instead of libcuda (lib/ocl/nvidia_peer.c; --wrap), between processes: memory that is shared is a
 * file without a name, which whoever imports it maps, so that kernels of several processes see each
 * other's stores. Engines are of one process, and are not replaced here. */
#ifndef MOECL_TEST_PROCESS_STAND_IN_H
#define MOECL_TEST_PROCESS_STAND_IN_H

#include "ocl/ocl.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a test sets, on one rank or on all. */
static struct {
  uint64_t most;       /* bytes of an import */
  const char *refusal; /* of another member's device */
  /* Which from 1 on fails, or is not shared with anybody; 0: none. */
  int failing_sharer, failing_create, failing_import, private_import;
} stand_in = {.most = UINT64_C(1) << 40};

/* What there is, or was asked for. */
static struct {
  int sharers, shared, mapped;        /* are there */
  int made_sharers, creates, imports; /* were asked for */
} seen;

struct ocl_sharer {
  moecl_context *context;
  ocl_device_mark mark;
};

const char *__wrap_ocl_sharer_create(moecl_context *context, ocl_sharer **sharer);
ocl_device_mark __wrap_ocl_sharer_mark(const ocl_sharer *sharer);
const char *__wrap_ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_device_mark *other);
void __wrap_ocl_sharer_destroy(ocl_sharer **sharer);
moecl_status __wrap_ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes, ocl_shared *shared);
moecl_status __wrap_ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                                      moecl_buffer **buffer);
void __wrap_ocl_shared_close(ocl_shared *shared);
uint64_t __wrap_ocl_shared_most(void);

/* Each context stands for a device of its own. */
const char *__wrap_ocl_sharer_create(moecl_context *context, ocl_sharer **sharer) {
  const int64_t process = getpid();
  *sharer = NULL;
  if (++seen.made_sharers == stand_in.failing_sharer) return "the test has no sharer";
  *sharer = calloc(1, sizeof **sharer);
  if (!*sharer) return "no host memory";
  (*sharer)->context = context;
  memcpy((*sharer)->mark.bytes, &process, sizeof process);
  memcpy((*sharer)->mark.bytes + sizeof process, &context, sizeof context);
  seen.sharers++;
  return NULL;
}

ocl_device_mark __wrap_ocl_sharer_mark(const ocl_sharer *sharer) { return sharer->mark; }

const char *__wrap_ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_device_mark *other) {
  if (memcmp(&sharer->mark, other, sizeof *other) == 0) return "two members are on one device";
  return stand_in.refusal;
}

void __wrap_ocl_sharer_destroy(ocl_sharer **sharer) {
  seen.sharers -= *sharer != NULL;
  free(*sharer);
  *sharer = NULL;
}

/* ---- memory ---- */

enum { STAND_IN_PAGE = 4096 };

moecl_status __wrap_ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes,
                                      ocl_shared *shared) {
  const uint64_t whole = (bytes / STAND_IN_PAGE + 1) * STAND_IN_PAGE;
  *shared = (ocl_shared){.owner = sharer->context, .bytes = whole, .file = -1};
  if (++seen.creates == stand_in.failing_create)
    return log_error(&sharer->context->log, MOECL_ERROR_OUT_OF_DEVICE_MEMORY,
                     "the test has no memory");
  if (bytes > stand_in.most) abort();
  shared->file = (int)syscall(SYS_memfd_create, "moecl-test", 1u /* closed on exec */);
  if (shared->file < 0 || ftruncate(shared->file, (off_t)whole) != 0) abort();
  shared->sharer = sharer;
  seen.shared++;
  return MOECL_OK;
}

typedef struct stand_in_map {
  void *host;
  size_t bytes;
} stand_in_map;

static void CL_CALLBACK stand_in_unmap(cl_mem mem, void *user) {
  stand_in_map *map = user;
  (void)mem;
  munmap(map->host, map->bytes);
  free(map);
  __atomic_sub_fetch(&seen.mapped, 1, __ATOMIC_SEQ_CST);
}

moecl_status __wrap_ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                                      moecl_buffer **buffer) {
  stand_in_map *map = calloc(1, sizeof *map);
  cl_int code;
  if (++seen.imports == stand_in.failing_import) {
    free(map);
    return log_error(&context->log, MOECL_ERROR_OUT_OF_DEVICE_MEMORY, "the test imports nothing");
  }
  if (!map || shared->file < 0) abort();
  map->bytes = (size_t)shared->bytes;
  map->host =
      mmap(NULL, map->bytes, PROT_READ | PROT_WRITE,
           seen.imports == stand_in.private_import ? MAP_PRIVATE : MAP_SHARED, shared->file, 0);
  if (map->host == MAP_FAILED) abort();
  cl_mem mem = clCreateBuffer(context->cl, CL_MEM_USE_HOST_PTR, map->bytes, map->host, &code);
  if (code != CL_SUCCESS ||
      clSetMemObjectDestructorCallback(mem, stand_in_unmap, map) != CL_SUCCESS)
    abort();
  __atomic_add_fetch(&seen.mapped, 1, __ATOMIC_SEQ_CST);
  const moecl_status status =
      ocl_buffer_adopt(context, mem, shared->bytes, context == shared->owner, buffer);
  if (status != MOECL_OK) clReleaseMemObject(mem);
  return status;
}

void __wrap_ocl_shared_close(ocl_shared *shared) {
  if (shared->file >= 0) close(shared->file);
  seen.shared -= shared->sharer != NULL;
  shared->file = -1;
  shared->sharer = NULL;
}

uint64_t __wrap_ocl_shared_most(void) { return stand_in.most; }

#endif
