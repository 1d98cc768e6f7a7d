// SPDX-License-Identifier: MIT
/* Memory of one GPU that contexts of other GPUs have as well. OpenCL can import such memory
 * (cl_khr_external_memory_opaque_fd) and has no call to make it: NVIDIA's driver has, in libcuda,
 * which is loaded where it is there (nvidia_cuda.h). */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include "ocl/nvidia_cuda.h"
#include "ocl/program.h"
#include <CL/cl_ext.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Values of extensions that headers do not have everywhere. */
#define DEVICE_UUID 0x106A
#define DEVICE_PCI_BUS_NV 0x4008
#define DEVICE_PCI_SLOT_NV 0x4009
#define DEVICE_PCI_DOMAIN_NV 0x400A
#define HANDLE_OPAQUE_FD 0x2060

/* ---- the same device for both ---- */

static bool same_uuid(const ocl_sharer *sharer, int device) {
  unsigned char ours[16], theirs[16];
  return clGetDeviceInfo(sharer->context->device, DEVICE_UUID, sizeof ours, ours, NULL) ==
             CL_SUCCESS &&
         sharer->cuda.device_uuid(theirs, device) == 0 && memcmp(ours, theirs, sizeof ours) == 0;
}

static bool same_number(const ocl_sharer *sharer, cl_device_info what, int device, int attribute) {
  cl_uint ours;
  int theirs;
  return clGetDeviceInfo(sharer->context->device, what, sizeof ours, &ours, NULL) == CL_SUCCESS &&
         sharer->cuda.device_attribute(&theirs, attribute, device) == 0 && (cl_uint)theirs == ours;
}

/* By the place on the bus, where a driver has no UUIDs. */
static bool same_place(const ocl_sharer *sharer, int device) {
  return same_number(sharer, DEVICE_PCI_BUS_NV, device, CUDA_PCI_BUS) &&
         same_number(sharer, DEVICE_PCI_SLOT_NV, device, CUDA_PCI_SLOT) &&
         same_number(sharer, DEVICE_PCI_DOMAIN_NV, device, CUDA_PCI_DOMAIN);
}

static bool find_device(ocl_sharer *sharer) {
  int count = 0;
  const bool by_uuid = ocl_device_has(sharer->context->device, "cl_khr_device_uuid");
  if (sharer->cuda.device_count(&count) != 0) return false;
  for (sharer->device = 0; sharer->device < count; sharer->device++)
    if (by_uuid ? same_uuid(sharer, sharer->device) : same_place(sharer, sharer->device))
      return true;
  return false;
}

/* ---- making and importing ---- */

static cuda_allocation allocation_of(const ocl_sharer *sharer) {
  return (cuda_allocation){.type = CUDA_PINNED,
                           .handle_types = CUDA_FILE_DESCRIPTOR,
                           .location = {CUDA_ON_DEVICE, sharer->device}};
}

const char *ocl_sharer_create(moecl_context *context, ocl_sharer **out) {
  const char *why = NULL;
  size_t granule = 0;
  *out = NULL;
  if (!ocl_device_has(context->device, "cl_khr_external_memory_opaque_fd"))
    return "a member's driver cannot import memory (cl_khr_external_memory_opaque_fd)";
  ocl_sharer *sharer = calloc(1, sizeof *sharer);
  if (!sharer) return "no host memory";
  sharer->context = ocl_context_retain(context);
  if (!cuda_load(&sharer->cuda)) why = "libcuda.so.1 cannot be loaded, or lacks a function";
  else if (sharer->cuda.init(0) != 0) why = "libcuda.so.1 does not start (cuInit)";
  else if (!find_device(sharer)) why = "libcuda.so.1 does not have a member's device";
  else if (sharer->cuda.device_uuid(sharer->mark.bytes, sharer->device) != 0)
    why = "libcuda.so.1 does not tell a member's device from others (cuDeviceGetUuid)";
  const cuda_allocation allocation = allocation_of(sharer);
  if (!why && (sharer->cuda.granularity(&granule, &allocation, 0) != 0 || granule == 0))
    why = "a member's device has no memory that can be exported";
  sharer->granule = granule;
  if (why) ocl_sharer_destroy(&sharer);
  *out = sharer;
  return why;
}

void ocl_sharer_destroy(ocl_sharer **sharer) {
  if (!*sharer) return;
  moecl_context_destroy(&(*sharer)->context);
  free(*sharer);
  *sharer = NULL;
}

ocl_device_mark ocl_sharer_mark(const ocl_sharer *sharer) { return sharer->mark; }

/* Processes may count devices otherwise, or not have all of them. */
static bool find_marked(const ocl_sharer *sharer, const ocl_device_mark *mark, int *device) {
  ocl_device_mark found;
  int count = 0;
  if (sharer->cuda.device_count(&count) != 0) return false;
  for (*device = 0; *device < count; ++*device)
    if (sharer->cuda.device_uuid(found.bytes, *device) == 0 &&
        memcmp(&found, mark, sizeof found) == 0)
      return true;
  return false;
}

const char *ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_device_mark *mark) {
  int other, can = 0;
  if (memcmp(mark, &sharer->mark, sizeof *mark) == 0) return "two members are on one device";
  if (!find_marked(sharer, mark, &other))
    return "another member's device is hidden from a member's process (CUDA_VISIBLE_DEVICES)";
  if (sharer->cuda.can_access(&can, sharer->device, other) != 0 || !can)
    return "a member's device does not reach another one's memory (cuDeviceCanAccessPeer)";
  return NULL;
}

static moecl_status failed(const ocl_sharer *sharer, int code, const char *call, uint64_t bytes) {
  return log_error(&sharer->context->log,
                   code == CUDA_OUT_OF_MEMORY ? MOECL_ERROR_OUT_OF_DEVICE_MEMORY
                                              : MOECL_ERROR_DEVICE,
                   "cannot share %llu bytes with other devices: %s failed: CUDA error %d",
                   (unsigned long long)bytes, call, code);
}

/* Not every driver makes memory without a context of CUDA's. */
static int make_memory(const ocl_sharer *sharer, size_t bytes, cuda_memory *memory) {
  const cuda *cuda = &sharer->cuda;
  const cuda_allocation allocation = allocation_of(sharer);
  void *context;
  int code = cuda->create(memory, bytes, &allocation, 0);
  if (code != CUDA_INVALID_CONTEXT) return code;
  code = cuda->retain(&context, sharer->device);
  if (code != 0) return code;
  code = cuda->push(context);
  if (code == 0) {
    code = cuda->create(memory, bytes, &allocation, 0);
    cuda->pop(&context);
  }
  cuda->let_go(sharer->device);
  return code;
}

moecl_status ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes, ocl_shared *shared) {
  const uint64_t whole = base_div_up(bytes ? bytes : 1, sharer->granule) * sharer->granule;
  *shared = (ocl_shared){.owner = sharer->context, .bytes = whole, .file = -1};
  int code = make_memory(sharer, (size_t)whole, &shared->memory);
  if (code != 0) return failed(sharer, code, "cuMemCreate", whole);
  shared->sharer = sharer;
  code = sharer->cuda.export(&shared->file, shared->memory, CUDA_FILE_DESCRIPTOR, 0);
  if (code != 0) shared->file = -1;
  return code == 0 ? MOECL_OK : failed(sharer, code, "cuMemExportToShareableHandle", whole);
}

/* Driver 580 crashes at 512 MiB. */
uint64_t ocl_shared_most(void) { return UINT64_C(448) << 20; }

/* Who has imported or mapped it keeps it. */
void ocl_shared_close(ocl_shared *shared) {
  if (shared->file >= 0) close(shared->file);
  if (shared->sharer) shared->sharer->cuda.release(shared->memory);
  shared->file = -1;
  shared->sharer = NULL;
}

/* Called by name: OpenCL loaders before 3.0 lack it. */
typedef cl_mem (*create_buffer_fn)(cl_context, const cl_ulong *, cl_mem_flags, size_t, void *,
                                   cl_int *);

/* On success the file is OpenCL's. */
static moecl_status import(moecl_context *context, create_buffer_fn create, uint64_t bytes,
                           int file, cl_mem *mem) {
  const cl_ulong properties[] = {HANDLE_OPAQUE_FD, (cl_ulong)file, 0};
  cl_int code;
  *mem = create(context->cl, properties, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &code);
  return ocl_check(context, code, "clCreateBufferWithProperties of imported memory");
}

/* Without clEnqueueAcquireExternalMemObjectsKHR: NVIDIA's driver, the only one that this is for,
 * does not need it, and after one without a release clReleaseContext never returns (driver 580). */
moecl_status ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                               moecl_buffer **buffer) {
  create_buffer_fn create = NULL;
  cl_mem mem = NULL;
  void *found = dlsym(RTLD_DEFAULT, "clCreateBufferWithProperties");
  memcpy(&create, &found, sizeof found);
  *buffer = NULL;
  if (!create)
    return log_error(&context->log, MOECL_ERROR_UNSUPPORTED,
                     "the OpenCL loader has no call to import memory (it is before OpenCL 3.0)");
  const int file = dup(shared->file);
  if (file < 0)
    return log_error(&context->log, MOECL_ERROR_IO, "no file descriptor for memory to import");
  moecl_status status = import(context, create, shared->bytes, file, &mem);
  if (status != MOECL_OK) {
    close(file);
    return status;
  }
  status = ocl_buffer_adopt(context, mem, shared->bytes, context == shared->owner, buffer);
  if (status != MOECL_OK) clReleaseMemObject(mem);
  return status;
}
