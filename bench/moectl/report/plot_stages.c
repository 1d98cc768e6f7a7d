// SPDX-License-Identifier: MIT
/* Which stage takes the time: a bar for each point, its stages one behind the other. */
#include "report/gnuplot.h"
#include "report/plots.h"
#include <math.h>
#include <string.h>

/* Of a label more is cut off: the bars need the other half. */
enum { ROW_PIXELS = 26, MOST_LETTERS = 70 };

typedef struct bars {
  size_t points[SMALL_SWEEP], count;
  moecl_stage stages[RESULTS_PARTS]; /* columns of the data: a block's only where there are any */
  int num_stages;
  bool drawn[RESULTS_PARTS]; /* any of them has it */
  double shortest, longest;  /* ms */
  bool shares;               /* in percent: in milliseconds the shorter ones would have no length */
} bars;

static bars choose_bars(const results *all) {
  bars found = {.shortest = INFINITY};
  for (int part = 0; part < RESULTS_PARTS; part++)
    if (results_parts[part] < MOECL_STAGE_LAYER || experiment_has_blocks(all->experiment))
      found.stages[found.num_stages++] = results_parts[part];
  for (size_t i = 0; i < all->experiment->num_points && found.count < SMALL_SWEEP; i++) {
    const double sum = point_ran(all, i) ? point_stages_ms(&all->points[i]) : 0;
    if (!(sum > 0)) continue;
    found.points[found.count++] = i;
    found.shortest = fmin(found.shortest, sum);
    found.longest = fmax(found.longest, sum);
    for (int j = 0; j < found.num_stages; j++)
      if (isfinite(all->points[i].time_ms[found.stages[j]].median)) found.drawn[j] = true;
  }
  found.shares = found.longest > 8 * found.shortest;
  return found;
}

/* Each stage's milliseconds; 0 for one that a point lacks or does within another one. */
static void write_data(const results *all, const bars *found, FILE *data) {
  char label[LABEL_SIZE], number[NUMBER_SIZE];
  fputs("# row sum_ms", data);
  for (int j = 0; j < found->num_stages; j++)
    fprintf(data, " %s_ms", moecl_stage_name(found->stages[j]));
  fputs(" sum\n", data);
  for (size_t row = 0; row < found->count; row++) {
    const point_result *point = &all->points[found->points[row]];
    const double sum = point_stages_ms(point);
    grid_line_label(all->experiment, all->experiment->num_axes, point->index, label, sizeof label);
    fprintf(data, "# %s\n%zu %.9g", label, row, sum);
    for (int j = 0; j < found->num_stages; j++) {
      const double time = point->time_ms[found->stages[j]].median;
      fprintf(data, " %.9g", isfinite(time) ? time : 0);
    }
    fprintf(data, " \"%s ms\"\n", number_text(sum, number, sizeof number));
  }
}

static void write_rows(const results *all, const bars *found, FILE *script) {
  char label[LABEL_SIZE];
  size_t longest = 0;
  fputs("set ytics (", script);
  for (size_t row = 0; row < found->count; row++) {
    grid_line_label(all->experiment, all->experiment->num_axes, found->points[row], label,
                    sizeof label);
    label[MOST_LETTERS] = '\0';
    if (strlen(label) > longest) longest = strlen(label);
    if (row > 0) fputs(", ", script);
    gnuplot_quote(script, label);
    fprintf(script, " %zu", row);
  }
  fprintf(script, ") font ',11'\nset yrange [%.1f:-0.5]\nset lmargin at screen %.3f\n",
          (double)found->count - 0.5, 0.036 + 0.0067 * (double)longest);
}

static void write_title(const results *all, FILE *script) {
  char line[LABEL_SIZE];
  fputs("set title ", script);
  snprintf(line, sizeof line, "%.60s: time of each stage", all->experiment->name);
  gnuplot_quote(script, line);
  snprintf(line, sizeof line, "%.100s; medians, of forwards that time every kernel",
           all->device.name);
  fputs(" . \"\\n\" . ", script);
  gnuplot_quote(script, line);
  fputc('\n', script);
}

/* Columns 3 and on are the stages. */
static void write_bars(const bars *found, const char *name, FILE *script) {
  const char *unit = found->shares ? "100/$2" : "1";
  fprintf(script, "plot ");
  for (int j = 0; j < found->num_stages; j++)
    if (found->drawn[j])
      fprintf(script,
              "'%s.dat' using (0):1:(%s*sum [c=3:%d] column(c)):(%s*sum [c=3:%d] column(c)):"
              "($1-0.36):($1+0.36) with boxxyerror linecolor '%s' title '%s', \\\n  ",
              name, unit, j + 2, unit, j + 3, plot_stage_colour(found->stages[j]),
              moecl_stage_name(found->stages[j]));
  fprintf(script, "'%s.dat' using (%s*$2):1:%d with labels left offset 0.6,0 notitle\n", name, unit,
          found->num_stages + 3);
}

void plot_stages(const results *all, const picture_plan *picture, FILE *script, FILE *data) {
  const bars found = choose_bars(all);
  write_data(all, &found, data);
  plot_begin(script, picture->name, 200 + ROW_PIXELS * (int)(found.count < 4 ? 4 : found.count));
  write_title(all, script);
  write_rows(all, &found, script);
  fprintf(script,
          "set xlabel '%s' . \"\\n \"\n" /* an empty line above the key */
          "set xrange [0:%.9g]\n"
          "unset grid\nset grid xtics linecolor '#d0d0d0' linetype 1 linewidth 1\n"
          "set style fill solid 1.0 noborder\n"
          "set key below center horizontal Left reverse samplen 1.5\n",
          found.shares ? "share of all stages (%)" : "time (ms)",
          1.15 * (found.shares ? 100 : found.longest));
  write_bars(&found, picture->name, script);
}
