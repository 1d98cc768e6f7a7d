// SPDX-License-Identifier: MIT
/* Variants of an operation: rows of cl/<operation>/variants.def, and choosing among
 * them. Which operations there are is known above this room. */
#ifndef MOECL_LIB_KERNEL_VARIANT_H
#define MOECL_LIB_KERNEL_VARIANT_H

#include "desc/format.h"
#include "moecl/device.h"

/* What is said of a row beside its driver. */
enum {
  KERNEL_ASKED_ONLY = 1 << 0,      /* never chosen unless asked for by name */
  KERNEL_LIBRARY = 1 << 1,         /* the arithmetic is CLBlast's, not the source's */
  KERNEL_F32_ACTIVATIONS = 1 << 2, /* reads and writes activations as fp32, whatever the weights */
  KERNEL_F32_OUTPUTS = 1 << 3,     /* writes experts' outputs as fp32: for arithmetic that is slow
                                      enough for that to cost nothing */
  KERNEL_TF32 = 1 << 4,            /* multiplies fp32 rounded to tf32, 11 bits */
  KERNEL_MATRIX_UNITS = 1 << 5,    /* multiplies 16-bit numbers by matrix instructions */
  KERNEL_CODED_INPUT = 1 << 6,     /* reads rows of an activation_format as codes with scales; its
                                      predicate says beside which weights */
  KERNEL_ROUNDED_WEIGHTS = 1 << 7, /* of many rows weights with groups' scales are rounded to the
                                      activations' 16 bits */
  KERNEL_SCATTERED_OUTPUT = 1 << 8 /* can store rows of the output where a list says, in several
                                      places */
};

enum { /* shorthand for the rows' formats */
       KERNEL_F32 = 1 << MOECL_FORMAT_F32,
       KERNEL_F16 = 1 << MOECL_FORMAT_F16,
       KERNEL_BF16 = 1 << MOECL_FORMAT_BF16,
       KERNEL_ALL = KERNEL_F32 | KERNEL_F16 | KERNEL_BF16,
       /* With scales, as common/quantized.clh knows them: a new one is named here by hand. */
       KERNEL_INT8 = 1 << MOECL_FORMAT_INT8 | 1 << MOECL_FORMAT_INT8_G128,
       KERNEL_E4M3 = 1 << MOECL_FORMAT_FP8 | 1 << MOECL_FORMAT_FP8_ROW |
                     1 << MOECL_FORMAT_FP8_BLOCK | 1 << MOECL_FORMAT_FP8_G128,
       KERNEL_QUANTIZED = (1 << (MOECL_FORMAT_FP8_G128 + 1)) - (1 << MOECL_FORMAT_INT8)
};

typedef struct kernel_variant {
  const char *name;
  const char *source;   /* below cl/ */
  uint32_t formats;     /* bits 1 << moecl_format: what the weights, or what is read, may be */
  uint32_t required;    /* moecl_capability bits that must hold */
  uint32_t tile_m;      /* rows of a GEMM tile; 0: by vector width (kernel_gemm_tile) */
  uint32_t tile_n;      /* columns of one */
  uint32_t local;       /* work-items of a work-group */
  uint32_t local_bytes; /* the most local memory that one of its kernels takes */
  const void *driver;   /* the operation's: how its kernels are made and launched */
  /* Does it take a problem, one of the operation's descriptions? NULL: every one. */
  bool (*accepts)(const struct kernel_variant *variant, const void *desc);
  uint32_t traits;
} kernel_variant;

/* Expands a row of variants.def. */
#define VARIANT(name, source, formats, required, tile_m, tile_n, local, local_bytes, driver,       \
                accepts, traits)                                                                   \
  {name, source, formats, required, tile_m, tile_n, local, local_bytes, driver, accepts, traits},

typedef struct kernel_table {
  const char *operation;      /* "router" */
  const kernel_variant *rows; /* most general first, best last */
  size_t count;
} kernel_table;

/* Could the variant serve this format on a device with these capabilities? */
bool kernel_variant_serves(const kernel_variant *variant, const desc_format *format,
                           uint32_t capabilities);
/* Are the device's work-groups and local memory large enough for it? */
bool kernel_variant_fits(const kernel_variant *variant, const moecl_device_info *device);
static inline bool kernel_variant_takes(const kernel_variant *variant, const desc_format *format) {
  return variant->formats & 1u << (format - desc_formats);
}
/* Does it take the problem? */
static inline bool kernel_variant_accepts(const kernel_variant *variant, const void *desc) {
  return !variant->accepts || variant->accepts(variant, desc);
}

/* Candidates, best first: the one named `asked` alone, else every row that serves and
 * may be chosen. Returns how many; with `asked` that does not exist or cannot serve,
 * 0, and a sentence in `why` (of `size`). */
size_t kernel_candidates(const kernel_table *table, const char *asked, const desc_format *format,
                         const moecl_device_info *device, const kernel_variant **candidates,
                         size_t capacity, char *why, size_t size);

/* The vectors that kernels for CPUs are made of, on a device whose fp32 vectors are so wide:
 * 4, 8 or 16 elements. */
uint32_t kernel_vector_width(uint32_t native_width);

/* The tile of a GEMM variant on a device whose fp32 vectors are
 * `vector_width` wide, as its kernel source computes it. */
typedef struct kernel_tile {
  uint32_t m, n, vector_width;
} kernel_tile;
kernel_tile kernel_gemm_tile(const kernel_variant *variant, uint32_t vector_width);

#endif
