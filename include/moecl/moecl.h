// SPDX-License-Identifier: MIT
/* moecl: a Mixture-of-Experts compute engine for any OpenCL device.
 *
 * This header includes every public header except opencl.h, which is for
 * programs that bring OpenCL objects of their own.
 *
 * Conventions that hold for every call:
 *  - Calls return a moecl_status; MOECL_OK is 0. Details of a failure (the
 *    OpenCL call, the build log, the offending field) go to the context's log
 *    callback. The library never prints, exits or aborts.
 *  - Numbers that are read or written, messages and kernel sources are the same in
 *    every locale, the process's or a thread's.
 *  - Errors: a call's comment names those that have a cause of its own. Beside them, any
 *    call that creates or enqueues may give MOECL_ERROR_OUT_OF_HOST_MEMORY, and one that
 *    reaches the device MOECL_ERROR_DEVICE and MOECL_ERROR_OUT_OF_DEVICE_MEMORY.
 *  - NULL where an object, parameters or an array are expected is an error:
 *    MOECL_ERROR_INVALID_ARGUMENT; calls without a status give 0, false or NULL, or do
 *    nothing. What may be NULL says so. So is an object of another context than the one
 *    that the call is for.
 *  - `*_create`, and other calls that make an object, write the new handle only on success
 *    and NULL otherwise; on failure the caller owns nothing new. `*_destroy(&h)` accepts
 *    NULL and a pointer to NULL, and nulls the handle.
 *  - Objects keep alive what they need (a layer its context, a view its buffer): they may
 *    be destroyed in any order. Structs, strings and arrays that a call is given are read
 *    before it returns, and are the caller's again then, unless its comment says otherwise.
 *  - In flight: every object may be destroyed while work on it is enqueued. The work still
 *    runs, and memory is released after it. A program that waits for the work afterwards
 *    keeps its event, or a queue of its own.
 *  - Order: what a context enqueues runs as if its queue were in order, on an
 *    out-of-order one too: after all commands that were enqueued on that queue before, the
 *    program's own included, and before all that are enqueued later. Commands on other
 *    queues need events, in both directions.
 *  - A params struct that is all zeros but for its required fields asks for
 *    the documented defaults.
 *  - Structs grow without breaking a compiled caller: each ends in `reserved`, which
 *    later versions take new members from, so that no size and no offset changes. In a
 *    struct that the caller fills, `reserved` must be zeros, as {.hidden_size = 64},
 *    memset and calloc leave it: a number there is a member of newer headers that this
 *    library does not have, and the call is refused with MOECL_ERROR_INVALID_ARGUMENT
 *    instead of doing something else. A new member's zero means what was done before
 *    there was one. In a struct that the library fills, `reserved` is zeros, and so are
 *    members that an older library does not know.
 *  - Enumerations grow too, before their _COUNT; no value changes its meaning. A program
 *    has to accept values that it does not know in what the library fills.
 *  - Sizes, counts and offsets are 64-bit. Sizes named `bytes` are bytes, all
 *    other sizes are elements.
 *  - Nothing waits for the device unless its name ends in `_wait` or its
 *    comment begins with "Waits".
 *  - Each call's comment says from where it may be called. "Thread: the
 *    context's": a context and its objects (buffers, events, layers, profiles)
 *    are used from one thread at a time, whichever; a program that shares them
 *    between threads holds a lock of its own, that of a context for all its
 *    objects. Different contexts may be used from different threads at once,
 *    also where they wrap one cl_context. "Thread-safe": from any thread at any
 *    time, on arguments that no other thread writes.
 */
#ifndef MOECL_MOECL_H
#define MOECL_MOECL_H

/* The version of these headers; moecl_version() is the version of the library that runs.
 * Before 1.0 a minor version may change the interface, a patch never does. NUMBER is for
 * comparisons: #if MOECL_VERSION_NUMBER >= 200 (0.2.0). */
#define MOECL_VERSION_MAJOR 0
#define MOECL_VERSION_MINOR 1
#define MOECL_VERSION_PATCH 0
#define MOECL_VERSION_NUMBER                                                                       \
  (MOECL_VERSION_MAJOR * 10000 + MOECL_VERSION_MINOR * 100 + MOECL_VERSION_PATCH)
#define MOECL_VERSION_STRING                                                                       \
  MOECL_VERSION_TEXT(MOECL_VERSION_MAJOR)                                                          \
  "." MOECL_VERSION_TEXT(MOECL_VERSION_MINOR) "." MOECL_VERSION_TEXT(MOECL_VERSION_PATCH)
#define MOECL_VERSION_TEXT(number) MOECL_VERSION_TEXT_OF(number)
#define MOECL_VERSION_TEXT_OF(number) #number

#include "moecl/status.h"
#include "moecl/types.h"
#include "moecl/device.h"
#include "moecl/context.h"
#include "moecl/buffer.h"
#include "moecl/quantize.h"
#include "moecl/random.h"
#include "moecl/layer.h"
#include "moecl/block.h"
#include "moecl/plan.h"
#include "moecl/peaks.h"
#include "moecl/routing.h"
#include "moecl/reference.h"
#include "moecl/safetensors.h"
#include "moecl/checkpoint.h"
#include "moecl/group.h"
#include "moecl/offload.h"

#endif
