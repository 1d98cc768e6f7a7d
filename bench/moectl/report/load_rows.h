// SPDX-License-Identifier: MIT
/* Which points a map of the experts' loads has a row for. */
#ifndef MOECTL_LOAD_ROWS_H
#define MOECTL_LOAD_ROWS_H

#include "report/grid.h"

typedef struct load_rows {
  bool *matters, *held;       /* [num_axes]; held: at the value of the first point that has loads */
  size_t *points, count, all; /* [count] of `all` rows */
  int64_t num_experts;        /* the most that any has */
  double busiest;             /* over the even share */
} load_rows;

/* A row for each combination of the parameters that make a difference to the loads before
 * capacity, or with `kept` to those after it. Where these are more than `most`, parameters are
 * held. False without memory. */
bool load_rows_choose(const results *all, bool kept, size_t most, load_rows *rows);
void load_rows_release(load_rows *rows);
/* Do the rows differ in this axis? */
bool load_rows_named(const load_rows *rows, size_t axis);
/* What every expert of the point would have, were the load even. */
double load_even_share(const moecl_routing *routing);

#endif
