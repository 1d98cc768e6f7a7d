// SPDX-License-Identifier: MIT
/* Reads safetensors files: an 8-byte length, a JSON header, then the tensors.
 * A file is mapped read-only, not read: opening one costs its header.
 *
 * Everything the header says is checked when the file is opened, so that a
 * tensor's `data` and `bytes` always lie within the mapping. What no check can
 * help: a file that is cut short while it is mapped. Reading `data` past its
 * new end then raises SIGBUS. moecl's own calls compare the file's size before
 * they read a tensor and fail with MOECL_ERROR_IO; they too are exposed while
 * they read it. Replace files by renaming, don't overwrite them. */
#ifndef MOECL_SAFETENSORS_H
#define MOECL_SAFETENSORS_H

#include "moecl/context.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOECL_SAFETENSORS_MAX_RANK 8

typedef struct moecl_safetensors moecl_safetensors;

/* Made by the library alone, which hands out pointers to its own: later versions may add
 * members at its end. */
typedef struct moecl_safetensors_tensor {
  const char *name;
  const char *dtype; /* as the file names it: "F32", "BF16", "F8_E4M3", ... */
  int rank;          /* 0: a single element */
  int64_t shape[MOECL_SAFETENSORS_MAX_RANK];
  uint64_t count, bytes; /* elements; bytes in the file */
  const void *data;      /* little-endian, row-major; aligned to nothing */
} moecl_safetensors_tensor;

/* Opens and checks a file. Refused with one message naming the file and, where
 * there is one, the tensor: a header that is cut short, longer than the file or
 * than 100 MB, nested too deep, not JSON, or that has a name twice; data types that are not
 * known; shapes of more than 8 dimensions, negative ones, or whose size doesn't
 * fit 64 bits or differs from that of data_offsets; data_offsets outside the
 * file, overlapping, or leaving bytes that belong to no tensor.
 * `log` (may be NULL) and `log_user` receive the message, now and from later
 * calls with this file. Errors: MOECL_ERROR_IO (cannot be read, or is not a
 * sound file), MOECL_ERROR_INVALID_ARGUMENT (a NULL), MOECL_ERROR_OUT_OF_HOST_MEMORY.
 * `path` is copied; `log` and `log_user` have to serve until the file is destroyed.
 * Thread-safe. */
MOECL_API moecl_status moecl_safetensors_open(const char *path, moecl_log_fn log, void *log_user,
                                              moecl_safetensors **file);
/* Unmaps the file: its tensors and their data are gone. No other thread may use it. */
MOECL_API void moecl_safetensors_destroy(moecl_safetensors **file);

/* The calls below are thread-safe, and what they return belongs to the file and is valid
 * until it is destroyed. 0 or NULL for NULL. */

/* How many tensors, and tensor `index` in the order of their names; NULL out of
 * range. */
MOECL_API size_t moecl_safetensors_count(const moecl_safetensors *file);
MOECL_API const moecl_safetensors_tensor *moecl_safetensors_at(const moecl_safetensors *file,
                                                               size_t index);
/* NULL if there is no such tensor. */
MOECL_API const moecl_safetensors_tensor *moecl_safetensors_find(const moecl_safetensors *file,
                                                                 const char *name);
/* A text of the header's "__metadata__"; NULL if there is none. */
MOECL_API const char *moecl_safetensors_metadata(const moecl_safetensors *file, const char *key);
MOECL_API const char *moecl_safetensors_path(const moecl_safetensors *file);

/* True, with *dtype (may be NULL), if layers can use the tensor's type: F32, F16 or BF16.
 * Else false, and *dtype is left as it was. */
MOECL_API bool moecl_safetensors_dtype(const moecl_safetensors_tensor *tensor, moecl_dtype *dtype);

/* Converts `count` elements from element `first` on to double, in the file's row-major
 * order: floating point of 16 bits and more, and integers (64-bit ones are rounded). The
 * tensor is one of the file's.
 * Errors, logged with file and tensor: MOECL_ERROR_UNSUPPORTED (another type),
 * MOECL_ERROR_INVALID_ARGUMENT (a range outside the tensor), MOECL_ERROR_IO
 * (the file has become shorter since it was opened). */
MOECL_API moecl_status moecl_safetensors_to_double(const moecl_safetensors *file,
                                                   const moecl_safetensors_tensor *tensor,
                                                   uint64_t first, uint64_t count, double *values);

#ifdef __cplusplus
}
#endif
#endif
