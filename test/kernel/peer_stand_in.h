// SPDX-License-Identifier: MIT
/* Instead of libcuda (lib/ocl/nvidia_peer.c, nvidia_engine.c; --wrap): memory that contexts share
 * is a buffer of their one cl_context, in host memory that an address means, and a copy engine is a
 * thread that does in its order, and late, what it is asked for. */
#ifndef MOECL_TEST_PEER_STAND_IN_H
#define MOECL_TEST_PEER_STAND_IN_H

#include "ocl/ocl.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What a test sets. */
static struct {
  uint64_t most, worth; /* bytes of an import; of what engines copy */
  const char *refusal;
  int failing_import, failing_engine, failing_mapping, failing_copy; /* which from 1 on; 0: none */
  int late_us;     /* at the most, before each thing that an engine does */
  bool early;      /* engines tell before they copy: that waits until somebody waits for them */
  bool mute, deaf; /* tell nothing; see no word that is not an interrupt's */
  bool held;       /* do nothing */
} stand_in = {.most = UINT64_C(1) << 40};

/* What there is, or was asked for. */
static struct {
  int sharers, shared, imports, engines, made_engines, mappings, made_mappings, copies, tells;
} seen;

struct ocl_sharer {
  moecl_context *context;
};

const char *__wrap_ocl_sharer_create(moecl_context *context, ocl_sharer **sharer);
ocl_device_mark __wrap_ocl_sharer_mark(const ocl_sharer *sharer);
const char *__wrap_ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_device_mark *other);
void __wrap_ocl_sharer_destroy(ocl_sharer **sharer);
moecl_status __wrap_ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes, ocl_shared *shared);
moecl_status __wrap_ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                                      moecl_buffer **buffer);
void __wrap_ocl_shared_close(ocl_shared *shared);
uint64_t __wrap_ocl_shared_most(void);

const char *__wrap_ocl_sharer_create(moecl_context *context, ocl_sharer **sharer) {
  *sharer = calloc(1, sizeof **sharer);
  if (!*sharer) return "no host memory";
  (*sharer)->context = context;
  seen.sharers++;
  return NULL;
}

ocl_device_mark __wrap_ocl_sharer_mark(const ocl_sharer *sharer) {
  (void)sharer;
  return (ocl_device_mark){{0}};
}

const char *__wrap_ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_device_mark *other) {
  (void)sharer, (void)other;
  return stand_in.refusal;
}

void __wrap_ocl_sharer_destroy(ocl_sharer **sharer) {
  seen.sharers -= *sharer != NULL;
  free(*sharer);
  *sharer = NULL;
}

/* ---- memory ---- */

typedef struct stand_in_memory {
  cl_mem mem;
  void *host;
} stand_in_memory;

static void CL_CALLBACK stand_in_free(cl_mem mem, void *host) {
  (void)mem;
  free(host);
}

moecl_status __wrap_ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes,
                                      ocl_shared *shared) {
  cl_int code;
  stand_in_memory *memory = calloc(1, sizeof *memory);
  *shared = (ocl_shared){.owner = sharer->context, .bytes = bytes ? bytes : 1, .file = -1};
  if (bytes > stand_in.most || !memory) abort();
  memory->host = aligned_alloc(4096, (size_t)(shared->bytes + 4095) / 4096 * 4096);
  memory->mem = clCreateBuffer(sharer->context->cl, CL_MEM_USE_HOST_PTR, (size_t)shared->bytes,
                               memory->host, &code);
  if (code != CL_SUCCESS ||
      clSetMemObjectDestructorCallback(memory->mem, stand_in_free, memory->host) != CL_SUCCESS)
    abort();
  shared->sharer = sharer;
  shared->memory = (uintptr_t)memory;
  seen.shared++;
  return MOECL_OK;
}

moecl_status __wrap_ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                                      moecl_buffer **buffer) {
  const stand_in_memory *memory = (stand_in_memory *)(uintptr_t)shared->memory;
  if (++seen.imports == stand_in.failing_import) return MOECL_ERROR_OUT_OF_DEVICE_MEMORY;
  return moecl_buffer_wrap(context, memory->mem, buffer);
}

void __wrap_ocl_shared_close(ocl_shared *shared) {
  stand_in_memory *memory = (stand_in_memory *)(uintptr_t)shared->memory;
  if (!shared->sharer) return;
  clReleaseMemObject(memory->mem);
  free(memory);
  shared->sharer = NULL;
  seen.shared--;
}

uint64_t __wrap_ocl_shared_most(void) { return stand_in.most; }

/* ---- engines ---- */

typedef struct stand_in_work {
  enum { STAND_IN_AWAIT, STAND_IN_COPY, STAND_IN_TELL } what;
  uint64_t from, to, bytes; /* the word: to */
  uint32_t number;
} stand_in_work;

struct ocl_engine {
  pthread_t thread;
  pthread_mutex_t mutex;
  stand_in_work *work;
  size_t count, room, done;
  unsigned random;
  bool ends, interrupted, waited_for;
};

const char *__wrap_ocl_engine_create(const ocl_sharer *sharer, ocl_engine **engine);
void __wrap_ocl_engine_destroy(ocl_engine **engine);
moecl_status __wrap_ocl_mapping_create(ocl_engine *const *engines, int count,
                                       const ocl_shared *shared, ocl_mapping *mapping);
void __wrap_ocl_mapping_release(ocl_mapping *mapping);
moecl_status __wrap_ocl_engine_await(ocl_engine *engine, uint64_t word, uint32_t number);
moecl_status __wrap_ocl_engine_copy(ocl_engine *engine, uint64_t from, uint64_t to, uint64_t bytes);
moecl_status __wrap_ocl_engine_tell(ocl_engine *engine, uint64_t word, uint32_t number);
moecl_status __wrap_ocl_engine_interrupt(ocl_engine *engine, uint64_t word, uint32_t number);
moecl_status __wrap_ocl_engine_finish_wait(ocl_engine *engine, uint64_t limit, bool *done);
uint64_t __wrap_ocl_engine_worth(void);

static void stand_in_pause(int us) {
  const struct timespec pause = {.tv_nsec = 1000L * us};
  if (us > 0) nanosleep(&pause, NULL);
}

static bool stand_in_flag(ocl_engine *engine, const bool *flag) {
  pthread_mutex_lock(&engine->mutex);
  const bool set = *flag;
  pthread_mutex_unlock(&engine->mutex);
  return set;
}

static void stand_in_do(ocl_engine *engine, const stand_in_work *work) {
  uint32_t *word = (uint32_t *)(uintptr_t)work->to;
  if (stand_in.late_us) stand_in_pause(rand_r(&engine->random) % stand_in.late_us);
  if (work->what == STAND_IN_COPY)
    memcpy((void *)(uintptr_t)work->to, (const void *)(uintptr_t)work->from, (size_t)work->bytes);
  else if (work->what == STAND_IN_TELL && !stand_in.mute)
    __atomic_store_n(word, work->number, __ATOMIC_RELEASE);
  else if (work->what == STAND_IN_AWAIT)
    while (stand_in.deaf ? !stand_in_flag(engine, &engine->interrupted)
                         : (int32_t)(__atomic_load_n(word, __ATOMIC_ACQUIRE) - work->number) < 0)
      stand_in_pause(10);
}

/* The next to be done; with `early` copies come behind all that tells. */
static bool stand_in_next(ocl_engine *engine, stand_in_work *work) {
  pthread_mutex_lock(&engine->mutex);
  size_t next = engine->done;
  while (stand_in.early && !engine->waited_for && next < engine->count &&
         engine->work[next].what == STAND_IN_COPY)
    next++;
  const bool found = next < engine->count;
  if (found) {
    *work = engine->work[next];
    memmove(&engine->work[engine->done + 1], &engine->work[engine->done],
            (next - engine->done) * sizeof *work);
  }
  pthread_mutex_unlock(&engine->mutex);
  return found;
}

static void *stand_in_run(void *user) {
  ocl_engine *engine = user;
  stand_in_work work;
  while (!stand_in_flag(engine, &engine->ends)) {
    if (__atomic_load_n(&stand_in.held, __ATOMIC_ACQUIRE) || !stand_in_next(engine, &work)) {
      stand_in_pause(20);
      continue;
    }
    stand_in_do(engine, &work);
    pthread_mutex_lock(&engine->mutex);
    engine->done++;
    pthread_mutex_unlock(&engine->mutex);
  }
  return NULL;
}

const char *__wrap_ocl_engine_create(const ocl_sharer *sharer, ocl_engine **out) {
  (void)sharer;
  *out = NULL;
  if (++seen.made_engines == stand_in.failing_engine) return "the test has no engine";
  ocl_engine *engine = calloc(1, sizeof *engine);
  if (!engine || pthread_mutex_init(&engine->mutex, NULL) != 0) abort();
  engine->random = (unsigned)seen.made_engines;
  if (pthread_create(&engine->thread, NULL, stand_in_run, engine) != 0) abort();
  *out = engine;
  seen.engines++;
  return NULL;
}

void __wrap_ocl_engine_destroy(ocl_engine **handle) {
  ocl_engine *engine = *handle;
  *handle = NULL;
  if (!engine) return;
  if (engine->done < engine->count) abort(); /* it has something to do */
  pthread_mutex_lock(&engine->mutex);
  engine->ends = true;
  pthread_mutex_unlock(&engine->mutex);
  pthread_join(engine->thread, NULL);
  pthread_mutex_destroy(&engine->mutex);
  free(engine->work);
  free(engine);
  seen.engines--;
}

moecl_status __wrap_ocl_mapping_create(ocl_engine *const *engines, int count,
                                       const ocl_shared *shared, ocl_mapping *mapping) {
  const stand_in_memory *memory = (stand_in_memory *)(uintptr_t)shared->memory;
  *mapping = (ocl_mapping){0};
  if (count == 0) abort();
  if (++seen.made_mappings == stand_in.failing_mapping) return MOECL_ERROR_OUT_OF_DEVICE_MEMORY;
  *mapping = (ocl_mapping){engines[0], (uintptr_t)memory->host, shared->bytes};
  seen.mappings++;
  return MOECL_OK;
}

void __wrap_ocl_mapping_release(ocl_mapping *mapping) {
  seen.mappings -= mapping->engine != NULL;
  *mapping = (ocl_mapping){0};
}

static moecl_status stand_in_ask(ocl_engine *engine, const stand_in_work *work) {
  pthread_mutex_lock(&engine->mutex);
  if (engine->done == engine->count) engine->done = engine->count = 0;
  if (engine->count == engine->room) {
    engine->room = engine->room ? 2 * engine->room : 64;
    engine->work = realloc(engine->work, engine->room * sizeof *engine->work);
    if (!engine->work) abort();
  }
  engine->work[engine->count++] = *work;
  pthread_mutex_unlock(&engine->mutex);
  return MOECL_OK;
}

moecl_status __wrap_ocl_engine_await(ocl_engine *engine, uint64_t word, uint32_t number) {
  return stand_in_ask(engine, &(stand_in_work){STAND_IN_AWAIT, 0, word, 4, number});
}

moecl_status __wrap_ocl_engine_copy(ocl_engine *engine, uint64_t from, uint64_t to,
                                    uint64_t bytes) {
  if (__atomic_add_fetch(&seen.copies, 1, __ATOMIC_RELAXED) == stand_in.failing_copy)
    return MOECL_ERROR_DEVICE;
  return stand_in_ask(engine, &(stand_in_work){STAND_IN_COPY, from, to, bytes, 0});
}

moecl_status __wrap_ocl_engine_tell(ocl_engine *engine, uint64_t word, uint32_t number) {
  __atomic_add_fetch(&seen.tells, 1, __ATOMIC_RELAXED);
  return stand_in_ask(engine, &(stand_in_work){STAND_IN_TELL, 0, word, 4, number});
}

moecl_status __wrap_ocl_engine_interrupt(ocl_engine *engine, uint64_t word, uint32_t number) {
  pthread_mutex_lock(&engine->mutex);
  engine->interrupted = true;
  pthread_mutex_unlock(&engine->mutex);
  __atomic_store_n((uint32_t *)(uintptr_t)word, number, __ATOMIC_RELEASE);
  return MOECL_OK;
}

moecl_status __wrap_ocl_engine_finish_wait(ocl_engine *engine, uint64_t limit, bool *done) {
  enum { PAUSE_US = 50 };
  pthread_mutex_lock(&engine->mutex);
  engine->waited_for = true;
  pthread_mutex_unlock(&engine->mutex);
  *done = false;
  /* Once interrupted it ends, when its thread gets a processor. */
  for (uint64_t waited = 0; !*done && (waited <= limit || engine->interrupted);
       waited += 1000 * PAUSE_US) {
    pthread_mutex_lock(&engine->mutex);
    *done = engine->done == engine->count;
    pthread_mutex_unlock(&engine->mutex);
    if (!*done) stand_in_pause(PAUSE_US);
  }
  return MOECL_OK;
}

uint64_t __wrap_ocl_engine_worth(void) { return stand_in.worth; }

#endif
