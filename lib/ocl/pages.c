// SPDX-License-Identifier: MIT
/* Large pages for a processor's buffers. Each page that is read has to be looked up, and in
 * a virtual machine that takes long; weights of few rows are read at the speed of memory. Linux has
 * pages of 2 MiB for who asks, where /sys/kernel/mm/transparent_hugepage/enabled says "madvise",
 * and drivers do not ask. */
#define _GNU_SOURCE /* madvise */
#include "ocl/program.h"

#ifdef __linux__
#include <sys/mman.h>

/* A driver that keeps a buffer elsewhere maps a copy: no harm, and no use. Only what leaves the
 * buffer mapped is an error. */
static cl_int advise(moecl_context *context, cl_mem mem, uint64_t bytes) {
  enum { PAGE = 2 << 20 };
  cl_int code;
  char *at = clEnqueueMapBuffer(context->queue, mem, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, 0,
                                (size_t)bytes, 0, NULL, NULL, &code);
  if (code != CL_SUCCESS || !at) return CL_SUCCESS;
  char *const from = at + (PAGE - (uintptr_t)at % PAGE) % PAGE;
  (void)!madvise(from, (size_t)(at + bytes - from) / PAGE * PAGE, MADV_HUGEPAGE);
  code = clEnqueueUnmapMemObject(context->queue, mem, at, 0, NULL, NULL);
  return code == CL_SUCCESS ? clFinish(context->queue) : code;
}

moecl_status ocl_pages_ask(moecl_context *context, cl_mem mem, uint64_t bytes) {
  enum { LEAST = 8 << 20 };
  ocl_trial trial;
  if (!(context->info.capabilities & MOECL_CAP_CPU) || bytes < LEAST) return MOECL_OK;
  if (ocl_trial_enter(context, &trial) != MOECL_OK) return MOECL_OK;
  const cl_int code = advise(context, mem, bytes);
  ocl_trial_leave(context, &trial);
  return ocl_check(context, code, "clEnqueueUnmapMemObject");
}

#else

moecl_status ocl_pages_ask(moecl_context *context, cl_mem mem, uint64_t bytes) {
  (void)context, (void)mem, (void)bytes;
  return MOECL_OK;
}

#endif
