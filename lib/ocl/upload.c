// SPDX-License-Identifier: MIT
/* Host memory into a device's through pinned pieces, which several threads fill: a driver that is
 * given plain memory copies it to pinned memory by one thread, and the bus waits for that. */
#include "base/parallel.h"
#include "ocl/program.h"
#include <stdlib.h>
#include <string.h>

/* One thread copies about 10 GB/s, a bus takes 25 to 55. Each has two pieces: it fills one while
 * the other is on its way. */
enum { PIECE_BYTES = 1 << 20, MOST_THREADS = 8, MOST_PIECES = 2 * MOST_THREADS };

struct ocl_upload {
  ocl_lane lane; /* of the context that owns all this, and does not own itself */
  ocl_pinned pinned;
  int threads;
  cl_event sent[MOST_PIECES]; /* NULL: the piece is free */
};

static int threads_for(uint64_t bytes) {
  const uint64_t pieces = base_div_up(bytes, PIECE_BYTES);
  const int there = base_threads(0), most = there < MOST_THREADS ? there : MOST_THREADS;
  return pieces < (uint64_t)most ? (int)(pieces ? pieces : 1) : most;
}

void ocl_upload_destroy(ocl_upload **handle) {
  ocl_upload *upload = *handle;
  *handle = NULL;
  if (!upload) return;
  if (upload->lane.queue) ocl_lane_finish(&upload->lane);
  for (int i = 0; i < MOST_PIECES; i++) ocl_event_let_go(&upload->sent[i]);
  ocl_pinned_release(&upload->pinned);
  if (upload->lane.queue) clReleaseCommandQueue(upload->lane.queue);
  free(upload);
}

static moecl_status create(moecl_context *context, ocl_upload *upload) {
  MOECL_TRY(ocl_lane_create(context, &upload->lane));
  moecl_context *counted = context;
  moecl_context_destroy(&counted); /* the lane's reference, which would keep the context for ever */
  return ocl_pinned_create(&upload->lane, (uint64_t)upload->threads * 2 * PIECE_BYTES,
                           &upload->pinned);
}

/* Has room for transfers of about so many bytes: pinned memory takes its time to be had. */
static moecl_status provide(moecl_context *context, uint64_t bytes) {
  const int threads = threads_for(bytes);
  if (context->upload && context->upload->threads >= threads) return MOECL_OK;
  ocl_upload_destroy(&context->upload);
  context->upload = calloc(1, sizeof *context->upload);
  if (!context->upload)
    return log_error(&context->log, MOECL_ERROR_OUT_OF_HOST_MEMORY, "no host memory");
  context->upload->threads = threads;
  const moecl_status status = create(context, context->upload);
  if (status != MOECL_OK) ocl_upload_destroy(&context->upload);
  return status;
}

bool ocl_upload_pays(const moecl_context *context, uint64_t bytes) {
  return !context->one_memory && bytes >= PIECE_BYTES;
}

/* ---- one transfer ---- */

/* Of a thread: its latest call, and what it returned. */
typedef struct outcome {
  cl_int code;
  const char *call;
} outcome;

typedef struct transfer {
  ocl_upload *upload;
  const char *src;
  cl_mem to;
  uint64_t first, bytes; /* of `to` */
  cl_event after;
  outcome outcome[MOST_THREADS];
  bool sent[MOST_PIECES]; /* the piece's event is of this transfer */
} transfer;

/* Piece number `number` of the transfer by way of one of the two of a thread's. */
static outcome send(transfer *t, int place, uint64_t number) {
  ocl_upload *upload = t->upload;
  cl_event *sent = &upload->sent[place];
  const uint64_t offset = number * PIECE_BYTES, left = t->bytes - offset;
  const size_t size = (size_t)(left < PIECE_BYTES ? left : PIECE_BYTES);
  char *piece = (char *)upload->pinned.host + (size_t)place * PIECE_BYTES;
  if (*sent) {
    const cl_int code = clWaitForEvents(1, sent);
    /* That an earlier transfer failed its own event tells. */
    const bool is_over = code == CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST && !t->sent[place];
    ocl_event_let_go(sent);
    if (code != CL_SUCCESS && !is_over) return (outcome){code, "clWaitForEvents"};
  }
  memcpy(piece, t->src + offset, size);
  cl_int code =
      clEnqueueWriteBuffer(upload->lane.queue, t->to, CL_FALSE, (size_t)(t->first + offset), size,
                           piece, t->after ? 1 : 0, t->after ? &t->after : NULL, sent);
  if (code != CL_SUCCESS) *sent = NULL;
  t->sent[place] = code == CL_SUCCESS;
  if (code != CL_SUCCESS) return (outcome){code, "clEnqueueWriteBuffer"};
  code = clFlush(upload->lane.queue);
  return (outcome){code, "clFlush"};
}

static void send_range(void *user, int part, int64_t first, int64_t end) {
  transfer *t = user;
  for (int64_t i = first; i < end && t->outcome[part].code == CL_SUCCESS; i++)
    t->outcome[part] = send(t, 2 * part + (int)((i - first) % 2), (uint64_t)i);
}

/* An event that fails where a piece on its way does, which one of the queue alone need not. */
static moecl_status mark(moecl_context *context, const transfer *t, cl_event *done) {
  cl_event last[MOST_PIECES];
  cl_uint count = 0;
  for (int i = 0; i < MOST_PIECES; i++)
    if (t->sent[i]) last[count++] = t->upload->sent[i];
  MOECL_TRY(ocl_check(
      context, clEnqueueMarkerWithWaitList(t->upload->lane.queue, count, count ? last : NULL, done),
      "clEnqueueMarkerWithWaitList"));
  const moecl_status status = ocl_check(context, clFlush(t->upload->lane.queue), "clFlush");
  if (status != MOECL_OK) ocl_event_let_go(done);
  return status;
}

moecl_status ocl_upload_write(moecl_context *context, const void *src, moecl_buffer *to,
                              uint64_t offset, uint64_t bytes, cl_event after, cl_event *done) {
  *done = NULL;
  MOECL_TRY(provide(context, bytes));
  ocl_upload *upload = context->upload;
  transfer t = {
      .upload = upload, .src = src, .to = to->mem, .first = offset, .bytes = bytes, .after = after};
  const int wanted = threads_for(bytes);
  const int threads = wanted < upload->threads ? wanted : upload->threads;
  base_parallel(threads, (int64_t)base_div_up(bytes, PIECE_BYTES), send_range, &t);
  for (int i = 0; i < threads; i++)
    MOECL_TRY(ocl_check(context, t.outcome[i].code, t.outcome[i].call));
  return mark(context, &t, done);
}
