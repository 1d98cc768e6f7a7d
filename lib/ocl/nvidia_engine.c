// SPDX-License-Identifier: MIT
/* Copies by NVIDIA's copy engines, which OpenCL has no call for: its copies between buffers of
 * devices are kernels. A stream of libcuda's primary context waits for a word that a kernel of
 * OpenCL's writes, copies, and writes words that other kernels wait for. */
#include "base/base.h"
#include "ocl/nvidia_cuda.h"
#include <stdlib.h>
#include <time.h>

/* WORK: what is asked for; ASIDE: what must not wait behind that. */
enum { WORK, ASIDE, STREAMS };

struct ocl_engine {
  const ocl_sharer *sharer;
  cuda_streams cuda;
  void *context;
  void *stream[STREAMS];
};

/* ---- making ---- */

static const char *make_streams(ocl_engine *engine) {
  const cuda *cuda = &engine->sharer->cuda;
  bool made = true;
  if (!cuda_find_streams(cuda, &engine->cuda))
    return "libcuda.so.1 lacks a function for copies beside kernels";
  if (cuda->retain(&engine->context, engine->sharer->device) != 0) {
    engine->context = NULL;
    return "libcuda.so.1 makes no context on a member's device (cuDevicePrimaryCtxRetain)";
  }
  if (cuda->push(engine->context) != 0) return "libcuda.so.1 does not take its own context";
  for (int i = 0; i < STREAMS && made; i++) {
    made = engine->cuda.stream_create(&engine->stream[i], CUDA_STREAM_NON_BLOCKING) == 0;
    if (!made) engine->stream[i] = NULL;
  }
  cuda->pop(&engine->context);
  return made ? NULL : "libcuda.so.1 makes no stream on a member's device (cuStreamCreate)";
}

const char *ocl_engine_create(const ocl_sharer *sharer, ocl_engine **out) {
  ocl_engine *engine = calloc(1, sizeof *engine);
  *out = engine;
  if (!engine) return "no host memory";
  engine->sharer = sharer;
  const char *why = make_streams(engine);
  if (why) ocl_engine_destroy(out);
  return why;
}

void ocl_engine_destroy(ocl_engine **handle) {
  ocl_engine *engine = *handle;
  *handle = NULL;
  if (!engine) return;
  const cuda *cuda = &engine->sharer->cuda;
  if (engine->context && cuda->push(engine->context) == 0) {
    for (int i = 0; i < STREAMS; i++)
      if (engine->stream[i]) engine->cuda.stream_destroy(engine->stream[i]);
    cuda->pop(&engine->context);
  }
  if (engine->context) cuda->let_go(engine->sharer->device);
  free(engine);
}

/* ---- what is done in the engine's context ---- */

static moecl_status checked(const ocl_engine *engine, int code, const char *call) {
  if (code == 0) return MOECL_OK;
  return log_error(&engine->sharer->context->log,
                   code == CUDA_OUT_OF_MEMORY ? MOECL_ERROR_OUT_OF_DEVICE_MEMORY
                                              : MOECL_ERROR_DEVICE,
                   "a copy to another device failed: %s: CUDA error %d", call, code);
}

static moecl_status enter(const ocl_engine *engine) {
  return checked(engine, engine->sharer->cuda.push(engine->context), "cuCtxPushCurrent");
}

static moecl_status leave(const ocl_engine *engine, int code, const char *call) {
  void *context;
  engine->sharer->cuda.pop(&context);
  return checked(engine, code, call);
}

/* ---- memory ---- */

static moecl_status map(ocl_engine *const *engines, int count, const ocl_shared *shared,
                        ocl_mapping *mapping) {
  const cuda_streams *cuda = &engines[0]->cuda;
  const size_t bytes = (size_t)shared->bytes;
  cuda_address address;
  MOECL_TRY(checked(engines[0], cuda->reserve(&address, bytes, 0, 0, 0), "cuMemAddressReserve"));
  const int code = cuda->map(address, bytes, 0, shared->memory, 0);
  if (code != 0) cuda->free(address, bytes);
  else *mapping = (ocl_mapping){engines[0], address, bytes};
  MOECL_TRY(checked(engines[0], code, "cuMemMap"));
  for (int i = 0; i < count; i++) {
    const cuda_access access = {{CUDA_ON_DEVICE, engines[i]->sharer->device}, CUDA_READ_WRITE};
    MOECL_TRY(checked(engines[i], cuda->set_access(address, bytes, &access, 1), "cuMemSetAccess"));
  }
  return MOECL_OK;
}

moecl_status ocl_mapping_create(ocl_engine *const *engines, int count, const ocl_shared *shared,
                                ocl_mapping *mapping) {
  *mapping = (ocl_mapping){0};
  MOECL_TRY(enter(engines[0]));
  const moecl_status status = map(engines, count, shared, mapping);
  leave(engines[0], 0, NULL);
  if (status != MOECL_OK) ocl_mapping_release(mapping);
  return status;
}

void ocl_mapping_release(ocl_mapping *mapping) {
  if (mapping->engine && enter(mapping->engine) == MOECL_OK) {
    mapping->engine->cuda.unmap(mapping->address, (size_t)mapping->bytes);
    mapping->engine->cuda.free(mapping->address, (size_t)mapping->bytes);
    leave(mapping->engine, 0, NULL);
  }
  *mapping = (ocl_mapping){0};
}

/* ---- work ---- */

moecl_status ocl_engine_await(ocl_engine *engine, uint64_t word, uint32_t number) {
  MOECL_TRY(enter(engine));
  return leave(engine, engine->cuda.wait(engine->stream[WORK], word, number, CUDA_NOT_BEHIND),
               "cuStreamWaitValue32");
}

moecl_status ocl_engine_copy(ocl_engine *engine, uint64_t from, uint64_t to, uint64_t bytes) {
  if (bytes == 0) return MOECL_OK;
  MOECL_TRY(enter(engine));
  return leave(engine, engine->cuda.copy(to, from, (size_t)bytes, engine->stream[WORK]),
               "cuMemcpyDtoDAsync");
}

moecl_status ocl_engine_tell(ocl_engine *engine, uint64_t word, uint32_t number) {
  MOECL_TRY(enter(engine));
  return leave(engine, engine->cuda.write(engine->stream[WORK], word, number, 0),
               "cuStreamWriteValue32");
}

moecl_status ocl_engine_interrupt(ocl_engine *engine, uint64_t word, uint32_t number) {
  MOECL_TRY(enter(engine));
  return leave(engine, engine->cuda.write(engine->stream[ASIDE], word, number, 0),
               "cuStreamWriteValue32");
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

moecl_status ocl_engine_finish_wait(ocl_engine *engine, uint64_t limit, bool *done) {
  static const struct timespec pause = {.tv_nsec = 20000};
  const uint64_t begin = now_ns();
  int code;
  *done = false;
  MOECL_TRY(enter(engine));
  while ((code = engine->cuda.stream_query(engine->stream[WORK])) == CUDA_NOT_READY &&
         now_ns() - begin < limit)
    nanosleep(&pause, NULL);
  *done = code != CUDA_NOT_READY;
  return leave(engine, code == CUDA_NOT_READY ? 0 : code, "cuStreamQuery");
}

/* Not measured yet (cl/dispatch/NOTES.md). */
uint64_t ocl_engine_worth(void) { return UINT64_C(2) << 20; }
