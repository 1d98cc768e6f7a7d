// SPDX-License-Identifier: MIT
/* Rows of a list that are stored in several places. */
#ifndef MOECL_LIB_OP_PLACES_H
#define MOECL_LIB_OP_PLACES_H

#include "ocl/ocl.h"

/* Some of the list's rows, from `first_to` on in `to`. */
typedef struct op_rows_part {
  const moecl_buffer *to;
  uint64_t first_to, count;
} op_rows_part;

/* Parts of a list's rows from number `first` on, behind each other in it. */
typedef struct op_places {
  uint64_t first;
  const op_rows_part *parts;
  size_t count;
} op_places;

#endif
