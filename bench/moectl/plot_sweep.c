/* Time, throughput or a measure of the routing against one swept parameter, a line for each
 * combination of the others. */
#include "gnuplot.h"
#include "plots.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A value of the axis and where it lies on it. Positions are computed here and
 * every tick is labelled as YAML writes the value, so that zero and null have
 * a place on a logarithmic axis too: a step beyond its ends. */
typedef struct tick {
  double value, position;
  size_t digit; /* which of the axis's values */
  char label[64];
} tick;

static int by_value(const void *a, const void *b) {
  const double x = ((const tick *)a)->value, y = ((const tick *)b)->value;
  if (isnan(x) || isnan(y)) return isnan(x) - isnan(y);
  return (x > y) - (x < y);
}

/* Places the ticks, sorted by value, nulls last; returns the logarithm's base,
 * 0 for a linear axis. */
static int place_ticks(tick *ticks, size_t count) {
  double low = NAN, high = NAN, step = 1; /* of the positive values */
  size_t numbers = 0, zeros = 0;
  for (size_t i = 0; i < count && !isnan(ticks[i].value); i++, numbers++) {
    if (ticks[i].value <= 0) {
      zeros++;
      continue;
    }
    if (isnan(low)) low = ticks[i].value;
    high = ticks[i].value;
  }
  const int base = high / low > 8 ? (high / low > 1000 ? 10 : 2) : 0;
  const size_t scaled = base ? numbers - zeros : numbers;
  const double first = base ? log(low) / log(base) : numbers ? ticks[0].value : 0;
  const double last = base ? log(high) / log(base) : numbers ? ticks[numbers - 1].value : 0;
  if (scaled > 1 && last > first) step = (last - first) / (double)(scaled - 1);
  for (size_t i = 0; i < count; i++) {
    const double value = ticks[i].value;
    ticks[i].position = isnan(value) ? last + step
                        : !base      ? value
                        : value > 0  ? log(value) / log(base)
                                     : first - step;
  }
  return base;
}

static void write_ticks(FILE *script, const tick *ticks, size_t count) {
  const double span = ticks[count - 1].position - ticks[0].position;
  const double margin = span > 0 ? 0.05 * span : 1;
  double free_from = -INFINITY;
  fputs("set xtics (", script);
  for (size_t i = 0; i < count; i++) {
    /* About 1000 pixels for the whole axis, 9 a letter. */
    const double half = span * (5 + 4.5 * (double)strlen(ticks[i].label)) / 1000;
    const bool room = ticks[i].position - half >= free_from;
    if (i > 0) fputs(", ", script);
    gnuplot_quote(script, room ? ticks[i].label : "");
    fprintf(script, " %.17g", ticks[i].position);
    if (room) free_from = ticks[i].position + half;
  }
  fprintf(script, ")\nset xrange [%.17g:%.17g]\n", ticks[0].position - margin,
          ticks[count - 1].position + margin);
}

/* One line's points, and what there is of extremes. Series in a gnuplot data
 * file are parted by two empty lines. */
static void write_series(const results *all, const picture_plan *picture, const tick *ticks,
                         size_t count, size_t start, bool spread, FILE *data, double range[2]) {
  const size_t stride = grid_stride(all->experiment, picture->axis);
  char label[LABEL_SIZE];
  grid_line_label(all->experiment, picture->axis, start, label, sizeof label);
  fprintf(data, "# %s\n", label);
  for (size_t i = 0; i < count; i++) {
    const size_t index = start + ticks[i].digit * stride;
    const double value = picture_value(all, picture->kind, index);
    if (!isfinite(value)) continue;
    const sample_summary *time = &all->points[index].time_ms[MOECL_STAGE_LAYER];
    if (picture->kind == PICTURE_TIME)
      fprintf(data, "%.17g %.9g %.9g %.9g\n", ticks[i].position, value,
              isfinite(time->min) ? time->min : value, isfinite(time->p90) ? time->p90 : value);
    else
      fprintf(data, "%.17g %.9g\n", ticks[i].position, value);
    range[0] = fmin(range[0], value);
    /* The bars, where they are drawn, have to fit in too. */
    range[1] = fmax(range[1], spread && isfinite(time->p90) ? fmax(time->p90, value) : value);
  }
  fputs("\n\n", data);
}

static void write_heading(const results *all, const picture_plan *picture, int base, size_t shown,
                          size_t total, bool spread, FILE *script) {
  const char *param = all->experiment->axes[picture->axis].param;
  const picture_quantity *quantity = picture_quantity_of(picture->kind);
  char line[LABEL_SIZE];
  snprintf(line, sizeof line, "%.60s: %s against %s", all->experiment->name, quantity->title,
           param);
  fputs("set title ", script);
  gnuplot_quote(script, line);
  snprintf(line, sizeof line, "%.100s; %s", all->device.name,
           spread ? "median of the iterations, bars from the fastest to the 90th percentile"
                  : quantity->remark);
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  if (shown < total)
    fprintf(script, " . \"\\n\" . '%zu of %zu combinations of the other values, evenly chosen'",
            shown, total);
  fputs("\nset xlabel ", script);
  snprintf(line, sizeof line, "%s%s", param, base ? " (logarithmic)" : "");
  gnuplot_quote(script, line);
  fputs(" . \"\\n \"\n", script); /* an empty line above the key */
}

/* The largest unit in which the values are numbers of a few digits. */
static double write_y_axis(const picture_plan *picture, const double range[2], FILE *script) {
  double unit = 1;
  if (picture->kind == PICTURE_THROUGHPUT && range[1] >= 2e3) unit = range[1] >= 2e6 ? 1e6 : 1e3;
  if (unit > 1)
    fprintf(script, "set ylabel 'throughput (%s tokens/s)'\n",
            unit == 1e6 ? "million" : "thousand");
  else
    fprintf(script, "set ylabel '%s'\n", picture_quantity_of(picture->kind)->label);
  const double ratio = range[1] / range[0];
  if (range[0] > 0 && ratio > 8)
    fprintf(script, "set logscale y %d\nset yrange [%.9g:%.9g]\n", ratio > 1000 ? 10 : 2,
            range[0] / unit / 1.25, range[1] / unit * 1.25);
  else
    fprintf(script, "set yrange [0:%.9g]\n", range[1] > 0 ? 1.1 * range[1] / unit : 1.0);
  fputs("set format y '%g'\n", script);
  return unit;
}

/* Below the plot, in as many columns as the longest label lets fit. */
static void write_key(const results *all, const picture_plan *picture, const size_t *starts,
                      size_t shown, FILE *script) {
  char label[LABEL_SIZE];
  size_t longest = 0;
  for (size_t i = 0; i < shown; i++) {
    const size_t length =
        strlen(grid_line_label(all->experiment, picture->axis, starts[i], label, sizeof label));
    if (length > longest) longest = length;
  }
  if (longest == 0) {
    fputs("unset key\n", script);
    return;
  }
  /* gnuplot reckons with wide letters: measured at 96 dpi. */
  const int font = longest > 110 ? 8 : shown > 6 || longest > 60 ? 11 : 13;
  const size_t columns = 1200 / (55 + longest * (size_t)font * 92 / 100);
  fprintf(script, "set key below center vertical maxrows %zu Left reverse samplen 2 font ',%d'\n",
          columns > 1 ? (shown + columns - 1) / columns : shown, font);
}

static void write_plot(const results *all, const picture_plan *picture, const size_t *starts,
                       size_t shown, double unit, bool spread, FILE *script) {
  static const int shapes[] = {7, 5, 9, 11, 13, 6, 4, 8, 10, 12, 2, 1};
  char label[LABEL_SIZE];
  for (size_t i = 0; spread && i < shown; i++) /* below the lines' points */
    fprintf(script,
            "%s'%s.dat' index %zu using 1:2:3:4 with yerrorbars pointtype 0 linewidth 1.5 "
            "linecolor '%s' notitle",
            i > 0 ? ", \\\n  " : "plot ", picture->name, i, plot_colour(i));
  for (size_t i = 0; i < shown; i++) {
    const bool again = i >= 7; /* the colours begin anew, dashed */
    fprintf(script,
            "%s'%s.dat' index %zu using 1:($2/%g) with linespoints linewidth 2.5 "
            "dashtype %d pointtype %d pointsize 1.4 linecolor '%s' title ",
            i > 0 || spread ? ", \\\n  " : "plot ", picture->name, i, unit, again ? 2 : 1,
            shapes[i % 12], plot_colour(again ? i - 7 : i));
    gnuplot_quote(script,
                  grid_line_label(all->experiment, picture->axis, starts[i], label, sizeof label));
  }
  fputc('\n', script);
}

void plot_sweep(const results *all, const picture_plan *picture, FILE *script, FILE *data) {
  const experiment *plan = all->experiment;
  const size_t count = plan->axes[picture->axis].count;
  const size_t stride = grid_stride(plan, picture->axis);
  tick *ticks = calloc(count, sizeof *ticks);
  if (!ticks) return; /* a script that draws nothing */
  for (size_t i = 0; i < count; i++) {
    ticks[i].value = grid_value(plan, picture->axis, i * stride);
    ticks[i].digit = i;
    grid_value_text(plan, picture->axis, i * stride, ticks[i].label, sizeof ticks[i].label);
  }
  qsort(ticks, count, sizeof *ticks, by_value);
  const int base = place_ticks(ticks, count);

  size_t starts[MAX_SERIES], total;
  const size_t shown = pictures_series(all, picture->kind, picture->axis, starts, &total);
  const bool spread = picture->kind == PICTURE_TIME && shown <= 6;
  double range[2] = {INFINITY, -INFINITY};
  fprintf(data, "# place_on_axis %s\n", picture_quantity_of(picture->kind)->columns);
  for (size_t i = 0; i < shown; i++)
    write_series(all, picture, ticks, count, starts[i], spread, data, range);
  write_heading(all, picture, base, shown, total, spread, script);
  write_ticks(script, ticks, count);
  write_key(all, picture, starts, shown, script);
  write_plot(all, picture, starts, shown, write_y_axis(picture, range, script), spread, script);
  free(ticks);
}
