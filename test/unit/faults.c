// SPDX-License-Identifier: MIT
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include "faults.h"
#include <errno.h>
#include <execinfo.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>

fault_state faults;

enum { DEPTH = 5 }; /* the first two frames are this file's */

static uint64_t place_of_call(void) {
  void *frames[DEPTH];
  uint64_t hash = UINT64_C(1469598103934665603);
  const int count = backtrace(frames, DEPTH);
  for (int i = 2; i < count; i++) hash = (hash ^ (uintptr_t)frames[i]) * UINT64_C(1099511628211);
  return hash;
}

static void keep_place(uint64_t place) {
  for (size_t i = 0; faults.once && i < faults.num_places; i++)
    if (faults.places[i] == place) return;
  if (faults.num_places < faults.most) faults.places[faults.num_places++] = place;
}

static bool is_target(uint64_t place) {
  if (faults.place) return place == faults.place && !faults.name;
  if (faults.target == 0 || faults.calls < faults.target) return false;
  return faults.calls == faults.target || faults.lasting;
}

bool faults_hit(fault_kind kind, const char *name) {
  if (faults.kind != kind) return false;
  const uint64_t place = faults.places || faults.place ? place_of_call() : 0;
  faults.calls++;
  if (faults.places) keep_place(place);
  if (!is_target(place)) return false;
  if (!faults.name) faults.name = name;
  return true;
}

/* There are no threads: the n-th call is the same one in every run. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *user);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *user) {
  (void)thread, (void)attributes, (void)start, (void)user;
  return EAGAIN;
}

/* ---- OpenCL ---- */

/* A call that only returns a code. */
#define PLAIN(name, params, args)                                                                  \
  cl_int __real_##name params;                                                                     \
  cl_int __wrap_##name params;                                                                     \
  cl_int __wrap_##name params {                                                                    \
    return faults_hit(FAULT_OPENCL, #name) ? faults.code : __real_##name args;                     \
  }

/* One that takes a reference, or makes an event for whoever asks for it. */
#define HOLDS(name, holds, params, args)                                                           \
  cl_int __real_##name params;                                                                     \
  cl_int __wrap_##name params;                                                                     \
  cl_int __wrap_##name params {                                                                    \
    const cl_int code = faults_hit(FAULT_OPENCL, #name) ? faults.code : __real_##name args;        \
    faults.objects += code == CL_SUCCESS && (holds);                                               \
    return code;                                                                                   \
  }

/* One that gives a reference up: also where it then says that it failed. */
#define RELEASES(type, name, count)                                                                \
  cl_int __real_##name(type object);                                                               \
  cl_int __wrap_##name(type object);                                                               \
  cl_int __wrap_##name(type object) {                                                              \
    const cl_int code = __real_##name(object);                                                     \
    faults.count -= code == CL_SUCCESS;                                                            \
    return faults_hit(FAULT_OPENCL, #name) ? faults.code : code;                                   \
  }

/* One that makes an object; the last parameter is `code`. */
#define CREATES(type, name, count, params, args)                                                   \
  type __real_##name params;                                                                       \
  type __wrap_##name params;                                                                       \
  type __wrap_##name params {                                                                      \
    if (faults_hit(FAULT_OPENCL, #name)) {                                                         \
      if (code) *code = faults.code;                                                               \
      return NULL;                                                                                 \
    }                                                                                              \
    const type made = __real_##name args;                                                          \
    faults.count += made != NULL;                                                                  \
    return made;                                                                                   \
  }

PLAIN(clGetPlatformIDs, (cl_uint n, cl_platform_id *p, cl_uint *c), (n, p, c))
PLAIN(clGetPlatformInfo, (cl_platform_id p, cl_platform_info w, size_t s, void *v, size_t *r),
      (p, w, s, v, r))
PLAIN(clGetDeviceIDs, (cl_platform_id p, cl_device_type t, cl_uint n, cl_device_id *d, cl_uint *c),
      (p, t, n, d, c))
PLAIN(clGetDeviceInfo, (cl_device_id d, cl_device_info w, size_t s, void *v, size_t *r),
      (d, w, s, v, r))
PLAIN(clGetContextInfo, (cl_context x, cl_context_info w, size_t s, void *v, size_t *r),
      (x, w, s, v, r))
PLAIN(clGetCommandQueueInfo,
      (cl_command_queue q, cl_command_queue_info w, size_t s, void *v, size_t *r), (q, w, s, v, r))
PLAIN(clGetMemObjectInfo, (cl_mem m, cl_mem_info w, size_t s, void *v, size_t *r), (m, w, s, v, r))
PLAIN(clGetProgramInfo, (cl_program g, cl_program_info w, size_t s, void *v, size_t *r),
      (g, w, s, v, r))
PLAIN(clGetProgramBuildInfo,
      (cl_program g, cl_device_id d, cl_program_build_info w, size_t s, void *v, size_t *r),
      (g, d, w, s, v, r))
PLAIN(clGetKernelWorkGroupInfo,
      (cl_kernel k, cl_device_id d, cl_kernel_work_group_info w, size_t s, void *v, size_t *r),
      (k, d, w, s, v, r))
PLAIN(clGetEventProfilingInfo, (cl_event e, cl_profiling_info w, size_t s, void *v, size_t *r),
      (e, w, s, v, r))
PLAIN(clGetEventInfo, (cl_event e, cl_event_info w, size_t s, void *v, size_t *r), (e, w, s, v, r))
PLAIN(clSetKernelArg, (cl_kernel k, cl_uint i, size_t s, const void *v), (k, i, s, v))
PLAIN(clBuildProgram,
      (cl_program g, cl_uint n, const cl_device_id *d, const char *o,
       void(CL_CALLBACK *f)(cl_program, void *), void *u),
      (g, n, d, o, f, u))
PLAIN(clWaitForEvents, (cl_uint n, const cl_event *e), (n, e))
PLAIN(clFinish, (cl_command_queue q), (q))
PLAIN(clFlush, (cl_command_queue q), (q))

PLAIN(clEnqueueUnmapMemObject,
      (cl_command_queue q, cl_mem m, void *p, cl_uint n, const cl_event *w, cl_event *e),
      (q, m, p, n, w, e))

/* Gives no code: one that fails finds no function. */
void *__real_clGetExtensionFunctionAddressForPlatform(cl_platform_id p, const char *name);
void *__wrap_clGetExtensionFunctionAddressForPlatform(cl_platform_id p, const char *name);
void *__wrap_clGetExtensionFunctionAddressForPlatform(cl_platform_id p, const char *name) {
  if (faults_hit(FAULT_OPENCL, "clGetExtensionFunctionAddressForPlatform")) return NULL;
  return __real_clGetExtensionFunctionAddressForPlatform(p, name);
}

/* What is mapped goes with its buffer. */
void *__real_clEnqueueMapBuffer(cl_command_queue q, cl_mem m, cl_bool b, cl_map_flags f, size_t o,
                                size_t s, cl_uint n, const cl_event *w, cl_event *e, cl_int *code);
void *__wrap_clEnqueueMapBuffer(cl_command_queue q, cl_mem m, cl_bool b, cl_map_flags f, size_t o,
                                size_t s, cl_uint n, const cl_event *w, cl_event *e, cl_int *code);
void *__wrap_clEnqueueMapBuffer(cl_command_queue q, cl_mem m, cl_bool b, cl_map_flags f, size_t o,
                                size_t s, cl_uint n, const cl_event *w, cl_event *e, cl_int *code) {
  if (!faults_hit(FAULT_OPENCL, "clEnqueueMapBuffer"))
    return __real_clEnqueueMapBuffer(q, m, b, f, o, s, n, w, e, code);
  *code = faults.code;
  return NULL;
}

HOLDS(clRetainContext, true, (cl_context x), (x))
HOLDS(clRetainCommandQueue, true, (cl_command_queue q), (q))
HOLDS(clRetainMemObject, true, (cl_mem m), (m))
HOLDS(clRetainEvent, true, (cl_event e), (e))
HOLDS(clEnqueueNDRangeKernel, e != NULL,
      (cl_command_queue q, cl_kernel k, cl_uint d, const size_t *o, const size_t *g,
       const size_t *l, cl_uint n, const cl_event *w, cl_event *e),
      (q, k, d, o, g, l, n, w, e))
HOLDS(clEnqueueReadBuffer, e != NULL,
      (cl_command_queue q, cl_mem m, cl_bool b, size_t o, size_t s, void *p, cl_uint n,
       const cl_event *w, cl_event *e),
      (q, m, b, o, s, p, n, w, e))
HOLDS(clEnqueueWriteBuffer, e != NULL,
      (cl_command_queue q, cl_mem m, cl_bool b, size_t o, size_t s, const void *p, cl_uint n,
       const cl_event *w, cl_event *e),
      (q, m, b, o, s, p, n, w, e))
HOLDS(clEnqueueCopyBuffer, e != NULL,
      (cl_command_queue q, cl_mem a, cl_mem b, size_t x, size_t y, size_t s, cl_uint n,
       const cl_event *w, cl_event *e),
      (q, a, b, x, y, s, n, w, e))
HOLDS(clEnqueueFillBuffer, e != NULL,
      (cl_command_queue q, cl_mem m, const void *p, size_t z, size_t o, size_t s, cl_uint n,
       const cl_event *w, cl_event *e),
      (q, m, p, z, o, s, n, w, e))
HOLDS(clEnqueueMarkerWithWaitList, e != NULL,
      (cl_command_queue q, cl_uint n, const cl_event *w, cl_event *e), (q, n, w, e))
HOLDS(clEnqueueBarrierWithWaitList, e != NULL,
      (cl_command_queue q, cl_uint n, const cl_event *w, cl_event *e), (q, n, w, e))

RELEASES(cl_context, clReleaseContext, objects)
RELEASES(cl_command_queue, clReleaseCommandQueue, objects)
RELEASES(cl_mem, clReleaseMemObject, objects)
RELEASES(cl_program, clReleaseProgram, objects)
RELEASES(cl_kernel, clReleaseKernel, kernels)
RELEASES(cl_event, clReleaseEvent, objects)

CREATES(cl_context, clCreateContext, objects,
        (const cl_context_properties *p, cl_uint n, const cl_device_id *d,
         void(CL_CALLBACK *f)(const char *, const void *, size_t, void *), void *u, cl_int *code),
        (p, n, d, f, u, code))
CREATES(cl_command_queue, clCreateCommandQueue, objects,
        (cl_context x, cl_device_id d, cl_command_queue_properties p, cl_int *code),
        (x, d, p, code))
CREATES(cl_mem, clCreateBuffer, objects,
        (cl_context x, cl_mem_flags f, size_t s, void *p, cl_int *code), (x, f, s, p, code))
CREATES(cl_mem, clCreateSubBuffer, objects,
        (cl_mem m, cl_mem_flags f, cl_buffer_create_type t, const void *i, cl_int *code),
        (m, f, t, i, code))
CREATES(cl_program, clCreateProgramWithSource, objects,
        (cl_context x, cl_uint n, const char **t, const size_t *s, cl_int *code),
        (x, n, t, s, code))
CREATES(cl_program, clCreateProgramWithBinary, objects,
        (cl_context x, cl_uint n, const cl_device_id *d, const size_t *s, const unsigned char **b,
         cl_int *states, cl_int *code),
        (x, n, d, s, b, states, code))
CREATES(cl_kernel, clCreateKernel, kernels, (cl_program g, const char *name, cl_int *code),
        (g, name, code))

/* ---- memory ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);
void __wrap_free(void *block);

static bool out_of_memory(const char *name) {
  if (!faults_hit(FAULT_MEMORY, name)) return false;
  errno = ENOMEM;
  return true;
}

static void *held(void *block) {
  faults.blocks += block != NULL;
  return block;
}

void *__wrap_malloc(size_t size) {
  return out_of_memory("malloc") ? NULL : held(__real_malloc(size));
}
void *__wrap_calloc(size_t count, size_t size) {
  return out_of_memory("calloc") ? NULL : held(__real_calloc(count, size));
}
char *__wrap_strdup(const char *text) {
  return out_of_memory("strdup") ? NULL : held(__real_strdup(text));
}
char *__wrap_strndup(const char *text, size_t size) {
  return out_of_memory("strndup") ? NULL : held(__real_strndup(text, size));
}
void *__wrap_realloc(void *block, size_t size) {
  if (out_of_memory("realloc")) return NULL;
  void *moved = __real_realloc(block, size);
  faults.blocks += !block && moved;
  return moved;
}
void __wrap_free(void *block) {
  faults.blocks -= block != NULL;
  __real_free(block);
}

/* Jansson tells a lack of memory as any mistake in the text. */
static void *malloc_for_json(size_t size) {
  return out_of_memory("Jansson") ? NULL : held(__real_malloc(size));
}

void faults_begin(void) { json_set_alloc_funcs(malloc_for_json, __wrap_free); }
