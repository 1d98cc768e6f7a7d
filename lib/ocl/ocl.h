// SPDX-License-Identifier: MIT
/* The only room that calls OpenCL: contexts, buffers, programs, launches.
 * Everything above it sees these types and moecl_status. */
#ifndef MOECL_LIB_OCL_OCL_H
#define MOECL_LIB_OCL_OCL_H

#include "base/log.h"
#include "moecl/opencl.h"
#include <stdatomic.h>

typedef struct ocl_ahead ocl_ahead;     /* what is noted to be built */
typedef struct ocl_upload ocl_upload;   /* pinned memory, and a queue for copies from it */
typedef struct ocl_program ocl_program; /* a node of the context's in-memory program cache */

struct moecl_context {
  atomic_int references;
  moecl_log log; /* its errors are the next */
  log_errors errors;
  cl_context cl;
  cl_device_id device;
  cl_command_queue queue;
  bool profiling;    /* the queue records times */
  bool one_memory;   /* host and device have the same: nothing is gained by pinned copies */
  bool out_of_order; /* launches then need barriers between them */
  moecl_device_info info;
  uint64_t address_align;  /* bytes a sub-buffer's offset must be a multiple of */
  char *kernel_dir;        /* NULL: embedded sources */
  char *cache_dir;         /* NULL: no disk cache */
  uint64_t allocated;      /* bytes of the buffers made in it that are alive */
  uint64_t most_allocated; /* the most that they were at once */
  ocl_program *programs;
  ocl_upload *upload; /* NULL: nothing was copied so yet */
  int build_threads;  /* that build programs at a time */
  ocl_ahead *ahead;   /* NULL: programs are built when they are asked for */
};

struct moecl_buffer {
  moecl_context *context;
  cl_mem mem;
  uint64_t bytes;
  struct ocl_views *views; /* the one set of views cut from it; NULL: none */
  cl_mem root;             /* the memory it is a part of, or `mem` */
  uint64_t origin;         /* where in it, in bytes */
  uint64_t counted;        /* of context->allocated; 0: a view, or what was wrapped */
};

struct moecl_event {
  moecl_context *context;
  cl_event cl;
  cl_event *follows; /* [num_follows], retained: what the work before it was to wait for */
  size_t num_follows;
};

moecl_context *ocl_context_retain(moecl_context *context);

/* Between the two, what is enqueued goes to a queue of its own, in order: to wait for it is
 * to wait for nothing of the context's queue, which may hang on its owner. */
typedef struct ocl_aside {
  cl_command_queue queue;
  bool out_of_order;
} ocl_aside;
moecl_status ocl_aside_enter(moecl_context *context, ocl_aside *aside);
void ocl_aside_leave(moecl_context *context, const ocl_aside *aside);

/* The same, and errors are no more than messages for debugging: something is tried. */
typedef struct ocl_trial {
  ocl_aside aside;
  moecl_log log;
} ocl_trial;
moecl_status ocl_trial_enter(moecl_context *context, ocl_trial *trial);
void ocl_trial_leave(moecl_context *context, const ocl_trial *trial);

/* Refuses what a caller hands to `context` and belongs to another one; `what` is its name
 * in the message. */
moecl_status ocl_check_owner(const moecl_context *context, const moecl_context *owner,
                             const char *what);
/* Do two buffers share bytes, as far as OpenCL says? NULL shares none. */
bool ocl_buffers_overlap(const moecl_buffer *a, const moecl_buffer *b);

/* Converts an OpenCL return code at the one boundary: CL_SUCCESS to MOECL_OK,
 * anything else logged as "<call> failed: CL_OUT_OF_RESOURCES (-5)" and
 * mapped (memory codes to MOECL_ERROR_OUT_OF_DEVICE_MEMORY, build codes to
 * MOECL_ERROR_BUILD, the rest to MOECL_ERROR_DEVICE). */
moecl_status ocl_check(moecl_context *context, cl_int code, const char *call);
const char *ocl_error_name(cl_int code);

/* A window of a buffer, for carving a workspace. The offset must be a multiple
 * of context->address_align. The view keeps its parent alive. */
moecl_status ocl_buffer_view(const moecl_buffer *parent, uint64_t offset, uint64_t bytes,
                             moecl_buffer **view);

/* A set of views that fill a buffer, for a workspace. A buffer has one set at a
 * time: cutting another releases the first, and so does destroying the buffer.
 * (Sub-buffers that overlap those of another set made NVIDIA's driver 580 crash
 * in clReleaseMemObject.) All zeros is an empty set. */
typedef struct ocl_views {
  moecl_buffer *parent; /* NULL: nothing is cut */
  moecl_buffer **view;  /* [count], the owner's array; NULL where bytes were 0 */
  size_t count;
} ocl_views;
/* Cuts `count` views of bytes[i], one after the other at aligned offsets. */
moecl_status ocl_views_cut(moecl_buffer *parent, const uint64_t *bytes, ocl_views *views);
void ocl_views_release(ocl_views *views);

/* Does the driver give a buffer of so many bytes, which may be more than it states? Drivers that
 * allocate late are asked for its last byte. Nothing is logged. */
bool ocl_gives_buffer(const moecl_context *context, uint64_t bytes);

/* A buffer that holds `bytes` of `src` from the start: a write would wait for the queue. */
moecl_status ocl_buffer_filled(moecl_context *context, uint64_t bytes, const void *src,
                               moecl_buffer **buffer);
/* A small one of zeros for kernels to write, whichever queue has it first: a fill would come on the
 * context's, behind what that waits for, and self-checks run on another one. */
moecl_status ocl_buffer_zeroed(moecl_context *context, uint64_t bytes, moecl_buffer **buffer);

/* Enqueues a copy between two buffers. */
moecl_status ocl_buffer_copy(const moecl_buffer *src, uint64_t src_offset, moecl_buffer *dst,
                             uint64_t dst_offset, uint64_t bytes);

/* A kernel object of its owner's: arguments set on it stay set. */
typedef struct ocl_kernel {
  moecl_context *context;
  cl_kernel cl;
  ocl_program *program; /* the context's */
  uint32_t local;       /* the work-group size its source requires; 0: none */
  uint32_t items;       /* where it requires none, that of ocl_launch_items */
  char name[64];        /* for messages */
} ocl_kernel;

/* Builds (or finds in memory, or on disk) the program made of `source`, a
 * path below cl/ such as "grouped_gemm/generic.cl", with `defines` ("NAME
 * value" lines, each ended by a newline, put before the source as #define
 * lines; NULL: none), and creates kernel `entry` from it. `#include "..."`
 * lines naming files below cl/ are expanded from the same place as the
 * source. MOECL_ERROR_BUILD logs the build log with the source's name. */
moecl_status ocl_kernel_create(moecl_context *context, const char *source, const char *defines,
                               const char *entry, ocl_kernel **kernel);
void ocl_kernel_destroy(ocl_kernel **kernel);

/* Whether a self-check passed on the kernel's program, remembered for as long as
 * the context lives: by source, defines and options, so by all that decides what
 * the kernel computes. */
bool ocl_kernel_is_checked(const ocl_kernel *kernel);
void ocl_kernel_set_checked(ocl_kernel *kernel);

/* Between the two no program is built: kernels that are created are to be destroyed and nothing
 * else, and what they would consist of is noted (op/check.h knows this: self-checks check nothing).
 * The end builds what was noted and is not there yet, several programs at a time. False where that
 * would gain nothing: there is no end then. */
bool ocl_ahead_begin(moecl_context *context);
void ocl_ahead_end(moecl_context *context);
static inline bool ocl_is_ahead(const moecl_context *context) { return context->ahead != NULL; }

/* How many programs the disk cache gave that no self-check has passed. */
size_t ocl_programs_unproved(const moecl_context *context);
/* Something went wrong, and those may be why: with a warning their entries are
 * removed, and the kernels created from now on are built from source. Returns how
 * many they were. Kernels that exist keep their programs. */
size_t ocl_programs_distrust(moecl_context *context);

/* Sets arguments from the first on, one letter each in `format`:
 *   b  const moecl_buffer * (NULL: a null __global pointer)
 *   i  int32_t   u  uint32_t   l  int64_t   L  uint64_t   f  float
 *   s  size_t bytes of __local memory
 *   I  const int32_t * to 8 of an int8   J  const int64_t * to 8 of a long8 */
moecl_status ocl_kernel_args(ocl_kernel *kernel, const char *format, ...);
/* The same from argument `first` on. */
moecl_status ocl_kernel_args_from(ocl_kernel *kernel, uint32_t first, const char *format, ...);
/* Sets the one argument `index` likewise. */
moecl_status ocl_kernel_arg_buffer(ocl_kernel *kernel, uint32_t index, const moecl_buffer *buffer);

/* A launch, as an observer is told of it. */
typedef struct ocl_launched {
  uint32_t label;     /* the chain's */
  const char *step;   /* the chain's */
  const char *kernel; /* by name */
  cl_event event;
} ocl_launched;

/* What watches the launches of a chain: asked before each whether it wants its event,
 * and given it after. Retaining is its own. */
typedef struct ocl_observer {
  bool (*wants)(struct ocl_observer *observer, bool last);
  void (*record)(struct ocl_observer *observer, const ocl_launched *launched);
} ocl_observer;

/* What launches wait for and report. A caller keeps one per enqueued chain:
 * the first launch takes `waits`, later ones follow it (by queue order, or by
 * a barrier on an out-of-order queue). */
typedef struct ocl_chain {
  moecl_context *context;
  moecl_event *const *waits; /* cleared by the first launch */
  size_t num_waits;
  moecl_event *const *waited; /* what was cleared: set by the first launch */
  size_t num_waited;
  ocl_observer *observer; /* NULL: none */
  uint32_t label;         /* handed to the observer with each launch */
  const char *step;       /* likewise; NULL: it has no name */
  bool last;              /* the launch to come is the last */
} ocl_chain;

/* The largest power of two up to `wanted` (one itself) that the device takes as a
 * work-group, for kernels whose size is a define, LOCAL. */
uint32_t ocl_local_size(const moecl_context *context, uint32_t wanted);

/* Enqueues a kernel whose source requires no work-group size over `items`
 * work-items or some more. */
moecl_status ocl_launch_items(ocl_chain *chain, ocl_kernel *kernel, uint64_t items);
/* `items` in the first dimension, `rows` in the second. */
moecl_status ocl_launch_items_2d(ocl_chain *chain, ocl_kernel *kernel, uint64_t items,
                                 uint64_t rows);
/* Enqueues kernel over `groups` work-groups of `local` work-items in one
 * dimension (groups 0: nothing is enqueued, which is not an error). */
moecl_status ocl_launch(ocl_chain *chain, ocl_kernel *kernel, uint64_t groups, uint32_t local);
/* The same in two dimensions: groups_x * groups_y groups of local_x * 1 items. */
moecl_status ocl_launch_2d(ocl_chain *chain, ocl_kernel *kernel, uint64_t groups_x,
                           uint64_t groups_y, uint32_t local_x);
moecl_status ocl_event_release(moecl_context *context, cl_event event);
/* Lets *kept go (NULL is allowed) and keeps `event` in its place; NULL: nothing. False
 * where the event cannot be retained: *kept is then as it was. */
bool ocl_event_keep(cl_event *kept, cl_event event);
moecl_status ocl_event_await(moecl_context *context, cl_event event);

/* Puts a barrier before the next command where the queue wouldn't keep order.
 * Calls that enqueue and give no event end with it, so that what their caller
 * enqueues follows them. */
moecl_status ocl_keep_order(moecl_context *context);

/* Hands an event of the kernel of that name to the chain's observer and releases it. NULL is
 * allowed. */
moecl_status ocl_chain_record(const ocl_chain *chain, const char *kernel, cl_event event);

/* What is enqueued next in the chain's queue follows everything before and, where no
 * launch has taken it yet, the chain's wait list. */
moecl_status ocl_chain_order(ocl_chain *chain);
/* An event that completes with everything the chain enqueued so far. */
moecl_status ocl_chain_end(ocl_chain *chain, moecl_event **event);

/* ---- copies beside the context's queue (lane.c) ---- */

/* A queue of its own, in order, for copies between device and host that run beside kernels. */
typedef struct ocl_lane {
  moecl_context *context; /* retained; NULL: there is none */
  cl_command_queue queue;
} ocl_lane;
moecl_status ocl_lane_create(moecl_context *context, ocl_lane *lane);
void ocl_lane_release(ocl_lane *lane); /* zeros are allowed */
moecl_status ocl_lane_finish(ocl_lane *lane);

/* Enqueue and send off a copy that begins after `after` (NULL: at once). *done is the caller's to
 * let go of; host memory has to be there until then. Ranges are the caller's to check. */
moecl_status ocl_lane_read(ocl_lane *lane, const moecl_buffer *from, uint64_t offset,
                           uint64_t bytes, void *to, cl_event after, cl_event *done);
moecl_status ocl_lane_write(ocl_lane *lane, const void *from, moecl_buffer *to, uint64_t offset,
                            uint64_t bytes, cl_event after, cl_event *done);

/* An event that completes with everything on the context's queue so far, which is sent off. */
moecl_status ocl_queue_mark(moecl_context *context, cl_event *event);
/* What is enqueued next on the context's queue follows these events of its cl_context. */
moecl_status ocl_queue_after(moecl_context *context, const cl_event *events, size_t count);
/* Without waiting: is the copy done? A failed one is an error. */
moecl_status ocl_event_look(moecl_context *context, cl_event event, bool *done);
/* Enqueues a write to a buffer's beginning on its context's queue. *done is the caller's to let go
 * of; host memory has to be there until then. */
moecl_status ocl_queue_write(const void *from, moecl_buffer *to, uint64_t bytes, cl_event *done);
/* The same of a read of a buffer's beginning. */
moecl_status ocl_queue_read(const moecl_buffer *from, uint64_t bytes, void *to, cl_event *done);
/* Releases and nulls; NULL is allowed. */
void ocl_event_let_go(cl_event *event);

/* Host memory that the context's driver copies from and to without a detour. */
typedef struct ocl_pinned {
  ocl_lane *lane; /* has to be there until the release, which waits for it */
  cl_mem mem;
  void *host;
  uint64_t bytes;
} ocl_pinned;
moecl_status ocl_pinned_create(ocl_lane *lane, uint64_t bytes, ocl_pinned *pinned);
void ocl_pinned_release(ocl_pinned *pinned); /* zeros are allowed */

/* Plain host memory to a range of a buffer, which is the caller's to check, as fast as the bus
 * takes it (upload.c), after `after` (NULL: at once). When it returns, src is the caller's again;
 * *done, which the caller lets go of, is when the bytes are there. The context keeps the pinned
 * memory. */
moecl_status ocl_upload_write(moecl_context *context, const void *src, moecl_buffer *to,
                              uint64_t offset, uint64_t bytes, cl_event after, cl_event *done);
/* Not for little, nor where host and device have one memory: there the driver's own way is as
 * short. */
bool ocl_upload_pays(const moecl_context *context, uint64_t bytes);
void ocl_upload_destroy(ocl_upload **upload); /* waits for its copies; NULL is allowed */

/* ---- memory that contexts of several devices have in common (nvidia_peer.c) ---- */

/* What makes such memory on a context's device. */
typedef struct ocl_sharer ocl_sharer;
/* Why there is none, a static string; NULL: there is one. */
const char *ocl_sharer_create(moecl_context *context, ocl_sharer **sharer);
void ocl_sharer_destroy(ocl_sharer **sharer); /* NULL is allowed; memory stays */
/* What names its device, to other processes of the machine as well. */
typedef struct ocl_device_mark {
  unsigned char bytes[16];
} ocl_device_mark;
ocl_device_mark ocl_sharer_mark(const ocl_sharer *sharer);
/* Why its kernels cannot use the memory of that device, likewise. */
const char *ocl_sharer_refuses(const ocl_sharer *sharer, const ocl_device_mark *other);

/* Memory that is to be imported: by its owner, too. It lives as long as an import or a mapping
 * does, or until the close. Another process's is `bytes` and a `file` of this process, which the
 * close closes. */
typedef struct ocl_shared {
  const moecl_context *owner; /* NULL: another process's */
  uint64_t bytes;             /* as many as were asked for, or some more */
  int file;                   /* -1: there is none */
  const ocl_sharer *sharer;   /* that made it; NULL: nothing was made */
  unsigned long long memory;  /* by libcuda */
} ocl_shared;
moecl_status ocl_shared_create(const ocl_sharer *sharer, uint64_t bytes, ocl_shared *shared);
void ocl_shared_close(ocl_shared *shared); /* on failure, too */
uint64_t ocl_shared_most(void);            /* bytes that can be imported at once */
moecl_status ocl_shared_import(const ocl_shared *shared, moecl_context *context,
                               moecl_buffer **buffer);
/* Takes `mem` over on success; `counted`: it is of the context's memory. */
moecl_status ocl_buffer_adopt(moecl_context *context, cl_mem mem, uint64_t bytes, bool counted,
                              moecl_buffer **buffer);

/* Device start and end in nanoseconds; false without profiling, and where the driver
 * wrote none or an end before the start. Waits. */
bool ocl_event_times(cl_event event, uint64_t *start_ns, uint64_t *end_ns);
/* When it was enqueued, by the same clock; false where the driver does not say. */
bool ocl_event_queued(cl_event event, uint64_t *queued_ns);

/* ---- copies between such memory beside kernels (nvidia_engine.c) ---- */

/* A device's copy engines. What is asked of one it does in that order, beside all queues. */
typedef struct ocl_engine ocl_engine;
/* Why there is none, a static string; NULL: there is one. The sharer has to live longer. */
const char *ocl_engine_create(const ocl_sharer *sharer, ocl_engine **engine);
/* Of one that has nothing to do; NULL is allowed. */
void ocl_engine_destroy(ocl_engine **engine);

/* Shared memory as all of so many engines have it: at one address. Zeros: there is none. */
typedef struct ocl_mapping {
  const ocl_engine *engine;
  uint64_t address, bytes;
} ocl_mapping;
moecl_status ocl_mapping_create(ocl_engine *const *engines, int count, const ocl_shared *shared,
                                ocl_mapping *mapping);
void ocl_mapping_release(ocl_mapping *mapping); /* zeros are allowed; nobody may use it any more */

/* Goes on when the word at that address is the number, or one of the 2^31 - 1 behind it. */
moecl_status ocl_engine_await(ocl_engine *engine, uint64_t word, uint32_t number);
moecl_status ocl_engine_copy(ocl_engine *engine, uint64_t from, uint64_t to, uint64_t bytes);
/* Who sees the word sees what was copied before. */
moecl_status ocl_engine_tell(ocl_engine *engine, uint64_t word, uint32_t number);
/* The same at once, whatever was asked before: ends an await whose number does not come. */
moecl_status ocl_engine_interrupt(ocl_engine *engine, uint64_t word, uint32_t number);
/* Waits until it has nothing to do, so many nanoseconds at most: *done tells. */
moecl_status ocl_engine_finish_wait(ocl_engine *engine, uint64_t limit, bool *done);
uint64_t ocl_engine_worth(void); /* bytes of a copy that is rather an engine's than a kernel's */

/* Runs the probe kernels and adds what they proved to info.capabilities. */
void ocl_probe_capabilities(moecl_context *context);

#endif
