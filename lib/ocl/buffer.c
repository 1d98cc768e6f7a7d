// SPDX-License-Identifier: MIT
#include "ocl/program.h"
#include <stdlib.h>

/* Takes over `mem` on success. */
static moecl_status make(moecl_context *context, cl_mem mem, uint64_t bytes,
                         moecl_buffer **buffer) {
  moecl_buffer *made = malloc(sizeof *made);
  if (!made) return MOECL_ERROR_OUT_OF_HOST_MEMORY;
  *made = (moecl_buffer){
      .context = ocl_context_retain(context), .mem = mem, .bytes = bytes, .root = mem};
  *buffer = made;
  return MOECL_OK;
}

static void count(moecl_buffer *buffer) {
  moecl_context *context = buffer->context;
  buffer->counted = buffer->bytes;
  context->allocated += buffer->counted;
  if (context->allocated > context->most_allocated) context->most_allocated = context->allocated;
}

uint64_t moecl_context_memory(const moecl_context *context, uint64_t *most) {
  if (most) *most = context ? context->most_allocated : 0;
  return context ? context->allocated : 0;
}

void moecl_context_reset_memory(moecl_context *context) {
  if (context) context->most_allocated = context->allocated;
}

moecl_status ocl_buffer_adopt(moecl_context *context, cl_mem mem, uint64_t bytes, bool counted,
                              moecl_buffer **buffer) {
  const moecl_status status = make(context, mem, bytes, buffer);
  if (status == MOECL_OK && counted) count(*buffer);
  return status;
}

bool ocl_gives_buffer(const moecl_context *context, uint64_t bytes) {
  const cl_uchar zero = 0;
  cl_int code;
  if (bytes == 0 || bytes > SIZE_MAX) return bytes == 0;
  cl_mem mem = clCreateBuffer(context->cl, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &code);
  if (code != CL_SUCCESS) return false;
  const bool given = clEnqueueFillBuffer(context->queue, mem, &zero, 1, (size_t)bytes - 1, 1, 0,
                                         NULL, NULL) == CL_SUCCESS &&
                     clFinish(context->queue) == CL_SUCCESS;
  return clReleaseMemObject(mem) == CL_SUCCESS && given;
}

static moecl_status create(moecl_context *context, cl_mem_flags flags, uint64_t bytes,
                           const void *src, moecl_buffer **buffer) {
  /* Asked here because some drivers allocate lazily and would say yes to
   * anything. The largest single allocation a driver states is no limit: some
   * allow more. 0 is a device that didn't say. */
  const uint64_t most = context->info.global_memory_bytes;
  if (bytes > SIZE_MAX || (most > 0 && bytes > most))
    return log_error(&context->log, MOECL_ERROR_OUT_OF_DEVICE_MEMORY,
                     "a buffer of %llu bytes does not fit the device, which has %llu as its "
                     "driver states",
                     (unsigned long long)bytes,
                     (unsigned long long)context->info.global_memory_bytes);
  cl_int code;
  cl_mem mem = clCreateBuffer(context->cl, flags, bytes ? (size_t)bytes : 1, (void *)src, &code);
  if (code != CL_SUCCESS) {
    log_write(&context->log, MOECL_LOG_ERROR, "cannot have a buffer of %llu bytes",
              (unsigned long long)bytes);
    return ocl_check(context, code, "clCreateBuffer");
  }
  moecl_status status = make(context, mem, bytes, buffer);
  if (status != MOECL_OK) clReleaseMemObject(mem);
  else count(*buffer);
  return status;
}

moecl_status moecl_buffer_create(moecl_context *context, uint64_t bytes, moecl_buffer **buffer) {
  if (!buffer) return MOECL_ERROR_INVALID_ARGUMENT;
  *buffer = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  MOECL_TRY(create(context, CL_MEM_READ_WRITE, bytes, NULL, buffer));
  const moecl_status status = ocl_pages_ask(context, (*buffer)->mem, bytes);
  if (status != MOECL_OK) moecl_buffer_destroy(buffer);
  return status;
}

moecl_status ocl_buffer_filled(moecl_context *context, uint64_t bytes, const void *src,
                               moecl_buffer **buffer) {
  return create(context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, bytes, src, buffer);
}

moecl_status ocl_buffer_zeroed(moecl_context *context, uint64_t bytes, moecl_buffer **buffer) {
  void *zeros = calloc(1, bytes ? (size_t)bytes : 1);
  if (!zeros) return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  const moecl_status status =
      create(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, bytes, zeros, buffer);
  free(zeros);
  return status;
}

void moecl_buffer_destroy(moecl_buffer **buffer) {
  if (!buffer || !*buffer) return;
  if ((*buffer)->views) ocl_views_release((*buffer)->views);
  clReleaseMemObject((*buffer)->mem);
  (*buffer)->context->allocated -= (*buffer)->counted;
  moecl_context_destroy(&(*buffer)->context);
  free(*buffer);
  *buffer = NULL;
}

uint64_t moecl_buffer_size(const moecl_buffer *buffer) { return buffer ? buffer->bytes : 0; }
cl_mem moecl_buffer_cl(const moecl_buffer *buffer) { return buffer ? buffer->mem : NULL; }

/* OpenCL has no sub-buffers of sub-buffers: a view of a view (or of a wrapped
 * sub-buffer) is cut from the memory below. */
static moecl_status find_root(moecl_buffer *buffer) {
  cl_mem below = NULL;
  size_t origin = 0;
  MOECL_TRY(ocl_check(
      buffer->context,
      clGetMemObjectInfo(buffer->mem, CL_MEM_ASSOCIATED_MEMOBJECT, sizeof below, &below, NULL),
      "clGetMemObjectInfo"));
  if (!below) return MOECL_OK;
  MOECL_TRY(ocl_check(buffer->context,
                      clGetMemObjectInfo(buffer->mem, CL_MEM_OFFSET, sizeof origin, &origin, NULL),
                      "clGetMemObjectInfo"));
  buffer->root = below;
  buffer->origin = origin;
  return MOECL_OK;
}

moecl_status moecl_buffer_wrap(moecl_context *context, cl_mem mem, moecl_buffer **buffer) {
  if (!buffer) return MOECL_ERROR_INVALID_ARGUMENT;
  *buffer = NULL;
  if (!context) return MOECL_ERROR_INVALID_ARGUMENT;
  if (!mem)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT, "the cl_mem to wrap is NULL");
  size_t bytes = 0;
  cl_context owner = NULL;
  MOECL_TRY(ocl_check(context, clGetMemObjectInfo(mem, CL_MEM_SIZE, sizeof bytes, &bytes, NULL),
                      "clGetMemObjectInfo"));
  MOECL_TRY(ocl_check(context, clGetMemObjectInfo(mem, CL_MEM_CONTEXT, sizeof owner, &owner, NULL),
                      "clGetMemObjectInfo"));
  if (owner != context->cl)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "the cl_mem to wrap belongs to another OpenCL context");
  MOECL_TRY(ocl_check(context, clRetainMemObject(mem), "clRetainMemObject"));
  moecl_status status = make(context, mem, bytes, buffer);
  if (status != MOECL_OK) {
    clReleaseMemObject(mem);
    return status;
  }
  status = find_root(*buffer);
  if (status != MOECL_OK) moecl_buffer_destroy(buffer);
  return status;
}

bool ocl_buffers_overlap(const moecl_buffer *a, const moecl_buffer *b) {
  if (!a || !b || a->root != b->root || a->bytes == 0 || b->bytes == 0) return false;
  return a->origin < b->origin + b->bytes && b->origin < a->origin + a->bytes;
}

/* offset + bytes within size, without overflow. */
static bool in_range(uint64_t size, uint64_t offset, uint64_t bytes) {
  return offset <= size && bytes <= size - offset;
}

static moecl_status check_range(const moecl_buffer *buffer, uint64_t offset, uint64_t bytes,
                                const char *what) {
  if (!buffer) return MOECL_ERROR_INVALID_ARGUMENT;
  if (in_range(buffer->bytes, offset, bytes)) return MOECL_OK;
  return log_error(&buffer->context->log, MOECL_ERROR_INVALID_ARGUMENT,
                   "%s: %llu bytes at offset %llu are outside a buffer of %llu bytes", what,
                   (unsigned long long)bytes, (unsigned long long)offset,
                   (unsigned long long)buffer->bytes);
}

moecl_status ocl_buffer_view(const moecl_buffer *parent, uint64_t offset, uint64_t bytes,
                             moecl_buffer **view) {
  *view = NULL;
  MOECL_TRY(check_range(parent, offset, bytes, "view"));
  moecl_context *context = parent->context;
  if (offset % context->address_align)
    return log_error(&context->log, MOECL_ERROR_INVALID_ARGUMENT,
                     "view: offset %llu is not a multiple of the device's %llu",
                     (unsigned long long)offset, (unsigned long long)context->address_align);
  if (bytes == 0) return moecl_buffer_create(context, 0, view); /* no empty sub-buffers */
  cl_buffer_region region = {(size_t)(parent->origin + offset), (size_t)bytes};
  cl_int code;
  cl_mem mem = clCreateSubBuffer(parent->root, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
  MOECL_TRY(ocl_check(context, code, "clCreateSubBuffer"));
  moecl_status status = make(context, mem, bytes, view);
  if (status != MOECL_OK) {
    clReleaseMemObject(mem);
    return status;
  }
  (*view)->root = parent->root;
  (*view)->origin = parent->origin + offset;
  return MOECL_OK;
}

void ocl_views_release(ocl_views *views) {
  if (views->parent) views->parent->views = NULL;
  views->parent = NULL;
  for (size_t i = 0; i < views->count; i++) moecl_buffer_destroy(&views->view[i]);
}

moecl_status ocl_views_cut(moecl_buffer *parent, const uint64_t *bytes, ocl_views *views) {
  ocl_views_release(views);
  if (parent->views) ocl_views_release(parent->views);
  uint64_t offset = 0;
  for (size_t i = 0; i < views->count; i++) {
    if (bytes[i] == 0) continue;
    moecl_status status = ocl_buffer_view(parent, offset, bytes[i], &views->view[i]);
    if (status != MOECL_OK) {
      ocl_views_release(views);
      return status;
    }
    offset += base_round_up(bytes[i], parent->context->address_align);
  }
  views->parent = parent;
  parent->views = views;
  return MOECL_OK;
}

moecl_status moecl_buffer_view(const moecl_buffer *parent, uint64_t offset_bytes, uint64_t bytes,
                               moecl_buffer **view) {
  if (!view) return MOECL_ERROR_INVALID_ARGUMENT;
  return ocl_buffer_view(parent, offset_bytes, bytes, view);
}

uint64_t moecl_buffer_alignment(const moecl_context *context) {
  return context ? context->address_align : 0;
}

moecl_status ocl_buffer_copy(const moecl_buffer *src, uint64_t src_offset, moecl_buffer *dst,
                             uint64_t dst_offset, uint64_t bytes) {
  MOECL_TRY(check_range(src, src_offset, bytes, "copy"));
  MOECL_TRY(check_range(dst, dst_offset, bytes, "copy"));
  if (bytes == 0) return MOECL_OK;
  MOECL_TRY(ocl_keep_order(dst->context));
  return ocl_check(dst->context,
                   clEnqueueCopyBuffer(dst->context->queue, src->mem, dst->mem, (size_t)src_offset,
                                       (size_t)dst_offset, (size_t)bytes, 0, NULL, NULL),
                   "clEnqueueCopyBuffer");
}

moecl_status moecl_buffer_read_wait(const moecl_buffer *buffer, uint64_t offset_bytes,
                                    uint64_t bytes, void *dst) {
  MOECL_TRY(check_range(buffer, offset_bytes, bytes, "read"));
  if (bytes == 0) return MOECL_OK;
  if (!dst)
    return log_error(&buffer->context->log, MOECL_ERROR_INVALID_ARGUMENT, "read: dst is NULL");
  MOECL_TRY(ocl_keep_order(buffer->context));
  return ocl_check(buffer->context,
                   clEnqueueReadBuffer(buffer->context->queue, buffer->mem, CL_TRUE,
                                       (size_t)offset_bytes, (size_t)bytes, dst, 0, NULL, NULL),
                   "clEnqueueReadBuffer");
}

/* In the place that it has in the queue, and then there. */
static moecl_status upload_wait(moecl_buffer *buffer, uint64_t offset, uint64_t bytes,
                                const void *src) {
  cl_event before, done;
  MOECL_TRY(ocl_queue_mark(buffer->context, &before));
  moecl_status status =
      ocl_upload_write(buffer->context, src, buffer, offset, bytes, before, &done);
  if (status == MOECL_OK) status = ocl_event_await(buffer->context, done);
  ocl_event_let_go(&before);
  ocl_event_let_go(&done);
  return status;
}

moecl_status moecl_buffer_write_wait(moecl_buffer *buffer, uint64_t offset_bytes, uint64_t bytes,
                                     const void *src) {
  MOECL_TRY(check_range(buffer, offset_bytes, bytes, "write"));
  if (bytes == 0) return MOECL_OK;
  if (!src)
    return log_error(&buffer->context->log, MOECL_ERROR_INVALID_ARGUMENT, "write: src is NULL");
  MOECL_TRY(ocl_keep_order(buffer->context));
  if (ocl_upload_pays(buffer->context, bytes)) return upload_wait(buffer, offset_bytes, bytes, src);
  return ocl_check(buffer->context,
                   clEnqueueWriteBuffer(buffer->context->queue, buffer->mem, CL_TRUE,
                                        (size_t)offset_bytes, (size_t)bytes, src, 0, NULL, NULL),
                   "clEnqueueWriteBuffer");
}

moecl_status moecl_buffer_fill_byte(moecl_buffer *buffer, uint64_t offset_bytes, uint64_t bytes,
                                    uint8_t value) {
  MOECL_TRY(check_range(buffer, offset_bytes, bytes, "fill"));
  if (bytes == 0) return MOECL_OK;
  MOECL_TRY(ocl_keep_order(buffer->context));
  /* The largest pattern that divides the range: single bytes are slow. */
  uint8_t pattern[128];
  size_t size = sizeof pattern;
  for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = value;
  while (offset_bytes % size || bytes % size) size /= 2;
  MOECL_TRY(ocl_check(buffer->context,
                      clEnqueueFillBuffer(buffer->context->queue, buffer->mem, pattern, size,
                                          (size_t)offset_bytes, (size_t)bytes, 0, NULL, NULL),
                      "clEnqueueFillBuffer"));
  return ocl_keep_order(buffer->context);
}
