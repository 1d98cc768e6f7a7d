// SPDX-License-Identifier: MIT
/* Interoperation with a program's own OpenCL objects. */
#ifndef MOECL_OPENCL_H
#define MOECL_OPENCL_H

#include "moecl/buffer.h"

#ifndef CL_TARGET_OPENCL_VERSION
#define CL_TARGET_OPENCL_VERSION 300
#endif
#include <CL/cl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A context around existing objects, each retained for as long as it is
 * needed. `queue` may be in or out of order; stage times need
 * CL_QUEUE_PROFILING_ENABLE. NULL: a queue is created. `params->device` is
 * ignored. Thread-safe, on objects that nobody releases meanwhile. */
MOECL_API moecl_status moecl_context_create_from_cl(cl_context cl, cl_device_id device,
                                                    cl_command_queue queue,
                                                    const moecl_context_params *params,
                                                    moecl_context **context);

/* Wraps (retains) a cl_mem of the context. Thread: the context's. */
MOECL_API moecl_status moecl_buffer_wrap(moecl_context *context, cl_mem mem, moecl_buffer **buffer);
/* Wraps (retains) a cl_event, e.g. for a wait list. Thread: the context's. */
MOECL_API moecl_status moecl_event_wrap(moecl_context *context, cl_event cl, moecl_event **event);

/* The objects behind; not retained for the caller. Thread-safe. */
MOECL_API cl_context moecl_context_cl(const moecl_context *context);
MOECL_API cl_command_queue moecl_context_cl_queue(const moecl_context *context);
MOECL_API cl_mem moecl_buffer_cl(const moecl_buffer *buffer);
MOECL_API cl_event moecl_event_cl(const moecl_event *event);

#ifdef __cplusplus
}
#endif
#endif
