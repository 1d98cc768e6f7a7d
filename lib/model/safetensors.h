// SPDX-License-Identifier: MIT
/* What the rest of lib/model and tests need beside the public header. */
#ifndef MOECL_LIB_MODEL_SAFETENSORS_H
#define MOECL_LIB_MODEL_SAFETENSORS_H

#include "base/log.h"
#include "moecl/safetensors.h"
#include <jansson.h>

enum { SAFETENSORS_MAX_HEADER = 100000000 }; /* the format's own limit */

/* The same from bytes that the caller keeps; `name` stands for the path. */
moecl_status safetensors_open_memory(const char *name, const void *bytes, uint64_t size,
                                     const moecl_log *log, moecl_safetensors **file);

/* "__metadata__", the file's; NULL: it has none. */
json_t *safetensors_metadata(const moecl_safetensors *file);

/* Is an element of the tensor a floating-point number, and one alone? */
bool safetensors_is_real(const moecl_safetensors_tensor *tensor);

/* MOECL_ERROR_IO, logged, if the file has become shorter than its mapping. */
moecl_status safetensors_still_whole(const moecl_safetensors *file);

/* Has the system read a tensor's bytes from the disk, no others, while others are
 * worked on. */
void safetensors_will_need(const moecl_safetensors *file, const moecl_safetensors_tensor *tensor,
                           uint64_t offset, uint64_t bytes);

/* Gives the pages of a tensor's bytes back, which were read and won't be again
 * soon. The data stay readable. */
void safetensors_done_with(const moecl_safetensors *file, const moecl_safetensors_tensor *tensor,
                           uint64_t offset, uint64_t bytes);

#endif
