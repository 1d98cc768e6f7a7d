// SPDX-License-Identifier: MIT
/* Time, throughput or a measure of the routing against one swept parameter, lines and
 * panels for the others (picture_view.c). */
#include "report/gnuplot.h"
#include "report/plot_sweep.h"
#include "report/plots.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void widen(plot *p, double value) {
  p->range[0] = fmin(p->range[0], value);
  p->range[1] = fmax(p->range[1], value);
}

/* One line's points. Series in a gnuplot data file are parted by two empty lines. */
static void write_series(plot *p, size_t start, FILE *data) {
  const experiment *plan = p->all->experiment;
  const size_t stride = grid_stride(plan, p->picture->axis);
  char label[LABEL_SIZE];
  grid_line_label(plan, p->picture->axis, start, label, sizeof label);
  fprintf(data, "# %s\n", label);
  for (size_t i = 0; i < p->count; i++) {
    const size_t index = start + p->ticks[i].digit * stride;
    const double value = picture_value(p->all, p->picture->kind, index);
    if (!isfinite(value)) continue;
    widen(p, value);
    fprintf(data, "%.17g %.9g", p->ticks[i].position, value);
    if (p->picture->kind == PICTURE_TIME) {
      const sample_summary *time = &p->all->points[index].time_ms[MOECL_STAGE_LAYER];
      const double low = isfinite(time->min) ? time->min : value;
      const double high = isfinite(time->p90) ? time->p90 : value;
      fprintf(data, " %.9g %.9g", low, high);
      if (p->spread) widen(p, low), widen(p, high); /* the bars have to fit in too */
    }
    fputc('\n', data);
  }
  fputs("\n\n", data);
}

/* Of PICTURE_SCALING, behind all lines: as many times as members. */
static void write_ideal(plot *p, FILE *data) {
  fputs("# ideal\n", data);
  for (size_t i = 0; i < p->count; i++) {
    const double ideal = isfinite(p->ticks[i].value) ? p->ticks[i].value : 1;
    fprintf(data, "%.17g %.9g\n", p->ticks[i].position, ideal);
    widen(p, ideal);
  }
}

static size_t count_series(const plot *p) {
  size_t count = 0;
  for (size_t panel = 0; panel < p->view.num_panels; panel++)
    for (size_t line = 0; line < p->view.num_lines; line++)
      count += p->view.starts[panel][line] != SIZE_MAX;
  return count;
}

void plot_sweep_data(plot *p, FILE *data) {
  fprintf(data, "# place_on_axis %s\n", p->quantity->columns);
  for (size_t panel = 0; panel < p->view.num_panels; panel++)
    for (size_t line = 0; line < p->view.num_lines; line++)
      if (p->view.starts[panel][line] != SIZE_MAX)
        write_series(p, p->view.starts[panel][line], data);
  if (p->picture->kind == PICTURE_SCALING) write_ideal(p, data);
}

/* "held: dtype=fp32; 12 of 40 values of seed": what there was no room for. */
static void write_left_out(const plot *p, FILE *script) {
  char line[LABEL_SIZE + 16], held[LABEL_SIZE];
  const char *before = " . \"\\n\" . ";
  pictures_held(p->all, p->picture->axis, &p->view, held, sizeof held);
  if (*held) {
    snprintf(line, sizeof line, "held: %.200s", held);
    fputs(before, script);
    gnuplot_quote(script, line);
    before = " . '; ' . ";
  }
  const experiment *plan = p->all->experiment;
  const size_t axes[2] = {p->view.series, p->view.panels};
  const size_t drawn[2] = {p->view.num_lines, p->view.num_panels};
  const size_t there[2] = {p->view.num_series, p->view.num_values};
  for (int i = 0; i < 2; i++)
    if (axes[i] < plan->num_axes && drawn[i] < there[i]) {
      fprintf(script, "%s'%zu of %zu values of %s'", before, drawn[i], there[i],
              plan->axes[axes[i]].param);
      before = " . '; ' . ";
    }
}

static void write_title(const plot *p, FILE *script) {
  char line[LABEL_SIZE];
  snprintf(line, sizeof line, "%.60s: %s against %s", p->all->experiment->name, p->quantity->title,
           p->all->experiment->axes[p->picture->axis].param);
  gnuplot_quote(script, line);
  snprintf(line, sizeof line, "%.100s; %s", p->all->device.name,
           !p->spread              ? p->quantity->remark
           : p->view.num_lines > 1 ? "median, bars from the fastest iteration to the 90th "
                                     "percentile, lines set a little apart"
                                   : "median, bars from the fastest iteration to the 90th "
                                     "percentile");
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  if (p->view.series < p->all->experiment->num_axes) write_left_out(p, script);
}

/* The largest unit in which the values are numbers of a few digits. */
void plot_sweep_y_axis(plot *p, bool labelled, FILE *script) {
  const double ratio = p->range[1] / p->range[0];
  const bool logarithmic = p->range[0] > 0 && ratio > 8;
  const char *remark = logarithmic ? " (log scale)" : "";
  p->unit = 1;
  if (p->picture->kind == PICTURE_THROUGHPUT && p->range[1] >= 2e3)
    p->unit = p->range[1] >= 2e6 ? 1e6 : 1e3;
  if (!labelled) fputs("unset ylabel\n", script);
  else if (p->unit > 1)
    fprintf(script, "set ylabel 'throughput (%s tokens/s)%s'\n",
            p->unit == 1e6 ? "million" : "thousand", remark);
  else fprintf(script, "set ylabel '%s%s'\n", p->quantity->label, remark);
  if (logarithmic)
    fprintf(script, "set logscale y %d\nset yrange [%.9g:%.9g]\n", ratio > 1000 ? 10 : 2,
            p->range[0] / p->unit / 1.25, p->range[1] / p->unit * 1.25);
  else
    fprintf(script, "set yrange [0:%.9g]\n", p->range[1] > 0 ? 1.1 * p->range[1] / p->unit : 1.0);
  fputs("set format y '%g'\n", script);
}

int plot_sweep_shape(size_t line) {
  static const int shapes[] = {7, 5, 9, 11, 13, 6, 4, 8, 10, 12, 2, 1};
  return shapes[line % 12];
}

size_t plot_sweep_points(const plot *p, size_t panel, size_t line) {
  size_t count = 0, index;
  while (plot_sweep_point(p, panel, line, count, &index)) count++;
  return count;
}

bool plot_sweep_point(const plot *p, size_t panel, size_t line, size_t which, size_t *index) {
  const size_t stride = grid_stride(p->all->experiment, p->picture->axis);
  for (size_t i = 0; i < p->count; i++) {
    *index = p->view.starts[panel][line] + p->ticks[i].digit * stride;
    if (isfinite(picture_value(p->all, p->picture->kind, *index)) && which-- == 0) return true;
  }
  return false;
}

/* A line of the first panel that ran for the label; the same for all panels. */
const char *plot_sweep_label(const plot *p, size_t line, char *text, size_t size) {
  text[0] = '\0';
  for (size_t panel = 0; panel < p->view.num_panels; panel++)
    if (p->view.starts[panel][line] != SIZE_MAX)
      return pictures_line_label(p->all, p->picture->axis, &p->view, p->view.starts[panel][line],
                                 text, size);
  return text;
}

/* Below the plot, in as many columns as the longest label lets fit; returns its rows. */
static size_t write_key(const plot *p, FILE *script) {
  char label[LABEL_SIZE];
  size_t longest = 0;
  for (size_t i = 0; i < p->view.num_lines; i++) {
    const size_t length = strlen(plot_sweep_label(p, i, label, sizeof label));
    if (length > longest) longest = length;
  }
  if (longest == 0) {
    fputs("unset key\n", script);
    return 0;
  }
  /* gnuplot reckons with wide letters: measured at 96 dpi. */
  const int font = longest > 110 ? 8 : p->view.num_lines > 6 || longest > 60 ? 11 : 13;
  const size_t columns = 1200 / (55 + longest * (size_t)font * 92 / 100);
  const size_t rows = columns > 1 ? (p->view.num_lines + columns - 1) / columns : p->view.num_lines;
  const char *place =
      p->view.num_panels > 1 ? "at screen 0.5, screen 0.01 center bottom" : "below center";
  fprintf(script, "set key %s vertical maxrows %zu Left reverse samplen 2 font ',%d'\n", place,
          rows, font);
  return rows;
}

/* By less than a bar's width to the next one, and together never halfway to the next value. */
double plot_sweep_aside(const plot *p, size_t line) {
  const double span = p->ticks[p->count - 1].position - p->ticks[0].position;
  double step = 0.012 * (p->drawing ? 2.2 : p->view.num_panels > 1 ? 1.6 : 1) * span;
  for (size_t i = 0; i + 1 < p->count; i++) {
    const double room = p->ticks[i + 1].position - p->ticks[i].position;
    step = fmin(step, 0.5 * room / (double)p->view.num_lines);
  }
  return p->spread ? step * ((double)line - 0.5 * (double)(p->view.num_lines - 1)) : 0;
}

/* A data set's name and place in a plot command. */
static void write_index(const plot *p, size_t series, FILE *script) {
  if (p->drawing) fprintf(script, "$data index %zu", series);
  else fprintf(script, "'%s.dat' index %zu", p->picture->name, series);
}

/* Bars, below the lines' points. Returns what the next plot begins with. */
static const char *write_bars(const plot *p, size_t panel, size_t series, FILE *script) {
  const char *start = "plot ";
  for (size_t i = 0; p->spread && i < p->view.num_lines; i++) {
    if (p->view.starts[panel][i] == SIZE_MAX) continue;
    fputs(start, script);
    write_index(p, series++, script);
    fprintf(script,
            " using ($1+%.9g):2:3:4 with yerrorbars pointtype 0 linewidth 1.5 linecolor '%s' "
            "notitle",
            plot_sweep_aside(p, i), plot_colour(i));
    start = ", \\\n  ";
  }
  return start;
}

/* Of a drawing: each point once more, invisible, for the pointer to rest on. */
static void write_marks(const plot *p, size_t panel, size_t series, FILE *script) {
  for (size_t i = 0; i < p->view.num_lines; i++) {
    if (p->view.starts[panel][i] == SIZE_MAX) continue;
    for (size_t j = 0; j < plot_sweep_points(p, panel, i); j++) {
      fputs(", \\\n  ", script);
      write_index(p, series, script);
      fprintf(script,
              " every ::%zu::%zu using ($1+%.9g):($2/%g) with points pointtype 7 pointsize 2.5 "
              "linecolor '#ff000000' notitle",
              j, j, plot_sweep_aside(p, i), p->unit);
    }
    series++;
  }
}

void plot_sweep_lines(const plot *p, size_t panel, bool titled, size_t *series, FILE *script) {
  const size_t first = *series;
  const char *start = write_bars(p, panel, first, script), *size = p->drawing ? "0.8" : "1.4";
  char label[LABEL_SIZE];
  for (size_t i = 0; i < p->view.num_lines; i++) {
    const bool again = i >= 7; /* the colours begin anew, dashed */
    const bool ran = p->view.starts[panel][i] != SIZE_MAX;
    if (!ran && !titled) continue;
    fputs(start, script);
    if (ran) {
      write_index(p, (*series)++, script);
      fprintf(script, " using ($1+%.9g):($2/%g)", plot_sweep_aside(p, i), p->unit);
    } else fputs("NaN", script); /* for the key */
    fprintf(script,
            " with linespoints linewidth %s dashtype %d pointtype %d pointsize %s "
            "linecolor '%s' title ",
            p->drawing ? "2" : "2.5", again ? 2 : 1, plot_sweep_shape(i),
            p->view.num_panels > 1 && !p->drawing ? "1" : size, plot_colour(again ? i - 7 : i));
    gnuplot_quote(script, titled ? plot_sweep_label(p, i, label, sizeof label) : "");
    start = ", \\\n  ";
  }
  if (*start == 'p') fputs("plot NaN notitle", script); /* an empty panel */
  else if (p->drawing) write_marks(p, panel, first, script);
  if (p->picture->kind == PICTURE_SCALING) {
    fputs(", \\\n  ", script);
    write_index(p, count_series(p), script);
    fputs(" with lines linewidth 1.5 dashtype 2 linecolor '#808080' notitle", script);
  }
  fputc('\n', script);
}

static void write_single(plot *p, FILE *script) {
  char label[LABEL_SIZE];
  size_t series = 0;
  fputs("set title ", script);
  write_title(p, script);
  fputs("\nset xlabel ", script);
  gnuplot_quote(script, plot_axis_label(p->all->experiment->axes[p->picture->axis].param, p->scale,
                                        label, sizeof label));
  fputs(" . \"\\n \"\n", script); /* an empty line above the key */
  plot_write_ticks(script, p->ticks, p->count, 1000);
  write_key(p, script);
  plot_sweep_y_axis(p, true, script);
  plot_sweep_lines(p, 0, true, &series, script);
}

/* The whole picture's, with title and key. */
static int panels_height(size_t rows) { return (int)(270 + 300 * rows); }

/* Small multiples, one scale for all, the key below them. */
static void write_panels(plot *p, size_t columns, size_t rows, FILE *script) {
  const experiment *plan = p->all->experiment;
  const double height = panels_height(rows);
  char label[LABEL_SIZE], value[LABEL_SIZE];
  size_t series = 0;
  fprintf(script,
          "set multiplot layout %zu,%zu margins 0.10,0.98,%.4f,%.4f spacing 0.06,%.4f title ", rows,
          columns, 145 / height, 1 - 125 / height, 85 / height);
  write_title(p, script);
  fputc('\n', script);
  plot_write_ticks(script, p->ticks, p->count, 1000 / (double)columns);
  write_key(p, script);
  for (size_t panel = 0; panel < p->view.num_panels; panel++) {
    const size_t at = grid_stride(plan, p->view.panels) * pictures_panel_digit(&p->view, panel);
    snprintf(label, sizeof label, "%s=%s", plan->axes[p->view.panels].param,
             grid_value_text(plan, p->view.panels, at, value, sizeof value));
    fputs("set title ", script);
    gnuplot_quote(script, label);
    if (panel + columns >= p->view.num_panels) {
      fputs("\nset xlabel ", script);
      gnuplot_quote(script, plot_axis_label(plan->axes[p->picture->axis].param, p->scale, label,
                                            sizeof label));
    }
    fputc('\n', script);
    plot_sweep_y_axis(p, panel % columns == 0, script);
    plot_sweep_lines(p, panel, panel == 0, &series, script);
    if (panel == 0) fputs("unset key\n", script);
  }
  fputs("unset multiplot\n", script);
}

bool plot_sweep_open(const results *all, const picture_plan *picture, plot *p) {
  *p = (plot){.all = all,
              .picture = picture,
              .quantity = picture_quantity_of(all, picture->kind),
              .count = all->experiment->axes[picture->axis].count,
              .range = {INFINITY, -INFINITY}};
  p->ticks = plot_ticks(all->experiment, picture->axis, &p->scale);
  if (!p->ticks || !pictures_view(all, picture->kind, picture->axis, &p->view)) return false;
  p->spread = picture->kind == PICTURE_TIME && p->view.num_lines <= 6;
  return true;
}

void plot_sweep_close(plot *p) { free(p->ticks); }

void plot_sweep(const results *all, const picture_plan *picture, FILE *script, FILE *data) {
  plot p;
  /* Else the script draws nothing. */
  if (plot_sweep_open(all, picture, &p)) {
    const size_t panels = p.view.num_panels;
    const size_t columns = panels > 4 || panels == 3 ? 3 : panels > 1 ? 2 : 1;
    const size_t rows = (panels + columns - 1) / columns;
    plot_sweep_data(&p, data);
    plot_begin(script, picture->name, panels > 1 ? panels_height(rows) : 700);
    if (panels > 1) write_panels(&p, columns, rows, script);
    else write_single(&p, script);
  }
  plot_sweep_close(&p);
}
