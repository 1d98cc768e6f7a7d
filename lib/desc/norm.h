// SPDX-License-Identifier: MIT
/* A norm: rows divided by what moecl_norm says, then weighted. */
#ifndef MOECL_LIB_DESC_NORM_H
#define MOECL_LIB_DESC_NORM_H

#include "moecl/types.h"

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias, of a row of `size` elements. With
 * MOECL_NORM_RMS the mean is left out, and so the variance is the mean square. */
typedef struct desc_norm {
  moecl_norm kind;
  int64_t size;
  double epsilon;
  bool plus_one; /* weights are given as what they differ from 1 by (Gemma) */
  bool bias;
} desc_norm;

#endif
