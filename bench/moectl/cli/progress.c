// SPDX-License-Identifier: MIT
#include "cli/progress.h"
#include "cli/time_left.h"
#include "base/wrap.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct progress {
  const experiment *experiment;
  bool terminal;
  struct timespec begun; /* what runs now */
  time_left *left;       /* NULL without memory: it is not shown then */
  size_t pictures;
  int64_t round, rounds; /* from 0; of all */
  double last_rate;      /* tokens/s, 0: none yet */
  device_rates rates;
  char place[64]; /* "decode (2 of 6) ", or "" */
};

/* gnuplot's, until some are drawn. */
static const double seconds_a_picture = 0.3;

progress *progress_open(const experiment *plan, const moecl_device_info *device, size_t pictures,
                        bool quiet) {
  progress *shown = quiet ? NULL : calloc(1, sizeof *shown);
  if (!shown) return NULL;
  shown->rates = rates_guess(device);
  shown->experiment = plan;
  shown->pictures = pictures;
  shown->left = time_left_open(plan, &shown->rates);
  shown->terminal = isatty(STDERR_FILENO) == 1;
  return shown;
}

void progress_set_place(progress *shown, const progress_place *place) {
  if (!shown) return;
  snprintf(shown->place, sizeof shown->place, "%.30s (%zu of %zu) ", place->name, place->number,
           place->count);
  for (size_t i = 0; i < place->num_later; i++)
    time_left_expect_after(shown->left, place->later[i], &shown->rates);
}

void progress_expect(progress *shown, size_t index, bool first, int64_t later_rounds) {
  if (shown) time_left_expect(shown->left, index, first, later_rounds);
}

static double seconds_since(const struct timespec *then) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - then->tv_sec) + 1e-9 * (double)(now.tv_nsec - then->tv_nsec);
}

/* "round 1 of 3 [3/8] num_experts=8, top_k=2"; of one round, or where it is not known yet
 * how many there will be, without them. */
static void format_head(const progress *shown, size_t index, int64_t rounds, char *text,
                        size_t size) {
  char label[256], round[64] = "";
  experiment_point_label(shown->experiment, index, label, sizeof label);
  if (rounds > 1)
    snprintf(round, sizeof round, "round %" PRId64 " of %" PRId64 " ", shown->round + 1, rounds);
  snprintf(text, size, "%s%s[%zu/%zu]%s%s", shown->place, round, index + 1,
           shown->experiment->num_points, *label ? " " : "", label);
}

void progress_round(progress *shown, int64_t round, int64_t rounds) {
  if (!shown) return;
  shown->round = round;
  shown->rounds = rounds;
  if (round > 0 && !shown->terminal)
    fprintf(stderr, "%sround %" PRId64 " of %" PRId64 "\n", shown->place, round + 1, rounds);
}

const char *progress_line(const char *head, const char *rate, const char *left, size_t columns,
                          char *line, size_t size) {
  if (columns >= size) columns = size - 1;
  if (strlen(head) + strlen(rate) + strlen(left) > columns) rate = "";
  const size_t length = strlen(head), tail = strlen(rate) + strlen(left);
  if (length + tail <= columns) snprintf(line, size, "%s%s%s", head, rate, left);
  else if (tail + 8 <= columns) /* a beginning that says something */
    snprintf(line, size, "%.*s...%s%s", (int)(columns - tail - 3), head, rate, left);
  else snprintf(line, size, "%.*s", (int)columns, head);
  return line;
}

/* A line that wraps can't be drawn over. */
static void redraw(const char *head, const char *rate, const char *left) {
  char line[512];
  const size_t columns = (size_t)terminal_width(STDERR_FILENO) - 1;
  fprintf(stderr, "\r\033[K%s", progress_line(head, rate, left, columns, line, sizeof line));
  fflush(stderr);
}

static void format_left(double seconds, char *text, size_t size) {
  char duration[32];
  if (isfinite(seconds)) snprintf(text, size, " | about %s left", duration_text(seconds, duration));
  else *text = '\0';
}

void progress_begin(progress *shown, size_t index) {
  if (!shown) return;
  clock_gettime(CLOCK_MONOTONIC, &shown->begun);
  if (!shown->terminal) return;
  char head[384], rate[48] = "", left[64];
  format_head(shown, index, shown->rounds, head, sizeof head);
  if (shown->last_rate > 0) snprintf(rate, sizeof rate, " | last %.0f tokens/s", shown->last_rate);
  format_left(time_left_seconds(shown->left) + (double)shown->pictures * seconds_a_picture, left,
              sizeof left);
  redraw(head, rate, left);
}

/* What came of the point, on one line. */
static void format_outcome(const point_result *result, char *text, size_t size) {
  const double median = result->time_ms[MOECL_STAGE_LAYER].median;
  char verdict[64];
  if (result->status >= POINT_VERIFY_FAILED) {
    snprintf(text, size, "%s", result->error ? result->error : "failed");
    return;
  }
  if (result->status == POINT_OK)
    snprintf(verdict, sizeof verdict, "verified (error %.1e)", result->verify.error);
  else snprintf(verdict, sizeof verdict, "verification off");
  if (isfinite(median))
    snprintf(text, size, "%.*f ms, %.0f tokens/s, %s", median < 0.1 ? 4 : 2, median,
             result->tokens_per_s, verdict);
  else snprintf(text, size, "no times, %s", verdict);
}

void progress_end(progress *shown, size_t index, const point_result *result) {
  if (!shown) return;
  const bool ran = result->status < POINT_VERIFY_FAILED;
  time_left_ended(shown->left, index, seconds_since(&shown->begun),
                  result->time_ms[MOECL_STAGE_LAYER].median,
                  ran && result->rounds_planned > 0 ? result->rounds_planned - 1 : 0);
  if (isfinite(result->tokens_per_s) && result->tokens_per_s > 0)
    shown->last_rate = result->tokens_per_s;
  if (result->rounds_planned > shown->rounds) shown->rounds = result->rounds_planned;
  /* On a terminal the table follows; only what went wrong stays on the screen. */
  if (shown->terminal && ran) return;
  char head[384], outcome[640];
  format_head(shown, index, result->rounds_planned, head, sizeof head);
  format_outcome(result, outcome, sizeof outcome);
  fprintf(stderr, "%s%s: %s\n", shown->terminal ? "\r\033[K" : "", head, outcome);
}

void progress_end_round(progress *shown, size_t index, const point_round *times,
                        int64_t later_rounds) {
  if (shown)
    time_left_ended(shown->left, index, seconds_since(&shown->begun),
                    times->time_ms[MOECL_STAGE_LAYER].median, later_rounds);
}

void progress_picture(progress *shown, size_t done, size_t count) {
  if (!shown) return;
  if (done == 0) clock_gettime(CLOCK_MONOTONIC, &shown->begun);
  if (!shown->terminal) {
    if (done == 0) fprintf(stderr, "%sdrawing %zu pictures\n", shown->place, count);
    return;
  }
  char head[160], left[64];
  const double each = done > 0 ? seconds_since(&shown->begun) / (double)done : seconds_a_picture;
  snprintf(head, sizeof head, "%sdrawing picture %zu of %zu", shown->place, done + 1, count);
  format_left(each * (double)(count - done), left, sizeof left);
  redraw(head, "", left);
}

void progress_clear(progress *shown) {
  if (!shown || !shown->terminal) return;
  fputs("\r\033[K", stderr);
  fflush(stderr);
}

void progress_close(progress **shown) {
  if (!shown || !*shown) return;
  progress_clear(*shown);
  time_left_close(&(*shown)->left);
  free(*shown);
  *shown = NULL;
}
