// SPDX-License-Identifier: MIT
/* The registry: every operation's variants, from cl/<operation>/variants.def. */
#ifndef MOECL_LIB_KERNEL_VARIANT_H
#define MOECL_LIB_KERNEL_VARIANT_H

#include "moecl/device.h"
#include "moecl/layer.h"

/* Flags of a row. */
enum {
  KERNEL_ASKED_ONLY = 1 << 0,      /* never chosen unless asked for by name */
  KERNEL_F32_ACTIVATIONS = 1 << 1, /* reads and writes activations as fp32, whatever the storage */
  KERNEL_LIBRARY = 1 << 2,         /* the arithmetic is a library's, not the source's */
  KERNEL_PERSISTENT = 1 << 3,      /* one work-group a compute unit takes tile after tile */
  KERNEL_EIGHTS = 1 << 4,          /* rows in the storage type only, sizes multiples of 8 only */
  KERNEL_BY_BLOCKS = 1 << 5,       /* a router or permutation that takes blocks of tokens: the
                                      router counts for the permutation, which drops nothing */
  KERNEL_TALL = 1 << 6,            /* persistent, with a second kernel for many rows an expert */
  KERNEL_TF32 = 1 << 7,            /* multiplies fp32 rounded to tf32, 11 bits */
  KERNEL_HEIGHTS = 1 << 8,         /* tiles of several heights, chosen by rows an expert */
  KERNEL_F32_OUTPUTS = 1 << 9      /* writes experts' outputs as fp32, whatever the storage: for
                                      arithmetic that is slow enough for that to cost nothing */
};

enum { /* shorthand for the rows' data types */
       KERNEL_DTYPE_F32 = 1 << MOECL_F32,
       KERNEL_DTYPE_F16 = 1 << MOECL_F16,
       KERNEL_DTYPE_BF16 = 1 << MOECL_BF16,
       KERNEL_DTYPE_ALL = KERNEL_DTYPE_F32 | KERNEL_DTYPE_F16 | KERNEL_DTYPE_BF16
};

typedef struct kernel_variant {
  const char *name;
  const char *source;   /* below cl/ */
  uint32_t dtypes;      /* bits 1 << moecl_dtype */
  uint32_t required;    /* moecl_capability bits that must hold */
  uint32_t tile_m;      /* rows of a GEMM tile; 0: by vector width (kernel_gemm_tile) */
  uint32_t tile_n;      /* columns of one */
  uint32_t local;       /* work-items of a work-group */
  uint32_t local_bytes; /* the most local memory that one of its kernels declares */
  uint32_t flags;
} kernel_variant;

/* All variants of an operation ("router", "permute", "grouped_gemm",
 * "combine"), most general first, best last; returns how many. */
size_t kernel_variants(const char *operation, const kernel_variant **variants);

/* Could the variant serve this data type on a device with these capabilities? */
bool kernel_variant_serves(const kernel_variant *variant, moecl_dtype dtype, uint32_t capabilities);
/* Are the device's work-groups and local memory large enough for it? */
bool kernel_variant_fits(const kernel_variant *variant, const moecl_device_info *device);

/* Candidates for an operation, best first: the one named `asked` alone, else
 * every row that serves and may be chosen. Returns how many; with `asked` that
 * does not exist or cannot serve, 0, and a sentence in `why` (of `size`). */
size_t kernel_candidates(const char *operation, const char *asked, moecl_dtype dtype,
                         const moecl_device_info *device, const kernel_variant **candidates,
                         size_t capacity, char *why, size_t size);

/* The tile of a GEMM variant on a device whose fp32 vectors are
 * `vector_width` wide, as its kernel source computes it. */
typedef struct kernel_tile {
  uint32_t m, n, vector_width;
} kernel_tile;
kernel_tile kernel_gemm_tile(const kernel_variant *variant, uint32_t vector_width);

#endif
