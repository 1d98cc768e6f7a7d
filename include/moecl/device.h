// SPDX-License-Identifier: MIT
/* Which OpenCL devices there are, and what matters for choosing one. */
#ifndef MOECL_DEVICE_H
#define MOECL_DEVICE_H

#include "moecl/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moecl_device_type {
  MOECL_DEVICE_GPU = 0,
  MOECL_DEVICE_ACCELERATOR,
  MOECL_DEVICE_CPU,
  MOECL_DEVICE_OTHER
} moecl_device_type;

/* Capabilities a kernel variant may require (bits). Each comes from a device
 * query, or from a probe kernel that ran and gave the right answer. */
typedef enum moecl_capability {
  MOECL_CAP_CPU = 1 << 0,          /* CL_DEVICE_TYPE_CPU: caches instead of local memory */
  MOECL_CAP_LOCAL_MEMORY = 1 << 1, /* dedicated local memory (CL_LOCAL) */
  MOECL_CAP_FP16 = 1 << 2,         /* cl_khr_fp16 arithmetic */
  MOECL_CAP_SUBGROUPS = 1 << 3,    /* sub-groups, queried */
  MOECL_CAP_PTX_SM80 = 1 << 4,     /* a probe ran inline PTX mma.sync and gave the right answer */
  MOECL_CAP_PTX_SM90A = 1 << 5,    /* likewise wgmma and bulk copies, in PTX built a second time */
  MOECL_CAP_LONG_LOOPS = 1 << 6,   /* a probe's 300,000 rounds were all run; without, the context
                                      warns when it is created: some drivers cut loops short */
  MOECL_CAP_MFMA = 1 << 7,         /* a probe ran v_mfma_f32_16x16x16 of fp16 and bf16 in waves of
                                      64, and gave the right answer */
  MOECL_CAP_WMMA = 1 << 8,         /* likewise v_wmma_f32_16x16x16 in waves of 32 */
  MOECL_CAP_SUBGROUP_MATRIX_8 = 1 << 11, /* a probe ran the matrix instruction of sub-groups of 8 in
                                            fp16 and bf16, and gave the right answer */
  MOECL_CAP_SUBGROUP_MATRIX_16 = 1 << 12, /* likewise of sub-groups of 16 */
  MOECL_CAP_INTEGER_DOT = 1 << 14, /* a probe ran cl_khr_integer_dot_product on signed bytes and
                                      gave the right answer */
  MOECL_CAP_AVX512_BF16 = 1 << 16, /* a probe ran AVX-512's dot products of bf16 on this machine's
                                      processor, which has no tile unit, and was right */
  MOECL_CAP_AMX_BF16 = 1 << 17,    /* likewise its tile unit's products of bf16 */
  MOECL_CAP_AMX_INT8 = 1 << 18,    /* likewise of signed bytes */
  MOECL_CAP_AVX512_INT8 = 1 << 19  /* likewise AVX-512's dot products of bytes */
} moecl_capability;

typedef struct moecl_device_info {
  int platform_index;
  int device_index; /* within the platform */
  moecl_device_type type;
  char platform[128];
  char name[128];
  char vendor[128];
  char driver[128];
  char opencl_version[64];   /* CL_DEVICE_VERSION */
  char opencl_c_version[64]; /* CL_DEVICE_OPENCL_C_VERSION */
  uint32_t compute_units;
  uint32_t clock_mhz;
  uint32_t native_vector_width_float; /* CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT */
  uint64_t max_work_group_size;
  uint64_t global_memory_bytes;
  uint64_t max_allocation_bytes; /* as the driver states it; some allow more */
  uint64_t local_memory_bytes;
  bool local_memory_dedicated;
  uint32_t subgroup_size; /* 0: no sub-groups */
  bool fp16;
  uint32_t capabilities; /* moecl_capability bits; probed ones only on an open context */
  uint64_t reserved[16]; /* zeros: see moecl.h */
} moecl_device_info;

/* Lists every platform's devices, in the ICD loader's order.
 * On success *devices is an array of *count entries that the caller releases
 * with moecl_devices_destroy; with no platform at all *count is 0 and the
 * status MOECL_OK. On failure *devices is NULL and *count 0. A platform whose driver
 * fails is passed over. Errors: MOECL_ERROR_DEVICE (the OpenCL loader fails),
 * MOECL_ERROR_INVALID_ARGUMENT (a NULL). Thread-safe. */
MOECL_API moecl_status moecl_devices_list(moecl_device_info **devices, size_t *count);
/* Says what is registered with the OpenCL loader and gives no device, a line each:
 * .icd files whose library can't be loaded, and why; platforms without devices; that
 * no driver is registered. "" where there is nothing to say. Writes at most `size`
 * bytes with the NUL (`text` may be NULL) and returns the whole text's length. It
 * loads the libraries, as the loader did. Thread-safe (it reads the environment). */
MOECL_API size_t moecl_devices_explain(char *text, size_t size);
/* Releases the list, which is host memory. Thread-safe. */
MOECL_API void moecl_devices_destroy(moecl_device_info **devices);

/* Picks from a list what `choice` means; writes the index to *chosen.
 *   NULL or "auto"   first GPU, else accelerator, else CPU, else anything
 *   "gpu" "cpu" "accelerator"   first of that type
 *   "P:D"            platform P, device D
 *   anything else    first device whose name or platform's name contains it, ignoring case
 * Errors: MOECL_ERROR_NO_DEVICE (nothing matches, or count is 0),
 * MOECL_ERROR_INVALID_ARGUMENT (a NULL); *chosen is then left as it was. Thread-safe. */
MOECL_API moecl_status moecl_device_choose(const moecl_device_info *devices, size_t count,
                                           const char *choice, size_t *chosen);

/* "GPU", "accelerator", "CPU"; "other" for every other value. A static string.
 * Thread-safe. */
MOECL_API const char *moecl_device_type_name(moecl_device_type type);

#ifdef __cplusplus
}
#endif
#endif
