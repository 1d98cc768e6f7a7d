// SPDX-License-Identifier: MIT
/* The roofline: what each stage reaches, over how many operations it does for each byte that it
 * must move, below what the device was measured to do at most. */
#include "report/gnuplot.h"
#include "report/html_parts.h"
#include "report/html_svg.h"
#include "report/plots.h"
#include "report/report_file.h"
#include "report/report_parts.h"
#include "work.h"
#include <math.h>
#include <stdlib.h>

enum {
  SECONDS = 20,
  WIDTH = 480,
  HEIGHT = 320,
  MOST_POINTS = 12, /* of more points those are shown that stand evenly among them */
  MOST_MARKS = MOST_POINTS * RESULTS_STAGES
};

/* A stage of a point, or the whole layer or block. */
typedef struct mark {
  size_t point;
  int stage;
  double intensity, rate, roof; /* operations a byte; operations per second */
} mark;

typedef struct roofline {
  const results *all;
  mark marks[MOST_MARKS];
  size_t num_marks, shown, ran; /* points */
  bool has[RESULTS_STAGES], matrix;
  double x[2], y[2]; /* of the axes */
} roofline;

/* --- what there is to see ------------------------------------------------------------ */

static void add_mark(roofline *r, size_t index, int stage, double flops, double bytes) {
  const double seconds = r->all->points[index].time_ms[stage].median * 1e-3;
  if (!(seconds > 0) || !(flops > 0) || !(bytes > 0)) return;
  const double peak = report_arithmetic_peak(r->all, index, stage);
  mark *m = &r->marks[r->num_marks++];
  *m = (mark){index, stage, flops / bytes, flops / seconds, 0};
  m->roof = fmin(peak, m->intensity * r->all->peaks.rates.read_bytes);
  r->has[stage] = true;
  r->matrix = r->matrix || peak > r->all->peaks.rates.flops_f32;
}

/* Stages between which times are shared have none of their own, and no mark. */
static void add_point(roofline *r, size_t index) {
  const experiment_point *plan = &r->all->experiment->points[index];
  work_counts counts = work_counts_of(&r->all->points[index].routing);
  counts.num_tokens = plan->num_tokens, counts.context = plan->context;
  const moecl_block_params block = experiment_block_params(plan);
  stage_work sum = {0, 0};
  for (int stage = 0; stage < RESULTS_STAGES; stage++) {
    if (stage == MOECL_STAGE_LAYER) continue; /* all of them */
    const stage_work work = plan->what == WHAT_BLOCK
                                ? work_of_block(&block, &counts, (moecl_stage)stage)
                                : work_of_layer(&plan->layer, &counts, (moecl_stage)stage);
    add_mark(r, index, stage, work.flops, work.bytes);
    sum.flops += work.flops;
    sum.bytes += work.bytes;
  }
  add_mark(r, index, MOECL_STAGE_LAYER, sum.flops, sum.bytes);
  r->shown++;
}

/* Axes that hold all marks and the ridge, in whole powers of ten. */
static void find_axes(roofline *r) {
  const moecl_peaks *peaks = &r->all->peaks.rates;
  const double peak = r->matrix ? peaks->flops_matrix : peaks->flops_f32;
  r->x[0] = r->x[1] = peak / peaks->read_bytes;
  r->y[0] = r->y[1] = peak;
  for (size_t i = 0; i < r->num_marks; i++) {
    r->x[0] = fmin(r->x[0], r->marks[i].intensity);
    r->x[1] = fmax(r->x[1], r->marks[i].intensity);
    r->y[0] = fmin(r->y[0], r->marks[i].rate);
    r->y[1] = fmax(r->y[1], r->marks[i].rate);
  }
  r->x[0] = pow(10, floor(log10(r->x[0] / 1.3)));
  r->x[1] = pow(10, ceil(log10(r->x[1] * 3)));
  r->y[0] = pow(10, floor(log10(r->y[0] / 1.3)));
  r->y[1] = pow(10, ceil(log10(r->y[1] * 1.2)));
}

/* What several devices do together is not below one's roof. */
static bool is_wanted(const results *all, size_t index) {
  return point_has_loads(all, index) && !point_is_elsewhere(all, index);
}

static bool collect(const results *all, roofline *r) {
  const size_t count = all->experiment->num_points;
  *r = (roofline){.all = all};
  if (!all->peaks.measured[0] || all->pictures == PICTURES_NONE) return false;
  for (size_t i = 0; i < count; i++) r->ran += is_wanted(all, i);
  size_t seen = 0;
  for (size_t i = 0; i < count; i++) {
    if (!is_wanted(all, i)) continue;
    const size_t wanted =
        r->ran <= MOST_POINTS ? seen : r->shown * (r->ran - 1) / (MOST_POINTS - 1);
    if (seen++ == wanted && r->shown < MOST_POINTS) add_point(r, i);
  }
  if (r->num_marks > 0) find_axes(r);
  return r->num_marks > 0;
}

/* --- gnuplot's part ------------------------------------------------------------------- */

static int shape_of(int stage) {
  static const int shapes[] = {7, 2, 5, 9, 11, 13, 6};
  return shapes[stage % 7];
}

/* A line at an arithmetic peak, from where memory's meets it, and its name above its end. */
static void write_peak(const roofline *r, double peak, const char *name, FILE *script) {
  const double bytes = r->all->peaks.rates.read_bytes, from = fmax(peak / bytes, r->x[0]);
  fprintf(script,
          "set arrow from %.6g,%.6g to %.6g,%.6g nohead linewidth 2 linecolor '#808080'\n"
          "set label ",
          from, peak / 1e9, r->x[1], peak / 1e9);
  gnuplot_quote(script, name);
  fprintf(script, " at %.6g,%.6g right offset -0.5,0.6\n", r->x[1], peak / 1e9);
}

/* From the left edge, or the bottom, up to the highest peak. */
static void write_memory(const roofline *r, double peak, FILE *script) {
  const double bytes = r->all->peaks.rates.read_bytes, from = fmax(r->x[0], r->y[0] / bytes);
  const double ridge = peak / bytes;
  fprintf(script,
          "set arrow from %.6g,%.6g to %.6g,%.6g nohead linewidth 2 linecolor '#808080'\n"
          "set label 'memory' at %.6g,%.6g right offset -0.8,0\n",
          from, from * bytes / 1e9, ridge, peak / 1e9, sqrt(from * ridge),
          sqrt(from * ridge) * bytes / 1e9);
}

static void script_of(const roofline *r, FILE *script) {
  const moecl_peaks *peaks = &r->all->peaks.rates;
  fputs("reset session\n$data << EOD\n", script);
  for (size_t i = 0; i < r->num_marks; i++)
    fprintf(script, "%.9g %.9g\n", r->marks[i].intensity, r->marks[i].rate / 1e9);
  fprintf(script,
          "EOD\nset terminal svg size %d,%d noenhanced font 'sans-serif,14'\n"
          "unset key\nset border 3 linecolor '#808080'\nset tics nomirror out scale 0.6\n"
          "set grid linecolor '#d0d0d0' linetype 1 linewidth 1\nset logscale xy 10\n"
          "set format x '%%g'\nset format y '%%g'\nset xlabel 'operations a byte'\n"
          "set ylabel 'GFLOP/s'\nset xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\n",
          WIDTH, HEIGHT, r->x[0], r->x[1], r->y[0] / 1e9, r->y[1] / 1e9);
  write_memory(r, r->matrix ? peaks->flops_matrix : peaks->flops_f32, script);
  write_peak(r, peaks->flops_f32, "fp32", script);
  if (r->matrix) write_peak(r, peaks->flops_matrix, "matrix units", script);
  for (size_t i = 0; i < r->num_marks; i++)
    fprintf(script,
            "%s$data every ::%zu::%zu using 1:2 with points pointtype %d pointsize 0.9 "
            "linewidth 1.5 linecolor '%s' notitle",
            i ? ", \\\n  " : "plot ", i, i, shape_of(r->marks[i].stage),
            plot_colour((size_t)r->marks[i].stage));
  fputc('\n', script);
}

/* --- in words -------------------------------------------------------------------------- */

static void put_number(double number, const char *unit, FILE *file) {
  char text[NUMBER_SIZE];
  fprintf(file, "%s %s", number_text(number, text, sizeof text), unit);
}

/* A stage's name, or that of the whole: "layer" or "block". */
static const char *name_of(const roofline *r, int stage) {
  return stage == MOECL_STAGE_LAYER ? experiment_measured(r->all->experiment)
                                    : moecl_stage_name((moecl_stage)stage);
}

/* "gate_up 12.3 GFLOP/s at 4.5 operations a byte, 34.0% of the roof" */
static void put_mark(const roofline *r, const mark *m, FILE *file) {
  fprintf(file, "%s ", name_of(r, m->stage));
  put_number(m->rate / 1e9, "GFLOP/s at ", file);
  put_number(m->intensity, "operations a byte", file);
  fprintf(file, ", %.1f%% of the roof", 100 * m->rate / m->roof);
}

static void put_point(const roofline *r, size_t index, FILE *file) {
  char label[LABEL_SIZE];
  grid_line_label(r->all->experiment, r->all->experiment->num_axes, index, label, sizeof label);
  html_text(file, *label ? label : "the point");
  fputs(": ", file);
}

static void put_title(const void *user, size_t number, FILE *file) {
  const roofline *r = user;
  if (number < 1 || number > r->num_marks) return;
  const mark *m = &r->marks[number - 1];
  fputs("<title>", file);
  put_point(r, m->point, file);
  put_mark(r, m, file);
  fputs("</title>", file);
}

static void put_words(const void *user, FILE *file) {
  const roofline *r = user;
  const moecl_peaks *peaks = &r->all->peaks.rates;
  fputs("Roofline: memory ", file);
  put_number(peaks->read_bytes / 1e9, "GB/s, fp32 ", file);
  put_number(peaks->flops_f32 / 1e9, "GFLOP/s", file);
  if (r->matrix) {
    fputs(", matrix units ", file);
    put_number(peaks->flops_matrix / 1e9, "GFLOP/s", file);
  }
  for (size_t i = 0; i < r->num_marks; i++) {
    const bool first = i == 0 || r->marks[i].point != r->marks[i - 1].point;
    fputs(first ? ". " : "; ", file);
    if (first) put_point(r, r->marks[i].point, file);
    put_mark(r, &r->marks[i], file);
  }
  fputc('.', file);
}

/* --- the page's part -------------------------------------------------------------------- */

static void put_caption(const roofline *r, FILE *file) {
  fprintf(file,
          "<figcaption>Each stage, and the %s as a whole: how fast it computes over how many "
          "operations it does for each byte that it must move. ",
          experiment_measured(r->all->experiment));
  fputs("The lines are what the device does at "
        "most: the slope its memory, the level its arithmetic; below both there is room. Both axes "
        "are logarithmic. A stage that finds its data in a cache may stand above the slope.",
        file);
  if (r->shown < r->ran) fprintf(file, " %zu of %zu points.", r->shown, r->ran);
  fputs("</figcaption>\n", file);
}

static void put_figure(const roofline *r, const char *drawn, FILE *file) {
  const svg_words words = {put_words, put_title, r};
  fputs("<div class=\"figures\">\n<figure>\n<div class=\"chart\">\n", file);
  html_svg(drawn, "roofline", WIDTH, HEIGHT, &words, file);
  fputs("</div>\n<ul class=\"key\" aria-label=\"Stages\">\n", file);
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    if (r->has[stage]) html_key_item((size_t)stage, shape_of(stage), name_of(r, stage), file);
  fputs("</ul>\n", file);
  put_caption(r, file);
  fputs("</figure>\n</div>\n", file);
}

void html_roofline(const results *all, FILE *file) {
  roofline *r = malloc(sizeof *r);
  report_file script;
  if (r && collect(all, r)) {
    report_file_open(&script);
    if (script.stream) script_of(r, script.stream);
    const bool ok = script.stream && fclose(script.stream) == 0;
    char *drawn = ok ? gnuplot_draw(script.text, SECONDS) : NULL;
    if (drawn) put_figure(r, drawn, file);
    free(drawn);
    free(script.text);
  }
  free(r);
}
