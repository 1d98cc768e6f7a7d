// SPDX-License-Identifier: MIT
/* How loaded each device is, over a sweep: a heat map, a row for each point that is on several, a
 * column a member. */
#include "report/gnuplot.h"
#include "report/plots.h"
#include <math.h>
#include <string.h>

/* Rows are thinner where they are many; of more than these the first are shown. */
enum { MAX_ROWS = 100, FEW_ROWS = 30 };

static const point_parallel *shown(const results *all, size_t index) {
  return pictures_has_devices(all, index) ? &all->points[index].parallel : NULL;
}

static double mean_rows(const point_parallel *parallel) {
  double sum = 0;
  for (size_t m = 0; m < parallel->num_members; m++) sum += (double)parallel->members[m].rows;
  return sum / (double)parallel->num_members;
}

/* A matrix: a member's rows over the mean; members that a point has not are left out. */
static void write_data(const results *all, size_t rows, size_t members, FILE *data) {
  fputs("# a member's rows over the mean of the point's, a member a column; -1: no such member\n",
        data);
  for (size_t i = 0, row = 0; i < all->experiment->num_points && row < rows; i++) {
    const point_parallel *parallel = shown(all, i);
    if (!parallel) continue;
    const double mean = mean_rows(parallel);
    for (size_t m = 0; m < members; m++)
      if (m >= parallel->num_members) fputs("-1 ", data);
      else fprintf(data, "%.6g ", mean > 0 ? (double)parallel->members[m].rows / mean : 0);
    fputc('\n', data);
    row++;
  }
}

/* Each row's values of what was swept. */
static void write_rows(const results *all, size_t rows, FILE *script) {
  char label[LABEL_SIZE];
  size_t longest = 0;
  fputs("set ytics (", script);
  for (size_t i = 0, row = 0; i < all->experiment->num_points && row < rows; i++) {
    if (!shown(all, i)) continue;
    grid_line_label(all->experiment, all->experiment->num_axes, i, label, 64);
    if (strlen(label) > longest) longest = strlen(label);
    if (row > 0) fputs(", ", script);
    gnuplot_quote(script, label);
    fprintf(script, " %zu", row++);
  }
  const bool few = rows <= FEW_ROWS;
  fprintf(script, ") font ',%d'\nset yrange [%.1f:-0.5]\nset lmargin at screen %.3f\n",
          few ? 12 : 9, (double)rows - 0.5,
          fmin(0.5, 0.03 + (double)longest * (few ? 0.0075 : 0.006)));
}

void plot_devices(const results *all, const picture_plan *picture, FILE *script, FILE *data) {
  size_t rows = 0, members = 0;
  double busiest = 0;
  char line[LABEL_SIZE], number[NUMBER_SIZE];
  for (size_t i = 0; i < all->experiment->num_points && rows < MAX_ROWS; i++) {
    const point_parallel *parallel = shown(all, i);
    if (!parallel) continue;
    if (parallel->num_members > members) members = parallel->num_members;
    busiest = fmax(busiest, parallel->member_imbalance);
    rows++;
  }
  const int row_pixels = rows <= FEW_ROWS ? 24 : 14;
  write_data(all, rows, members, data);
  plot_begin(script, picture->name, 190 + row_pixels * (int)(rows < 8 ? 8 : rows));
  snprintf(line, sizeof line, "%.60s: load of the devices", all->experiment->name);
  fputs("set title ", script);
  gnuplot_quote(script, line);
  snprintf(line, sizeof line,
           "rows that a member's experts computed over the mean; the busiest: %s",
           number_text(busiest, number, sizeof number));
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  fprintf(script,
          "\nset xlabel 'member'\nset xrange [-0.5:%zu.5]\nset xtics 1\nunset key\nunset grid\n",
          members - 1);
  write_rows(all, rows, script);
  plot_load_colours(busiest, "load over the mean", script);
  fprintf(script, "plot '%s.dat' matrix using 1:2:($3 < 0 ? NaN : $3) with image pixels\n",
          picture->name);
}
