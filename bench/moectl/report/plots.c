// SPDX-License-Identifier: MIT
/* Every picture's script and data, and gnuplot run on them. */
#include "report/report.h"
#include "report/plots.h"
#include "base/files.h"
#include "report/gnuplot.h"
#include "report/report_file.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Of one picture, and of all of them: a sweep may have thousands of points,
 * and a finished run should not be kept waiting by its decoration. */
enum { PICTURE_SECONDS = 20, ALL_SECONDS = 180 };

const char *plot_colour(size_t index) {
  static const char *const colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                        "#E69F00", "#56B4E9", "#000000"};
  return colours[index % (sizeof colours / sizeof colours[0])];
}

/* A layer's are those above; a block's others are lighter, or grey. */
const char *plot_stage_colour(moecl_stage stage) {
  static const char *const others[] = {"#B0B0B0", "#7FB8D9", "#F0E442", "#882255",
                                       "#44AA99", "#909090", "#606060"};
  return stage < MOECL_STAGE_LAYER ? plot_colour((size_t)stage)
                                   : others[(size_t)(stage - MOECL_STAGE_ATTENTION_NORM)];
}

void plot_begin(FILE *script, const char *name, int height) {
  fprintf(script,
          "# gnuplot %s.gp   draws %s.png from %s.dat\n"
          "if (strstrt(GPVAL_TERMINALS, 'pngcairo')) {\n"
          "  set terminal pngcairo noenhanced size 1200,%d font 'Sans,13' background '#ffffff'\n"
          "} else {\n"
          "  set terminal png noenhanced size 1200,%d background '#ffffff'\n"
          "}\n"
          "set output '%s.png'\n"
          "set border 3 linecolor '#404040'\n"
          "set tics nomirror out\n"
          "set grid ytics linecolor '#d0d0d0' linetype 1 linewidth 1\n"
          "set lmargin 11\n"
          "set rmargin 4\n",
          name, name, name, height, height, name);
}

/* Puts NAME.SUFFIX in place. */
static bool put_file(const results *all, const char *name, const char *suffix, report_file *file,
                     char **error) {
  char *whole = format_text("%s.%s", name, suffix);
  const bool ok = report_file_put(file, all, whole ? whole : name, whole != NULL, error);
  free(whole);
  return ok;
}

static bool write_picture(const results *all, const picture_plan *picture, char **error) {
  report_file script, data;
  report_file_open(&script);
  report_file_open(&data);
  if (script.stream && data.stream) {
    if (picture->kind == PICTURE_UTILIZATION)
      plot_utilization(all, picture, script.stream, data.stream);
    else if (picture->kind == PICTURE_LOADS) plot_loads(all, picture, script.stream, data.stream);
    else if (picture->kind == PICTURE_DEVICES)
      plot_devices(all, picture, script.stream, data.stream);
    else if (picture->kind == PICTURE_STAGES) plot_stages(all, picture, script.stream, data.stream);
    else plot_sweep(all, picture, script.stream, data.stream);
  }
  const bool data_ok = put_file(all, picture->name, "dat", &data, error);
  const bool script_ok = put_file(all, picture->name, "gp", &script, error);
  return data_ok && script_ok;
}

/* A picture that isn't whole, or is an earlier run's, must not be shown. */
static void remove_picture(const results *all, const picture_plan *picture) {
  char *path = format_text("%s/%s.png", all->folder, picture->name);
  if (path) unlink(path);
  free(path);
}

typedef struct draw_state {
  size_t drawn, failed;
  bool missing, stopped;
  char *first_name, *why; /* of the first that failed */
} draw_state;

static void draw(const results *all, const picture_plan *picture, draw_state *drawing) {
  char *script = format_text("%s.gp", picture->name), *why = NULL;
  const gnuplot_outcome outcome =
      script ? gnuplot_run(all->folder, script, PICTURE_SECONDS, &why) : GNUPLOT_FAILED;
  if (outcome == GNUPLOT_OK) {
    drawing->drawn++;
  } else if (outcome == GNUPLOT_MISSING) {
    drawing->missing = true;
  } else if (drawing->failed++ == 0) {
    drawing->first_name = script;
    drawing->why = why;
    script = why = NULL;
  }
  if (outcome != GNUPLOT_OK) remove_picture(all, picture);
  free(script);
  free(why);
}

static char *describe(const results *all, const draw_state *drawing, size_t count) {
  if (drawing->missing)
    return format_text("gnuplot was not found: the pictures are left out; their scripts are in %s "
                       "(apt install gnuplot-nox, then: gnuplot *.gp)",
                       all->folder);
  /* Before failures: Ctrl-C on a terminal ends a gnuplot at work, too. */
  if (drawing->stopped)
    return format_text("%zu of %zu pictures were drawn before the interrupt; the scripts of the "
                       "others are in %s (gnuplot *.gp)",
                       drawing->drawn, count, all->folder);
  if (drawing->failed > 0)
    return format_text("gnuplot failed on %zu of %zu pictures, first on %s (%s); the scripts are "
                       "in %s",
                       drawing->failed, count, drawing->first_name ? drawing->first_name : "?",
                       drawing->why && *drawing->why ? drawing->why : "no message", all->folder);
  if (drawing->drawn < count)
    return format_text("%zu of %zu pictures were drawn in %d seconds; the scripts of the others "
                       "are in %s (gnuplot *.gp)",
                       drawing->drawn, count, ALL_SECONDS, all->folder);
  return NULL;
}

bool plots_write(const results *all, char **note, char **error) {
  picture_list pictures;
  *note = NULL;
  if (!pictures_plan(all, &pictures)) return fail_text(error, "no memory for the pictures");
  bool ok = true;
  for (size_t i = 0; i < pictures.count && ok; i++) {
    remove_picture(all, &pictures.list[i]);
    ok = write_picture(all, &pictures.list[i], error);
  }
  struct timespec begin, now;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  now = begin;
  draw_state drawing = {0};
  /* A gnuplot that fails is not asked again for every one of thousands. */
  for (size_t i = 0; ok && i < pictures.count && !drawing.missing && drawing.failed < 3 &&
                     now.tv_sec - begin.tv_sec < ALL_SECONDS;
       i++) {
    drawing.stopped = all->watch && !all->watch(all->watch_user, i, pictures.count);
    if (drawing.stopped) break;
    draw(all, &pictures.list[i], &drawing);
    clock_gettime(CLOCK_MONOTONIC, &now);
  }
  /* The interrupt may have ended the last one's gnuplot. */
  if (drawing.failed > 0 && all->watch &&
      !all->watch(all->watch_user, pictures.count, pictures.count))
    drawing.stopped = true;
  if (ok) *note = describe(all, &drawing, pictures.count);
  free(drawing.first_name);
  free(drawing.why);
  pictures_release(&pictures);
  return ok;
}
