// SPDX-License-Identifier: MIT
/* Device memory. Programs with cl_mem objects of their own wrap them
 * (opencl.h).
 *
 * Sizes and offsets are in bytes. The calls that copy and fill take their place in the
 * order of the context's queue (moecl.h). A buffer may be destroyed right after a call that
 * enqueues work on it. */
#ifndef MOECL_BUFFER_H
#define MOECL_BUFFER_H

#include "moecl/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_buffer moecl_buffer;

/* Allocates `bytes` (0 is allowed and allocates the smallest the device
 * gives). Contents are undefined. Errors: MOECL_ERROR_OUT_OF_DEVICE_MEMORY (of some drivers
 * only when the memory is first used), MOECL_ERROR_OUT_OF_HOST_MEMORY.
 * Thread: the context's. */
MOECL_API moecl_status moecl_buffer_create(moecl_context *context, uint64_t bytes,
                                           moecl_buffer **buffer);

/* A buffer that is a part of another one, whose memory it keeps alive: what is written to
 * the one is read from the other. The offset must be a multiple of moecl_buffer_alignment.
 * Views in use at the same time must not overlap, nor a view and its parent, unless all
 * commands only read: OpenCL leaves the result undefined, and some drivers end the process.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (the offset, a range outside the parent).
 * Thread: the context's. */
MOECL_API moecl_status moecl_buffer_view(const moecl_buffer *parent, uint64_t offset_bytes,
                                         uint64_t bytes, moecl_buffer **view);
/* What offsets of views are multiples of on this device, in bytes; 0 for NULL.
 * Thread-safe. */
MOECL_API uint64_t moecl_buffer_alignment(const moecl_context *context);

/* Releases the memory once work already enqueued on it is done.
 * Thread: the context's. */
MOECL_API void moecl_buffer_destroy(moecl_buffer **buffer);

/* In bytes, as asked for; 0 for NULL. Thread-safe. */
MOECL_API uint64_t moecl_buffer_size(const moecl_buffer *buffer);

/* Waits: copies between host and device memory after all work enqueued before
 * on the context's queue. Ranges outside the buffer are
 * MOECL_ERROR_INVALID_ARGUMENT and copy nothing. 0 bytes copy nothing and do not wait; dst
 * and src may then be NULL. After another failure dst, or the buffer's range, is undefined.
 * Thread: the context's. */
MOECL_API moecl_status moecl_buffer_read_wait(const moecl_buffer *buffer, uint64_t offset_bytes,
                                              uint64_t bytes, void *dst);
MOECL_API moecl_status moecl_buffer_write_wait(moecl_buffer *buffer, uint64_t offset_bytes,
                                               uint64_t bytes, const void *src);

/* Enqueues filling the range with one repeated byte. Errors:
 * MOECL_ERROR_INVALID_ARGUMENT (a range outside the buffer). Thread: the context's. */
MOECL_API moecl_status moecl_buffer_fill_byte(moecl_buffer *buffer, uint64_t offset_bytes,
                                              uint64_t bytes, uint8_t value);

#ifdef __cplusplus
}
#endif
#endif
