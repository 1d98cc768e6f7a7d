#include "progress.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

struct progress {
  const experiment *experiment;
  bool terminal;
  struct timespec begun; /* of the point that runs */
  double seconds;        /* of all that ended */
  size_t to_run, ended; /* in this round */
  int64_t round, rounds; /* from 0; of all */
  int64_t repeats;       /* later rounds that the points of the first have */
  double last_rate; /* tokens/s, 0: none yet */
};

progress *progress_open(const experiment *plan, size_t to_run, bool quiet) {
  progress *shown = quiet ? NULL : calloc(1, sizeof *shown);
  if (!shown) return NULL;
  shown->experiment = plan;
  shown->to_run = to_run;
  shown->terminal = isatty(STDERR_FILENO) == 1;
  return shown;
}

static double seconds_since(const struct timespec *then) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - then->tv_sec) + 1e-9 * (double)(now.tv_nsec - then->tv_nsec);
}

static void format_duration(double seconds, char *text, size_t size) {
  const int64_t whole = (int64_t)ceil(seconds);
  if (whole < 60) snprintf(text, size, "%" PRId64 " s", whole);
  else if (whole < 3600) snprintf(text, size, "%" PRId64 " min %02" PRId64 " s", whole / 60, whole % 60);
  else snprintf(text, size, "%" PRId64 " h %02" PRId64 " min", whole / 3600, whole / 60 % 60);
}

/* "[3/8] num_experts=8, top_k=2" */
static void format_head(const progress *shown, size_t index, char *text, size_t size) {
  char label[256];
  experiment_point_label(shown->experiment, index, label, sizeof label);
  char round[64] = "";
  if (shown->round > 0)
    snprintf(round, sizeof round, "round %" PRId64 " of %" PRId64 " ", shown->round + 1,
             shown->rounds);
  snprintf(text, size, "%s[%zu/%zu]%s%s", round, index + 1, shown->experiment->num_points,
           *label ? " " : "", label);
}

void progress_round(progress *shown, int64_t round, int64_t rounds, size_t to_run) {
  if (!shown) return;
  shown->round = round;
  shown->rounds = rounds;
  shown->to_run = to_run;
  shown->ended = 0;
  shown->seconds = 0;
}

/* Points to go in this round, and what the later ones will be: those that have not
 * begun yet want as many more as the others on the average. */
static double steps_left(const progress *shown) {
  const double now = (double)(shown->to_run - shown->ended);
  if (shown->round > 0) return now + (double)(shown->rounds - 1 - shown->round) * (double)shown->to_run;
  return now + (double)shown->repeats / (double)shown->ended * (double)shown->to_run;
}

/* Cut to the terminal's width: a line that wraps can't be drawn over. */
static void redraw(const char *line) {
  struct winsize window;
  int columns = 80;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1) columns = window.ws_col;
  fprintf(stderr, "\r\033[K%.*s", columns - 1, line);
  fflush(stderr);
}

void progress_begin(progress *shown, size_t index) {
  if (!shown) return;
  clock_gettime(CLOCK_MONOTONIC, &shown->begun);
  if (!shown->terminal) return;
  char head[320], rate[48] = "", left[64] = "", line[512];
  format_head(shown, index, head, sizeof head);
  if (shown->last_rate > 0)
    snprintf(rate, sizeof rate, " | last %.0f tokens/s", shown->last_rate);
  if (shown->ended > 0) {
    const double mean = shown->seconds / (double)shown->ended;
    char duration[32];
    format_duration(mean * steps_left(shown), duration, sizeof duration);
    snprintf(left, sizeof left, " | about %s left", duration);
  }
  snprintf(line, sizeof line, "%s%s%s", head, rate, left);
  redraw(line);
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
  else
    snprintf(verdict, sizeof verdict, "verification off");
  if (isfinite(median))
    snprintf(text, size, "%.*f ms, %.0f tokens/s, %s", median < 0.1 ? 4 : 2, median,
             result->tokens_per_s, verdict);
  else
    snprintf(text, size, "no times, %s", verdict);
}

void progress_end(progress *shown, size_t index, const point_result *result) {
  if (!shown) return;
  shown->seconds += seconds_since(&shown->begun);
  shown->ended++;
  if (!result) return;
  if (result->rounds_planned > 0) shown->repeats += result->rounds_planned - 1;
  if (isfinite(result->tokens_per_s) && result->tokens_per_s > 0)
    shown->last_rate = result->tokens_per_s;
  /* On a terminal the table follows; only what went wrong stays on the screen. */
  if (shown->terminal && result->status < POINT_VERIFY_FAILED) return;
  char head[320], outcome[640];
  format_head(shown, index, head, sizeof head);
  format_outcome(result, outcome, sizeof outcome);
  fprintf(stderr, "%s%s: %s\n", shown->terminal ? "\r\033[K" : "", head, outcome);
}

void progress_close(progress **shown) {
  if (!shown || !*shown) return;
  if ((*shown)->terminal) {
    fputs("\r\033[K", stderr);
    fflush(stderr);
  }
  free(*shown);
  *shown = NULL;
}
