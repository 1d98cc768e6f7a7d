// SPDX-License-Identifier: MIT
/* The horizontal axis of a plot against a swept parameter. */
#ifndef MOECTL_PLOT_AXIS_H
#define MOECTL_PLOT_AXIS_H

#include "report/grid.h"

typedef enum axis_scale {
  SCALE_LINEAR = 0,
  SCALE_LOG, /* all values are above 0 and far apart */
  SCALE_EVEN /* one place a value: null has none on a scale, nor has 0 on a logarithmic one */
} axis_scale;

/* A value of the axis and where it lies on it. Positions are computed here and
 * every tick is labelled as YAML writes the value. */
typedef struct tick {
  double value, order, position; /* order: grid_order */
  size_t digit;                  /* which of the axis's values */
  char label[64];
} tick;

/* The axis's ticks in order: [axes[axis].count], malloc'ed. */
tick *plot_ticks(const experiment *plan, size_t axis, axis_scale *scale);
/* set xtics and xrange; `pixels`: how wide the axis is. */
void plot_write_ticks(FILE *script, const tick *ticks, size_t count, double pixels);
/* "num_tokens (log scale)". */
const char *plot_axis_label(const char *param, axis_scale scale, char *text, size_t size);

#endif
