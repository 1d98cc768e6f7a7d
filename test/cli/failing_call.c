// SPDX-License-Identifier: MIT
/* Loaded into moectl: a driver whose call $MOECL_TEST_CALL, clEnqueueNDRangeKernel or
 * clCreateBuffer, fails from the $MOECL_TEST_FROM-th time on; or clCreateContext, on devices whose
 * name contains $MOECL_TEST_DEVICE. */
#define _GNU_SOURCE
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static int fails(const char *name, int *count) {
  const char *call = getenv("MOECL_TEST_CALL"), *from = getenv("MOECL_TEST_FROM");
  return call && from && strcmp(call, name) == 0 && ++*count >= atoi(from);
}

cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims,
                              const size_t *offset, const size_t *global, const size_t *local,
                              cl_uint count, const cl_event *waits, cl_event *event) {
  static int calls;
  cl_int (*real)(cl_command_queue, cl_kernel, cl_uint, const size_t *, const size_t *,
                 const size_t *, cl_uint, const cl_event *, cl_event *);
  *(void **)&real = dlsym(RTLD_NEXT, "clEnqueueNDRangeKernel");
  if (fails("clEnqueueNDRangeKernel", &calls)) return CL_OUT_OF_RESOURCES;
  return real(queue, kernel, dims, offset, global, local, count, waits, event);
}

cl_mem clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void *host,
                      cl_int *code) {
  static int calls;
  cl_mem (*real)(cl_context, cl_mem_flags, size_t, void *, cl_int *);
  *(void **)&real = dlsym(RTLD_NEXT, "clCreateBuffer");
  if (!fails("clCreateBuffer", &calls)) return real(context, flags, size, host, code);
  if (code) *code = CL_MEM_OBJECT_ALLOCATION_FAILURE;
  return NULL;
}

cl_context clCreateContext(const cl_context_properties *properties, cl_uint count,
                           const cl_device_id *devices,
                           void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *),
                           void *user, cl_int *code) {
  const char *call = getenv("MOECL_TEST_CALL"), *wanted = getenv("MOECL_TEST_DEVICE");
  char name[256] = "";
  cl_context (*real)(const cl_context_properties *, cl_uint, const cl_device_id *,
                     void(CL_CALLBACK *)(const char *, const void *, size_t, void *), void *,
                     cl_int *);
  *(void **)&real = dlsym(RTLD_NEXT, "clCreateContext");
  if (call && wanted && strcmp(call, "clCreateContext") == 0 && count > 0 &&
      clGetDeviceInfo(devices[0], CL_DEVICE_NAME, sizeof name, name, NULL) == CL_SUCCESS &&
      strstr(name, wanted)) {
    if (code) *code = CL_OUT_OF_HOST_MEMORY;
    return NULL;
  }
  return real(properties, count, devices, notify, user, code);
}
