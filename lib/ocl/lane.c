// SPDX-License-Identifier: MIT
/* Copies between device and host beside a context's queue. */
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS /* clCreateCommandQueue, as in context.c */
#include "ocl/program.h"
#include <stdlib.h>
#include <string.h>

moecl_status ocl_lane_create(moecl_context *context, ocl_lane *lane) {
  cl_int code;
  cl_command_queue queue =
      clCreateCommandQueue(context->cl, context->device, CL_QUEUE_PROFILING_ENABLE, &code);
  MOECL_TRY(ocl_check(context, code, "clCreateCommandQueue"));
  *lane = (ocl_lane){ocl_context_retain(context), queue};
  return MOECL_OK;
}

void ocl_lane_release(ocl_lane *lane) {
  if (!lane->context) return;
  clReleaseCommandQueue(lane->queue);
  moecl_context_destroy(&lane->context);
  *lane = (ocl_lane){0};
}

moecl_status ocl_lane_finish(ocl_lane *lane) {
  return lane->context ? ocl_check(lane->context, clFinish(lane->queue), "clFinish") : MOECL_OK;
}

static moecl_status flush(const ocl_lane *lane, cl_event *done) {
  const moecl_status status = ocl_check(lane->context, clFlush(lane->queue), "clFlush");
  if (status == MOECL_OK) return MOECL_OK;
  clReleaseEvent(*done);
  *done = NULL;
  return status;
}

moecl_status ocl_lane_read(ocl_lane *lane, const moecl_buffer *from, uint64_t offset,
                           uint64_t bytes, void *to, cl_event after, cl_event *done) {
  *done = NULL;
  MOECL_TRY(
      ocl_check(lane->context,
                clEnqueueReadBuffer(lane->queue, from->mem, CL_FALSE, (size_t)offset, (size_t)bytes,
                                    to, after ? 1 : 0, after ? &after : NULL, done),
                "clEnqueueReadBuffer"));
  return flush(lane, done);
}

moecl_status ocl_lane_write(ocl_lane *lane, const void *from, moecl_buffer *to, uint64_t offset,
                            uint64_t bytes, cl_event after, cl_event *done) {
  *done = NULL;
  MOECL_TRY(
      ocl_check(lane->context,
                clEnqueueWriteBuffer(lane->queue, to->mem, CL_FALSE, (size_t)offset, (size_t)bytes,
                                     from, after ? 1 : 0, after ? &after : NULL, done),
                "clEnqueueWriteBuffer"));
  return flush(lane, done);
}

moecl_status ocl_queue_mark(moecl_context *context, cl_event *event) {
  *event = NULL;
  MOECL_TRY(ocl_check(context, clEnqueueMarkerWithWaitList(context->queue, 0, NULL, event),
                      "clEnqueueMarkerWithWaitList"));
  const moecl_status status = ocl_check(context, clFlush(context->queue), "clFlush");
  if (status == MOECL_OK) return MOECL_OK;
  clReleaseEvent(*event);
  *event = NULL;
  return status;
}

moecl_status ocl_queue_after(moecl_context *context, const cl_event *events, size_t count) {
  if (count == 0) return MOECL_OK;
  return ocl_check(context,
                   clEnqueueBarrierWithWaitList(context->queue, (cl_uint)count, events, NULL),
                   "clEnqueueBarrierWithWaitList");
}

moecl_status ocl_queue_write(const void *from, moecl_buffer *to, uint64_t bytes, cl_event *done) {
  moecl_context *context = to->context;
  *done = NULL;
  MOECL_TRY(ocl_keep_order(context));
  MOECL_TRY(ocl_check(context,
                      clEnqueueWriteBuffer(context->queue, to->mem, CL_FALSE, 0, (size_t)bytes,
                                           from, 0, NULL, done),
                      "clEnqueueWriteBuffer"));
  return ocl_keep_order(context);
}

moecl_status ocl_queue_read(const moecl_buffer *from, uint64_t bytes, void *to, cl_event *done) {
  moecl_context *context = from->context;
  *done = NULL;
  MOECL_TRY(ocl_keep_order(context));
  MOECL_TRY(ocl_check(
      context,
      clEnqueueReadBuffer(context->queue, from->mem, CL_FALSE, 0, (size_t)bytes, to, 0, NULL, done),
      "clEnqueueReadBuffer"));
  return ocl_keep_order(context);
}

void ocl_event_let_go(cl_event *event) {
  if (*event) clReleaseEvent(*event);
  *event = NULL;
}

moecl_status ocl_event_look(moecl_context *context, cl_event event, bool *done) {
  cl_int progress = CL_COMPLETE;
  *done = false;
  MOECL_TRY(ocl_check(
      context,
      clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof progress, &progress, NULL),
      "clGetEventInfo"));
  *done = progress == CL_COMPLETE;
  return progress >= 0 ? MOECL_OK : ocl_check(context, progress, "a copy between device and host");
}

/* ---- pinned memory ---- */

static moecl_status map(ocl_lane *lane, ocl_pinned *pinned, uint64_t bytes) {
  cl_int code;
  pinned->host = clEnqueueMapBuffer(lane->queue, pinned->mem, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE,
                                    0, (size_t)bytes, 0, NULL, NULL, &code);
  if (code != CL_SUCCESS) pinned->host = NULL;
  return ocl_check(lane->context, code, "clEnqueueMapBuffer");
}

/* cl_nv_create_buffer, which Khronos' headers lack: a driver that has it gives memory for the
 * program to map as much of the device's memory besides, unless it is told not to. */
typedef cl_mem(CL_API_CALL *create_buffer_fn)(cl_context, cl_mem_flags, cl_bitfield, size_t, void *,
                                              cl_int *);
enum { LOCATION_HOST = 1 << 0 };

static create_buffer_fn find_create(const moecl_context *context) {
  cl_platform_id platform;
  create_buffer_fn create = NULL;
  if (!ocl_device_has(context->device, "cl_nv_create_buffer") ||
      clGetDeviceInfo(context->device, CL_DEVICE_PLATFORM, sizeof platform, &platform, NULL) !=
          CL_SUCCESS)
    return NULL;
  void *found = clGetExtensionFunctionAddressForPlatform(platform, "clCreateBufferNV");
  memcpy(&create, &found, sizeof create);
  return create;
}

static cl_mem create_mapped(const moecl_context *context, size_t bytes, cl_int *code) {
  const cl_mem_flags flags = CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR;
  const create_buffer_fn create = find_create(context);
  cl_mem mem = create ? create(context->cl, flags, LOCATION_HOST, bytes, NULL, code) : NULL;
  if (create && *code == CL_SUCCESS) return mem;
  return clCreateBuffer(context->cl, flags, bytes, NULL, code);
}

moecl_status ocl_pinned_create(ocl_lane *lane, uint64_t bytes, ocl_pinned *pinned) {
  cl_int code;
  *pinned = (ocl_pinned){.lane = lane, .bytes = bytes};
  pinned->mem = create_mapped(lane->context, bytes ? (size_t)bytes : 1, &code);
  if (code != CL_SUCCESS) pinned->mem = NULL;
  MOECL_TRY(ocl_check(lane->context, code, "clCreateBuffer"));
  const moecl_status status = map(lane, pinned, bytes ? bytes : 1);
  if (status != MOECL_OK) ocl_pinned_release(pinned);
  return status;
}

void ocl_pinned_release(ocl_pinned *pinned) {
  if (pinned->host) {
    clEnqueueUnmapMemObject(pinned->lane->queue, pinned->mem, pinned->host, 0, NULL, NULL);
    clFinish(pinned->lane->queue);
  }
  if (pinned->mem) clReleaseMemObject(pinned->mem);
  *pinned = (ocl_pinned){0};
}
