// SPDX-License-Identifier: MIT
/* The parts of a plot against a swept parameter, for those who compose it otherwise. */
#ifndef MOECTL_PLOT_SWEEP_H
#define MOECTL_PLOT_SWEEP_H

#include "report/pictures.h"
#include "report/plot_axis.h"

/* One picture as it is made. */
typedef struct plot {
  const results *all;
  const picture_plan *picture;
  const picture_quantity *quantity;
  picture_view view;
  tick *ticks;
  size_t count; /* of ticks */
  axis_scale scale;
  bool spread;  /* with bars from the fastest to the 90th percentile */
  bool drawing; /* of report.html: a panel alone, data in $data, and colours that do in the dark */
  double range[2]; /* of all that is drawn */
  double unit;     /* of the vertical axis */
} plot;

/* False: there is nothing to draw, or no memory. Close it in any case. */
bool plot_sweep_open(const results *all, const picture_plan *picture, plot *p);
void plot_sweep_close(plot *p);

/* All panels' lines, a data set each; finds the range, which what follows needs. */
void plot_sweep_data(plot *p, FILE *data);
void plot_sweep_y_axis(plot *p, bool labelled, FILE *script);
/* What tells a line from the others; "" where there is but one. Returns `text`. */
const char *plot_sweep_label(const plot *p, size_t line, char *text, size_t size);
int plot_sweep_shape(size_t line); /* gnuplot's number of its marks */
/* The points of a line that have a value, in the axis's order: how many, and one of them. */
size_t plot_sweep_points(const plot *p, size_t panel, size_t line);
bool plot_sweep_point(const plot *p, size_t panel, size_t line, size_t which, size_t *index);
/* How far a line with bars is set aside, so that those of several can be read. */
double plot_sweep_aside(const plot *p, size_t line);
/* The plot command of one panel: bars, if there are any, of each line that ran, then these lines,
 * and of a drawing then each of their points, invisible. `series`: the data set to begin with, and
 * on return that behind the panel's. */
void plot_sweep_lines(const plot *p, size_t panel, bool titled, size_t *series, FILE *script);

#endif
