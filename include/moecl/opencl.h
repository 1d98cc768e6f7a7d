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
 * needed; the caller keeps its own references, and on failure nothing is retained. `device` is one
 * of the context's, or a part of one (clCreateSubDevices) that commands can be for. `queue`
 * may be in or out of order; stage times need CL_QUEUE_PROFILING_ENABLE. NULL: a queue is
 * created, in order. `params` may be NULL, and its `device` is ignored.
 *
 * The program may enqueue commands of its own on the queue at any time, from the context's
 * thread or under its lock. On a queue in order and on one out of order alike, moecl's
 * commands run after those that were enqueued before and before those that are enqueued
 * after (on one out of order by barriers, which moecl enqueues). Events are needed for
 * other queues alone.
 * Errors: those of moecl_context_create but MOECL_ERROR_NO_DEVICE, and
 * MOECL_ERROR_INVALID_ARGUMENT (a device that is not the context's, nor a part of one of its, a
 * queue that is not theirs). Thread-safe, on objects that no thread releases meanwhile. */
MOECL_API moecl_status moecl_context_create_from_cl(cl_context cl, cl_device_id device,
                                                    cl_command_queue queue,
                                                    const moecl_context_params *params,
                                                    moecl_context **context);

/* Wraps a buffer or sub-buffer of the context's cl_context, of its whole size in bytes. It
 * is retained until the moecl_buffer and work enqueued on it are done with; the caller keeps
 * its own reference. Its flags have to allow what it is used for: output and workspace are
 * written. Errors: MOECL_ERROR_INVALID_ARGUMENT (a cl_mem of another cl_context).
 * Thread: the context's. */
MOECL_API moecl_status moecl_buffer_wrap(moecl_context *context, cl_mem mem, moecl_buffer **buffer);
/* Wraps a cl_event of the context's cl_context, of any queue or the user's, for a wait
 * list. Retained likewise. Whoever enqueued it on another queue flushes that queue.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (a cl_event of another cl_context).
 * Thread: the context's. */
MOECL_API moecl_status moecl_event_wrap(moecl_context *context, cl_event cl, moecl_event **event);

/* The OpenCL objects of moecl's own, NULL for NULL. Not retained for the caller: valid while the
 * object that was asked is. Thread-safe. */
MOECL_API cl_context moecl_context_cl(const moecl_context *context);
MOECL_API cl_command_queue moecl_context_cl_queue(const moecl_context *context);
MOECL_API cl_mem moecl_buffer_cl(const moecl_buffer *buffer);
MOECL_API cl_event moecl_event_cl(const moecl_event *event);

#ifdef __cplusplus
}
#endif
#endif
