// SPDX-License-Identifier: MIT
/* How loaded each expert is, over a whole sweep: a heat map, a row for each combination of
 * the parameters that make a difference to it, a column an expert. */
#include "report/gnuplot.h"
#include "report/load_rows.h"
#include "report/plots.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 400 };

/* A matrix: expert e of row r over the even share; experts that a row has not are left out. */
static void write_data(const results *all, const load_rows *found, FILE *data) {
  char label[LABEL_SIZE];
  fputs("# load over the even share, an expert a column; -1: no such expert; the rows are\n", data);
  for (size_t r = 0; r < found->count; r++) /* comments inside a matrix would end it */
    fprintf(data, "# %s\n",
            grid_line_label(all->experiment, all->experiment->num_axes, found->points[r], label,
                            sizeof label));
  for (size_t r = 0; r < found->count; r++) {
    const moecl_routing *routing = &all->points[found->points[r]].routing;
    const double even = load_even_share(routing);
    for (int64_t e = 0; e < found->num_experts; e++)
      if (e < routing->num_experts)
        fprintf(data, "%.6g ", (double)routing->tokens_per_expert[e] / even);
      else fputs("-1 ", data);
    fputc('\n', data);
  }
}

/* "8, 2, 256" of what matters among the first `axes`; what they are stands at the side. */
static void row_label(const results *all, const load_rows *found, size_t axes, size_t row,
                      char *text, size_t size) {
  const experiment *plan = all->experiment;
  char value[64];
  size_t used = 0;
  text[0] = '\0';
  for (size_t axis = 0; axis < axes && used < size; axis++)
    if (load_rows_named(found, axis))
      used +=
          (size_t)snprintf(text + used, size - used, "%s%.24s", used > 0 ? ", " : "",
                           grid_value_text(plan, axis, found->points[row], value, sizeof value));
}

/* The names of what matters among axes [begin, end). */
static void axis_names(const experiment *plan, const load_rows *found, size_t begin, size_t end,
                       char *text, size_t size) {
  size_t used = strlen(text);
  bool first = true;
  for (size_t axis = begin; axis < end && used < size; axis++) {
    if (!load_rows_named(found, axis)) continue;
    used += (size_t)snprintf(text + used, size - used, "%s%s", first ? "" : ", ",
                             plan->axes[axis].param);
    first = false;
  }
}

/* Where rows are too thin for a label each, the axes that vary fastest have none: a label
 * then stands where its rows begin. Returns how many axes are named. */
static size_t named_axes(const results *all, const load_rows *found, int row_pixels) {
  const experiment *plan = all->experiment;
  size_t axes = plan->num_axes;
  for (size_t rows_each = 1; axes > 1 && rows_each * (size_t)row_pixels < 13; axes--)
    if (load_rows_named(found, axes - 1)) rows_each *= plan->axes[axes - 1].count;
  return axes;
}

static void write_rows(const results *all, const load_rows *found, int row_pixels, FILE *script) {
  const experiment *plan = all->experiment;
  const size_t axes = named_axes(all, found, row_pixels);
  char text[LABEL_SIZE] = "", before[LABEL_SIZE] = "", inner[LABEL_SIZE] = "";
  size_t longest = 0;
  axis_names(plan, found, 0, axes, text, sizeof text);
  axis_names(plan, found, axes, plan->num_axes, inner, sizeof inner);
  fputs("set label ", script);
  gnuplot_quote(script, text);
  if (*inner) {
    fputs(" . '; within each: ' . ", script);
    gnuplot_quote(script, inner);
  }
  /* A ylabel would lie where the tics' labels end, which gnuplot only guesses. */
  fputs(" at screen 0.016, graph 0.5 center rotate by 90\nset ytics (", script);
  for (size_t r = 0; r < found->count; r++) {
    row_label(all, found, axes, r, text, sizeof text);
    if (r > 0 && strcmp(text, before) == 0) continue;
    if (r > 0) fputs(", ", script);
    gnuplot_quote(script, text);
    fprintf(script, " %zu", r);
    snprintf(before, sizeof before, "%s", text);
    if (strlen(text) > longest) longest = strlen(text);
  }
  fprintf(script, ") font ',%d'\nset yrange [%.1f:-0.5]\nset lmargin at screen %.3f\n",
          row_pixels >= 18 ? 12 : 9, (double)found->count - 0.5,
          fmin(0.45, 0.055 + (double)longest * (row_pixels >= 18 ? 0.0075 : 0.006)));
}

/* Beyond `top` orange stays so. */
void plot_load_colours(double busiest, const char *what, FILE *script) {
  const double top = busiest > 4 ? 4 : busiest > 2 ? ceil(busiest) : 2;
  fprintf(script,
          "set palette defined (0 '#0072B2', 1 '#EEEEE6', %g '#D55E00')\n"
          "set cbrange [0:%g]\nset cbtics (",
          top, top);
  for (int i = 0; i <= (int)top; i++)
    fprintf(script, "%s'%d%s' %d", i ? ", " : "", i, i == (int)top && busiest > top ? "+" : "", i);
  fprintf(script, ")\nset label '%s' at screen 0.985, graph 0.5 center rotate by 90\n", what);
  fputs("set rmargin at screen 0.83\n"
        /* Where a row has no such expert nothing is drawn. */
        "set object 1 rectangle from graph 0, graph 0 to graph 1, graph 1 behind fillcolor rgb "
        "'#b8b8b8' fillstyle solid noborder\n",
        script);
}

static void write_title(const results *all, const load_rows *found, FILE *script) {
  char line[LABEL_SIZE], text[64];
  snprintf(line, sizeof line, "%.60s: expert utilization, before capacity", all->experiment->name);
  fputs("set title ", script);
  gnuplot_quote(script, line);
  snprintf(line, sizeof line,
           "assignments of each expert over the even share; the busiest: %s times",
           number_text(found->busiest, text, sizeof text));
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  const char *before = " . \"\\nheld: \" . ";
  for (size_t axis = 0; axis < all->experiment->num_axes; axis++) {
    if (!found->held[axis]) continue;
    snprintf(line, sizeof line, "%s=%s", all->experiment->axes[axis].param,
             grid_value_text(all->experiment, axis, found->points[0], text, sizeof text));
    fputs(before, script);
    gnuplot_quote(script, line);
    before = " . ', ' . ";
  }
  fputc('\n', script);
}

void plot_loads(const results *all, const picture_plan *picture, FILE *script, FILE *data) {
  load_rows found;
  if (load_rows_choose(all, false, MAX_ROWS, &found) && found.count > 0) {
    const int row_pixels = found.count <= 30    ? 22
                           : found.count <= 100 ? 14
                           : found.count <= 200 ? 7
                                                : 4;
    const int height = 190 + row_pixels * (int)(found.count < 8 ? 8 : found.count);
    write_data(all, &found, data);
    plot_begin(script, picture->name, height);
    write_title(all, &found, script);
    fprintf(script,
            "set xlabel 'expert id'\nset xrange [-0.5:%" PRId64 ".5]\nunset key\nunset grid\n",
            found.num_experts - 1);
    write_rows(all, &found, row_pixels, script);
    plot_load_colours(found.busiest, "load over the even share", script);
    fprintf(script, "plot '%s.dat' matrix using 1:2:($3 < 0 ? NaN : $3) with image pixels\n",
            picture->name);
  }
  load_rows_release(&found);
}
