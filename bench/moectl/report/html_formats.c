// SPDX-License-Identifier: MIT
/* Formats of weights: the error of each against its time, and against its bits. Where marks stand
 * is computed here, so that no label lies on another one or on a mark. */
#include "report/gnuplot.h"
#include "report/html_parts.h"
#include "report/html_svg.h"
#include "report/plots.h"
#include "report/report_file.h"
#include "report/report_parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
  SECONDS = 20,
  WIDTH = 560,
  HEIGHT = 410,
  LEFT = 66, /* of the plot, in pixels */
  RIGHT = 540,
  TOP = 14,
  BOTTOM = 344,
  LETTER = 7, /* a label's letters' width, and its height */
  LINE = 15,
  MARK = 6 /* from a mark's middle to its edge, and a little */
};

typedef struct box {
  double left, top, right, bottom;
} box;

typedef struct mark {
  size_t point;
  double x, y;    /* of the axes */
  double at[2];   /* in pixels */
  box label;      /* where it is; right 0: there is no room for it */
  bool with_line; /* it is not beside its mark */
  char text[LABEL_SIZE];
} mark;

typedef struct chart {
  const results *all;
  const char *name, *against, *unit;
  mark marks[REPORT_MOST_FORMATS];
  size_t num_marks;
  double range[2][2]; /* of x, of y */
  bool logarithmic[2];
  double without; /* the time of the first that is not quantized; NaN: it has no place here */
  char without_text[LABEL_SIZE];
} chart;

/* ---- what there is to see ---- */

static double bits_of(const results *all, size_t index) {
  return all->points[index].verify.weight_bits;
}

static void add_mark(chart *c, size_t index, double x) {
  const double error = 100 * c->all->points[index].verify.weight_error;
  if (!(x > 0) || !(error > 0) || !isfinite(error)) return;
  mark *m = &c->marks[c->num_marks++];
  *m = (mark){.point = index, .x = x, .y = error};
  report_formats_label(c->all, index, m->text, sizeof m->text);
}

static void collect(const results *all, bool bits, chart *c) {
  size_t points[REPORT_MOST_FORMATS];
  *c = (chart){.all = all,
               .name = bits ? "error_vs_bits" : "error_vs_time",
               .against = bits ? "bits a weight" : "time",
               .unit = bits ? "bits" : "ms",
               .without = NAN};
  const size_t count = report_formats_points(all, points, REPORT_MOST_FORMATS);
  for (size_t i = 0; i < count; i++) {
    add_mark(c, points[i], bits ? bits_of(all, points[i]) : point_ms(all, points[i]));
    if (bits || isfinite(c->without) || isfinite(all->points[points[i]].verify.weight_error))
      continue;
    c->without = point_ms(all, points[i]);
    report_formats_label(all, points[i], c->without_text, sizeof c->without_text);
  }
}

/* Logarithmic where values are far apart; room for labels at the right and above. */
static void find_axis(chart *c, int axis, double least, double most) {
  const double pad = axis ? 0.1 : 0.16;
  c->logarithmic[axis] = most > 8 * least;
  if (c->logarithmic[axis]) {
    const double room = pow(most / least, pad);
    c->range[axis][0] = least / room, c->range[axis][1] = most * room;
    return;
  }
  const double span = most > least ? most - least : most;
  c->range[axis][0] = fmax(least - pad * span, 0), c->range[axis][1] = most + pad * span;
}

static void find_axes(chart *c) {
  double least[2] = {INFINITY, INFINITY}, most[2] = {0, 0};
  for (size_t i = 0; i < c->num_marks; i++) {
    const double values[2] = {c->marks[i].x, c->marks[i].y};
    for (int axis = 0; axis < 2; axis++) {
      least[axis] = fmin(least[axis], values[axis]);
      most[axis] = fmax(most[axis], values[axis]);
    }
  }
  if (isfinite(c->without)) {
    least[0] = fmin(least[0], c->without);
    most[0] = fmax(most[0], c->without);
  }
  for (int axis = 0; axis < 2; axis++) find_axis(c, axis, least[axis], most[axis]);
}

/* Which share of the axis is below a value. */
static double share_of(const chart *c, int axis, double value) {
  const double *range = c->range[axis];
  return c->logarithmic[axis] ? log(value / range[0]) / log(range[1] / range[0])
                              : (value - range[0]) / (range[1] - range[0]);
}

/* ---- labels ---- */

static bool overlap(box a, box b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/* `line`: the broken one counts too. */
static bool is_free(const chart *c, size_t which, box box, bool line) {
  if (box.left < LEFT + 2 || box.right > RIGHT || box.top < TOP || box.bottom > BOTTOM - 2)
    return false;
  const double at = LEFT + share_of(c, 0, c->without) * (RIGHT - LEFT);
  if (line && isfinite(at) && box.left < at + 2 && at - 2 < box.right) return false;
  for (size_t i = 0; i < c->num_marks; i++) {
    const mark *m = &c->marks[i];
    const struct box around = {m->at[0] - MARK, m->at[1] - MARK, m->at[0] + MARK, m->at[1] + MARK};
    if (overlap(box, around)) return false;
    if (i < which && m->label.right > 0 && overlap(box, m->label)) return false;
  }
  return true;
}

/* Beside its mark, else above or below and further and further away. */
static bool place_label(chart *c, size_t which, bool line) {
  enum { FAR = 8 };
  mark *m = &c->marks[which];
  const double width = (double)strlen(m->text) * LETTER;
  for (int step = 0; step <= FAR; step++)
    for (int way = 0; way < 6; way++) {
      const int side = way % 3; /* right of the mark, left of it, over it */
      const double up = (way < 3 ? -1 : 1) * (double)step * LINE;
      if (step == 0 && (way > 2 || side == 2)) continue;
      const double left = m->at[0] + (side == 0   ? MARK + 2
                                      : side == 1 ? -MARK - 2 - width
                                                  : -width / 2);
      const double top = m->at[1] + up - LINE / 2.0;
      const box box = {left, top, left + width, top + LINE};
      if (!is_free(c, which, box, line)) continue;
      m->label = box;
      m->with_line = step > 1 || (step == 1 && side != 2);
      return true;
    }
  return false;
}

static void place_all(chart *c) {
  for (size_t i = 0; i < c->num_marks; i++) {
    mark *m = &c->marks[i];
    m->at[0] = LEFT + share_of(c, 0, m->x) * (RIGHT - LEFT);
    m->at[1] = BOTTOM - share_of(c, 1, m->y) * (BOTTOM - TOP);
  }
  for (size_t i = 0; i < c->num_marks; i++)
    if (!place_label(c, i, true)) place_label(c, i, false);
}

/* ---- gnuplot's part ---- */

static double across(double x) { return (x - LEFT) / (RIGHT - LEFT); }
static double upward(double y) { return (BOTTOM - y) / (BOTTOM - TOP); }

static void write_label(const mark *m, FILE *script) {
  if (m->label.right == 0) return;
  const double middle = (m->label.top + m->label.bottom) / 2;
  fputs("set label ", script);
  gnuplot_quote(script, m->text);
  fprintf(script, " at graph %.5f,%.5f center font ',12'\n",
          across((m->label.left + m->label.right) / 2), upward(middle));
  if (!m->with_line) return;
  /* To the nearest place of it. */
  const double to_x = fmin(fmax(m->at[0], m->label.left), m->label.right);
  const double to_y = m->label.top > m->at[1] ? m->label.top + 2 : m->label.bottom - 2;
  fprintf(script,
          "set arrow from graph %.5f,%.5f to graph %.5f,%.5f nohead linewidth 0.7 linecolor "
          "'#808080'\n",
          across(m->at[0]), upward(m->at[1]), across(to_x), upward(to_y));
}

/* Powers of two say enough between those of ten. */
static void write_scale(const chart *c, int axis, FILE *script) {
  const char name = axis ? 'y' : 'x';
  const bool wide = c->range[axis][1] > 100 * c->range[axis][0];
  if (c->logarithmic[axis]) fprintf(script, "set logscale %c %d\n", name, wide ? 10 : 2);
  fprintf(script, "set %crange [%.6g:%.6g]\nset format %c '%%g'\n", name, c->range[axis][0],
          c->range[axis][1], name);
}

static void write_script(const chart *c, FILE *script) {
  fputs("reset session\n$data << EOD\n", script);
  for (size_t i = 0; i < c->num_marks; i++)
    fprintf(script, "%.9g %.9g\n", c->marks[i].x, c->marks[i].y);
  fprintf(script,
          "EOD\nset terminal svg size %d,%d noenhanced font 'sans-serif,14'\n"
          "set lmargin at screen %.5f\nset rmargin at screen %.5f\n"
          "set tmargin at screen %.5f\nset bmargin at screen %.5f\n"
          "unset key\nset border 3 linecolor '#808080'\nset tics nomirror out scale 0.6\n"
          "set grid linecolor '#d0d0d0' linetype 1 linewidth 1\nset xlabel '%s%s%s' offset 0,0.4\n"
          "set ylabel 'error of the output (%%)%s'\n",
          WIDTH, HEIGHT, (double)LEFT / WIDTH, (double)RIGHT / WIDTH, 1 - (double)TOP / HEIGHT,
          1 - (double)BOTTOM / HEIGHT, c->against, strcmp(c->unit, "ms") == 0 ? " (ms)" : "",
          c->logarithmic[0] ? ", log scale" : "", c->logarithmic[1] ? ", log scale" : "");
  for (int axis = 0; axis < 2; axis++) write_scale(c, axis, script);
  if (isfinite(c->without))
    fprintf(script,
            "set arrow from graph %.5f,0 to graph %.5f,1 nohead dashtype 2 linewidth 1.5 "
            "linecolor '#808080'\n",
            share_of(c, 0, c->without), share_of(c, 0, c->without));
  for (size_t i = 0; i < c->num_marks; i++) write_label(&c->marks[i], script);
  for (size_t i = 0; i < c->num_marks; i++)
    fprintf(script,
            "%s$data every ::%zu::%zu using 1:2 with points pointtype 7 pointsize 0.8 "
            "linecolor '%s' notitle",
            i ? ", \\\n  " : "plot ", i, i, plot_colour(0));
  fputc('\n', script);
}

/* ---- in words ---- */

/* "int8: 1.20 ms, 0.95% error" */
static void put_mark(const chart *c, const mark *m, FILE *file) {
  char number[NUMBER_SIZE];
  html_text(file, m->text);
  fprintf(file, ": %s %s, ", number_text(m->x, number, sizeof number), c->unit);
  fprintf(file, "%s%% error", number_text(m->y, number, sizeof number));
}

static void put_title(const void *user, size_t number, FILE *file) {
  const chart *c = user;
  if (number < 1 || number > c->num_marks) return;
  fputs("<title>", file);
  put_mark(c, &c->marks[number - 1], file);
  fputs("</title>", file);
}

static void put_words(const void *user, FILE *file) {
  const chart *c = user;
  fprintf(file, "Error against %s.", c->against);
  for (size_t i = 0; i < c->num_marks; i++) {
    fputs(i ? "; " : " ", file);
    put_mark(c, &c->marks[i], file);
  }
  fputc('.', file);
}

/* ---- the page's part ---- */

static void put_caption(const chart *c, FILE *file) {
  char number[NUMBER_SIZE];
  fprintf(file,
          "<figcaption>The error of the output that each format of weights makes, against %s: "
          "left and low is best.",
          c->against);
  if (isfinite(c->without)) {
    fputs(" The broken line is ", file);
    html_text(file, c->without_text);
    fprintf(file, ", which is not quantized: %s ms.",
            number_text(c->without, number, sizeof number));
  }
  fputs("</figcaption>\n", file);
}

/* Nothing of fewer than two. */
static void draw(const results *all, bool bits, FILE *file) {
  chart *c = malloc(sizeof *c);
  report_file script = {0};
  if (!c) return;
  collect(all, bits, c);
  if (c->num_marks > 1) {
    find_axes(c);
    place_all(c);
    report_file_open(&script);
    if (script.stream) write_script(c, script.stream);
    const bool ok = script.stream && fclose(script.stream) == 0;
    char *drawn = ok ? gnuplot_draw(script.text, SECONDS) : NULL;
    if (drawn) {
      const svg_words words = {put_words, put_title, c};
      fputs("<figure>\n<div class=\"chart\">\n", file);
      html_svg(drawn, c->name, WIDTH, HEIGHT, &words, file);
      fputs("</div>\n", file);
      put_caption(c, file);
      fputs("</figure>\n", file);
    }
    free(drawn);
    free(script.text);
  }
  free(c);
}

void html_formats(const results *all, FILE *file) {
  report_file figures;
  if (all->pictures == PICTURES_NONE) return;
  report_file_open(&figures);
  if (figures.stream) {
    draw(all, false, figures.stream);
    draw(all, true, figures.stream);
  }
  if (figures.stream && fclose(figures.stream) == 0 && figures.size > 0)
    fprintf(file, "<div class=\"figures\">\n%s</div>\n", figures.text);
  free(figures.text);
}
