// SPDX-License-Identifier: MIT
/* The activations, a row each. */
#ifndef MOECL_LIB_DESC_ACTIVATION_H
#define MOECL_LIB_DESC_ACTIVATION_H

#include "moecl/types.h"

typedef struct desc_activation {
  const char *name; /* in experiments and results */
  int kernel;       /* the kernels' number, an ACTIVATION_ of cl/common/enums.h */
  bool gated;
  bool has_limit; /* swiglu_limit, and perhaps swiglu_alpha, matters to it */
} desc_activation;

/* NULL for a value outside the enumeration. */
const desc_activation *desc_activation_of(moecl_activation activation);
/* The one with this number, or MOECL_ACTIVATION_COUNT. */
moecl_activation desc_activation_find(int kernel, bool gated);

#endif
