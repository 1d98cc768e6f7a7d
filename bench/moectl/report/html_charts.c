// SPDX-License-Identifier: MIT
/* Charts against swept parameters, as gnuplot draws them: its SVG stands in the page itself, so
 * that values appear under the pointer and colours follow the page's. */
#include "report/gnuplot.h"
#include "report/html_parts.h"
#include "report/html_svg.h"
#include "report/plot_sweep.h"
#include "report/report_file.h"
#include "report/report_parts.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SECONDS = 20, WIDTH = 480, HEIGHT = 300 };

/* --- gnuplot's part --------------------------------------------------------------- */

static void script_of(plot *p, FILE *script) {
  char label[LABEL_SIZE];
  size_t series = 0;
  fputs("reset session\n$data << EOD\n", script);
  plot_sweep_data(p, script);
  fputs("EOD\nunset key\nset border 3 linecolor '#808080'\nset tics nomirror out scale 0.6\n"
        "set grid ytics linecolor '#d0d0d0' linetype 1 linewidth 1\nset xlabel ",
        script);
  gnuplot_quote(script, plot_axis_label(p->all->experiment->axes[p->picture->axis].param, p->scale,
                                        label, sizeof label));
  fputc('\n', script);
  for (size_t panel = 0; panel < p->view.num_panels; panel++) {
    fprintf(script, "set terminal svg size %d,%d noenhanced font 'sans-serif,14'\n", WIDTH, HEIGHT);
    plot_write_ticks(script, p->ticks, p->count, 0.8 * WIDTH);
    plot_sweep_y_axis(p, true, script);
    plot_sweep_lines(p, panel, false, &series, script);
  }
}

/* Lines of the panel that ran. */
static size_t lines_of(const plot *p, size_t panel) {
  size_t lines = 0;
  for (size_t i = 0; i < p->view.num_lines; i++) lines += p->view.starts[panel][i] != SIZE_MAX;
  return lines;
}

/* --- what is said of a point -------------------------------------------------------- */

/* "1.20 ms (1.10 to 1.35)" */
static void put_value(const plot *p, size_t index, FILE *file) {
  char number[NUMBER_SIZE];
  const double value = picture_value(p->all, p->picture->kind, index);
  fputs(number_text(value, number, sizeof number), file);
  if (p->picture->kind == PICTURE_DROPPED || p->picture->kind == PICTURE_HIT_RATE) fputc('%', file);
  if (p->picture->kind != PICTURE_TIME) return;
  const sample_summary *time = &p->all->points[index].time_ms[MOECL_STAGE_LAYER];
  fputs(" ms", file);
  if (!isfinite(time->min) || !isfinite(time->p90)) return;
  fprintf(file, " (%s to ", number_text(time->min, number, sizeof number));
  fprintf(file, "%s)", number_text(time->p90, number, sizeof number));
}

static void put_place(const plot *p, size_t index, FILE *file) {
  char text[LABEL_SIZE];
  html_text(file, grid_value_text(p->all->experiment, p->picture->axis, index, text, sizeof text));
}

typedef struct panel_marks {
  const plot *plot;
  size_t panel, first; /* gnuplot's number of its first invisible point */
} panel_marks;

/* The title of one of gnuplot's plots; those before the points have none. */
static void put_mark(const void *user, size_t number, FILE *file) {
  const panel_marks *marks = user;
  const plot *p = marks->plot;
  if (number < marks->first) return;
  size_t which = number - marks->first, index;
  for (size_t line = 0; line < p->view.num_lines; line++) {
    if (p->view.starts[marks->panel][line] == SIZE_MAX) continue;
    const size_t points = plot_sweep_points(p, marks->panel, line);
    if (which < points && plot_sweep_point(p, marks->panel, line, which, &index)) {
      char label[LABEL_SIZE];
      fprintf(file, "<title>%s=", p->all->experiment->axes[p->picture->axis].param);
      put_place(p, index, file);
      plot_sweep_label(p, line, label, sizeof label);
      if (*label) fputs(", ", file);
      html_text(file, label);
      fputs(": ", file);
      put_value(p, index, file);
      fputs("</title>", file);
      return;
    }
    which -= points;
  }
}

/* The chart in words: every line's values. */
static void put_words(const void *user, FILE *file) {
  const panel_marks *marks = user;
  const plot *p = marks->plot;
  char label[LABEL_SIZE];
  size_t index;
  fprintf(file, "%c%s against %s.", toupper((unsigned char)p->quantity->title[0]),
          p->quantity->title + 1, p->all->experiment->axes[p->picture->axis].param);
  for (size_t line = 0; line < p->view.num_lines; line++) {
    if (p->view.starts[marks->panel][line] == SIZE_MAX) continue;
    plot_sweep_label(p, line, label, sizeof label);
    fputc(' ', file);
    html_text(file, label);
    for (size_t i = 0; plot_sweep_point(p, marks->panel, line, i, &index); i++) {
      fputs(i > 0 ? "; " : *label ? ": " : "", file);
      put_place(p, index, file);
      fputs(": ", file);
      put_value(p, index, file);
    }
    fputc('.', file);
  }
}

/* --- the page's part --------------------------------------------------------------- */

/* gnuplot's marks as letters. */
void html_key_item(size_t colour, int shape, const char *label, FILE *file) {
  static const char *const letters[16] = {
      [1] = "+",        [2] = "&#xd7;",   [4] = "&#9633;",  [5] = "&#9632;",
      [6] = "&#9675;",  [7] = "&#9679;",  [8] = "&#9651;",  [9] = "&#9650;",
      [10] = "&#9661;", [11] = "&#9660;", [12] = "&#9671;", [13] = "&#9670;"};
  fprintf(file, "<li><b class=\"c%zu\">%s</b>", colour % 7, letters[shape]);
  html_text(file, label);
  fputs("</li>\n", file);
}

static void put_key(const plot *p, FILE *file) {
  char label[LABEL_SIZE];
  if (p->view.num_lines < 2) return;
  fputs("<ul class=\"key\" aria-label=\"Lines\">\n", file);
  for (size_t i = 0; i < p->view.num_lines; i++) {
    if (!*plot_sweep_label(p, i, label, sizeof label)) continue;
    html_key_item(i, plot_sweep_shape(i), label, file);
  }
  fputs("</ul>\n", file);
}

/* "dtype=fp32" over a panel. */
static void put_panel_title(const plot *p, size_t panel, FILE *file) {
  const experiment *plan = p->all->experiment;
  char text[LABEL_SIZE];
  if (p->view.num_panels < 2) return;
  const size_t at = grid_stride(plan, p->view.panels) * pictures_panel_digit(&p->view, panel);
  fprintf(file, "<p>%s=", plan->axes[p->view.panels].param);
  html_text(file, grid_value_text(plan, p->view.panels, at, text, sizeof text));
  fputs("</p>\n", file);
}

static void put_caption(const plot *p, FILE *file) {
  report_file caption;
  report_file_open(&caption);
  if (!caption.stream) return;
  report_caption(p->all, p->picture, caption.stream);
  const bool ok = fclose(caption.stream) == 0;
  fputs("<figcaption>", file);
  if (ok) html_inline(file, caption.text);
  if (p->spread)
    fputs(". Medians, with bars from the fastest iteration to the 90th percentile", file);
  if (p->view.series < p->all->experiment->num_axes && p->view.num_lines < p->view.num_series)
    fprintf(file, ". %zu of %zu values of %s", p->view.num_lines, p->view.num_series,
            p->all->experiment->axes[p->view.series].param);
  if (p->view.num_panels < p->view.num_values)
    fprintf(file, ". %zu of %zu values of %s", p->view.num_panels, p->view.num_values,
            p->all->experiment->axes[p->view.panels].param);
  fputs(".</figcaption>\n", file);
  free(caption.text);
}

static void put_chart(const plot *p, const char *drawn, FILE *file) {
  char id[112];
  fprintf(file, "<figure%s>\n<div class=\"charts\">\n",
          p->view.num_panels > 1 ? " class=\"wide\"" : "");
  for (size_t panel = 0; panel < p->view.num_panels && drawn; panel++) {
    const size_t lines = lines_of(p, panel);
    const panel_marks marks = {p, panel, 1 + (p->spread ? 2 : 1) * lines};
    const svg_words words = {put_words, put_mark, &marks};
    fputs("<div class=\"chart\">\n", file);
    put_panel_title(p, panel, file);
    snprintf(id, sizeof id, "%.80s-%zu", p->picture->name, panel);
    drawn = html_svg(drawn, id, WIDTH, HEIGHT, &words, file);
    fputs("</div>\n", file);
  }
  fputs("</div>\n", file);
  put_key(p, file);
  put_caption(p, file);
  fputs("</figure>\n", file);
}

/* False: gnuplot did not draw it, and would not draw the next. */
static bool draw(const results *all, const picture_plan *picture, FILE *file) {
  plot p;
  report_file script;
  report_file_open(&script);
  bool ok = plot_sweep_open(all, picture, &p) && script.stream;
  p.drawing = true;
  if (ok) script_of(&p, script.stream);
  if (script.stream) ok = fclose(script.stream) == 0 && ok;
  char *drawn = ok ? gnuplot_draw(script.text, SECONDS) : NULL;
  if (drawn) put_chart(&p, drawn, file);
  plot_sweep_close(&p);
  ok = drawn != NULL;
  free(drawn);
  free(script.text);
  return ok;
}

/* Limit the time: the user is waiting. */
static bool interrupted(const results *all, size_t count) {
  return all->watch && !all->watch(all->watch_user, count, count);
}

void html_charts(const results *all, picture_kind kind, FILE *file) {
  picture_list pictures;
  report_file figures;
  report_file_open(&figures);
  if (pictures_plan(all, &pictures)) {
    bool ok = figures.stream != NULL;
    for (size_t i = 0; i < pictures.count && ok; i++)
      if (pictures.list[i].kind == kind)
        ok = !interrupted(all, pictures.count) && draw(all, &pictures.list[i], figures.stream);
    pictures_release(&pictures);
  }
  if (figures.stream && fclose(figures.stream) == 0 && figures.size > 0)
    fprintf(file, "<div class=\"figures\">\n%s</div>\n", figures.text);
  free(figures.text);
}
