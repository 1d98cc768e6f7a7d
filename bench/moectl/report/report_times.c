// SPDX-License-Identifier: MIT
/* What a swept parameter does to the layer's time: its ends and its neighbours, the others
 * held. What no comparison bears out is not mentioned. */
#include "report/report_compare.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of more lines than this there is only a summary; of more steps only the largest. Of many
 * comparisons one in twenty differs by chance: one in CHANCE is not reported. */
enum { MAX_SENTENCES = 6, MAX_STEPS = 7, CHANCE = 10 };

/* The points of one line that have times, by the axis's value. */
typedef struct line {
  size_t *points, count;
} line;

static double order_of(const experiment *plan, size_t axis, size_t index) {
  return grid_is_numeric(plan, axis) ? grid_order(plan, axis, index) : 0;
}

/* `points` has room for the axis's values. Sorted as they are put in; few. */
static line read_line(const results *all, size_t axis, size_t number, size_t *points) {
  const experiment *plan = all->experiment;
  const size_t start = grid_line_start(plan, axis, number), stride = grid_stride(plan, axis);
  line found = {.points = points};
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    const size_t index = start + i * stride;
    if (!point_ran(all, index) || !(point_ms(all, index) > 0)) continue;
    size_t at = found.count++;
    for (; at > 0 && order_of(plan, axis, points[at - 1]) > order_of(plan, axis, index); at--)
      points[at] = points[at - 1];
    points[at] = index;
  }
  return found;
}

static bool is_tokens(const results *all, size_t axis) {
  return strcmp(all->experiment->axes[axis].param, "num_tokens") == 0;
}

/* More tokens are more work: what matters is whether they cost their share. */
static comparison compare_on(const results *all, size_t axis, size_t before, size_t after) {
  const experiment_point *points = all->experiment->points;
  const double expected = is_tokens(all, axis)
                              ? (double)points[after].num_tokens / (double)points[before].num_tokens
                              : 1;
  return report_compare(all, before, after, expected);
}

static const char *value_text(const results *all, size_t axis, size_t index, char *text) {
  return grid_value_text(all->experiment, axis, index, text, LABEL_SIZE);
}

/* "256 to 1024 0.80x (0.79 to 0.82)" */
static void step_text(const results *all, size_t axis, const comparison *step, FILE *file) {
  char before[LABEL_SIZE], after[LABEL_SIZE], ratio[96];
  fprintf(file, "%s to %s %s", value_text(all, axis, step->before, before),
          value_text(all, axis, step->after, after), ratio_text(&step->ratio, ratio, sizeof ratio));
}

/* From each value to the next; only those that differ, and of many the largest. */
static void steps_sentence(const results *all, size_t axis, const line *points, FILE *file) {
  size_t differ = 0, largest = 0;
  double most = -1;
  for (size_t i = 0; i + 1 < points->count; i++) {
    const comparison step = compare_on(all, axis, points->points[i], points->points[i + 1]);
    if (!step.differs) continue;
    differ++;
    if (fabs(log(step.ratio.median)) > most) most = fabs(log(step.ratio.median)), largest = i;
  }
  if (points->count < 3 || differ == 0) return;
  const bool many = points->count > MAX_STEPS + 1;
  fputs(many ? ". The largest step" : ". Step by step", file);
  fputs(is_tokens(all, axis) ? ", for each token: " : ": ", file);
  bool first = true;
  for (size_t i = 0; i + 1 < points->count; i++) {
    const comparison step = compare_on(all, axis, points->points[i], points->points[i + 1]);
    if (!step.differs || (many && i != largest)) continue;
    if (!first) fputs(", ", file);
    step_text(all, axis, &step, file);
    first = false;
  }
  if (!many && differ + 1 < points->count) fputs(", no other step is certain", file);
}

static bool any_step_differs(const results *all, size_t axis, const line *points) {
  for (size_t i = 0; i + 1 < points->count; i++)
    if (compare_on(all, axis, points->points[i], points->points[i + 1]).differs) return true;
  return false;
}

/* "1.00 ms to 2.90 ms, mostly gate_up (+1.20 ms)" */
static void layer_times(const results *all, const comparison *ends, FILE *file) {
  char stage[96], a[NUMBER_SIZE], b[NUMBER_SIZE];
  fprintf(file, "%s ms to %s ms%s", number_text(point_ms(all, ends->before), a, sizeof a),
          number_text(point_ms(all, ends->after), b, sizeof b),
          ends->differs ? stage_text(all, ends, stage, sizeof stage) : "");
}

/* "- top_k 1 to 4 (num_experts=8): 2.90x (2.80 to 3.00) the layer's time, 1.00 ms to 2.90 ms,
 * mostly gate_up (+1.20 ms)." "- num_tokens 16 to 64: layer time 1.00 ms to 2.00 ms, mostly
 * gate_up (+0.50 ms); for each token 0.50x (0.49 to 0.52) the time." */
static void line_sentence(const results *all, size_t axis, const line *points, FILE *file) {
  char low[LABEL_SIZE], high[LABEL_SIZE], ratio[96];
  const char *unclear = "the ends' difference is not certain";
  if (points->count < 2) return;
  const comparison ends =
      compare_on(all, axis, points->points[0], points->points[points->count - 1]);
  if (!ends.differs && !any_step_differs(all, axis, points)) return;
  fprintf(file, "- %s %s to %s", all->experiment->axes[axis].param,
          value_text(all, axis, ends.before, low), value_text(all, axis, ends.after, high));
  report_held(all, axis, ends.before, file);
  ratio_text(&ends.ratio, ratio, sizeof ratio);
  if (is_tokens(all, axis)) {
    fprintf(file, ": %s time ", experiment_measured(all->experiment));
    layer_times(all, &ends, file);
    fprintf(file, "; for each token %s%s", ends.differs ? ratio : unclear,
            ends.differs ? " the time" : "");
  } else {
    fprintf(file, ": %s", ends.differs ? ratio : unclear);
    if (ends.differs) fprintf(file, " the %s's time", experiment_measured(all->experiment));
    fputs(", ", file);
    layer_times(all, &ends, file);
  }
  steps_sentence(all, axis, points, file);
  fputs(".\n", file);
}

/* Of many lines at once: how many differ from end to end, and how far. */
typedef struct summary {
  size_t lines, differ, stages[RESULTS_STAGES];
  comparison least, most;
} summary;

static void add_line(const results *all, const comparison *ends, summary *of) {
  of->lines++;
  if (!ends->differs) return;
  if (of->differ++ == 0) of->least = of->most = *ends;
  if (ends->ratio.median < of->least.ratio.median) of->least = *ends;
  if (ends->ratio.median > of->most.ratio.median) of->most = *ends;
  const int stage = stage_changed(all, ends);
  if (stage >= 0) of->stages[stage]++;
}

static void summary_sentence(const results *all, size_t axis, const summary *of, FILE *file) {
  char low[LABEL_SIZE], high[LABEL_SIZE], ratio[96];
  int stage = 0;
  if (of->differ * CHANCE <= of->lines) return;
  for (int i = 1; i < RESULTS_STAGES; i++)
    if (of->stages[i] > of->stages[stage]) stage = i;
  fprintf(file,
          "- %s %s to %s, over %zu combinations of the others: ", all->experiment->axes[axis].param,
          value_text(all, axis, of->least.before, low),
          value_text(all, axis, of->least.after, high), of->lines);
  fprintf(file, "from %s the ", ratio_text(&of->least.ratio, ratio, sizeof ratio));
  if (is_tokens(all, axis)) fputs("time for each token", file);
  else fprintf(file, "%s's time", experiment_measured(all->experiment));
  report_held(all, axis, of->least.before, file);
  fprintf(file, " to %s", ratio_text(&of->most.ratio, ratio, sizeof ratio));
  report_held(all, axis, of->most.before, file);
  if (of->stages[stage] > 0)
    fprintf(file, "; %s changes most in %zu of them", moecl_stage_name((moecl_stage)stage),
            of->stages[stage]);
  if (of->differ < of->lines)
    fprintf(file, "; for %zu the difference is not certain", of->lines - of->differ);
  fputs(".\n", file);
}

void report_axis_times(const results *all, size_t axis, FILE *file) {
  const size_t lines = grid_lines(all->experiment, axis);
  size_t *points = calloc(all->experiment->axes[axis].count, sizeof *points);
  summary of = {.lines = 0};
  for (size_t i = 0; points && i < lines; i++) {
    const line found = read_line(all, axis, i, points);
    if (lines <= MAX_SENTENCES) {
      line_sentence(all, axis, &found, file);
    } else if (found.count > 1) {
      const comparison ends = compare_on(all, axis, points[0], points[found.count - 1]);
      add_line(all, &ends, &of);
    }
  }
  if (lines > MAX_SENTENCES) summary_sentence(all, axis, &of, file);
  free(points);
}

static size_t fastest_of(const results *all, const line *points) {
  size_t best = points->points[0];
  for (size_t i = 1; i < points->count; i++)
    if (point_ms(all, points->points[i]) < point_ms(all, best)) best = points->points[i];
  /* Round by round another may be: that is what is reported. */
  for (size_t i = 0; i < points->count; i++) {
    const comparison other = report_compare(all, best, points->points[i], 1);
    if (other.differs && other.ratio.median < 1) best = points->points[i];
  }
  return best;
}

/* "- dtype (top_k=1): bf16 is fastest with 1.00 ms; fp32 takes 5.00x (4.90 to 5.10), mostly
 * gate_up (+4.00 ms); fp16's difference is not certain." */
static void choice_sentence(const results *all, size_t axis, const line *points, FILE *file) {
  char text[LABEL_SIZE], ratio[96], stage[96], number[NUMBER_SIZE];
  bool any = false;
  if (points->count < 2) return;
  const size_t best = fastest_of(all, points);
  for (size_t i = 0; i < points->count; i++)
    any = any || report_compare(all, best, points->points[i], 1).differs;
  if (!any) return;
  fprintf(file, "- %s", all->experiment->axes[axis].param);
  report_held(all, axis, best, file);
  fprintf(file, ": %s is fastest with %s ms", value_text(all, axis, best, text),
          number_text(point_ms(all, best), number, sizeof number));
  for (size_t i = 0; i < points->count; i++) {
    const comparison other = report_compare(all, best, points->points[i], 1);
    if (points->points[i] == best) continue;
    fprintf(file, "; %s", value_text(all, axis, points->points[i], text));
    if (other.differs)
      fprintf(file, " takes %s%s", ratio_text(&other.ratio, ratio, sizeof ratio),
              stage_text(all, &other, stage, sizeof stage));
    else fputs("'s difference is not certain", file);
  }
  fputs(".\n", file);
}

/* Of many lines: how often each value is the fastest, all others being slower beyond doubt. */
static void count_fastest(const results *all, const line *points, size_t axis, size_t *wins) {
  if (points->count < 2) return;
  const size_t best = fastest_of(all, points);
  for (size_t i = 0; i < points->count; i++)
    if (points->points[i] != best && !report_compare(all, best, points->points[i], 1).differs)
      return;
  wins[grid_digit(all->experiment, axis, best)]++;
}

static void choice_summary(const results *all, size_t axis, const size_t *wins, FILE *file) {
  const experiment *plan = all->experiment;
  char text[LABEL_SIZE];
  const char *before = " ";
  size_t seen = 0;
  for (size_t i = 0; i < plan->axes[axis].count; i++) seen += wins[i];
  if (seen * CHANCE <= grid_lines(plan, axis)) return;
  fprintf(file, "- %s, over %zu combinations of the others:", plan->axes[axis].param,
          grid_lines(plan, axis));
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    if (wins[i] == 0) continue;
    fprintf(file, "%s%s is faster than all others in %zu", before,
            value_text(all, axis, i * grid_stride(plan, axis), text), wins[i]);
    before = ", ";
  }
  fputs(".\n", file);
}

void report_choice_times(const results *all, size_t axis, FILE *file) {
  const size_t lines = grid_lines(all->experiment, axis), count = all->experiment->axes[axis].count;
  size_t *points = calloc(count, sizeof *points), *wins = calloc(count, sizeof *wins);
  for (size_t i = 0; points && wins && i < lines; i++) {
    const line found = read_line(all, axis, i, points);
    if (lines <= MAX_SENTENCES) choice_sentence(all, axis, &found, file);
    else count_fastest(all, &found, axis, wins);
  }
  if (wins && lines > MAX_SENTENCES) choice_summary(all, axis, wins, file);
  free(points);
  free(wins);
}
