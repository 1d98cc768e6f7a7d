// SPDX-License-Identifier: MIT
/* A comparison's files: Markdown, CSV, the picture with its script and data. */
#include "base/files.h"
#include "base/utf8.h"
#include "report/compare.h"
#include "report/gnuplot.h"
#include "report/plots.h"
#include "results/csv.h"
#include "results/measures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- compare.csv: a row for each matched point of each run ---- */

static void csv_header(csv_stream *csv) {
  static const char *const first[] = {"run", "point_a", "point"};
  static const char *const last[] = {"ms_a", "ms", "speed", "low", "high", "verdict"};
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) csv_text(csv, first[i]);
  for (int i = 0; i < KEY_COUNT; i++) {
    const char *param = schema_param(schema_get((schema_id)i));
    if (param) csv_text(csv, param);
  }
  for (int i = 0; i < NUM_OPERATIONS; i++) csv_name(csv, "variants_", measure_operations[i], "_a");
  for (int i = 0; i < NUM_OPERATIONS; i++) csv_name(csv, "variants_", measure_operations[i], "");
  for (size_t i = 0; i < sizeof last / sizeof *last; i++) csv_text(csv, last[i]);
  csv_end_row(csv);
}

static void csv_point(csv_stream *csv, const measured_run *first, const other_run *other,
                      const matched_points *match) {
  const point_result *a = &first->points[match->before].result;
  const point_result *b = &other->run->points[match->after].result;
  csv_text(csv, other->run->path);
  csv_integer(csv, (int64_t)a->index);
  csv_integer(csv, (int64_t)b->index);
  for (int i = 0; i < KEY_COUNT; i++) {
    const char *value = measured_value(other->run, match->after, (schema_id)i);
    if (schema_param(schema_get((schema_id)i)))
      csv_text(csv, strcmp(value, "null") == 0 ? NULL : value);
  }
  for (int i = 0; i < NUM_OPERATIONS; i++) csv_text(csv, a->variants[i]);
  for (int i = 0; i < NUM_OPERATIONS; i++) csv_text(csv, b->variants[i]);
  csv_real(csv, a->time_ms[MOECL_STAGE_LAYER].median);
  csv_real(csv, b->time_ms[MOECL_STAGE_LAYER].median);
  csv_real(csv, match->speed.ratio);
  csv_real(csv, match->speed.low);
  csv_real(csv, match->speed.high);
  csv_text(csv, compare_verdict(&match->speed));
  csv_end_row(csv);
}

static void write_csv(const run_comparison *all, FILE *file) {
  csv_stream csv = {.file = file};
  csv_header(&csv);
  for (size_t i = 0; i + 1 < all->num_runs; i++)
    for (size_t j = 0; j < all->others[i].num_matched; j++)
      csv_point(&csv, &all->runs[0], &all->others[i], &all->others[i].matched[j]);
}

/* ---- the picture: a row for each of A's points, a mark for each run in it ---- */

/* Above this many rows, labels are left out. */
enum { MOST_LABELS = 60, MOST_BYTES = 60, ROW_PIXELS = 26 };

static void write_mark(FILE *data, double row, const run_ratio *speed) {
  const bool known = isfinite(speed->low);
  fprintf(data, "%.3f %.9g %.9g %.9g\n", row, speed->ratio, known ? speed->low : speed->ratio,
          known ? speed->high : speed->ratio);
}

/* Each run is a block of its own; its mean stands in the last row. */
static void write_data(const run_comparison *all, FILE *data) {
  const size_t rows = all->runs[0].num_points, count = all->num_runs - 1;
  fputs("# row speed low high\n", data);
  for (size_t i = 0; i < count; i++) {
    const other_run *other = &all->others[i];
    const double offset = 0.7 * ((double)i - 0.5 * (double)(count - 1)) / (double)count;
    for (size_t j = 0; j < other->num_matched; j++)
      write_mark(data, (double)other->matched[j].before + offset, &other->matched[j].speed);
    if (other->num_matched > 0) write_mark(data, (double)rows + offset, &other->mean);
    fputs("\n\n", data);
  }
}

static void write_rows(const measured_run *first, FILE *script) {
  char label[512];
  size_t longest = strlen("geometric mean");
  fputs("set ytics (", script);
  for (size_t i = 0; i < first->num_points && first->num_points <= MOST_LABELS; i++) {
    compare_point_label(first, i, label, sizeof label);
    label[MOST_BYTES] = '\0';
    utf8_drop_part(label);
    if (strlen(label) > longest) longest = strlen(label);
    gnuplot_quote(script, label);
    fprintf(script, " %zu, ", i);
  }
  fprintf(script,
          "'geometric mean' %zu) font ',11'\nset yrange [%.1f:-0.5]\n"
          "set lmargin at screen %.3f\n",
          first->num_points, (double)first->num_points + 0.5, 0.036 + 0.0067 * (double)longest);
}

/* Speeds far apart want a logarithmic scale, which has few ticks where they are not. */
static bool wants_log_scale(const run_comparison *all) {
  double least = INFINITY, most = 0;
  for (size_t i = 0; i + 1 < all->num_runs; i++)
    for (size_t j = 0; j < all->others[i].num_matched; j++) {
      const run_ratio *speed = &all->others[i].matched[j].speed;
      least = fmin(least, fmin(speed->ratio, speed->low)); /* of NaN and a number: the number */
      most = fmax(most, fmax(speed->ratio, speed->high));
    }
  return most > 4 * least;
}

static void write_script(const run_comparison *all, FILE *script) {
  const size_t points = all->runs[0].num_points;
  const size_t rows = points <= MOST_LABELS ? points + 1 : MOST_LABELS;
  char title[256];
  plot_begin(script, "compare", 200 + ROW_PIXELS * (int)(rows < 4 ? 4 : rows));
  snprintf(title, sizeof title, "Speed beside A: %.150s", all->runs[0].path);
  fputs("set title ", script);
  gnuplot_quote(script, utf8_drop_part(title));
  const bool log_scale = wants_log_scale(all);
  fprintf(script, "\nset xlabel \"A's time over the other run's%s; right of 1 is faster\\n \"\n%s",
          log_scale ? " (log scale)" : "", log_scale ? "set logscale x\n" : "");
  fputs("unset grid\nset grid xtics linecolor '#d0d0d0' linetype 1 linewidth 1\n"
        "set arrow from 1, graph 0 to 1, graph 1 nohead linecolor '#404040' linewidth 1.5\n"
        "set key below center horizontal Left reverse samplen 1.5\n",
        script);
  write_rows(&all->runs[0], script);
  const char *before = "plot ";
  for (size_t i = 0; i + 1 < all->num_runs; i++) {
    if (all->others[i].num_matched == 0) continue;
    snprintf(title, sizeof title, "%c: %.200s", compare_letter(i + 1), all->others[i].run->path);
    fprintf(script,
            "%s'compare.dat' index %zu using 2:1:3:4 with xerrorbars pointtype 7 pointsize 1 "
            "linewidth 2 linecolor '%s' title ",
            before, i, plot_colour(i));
    gnuplot_quote(script, utf8_drop_part(title));
    before = ", \\\n  ";
  }
  fputc('\n', script);
}

/* ---- files ---- */

static bool put_file(const char *folder, const char *name, FILE *stream, char **text,
                     char **error) {
  bool ok = stream && !ferror(stream);
  if (stream && fclose(stream) != 0) ok = false;
  char *path = format_text("%s/%s", folder, name);
  if (!ok || !path) ok = fail_text(error, "no memory for %s", name);
  else ok = replace_file(path, *text, strlen(*text), error);
  free(path);
  free(*text);
  return ok;
}

static void write_picture_markdown(const run_comparison *all, FILE *file) {
  compare_print_markdown(all, true, file);
}
static void write_plain_markdown(const run_comparison *all, FILE *file) {
  compare_print_markdown(all, false, file);
}

static bool write_one(const run_comparison *all, const char *folder, const char *name,
                      void (*fill)(const run_comparison *all, FILE *file), char **error) {
  char *text = NULL;
  size_t size;
  FILE *file = open_memstream(&text, &size);
  if (file) fill(all, file);
  return put_file(folder, name, file, &text, error);
}

/* Whether there is a picture; else *note says why. */
static bool draw(const char *folder, char **note) {
  enum { SECONDS = 20 };
  char *why = NULL, *path = format_text("%s/compare.png", folder);
  if (path) unlink(path); /* an earlier one */
  free(path);
  const gnuplot_outcome outcome = gnuplot_run(folder, "compare.gp", SECONDS, &why);
  if (outcome == GNUPLOT_MISSING)
    *note = format_text("gnuplot was not found: the picture is left out; its script is in %s (apt "
                        "install gnuplot-nox, then: gnuplot compare.gp)",
                        folder);
  else if (outcome == GNUPLOT_FAILED)
    *note = format_text("gnuplot failed (%s); the script is %s/compare.gp",
                        why && *why ? why : "no message", folder);
  free(why);
  return outcome == GNUPLOT_OK;
}

bool compare_write(const run_comparison *all, const char *folder, char **note, char **error) {
  *note = *error = NULL;
  if (!make_directories(folder, error) ||
      !write_one(all, folder, "compare.csv", write_csv, error) ||
      !write_one(all, folder, "compare.dat", write_data, error) ||
      !write_one(all, folder, "compare.gp", write_script, error))
    return false;
  return write_one(all, folder, "compare.md",
                   draw(folder, note) ? write_picture_markdown : write_plain_markdown, error);
}
