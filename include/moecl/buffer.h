// SPDX-License-Identifier: MIT
/* Device memory. Programs with cl_mem objects of their own wrap them
 * (opencl.h). */
#ifndef MOECL_BUFFER_H
#define MOECL_BUFFER_H

#include "moecl/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_buffer moecl_buffer;

/* Allocates `bytes` (0 is allowed and allocates the smallest the device
 * gives). Contents are undefined. Errors: MOECL_ERROR_OUT_OF_DEVICE_MEMORY,
 * MOECL_ERROR_OUT_OF_HOST_MEMORY. Thread: the context's. */
MOECL_API moecl_status moecl_buffer_create(moecl_context *context, uint64_t bytes,
                                           moecl_buffer **buffer);

/* A buffer that is a part of another one, which it keeps alive. The offset
 * must be a multiple of moecl_buffer_alignment. Views in use at the same time
 * should not overlap: some drivers do not bear it. Thread: the context's. */
MOECL_API moecl_status moecl_buffer_view(const moecl_buffer *parent, uint64_t offset_bytes,
                                         uint64_t bytes, moecl_buffer **view);
/* In bytes; 0 for NULL. Thread-safe. */
MOECL_API uint64_t moecl_buffer_alignment(const moecl_context *context);

/* Releases the memory once work already enqueued on it is done.
 * Thread: the context's. */
MOECL_API void moecl_buffer_destroy(moecl_buffer **buffer);

/* In bytes, as asked for; 0 for NULL. Thread-safe. */
MOECL_API uint64_t moecl_buffer_size(const moecl_buffer *buffer);

/* Waits: copies between host and device memory after all work enqueued before
 * on the context's queue. Ranges outside the buffer are
 * MOECL_ERROR_INVALID_ARGUMENT and copy nothing. Thread: the context's. */
MOECL_API moecl_status moecl_buffer_read_wait(const moecl_buffer *buffer, uint64_t offset_bytes,
                                              uint64_t bytes, void *dst);
MOECL_API moecl_status moecl_buffer_write_wait(moecl_buffer *buffer, uint64_t offset_bytes,
                                               uint64_t bytes, const void *src);

/* Enqueues filling the range with one repeated byte. On an out-of-order queue it
 * ends with a barrier: commands enqueued after it, the caller's own too, run
 * after it. Thread: the context's. */
MOECL_API moecl_status moecl_buffer_fill_byte(moecl_buffer *buffer, uint64_t offset_bytes,
                                              uint64_t bytes, uint8_t value);

#ifdef __cplusplus
}
#endif
#endif
