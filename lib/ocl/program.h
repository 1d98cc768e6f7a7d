// SPDX-License-Identifier: MIT
/* Inside the room: programs, their sources and their disk cache. */
#ifndef MOECL_LIB_OCL_PROGRAM_H
#define MOECL_LIB_OCL_PROGRAM_H

#include "base/base.h"
#include "ocl/ocl.h"

/* The files below cl/, written into the library by scripts/embed_kernels.py;
 * the last entry's path is NULL. */
struct ocl_embedded {
  const char *path;
  const char *text;
  size_t size;
};
extern const struct ocl_embedded ocl_embedded_sources[];

struct ocl_program {
  ocl_program *next;
  char key[33];
  cl_program cl;
  bool checked;    /* its self-check passed */
  bool from_disk;  /* the cache had it */
  bool distrusted; /* found wrong: kernels that have it keep it, new ones don't get it */
};

/* Adds `source` to `text`, its includes expanded, from the context's
 * kernel_dir or the embedded files. A failure is logged. */
moecl_status ocl_source_expand(moecl_context *context, const char *source, base_text *text);

/* clBuildProgram for the context's device, in the "C" locale. */
cl_int ocl_program_build(moecl_context *context, cl_program program, const char *options);

/* ---- a program of a text: what ocl_kernel_create consists of ---- */

/* The compiler's options, which follow from the text. */
const char *ocl_program_options(const char *text);
moecl_status ocl_program_key(moecl_context *context, const base_text *text, char key[33]);
/* The context's; NULL: it has none that is trusted. */
ocl_program *ocl_program_find(const moecl_context *context, const char *key);
/* Builds it of its source; `source` and `defines` are for messages. */
moecl_status ocl_program_build_text(moecl_context *context, const base_text *text,
                                    const char *source, const char *defines, cl_program *program);
/* Takes `program` over on success. */
moecl_status ocl_program_keep(moecl_context *context, const char *key, cl_program program,
                              bool from_disk, ocl_program **kept);
/* With ocl_ahead_begin: remembers that the program will be asked for. */
moecl_status ocl_ahead_note(moecl_context *context, const base_text *text);

/* The disk cache's name of a program: everything that decides its binary. */
moecl_status ocl_cache_key(moecl_context *context, const base_text *source, const char *options,
                           char key[33]);
/* A program's binary in the disk cache. */
typedef struct ocl_entry {
  char *data; /* NULL: there is none */
  size_t size;
} ocl_entry;
void ocl_entry_read(moecl_context *context, const char *key, ocl_entry *entry);
/* Built for the text that it is of, or NULL. */
cl_program ocl_entry_program(moecl_context *context, const ocl_entry *entry, const char *text);
void ocl_entry_release(ocl_entry *entry);
/* The entry was of use: what was not for longest goes first. */
void ocl_cache_used(moecl_context *context, const char *key);
/* Removes the entry: the driver took it, and it was the wrong program. */
void ocl_cache_remove(moecl_context *context, const char *key);
void ocl_cache_store(moecl_context *context, const char *key, cl_program program);

/* A second build of NVIDIA's PTX for one particular target, for sources that ask
 * for it; lib/ocl/ptx.c says why. */
/* The target a source asks for; false if it asks for none. */
bool ocl_ptx_target(const char *source, char *target, size_t size);
/* Appends `ptx` with its marks removed, lines of the first build alone left out, and its target
 * replaced. */
void ocl_ptx_retarget(const char *ptx, const char *target, base_text *out);
/* Builds `first`'s PTX again for `target`. *program may be set on failure too, for
 * its build log; the caller releases it. */
moecl_status ocl_ptx_rebuild(moecl_context *context, cl_program first, const char *target,
                             const char *options, cl_program *program);

void ocl_programs_free(ocl_program *programs);

/* One device with its handles, for opening what a list's index chose. */
typedef struct ocl_found_device {
  cl_platform_id platform;
  cl_device_id device;
} ocl_found_device;

/* What clGetPlatformIDs says where no driver is there. */
#define OCL_PLATFORM_NOT_FOUND (-1001)

/* Lists all devices; `found` (may be NULL) gets the handles in the same order. What
 * fails is logged by the context; NULL: not logged. */
moecl_status ocl_devices_find(moecl_context *context, moecl_device_info **infos,
                              ocl_found_device **found, size_t *count);
/* Adds a line ("\n  ...") for each platform without devices and each registered
 * driver that can't be loaded, and one if none is registered. */
void ocl_devices_explain(base_text *text);
/* Asks a device for everything but its place in the list. */
void ocl_device_query(cl_device_id device, moecl_device_info *info);
/* pages.c: asks the operating system to have a new buffer, which holds nothing yet, in large pages,
 * where that is a processor's and worth it. Waits for nothing of the context's queue. */
moecl_status ocl_pages_ask(moecl_context *context, cl_mem mem, uint64_t bytes);
/* host_cpu.c: the moecl_capability bits whose instructions this machine's processor has and this
 * process may run; none of them is proven by that. */
uint32_t ocl_host_cpu_capabilities(void);
/* A log's function that makes errors messages for debugging; `user` is the log that gets them. */
void ocl_log_demoted(void *user, moecl_log_level level, const char *message);
/* Is the extension, a whole word, among the device's? */
bool ocl_device_has(cl_device_id device, const char *extension);
/* The least sub-group that a kernel may require; 0: it may not. */
uint32_t ocl_least_subgroup(cl_device_id device);

#endif
