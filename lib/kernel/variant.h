/* The registry: every operation's variants, from cl/<operation>/variants.def. */
#ifndef MOECL_LIB_KERNEL_VARIANT_H
#define MOECL_LIB_KERNEL_VARIANT_H

#include "moecl/layer.h"

/* How a variant's weights lie in memory; packed once by the variant's own
 * pack kernel. */
typedef struct kernel_variant {
  const char *operation;
  const char *name;
  const char *source;    /* below cl/; NULL: driven by a library call */
  uint32_t dtypes;       /* bits 1 << moecl_dtype */
  uint32_t required;     /* capability bits that must hold */
  uint32_t excluded;     /* capability bits that must not hold */
  uint32_t tile_m;       /* rows of a tile; 0: from the device (see its driver) */
  uint32_t tile_n;       /* columns of a tile; likewise */
  uint32_t local;        /* work-items of a work-group */
  bool by_name_only;     /* never chosen unless asked for */
} kernel_variant;

/* All variants of an operation, most general first; returns how many. */
size_t kernel_variants(const char *operation, const kernel_variant **variants);

#endif
