// SPDX-License-Identifier: MIT
/* Loaded into moectl: a driver whose events end before they start, every
 * MOECL_TEST_SWAP-th one, or (0) writes no times and says it did. */
#define _GNU_SOURCE
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdlib.h>

typedef cl_int (*call)(cl_event, cl_profiling_info, size_t, void *, size_t *);

cl_int clGetEventProfilingInfo(cl_event event, cl_profiling_info what, size_t size, void *value,
                               size_t *needed) {
  static int count;
  const int every = atoi(getenv("MOECL_TEST_SWAP"));
  call real;
  *(void **)&real = dlsym(RTLD_NEXT, "clGetEventProfilingInfo");
  if (every == 0) return CL_SUCCESS;
  if (what == CL_PROFILING_COMMAND_END && ++count % every == 0) {
    const cl_int code = real(event, CL_PROFILING_COMMAND_START, size, value, needed);
    *(cl_ulong *)value -= 5000;
    return code;
  }
  return real(event, what, size, value, needed);
}
