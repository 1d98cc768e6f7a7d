// SPDX-License-Identifier: MIT
/* A context: one device, one queue, the compiled programs and their cache. */
#ifndef MOECL_CONTEXT_H
#define MOECL_CONTEXT_H

#include "moecl/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moecl_context moecl_context;

/* The completion of enqueued work. Created by calls that enqueue; the caller
 * owns it and destroys it, before or after it completes. It serves wait lists of its own
 * context. */
typedef struct moecl_event moecl_event;

typedef enum moecl_log_level {
  MOECL_LOG_ERROR = 0, /* the call that logs it fails */
  MOECL_LOG_WARNING,   /* e.g. a variant that does not build is left out; work goes on */
  MOECL_LOG_INFO,      /* e.g. which variant was chosen */
  MOECL_LOG_DEBUG      /* e.g. cache hits, build options */
} moecl_log_level;

/* Called from the thread that calls the library; `message` is one or more
 * lines without a final newline, valid during the call only. It must not call the library
 * on the context that logs, or on its objects. */
typedef void (*moecl_log_fn)(void *user, moecl_log_level level, const char *message);

typedef struct moecl_context_params {
  const char *device;     /* see moecl_device_choose; NULL or "auto": $MOECL_DEVICE, which may
                             say the same things, else "auto" */
  moecl_log_fn log;       /* NULL: details are discarded */
  void *log_user;         /* passed to `log` */
  const char *kernel_dir; /* read kernel sources from here instead of the embedded ones;
                             NULL: $MOECL_KERNEL_DIR, else embedded. In a program with raised
                             privileges (setuid) no variable counts, neither here nor below */
  const char *cache_dir;  /* where program binaries are kept, "": nowhere; NULL: $MOECL_CACHE_DIR,
                             which may be empty as well, else $XDG_CACHE_HOME/moecl, else
                             $HOME/.cache/moecl. Kept below 256 MiB:
                             what was not used for longest goes first. Binaries are native
                             code: a folder that another user owns (root's may be used), or that
                             others can write, is not used, with a warning */
  bool disable_cache;     /* build every program from source */
  uint64_t reserved[8];   /* zeros: see moecl.h */
} moecl_context_params;

/* Opens a device, with a queue of its own, in order and with profiling. `params` may be
 * NULL: all defaults. The strings are copied; `log` and `log_user` have to serve until the
 * context and all its objects are destroyed.
 * Errors: MOECL_ERROR_NO_DEVICE (the log lists what was found),
 * MOECL_ERROR_DEVICE, MOECL_ERROR_IO (kernel_dir is no folder),
 * MOECL_ERROR_INVALID_ARGUMENT (`reserved` is not zeros),
 * MOECL_ERROR_OUT_OF_HOST_MEMORY. Thread-safe (it reads the
 * environment, which no thread may change meanwhile). */
MOECL_API moecl_status moecl_context_create(const moecl_context_params *params,
                                            moecl_context **context);

/* Drops the caller's hold. Buffers, layers, events and profiles created from the context
 * keep it alive until they are destroyed. Does not wait: enqueued work still runs, though
 * on a queue of the context's own there is no way to wait for it then. Thread: the context's. */
MOECL_API void moecl_context_destroy(moecl_context **context);

/* The opened device, its probed capabilities included. Belongs to the context and is valid
 * while that lives. NULL for NULL. Thread-safe. */
MOECL_API const moecl_device_info *moecl_context_device(const moecl_context *context);

/* The folder that kernel sources are read from; NULL: they are the embedded
 * ones. Valid while the context lives. Thread-safe. */
MOECL_API const char *moecl_context_kernel_dir(const moecl_context *context);
/* The folder of compiled programs, and of what else is worth keeping of a device; NULL: none,
 * and for NULL. It need not exist yet. The context's. Thread-safe. */
MOECL_API const char *moecl_context_cache_dir(const moecl_context *context);

/* Writes 32 hexadecimal digits and a NUL that stand for the text of all kernel
 * sources, as the context would read them now: equal for equal sources, be
 * they embedded or in a folder. In a folder only the files that are embedded
 * count, and one that cannot be read counts as missing.
 * Errors: MOECL_ERROR_INVALID_ARGUMENT (a NULL), MOECL_ERROR_OUT_OF_HOST_MEMORY;
 * `hash` is then "". Thread-safe. */
MOECL_API moecl_status moecl_context_kernel_hash(const moecl_context *context, char hash[33]);

/* Why calls failed: what was logged at MOECL_LOG_ERROR since this was last
 * called, with or without a callback, oldest first, a line end between two messages.
 * The last 2000 bytes are kept, 1000 of one message; the oldest lines go first. A
 * failing OpenCL call is there by name and code: "clCreateBuffer failed:
 * CL_MEM_OBJECT_ALLOCATION_FAILURE (-4)". Called after each call that fails, it
 * gives that one's reason. Writes it to `text`, cut off after `size` - 1 bytes, and a NUL (`text`
 * may be NULL), forgets it, and returns how long it was without the NUL; 0: nothing, or no context.
 * Thread: the context's. */
MOECL_API size_t moecl_context_take_errors(moecl_context *context, char *text, size_t size);

/* Device bytes of the buffers that were made in the context and are not destroyed: layers',
 * workspaces', caches' and the caller's, no views and none that were wrapped. `most` (may be NULL)
 * receives the most that they were at once, since the context was created or
 * moecl_context_reset_memory was called. 0 for NULL. Thread: the context's. */
MOECL_API uint64_t moecl_context_memory(const moecl_context *context, uint64_t *most);
/* From here on `most` is counted anew. NULL is allowed. Thread: the context's. */
MOECL_API void moecl_context_reset_memory(moecl_context *context);

/* Waits until everything enqueued on the context's queue is done, a program's own commands
 * on it included. MOECL_ERROR_DEVICE if the driver says that it failed.
 * Thread: the context's. */
MOECL_API moecl_status moecl_context_finish_wait(moecl_context *context);

/* Waits for the event, which may be waited for again. MOECL_ERROR_DEVICE if the work, or an
 * event of its wait list, failed. Thread: the context's. */
MOECL_API moecl_status moecl_event_wait(moecl_event *event);
/* Does not wait, and leaves the work as it is. Thread: the context's. */
MOECL_API void moecl_event_destroy(moecl_event **event);

#ifdef __cplusplus
}
#endif
#endif
