// SPDX-License-Identifier: MIT
/* Inside the room: NVIDIA's driver library libcuda, which is loaded where it is there. What is used
 * of it is declared here and nowhere else; 0 is success everywhere. */
#ifndef MOECL_LIB_OCL_NVIDIA_CUDA_H
#define MOECL_LIB_OCL_NVIDIA_CUDA_H

#include "ocl/ocl.h"

enum { CUDA_PCI_BUS = 33, CUDA_PCI_SLOT = 34, CUDA_PCI_DOMAIN = 50 }; /* attributes of a device */
enum { CUDA_PINNED = 1, CUDA_ON_DEVICE = 1, CUDA_FILE_DESCRIPTOR = 1 };
enum { CUDA_OUT_OF_MEMORY = 2, CUDA_INVALID_CONTEXT = 201, CUDA_NOT_READY = 600 };
enum { CUDA_READ_WRITE = 3 };          /* access to memory */
enum { CUDA_STREAM_NON_BLOCKING = 1 }; /* does not wait for the default stream */
enum { CUDA_NOT_BEHIND = 0 };          /* (int32_t)(word - number) >= 0 */

typedef struct cuda_location {
  int type, id;
} cuda_location;

typedef struct cuda_allocation {
  int type, handle_types;
  cuda_location location;
  void *windows;
  unsigned char compression, direct_access;
  unsigned short usage;
  unsigned char reserved[4];
} cuda_allocation;

typedef struct cuda_access {
  cuda_location location;
  int flags;
} cuda_access;

typedef unsigned long long cuda_memory, cuda_address;

typedef struct cuda {
  void *library;
  int (*init)(unsigned flags);
  int (*device_count)(int *count);
  int (*device_uuid)(unsigned char uuid[16], int device);
  int (*device_attribute)(int *value, int attribute, int device);
  int (*can_access)(int *can, int device, int other);
  int (*granularity)(size_t *bytes, const cuda_allocation *allocation, int recommended);
  int (*create)(cuda_memory *memory, size_t bytes, const cuda_allocation *allocation,
                unsigned long long flags);
  int (*release)(cuda_memory memory);
  int (*export)(void *file, cuda_memory memory, int handle_type, unsigned long long flags);
  int (*retain)(void **context, int device);
  int (*let_go)(int device);
  int (*push)(void *context);
  int (*pop)(void **context);
} cuda;

/* Of copies beside kernels, which not every driver has. */
typedef struct cuda_streams {
  int (*reserve)(cuda_address *address, size_t bytes, size_t alignment, cuda_address at,
                 unsigned long long flags);
  int (*free)(cuda_address address, size_t bytes);
  int (*map)(cuda_address address, size_t bytes, size_t offset, cuda_memory memory,
             unsigned long long flags);
  int (*unmap)(cuda_address address, size_t bytes);
  int (*set_access)(cuda_address address, size_t bytes, const cuda_access *access, size_t count);
  int (*stream_create)(void **stream, unsigned flags);
  int (*stream_destroy)(void *stream);
  int (*stream_query)(void *stream);
  int (*wait)(void *stream, cuda_address word, uint32_t number, unsigned flags);
  int (*write)(void *stream, cuda_address word, uint32_t number, unsigned flags);
  int (*copy)(cuda_address to, cuda_address from, size_t bytes, void *stream);
} cuda_streams;

/* False where the library or a function is not there. */
bool cuda_load(cuda *cuda);
bool cuda_find_streams(const cuda *cuda, cuda_streams *streams);

struct ocl_sharer {
  moecl_context *context;
  cuda cuda;
  int device; /* by libcuda's count */
  ocl_device_mark mark;
  uint64_t granule;
};

#endif
