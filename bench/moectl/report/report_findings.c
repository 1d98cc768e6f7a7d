// SPDX-License-Identifier: MIT
/* What the numbers say, in sentences: where the time goes, what each swept parameter does
 * to it (report_times.c) and to the routing, how far repetitions with other seeds lie
 * apart. Where there is nothing to say, nothing is said. */
#include "report/report_compare.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of more lines than this there is only a summary. */
enum { MAX_SENTENCES = 6 };

typedef struct point_range {
  size_t low, high, count; /* points; how many have the quantity */
} point_range;

typedef double (*quantity)(const results *all, size_t index);
static double throughput(const results *r, size_t i) { return r->points[i].tokens_per_s; }
static double imbalance(const results *r, size_t i) {
  return r->points[i].routing.statistics.max_mean_imbalance;
}
static double dropped_percent(const results *r, size_t i) {
  return 100 * r->points[i].routing.statistics.dropped_fraction;
}

/* Among `count` points from `start` on, `stride` apart. */
static point_range find_extreme(const results *all, quantity of, size_t start, size_t stride,
                                size_t count) {
  point_range found = {0};
  for (size_t i = start; i < start + count * stride; i += stride) {
    if (!point_ran(all, i) || !isfinite(of(all, i))) continue;
    if (found.count++ == 0) found.low = found.high = i;
    if (of(all, i) < of(all, found.low)) found.low = i;
    if (of(all, i) > of(all, found.high)) found.high = i;
  }
  return found;
}

static void drops_sentence(const results *all, size_t axis, size_t start, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis);
  const point_range range =
      find_extreme(all, dropped_percent, start, stride, plan->axes[axis].count);
  char text[LABEL_SIZE];
  bool first = true;
  if (range.count == 0 || dropped_percent(all, range.high) == 0) return;
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    const size_t index = start + i * stride;
    if (!point_ran(all, index)) continue;
    const double dropped = 100 * all->points[index].routing.statistics.dropped_fraction;
    grid_value_text(plan, axis, index, text, sizeof text);
    fprintf(file, "%s%s%s drops %.1f%%%s", first ? "- " : "; ",
            strcmp(text, "dropless") == 0 ? "" : "capacity_factor ", text, dropped,
            first ? " of assignments" : "");
    first = false;
  }
  if (first) return;
  report_held(all, axis, start, file);
  fputs(".\n", file);
}

/* At one value, over all other settings; NaN: no point ran. */
static double mean_at(const results *all, size_t axis, size_t digit, quantity of) {
  double sum = 0;
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (grid_digit(all->experiment, axis, i) != digit || !point_ran(all, i)) continue;
    sum += of(all, i);
    count++;
  }
  return count ? sum / (double)count : NAN;
}

/* Whether the means at the axis's values differ by enough to speak of: two percent, or a
 * twentieth of a percentage point of what is dropped. */
static bool means_differ(const results *all, size_t axis, bool drops, quantity of) {
  double low = INFINITY, high = -INFINITY;
  for (size_t digit = 0; digit < all->experiment->axes[axis].count; digit++) {
    low = fmin(low, mean_at(all, axis, digit, of));
    high = fmax(high, mean_at(all, axis, digit, of));
  }
  return drops ? high - low >= 0.05 : high > 1.02 * low;
}

/* The mean at each value; of many values only the first and the last. */
static void averages_sentence(const results *all, size_t axis, bool drops, quantity of,
                              FILE *file) {
  const experiment *plan = all->experiment;
  const size_t count = plan->axes[axis].count;
  char text[LABEL_SIZE], number[NUMBER_SIZE];
  if (!means_differ(all, axis, drops, of)) return;
  fprintf(file, drops ? "- Dropped assignments, the mean of the points with each value:"
                      : "- Imbalance, the mean of the points with each value:");
  for (size_t digit = 0; digit < count; digit++) {
    if (count > 8 && digit > 0 && digit + 1 < count) continue;
    const double mean = mean_at(all, axis, digit, of);
    grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text);
    fputs(digit > 0 ? ", " : " ", file);
    if (drops && !isnan(mean)) fprintf(file, "%.1f%%", mean);
    else fputs(number_text(mean, number, sizeof number), file);
    if (digit == 0) fprintf(file, " at %s=%s", plan->axes[axis].param, text);
    else fprintf(file, " at %s", text);
  }
  fputs(".\n", file);
}

/* "4.00 to 4.40", or "4.00" where all are equal. */
static void spread_text(const results *all, quantity of, point_range range, FILE *file) {
  char number[NUMBER_SIZE];
  const double low = of(all, range.low), high = of(all, range.high);
  fputs(number_text(low, number, sizeof number), file);
  if (low != high) fprintf(file, " to %s", number_text(high, number, sizeof number));
}

/* Seeds are repetitions with other numbers: no order, only a spread. */
static void seeds_sentence(const results *all, size_t axis, size_t start, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis), count = plan->axes[axis].count;
  const point_range times = find_extreme(all, point_ms, start, stride, count);
  const point_range loads = find_extreme(all, imbalance, start, stride, count);
  const point_range drops = find_extreme(all, dropped_percent, start, stride, count);
  if (times.count < 2 || loads.count < 2 || drops.count < 2) return;
  fprintf(file, "- Over %zu seeds", times.count);
  report_held(all, axis, start, file);
  fprintf(file, " the %s takes ", experiment_measured(plan));
  spread_text(all, point_ms, times, file);
  fputs(" ms, the busiest expert has ", file);
  spread_text(all, imbalance, loads, file);
  fputs(" times the mean load, and ", file);
  spread_text(all, dropped_percent, drops, file);
  fputs("% of assignments are dropped.\n", file);
}

/* The widest spread of a quantity over the seeds of one combination. */
static double widest_spread(const results *all, size_t axis, quantity of, bool ratio) {
  const experiment *plan = all->experiment;
  double widest = ratio ? 1 : 0;
  for (size_t line = 0; line < grid_lines(plan, axis); line++) {
    const point_range range = find_extreme(all, of, grid_line_start(plan, axis, line),
                                           grid_stride(plan, axis), plan->axes[axis].count);
    if (range.count < 2) continue;
    const double low = of(all, range.low), high = of(all, range.high);
    widest = fmax(widest, ratio ? high / low : high - low);
  }
  return widest;
}

static void seed_findings(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t lines = grid_lines(plan, axis);
  char a[NUMBER_SIZE], b[NUMBER_SIZE], c[NUMBER_SIZE];
  for (size_t line = 0; line < lines && lines <= MAX_SENTENCES; line++)
    seeds_sentence(all, axis, grid_line_start(plan, axis, line), file);
  if (lines > MAX_SENTENCES)
    fprintf(file,
            "- Over the %zu seeds of one combination of the others (of %zu), %s times differ by "
            "up to %sx,\nthe busiest expert's load over the mean by up to %s, the dropped share by "
            "up to %s percentage points.\n",
            plan->axes[axis].count, lines, experiment_measured(plan),
            number_text(widest_spread(all, axis, point_ms, true), a, sizeof a),
            number_text(widest_spread(all, axis, imbalance, false), b, sizeof b),
            number_text(widest_spread(all, axis, dropped_percent, false), c, sizeof c));
}

/* What it does to the routing; capacity leaves the load as it is. */
static void axis_routing(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  const bool capacity = strcmp(plan->axes[axis].param, "capacity_factor") == 0;
  const quantity of = capacity ? dropped_percent : imbalance;
  const point_range range = find_extreme(all, of, 0, 1, plan->num_points);
  const size_t lines = grid_lines(plan, axis);
  if (range.count == 0 || of(all, range.low) == of(all, range.high)) return;
  if (!capacity || lines > MAX_SENTENCES) {
    averages_sentence(all, axis, capacity, of, file);
    return;
  }
  for (size_t line = 0; line < lines; line++)
    drops_sentence(all, axis, grid_line_start(plan, axis, line), file);
}

/* The axis's findings under its heading, if there are any. */
static void axis_findings(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  char *text = NULL;
  size_t size = 0;
  FILE *found = open_memstream(&text, &size);
  if (!found) return;
  const bool seeds = grid_is_seed(plan, axis);
  if (seeds) seed_findings(all, axis, found);
  else if (grid_is_numeric(plan, axis)) report_axis_times(all, axis, found);
  else report_choice_times(all, axis, found);
  if (!seeds && grid_is_numeric(plan, axis)) axis_routing(all, axis, found);
  if (fclose(found) == 0 && size > 0)
    fprintf(file, "\n**%s**%s\n\n%s", plan->axes[axis].param,
            seeds ? " (repetitions with other random numbers)" : "", text);
  free(text);
}

/* One of: "0.52", "0.52 to 1.20 (point 3)". */
static void extreme_text(const results *all, quantity of, point_range extreme, FILE *file) {
  char number[NUMBER_SIZE];
  fputs(number_text(of(all, extreme.low), number, sizeof number), file);
  if (of(all, extreme.low) != of(all, extreme.high)) {
    fprintf(file, " (point %zu) to ", extreme.low);
    fprintf(file, "%s (point %zu)", number_text(of(all, extreme.high), number, sizeof number),
            extreme.high);
  }
}

static void slowest_stage(const results *all, FILE *file) {
  size_t points = 0, times[RESULTS_STAGES] = {0};
  double low[RESULTS_STAGES], high[RESULTS_STAGES];
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i) || !(point_ms(all, i) > 0)) continue;
    int most = -1;
    for (int part = 0; part < RESULTS_PARTS; part++) {
      const int stage = (int)results_parts[part];
      const double time = all->points[i].time_ms[stage].median;
      if (isfinite(time) && (most < 0 || time > all->points[i].time_ms[most].median)) most = stage;
    }
    if (most < 0) continue;
    const double share = all->points[i].time_ms[most].median / point_stages_ms(&all->points[i]);
    low[most] = times[most] ? fmin(low[most], share) : share;
    high[most] = times[most] ? fmax(high[most], share) : share;
    times[most]++;
    points++;
  }
  for (int part = 0; part < RESULTS_PARTS; part++) {
    const int stage = (int)results_parts[part];
    if (times[stage] == 0) continue;
    fprintf(file, "- %s is the slowest stage", moecl_stage_name((moecl_stage)stage));
    if (points > 1) fprintf(file, " in %zu of %zu points", times[stage], points);
    fprintf(file, ", with %.0f%%", 100 * low[stage]);
    if (low[stage] != high[stage]) fprintf(file, " to %.0f%%", 100 * high[stage]);
    fputs(" of the stages' time.\n", file);
  }
}

/* moectl itself keeps as many processors busy as there are, where the device is the CPU. */
bool report_busy_host(const results *all, FILE *file) {
  double least, most;
  const json_t *run = json_array_get(all->runs, json_array_size(all->runs) - 1);
  const json_int_t processors = json_integer_value(json_object_get(run, "processors"));
  report_loads(all, &least, &most);
  if (!(processors > 0 && most > 1.25 * (double)processors)) return false;
  fprintf(file,
          "**Other programs were at work: the load average was up to %.1f on %" JSON_INTEGER_FORMAT
          " processors. What follows may be due to them;\nrepeat the run on a quiet machine.**\n\n",
          most, processors);
  return true;
}

/* How the points were measured decides what may be said of them. */
static void how_compared(const results *all, FILE *file) {
  size_t ran = 0, once = 0;
  int64_t most = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i)) continue;
    ran++;
    once += all->points[i].num_rounds < 2;
    if ((int64_t)all->points[i].num_rounds > most) most = (int64_t)all->points[i].num_rounds;
  }
  if (ran < 2) return;
  if (once < ran)
    fprintf(file,
            "The points took turns in %" PRId64 " rounds. Two points are compared within each "
            "round: given are the median of the\nrounds' ratios and, in brackets, its 95%% "
            "interval. A difference is listed only where that whole interval is more\nthan 2%% "
            "away from 1x.",
            most);
  if (once > 0)
    fprintf(file,
            "%s%zu point%s measured once, one after another, so that a difference may be the "
            "machine's drift. It is\nlisted only where the iterations' times of the two, five or "
            "more of each, do not overlap (measure.rounds makes\npoints take turns).",
            once < ran ? "\n" : "", once, once == 1 ? " was" : "s were");
  fputs("\n\n", file);
}

/* A finding as an item of the list. */
static void put_item(const results *all, bool (*finding)(const results *all, FILE *file),
                     FILE *file) {
  char *text = NULL;
  size_t size = 0;
  FILE *found = open_memstream(&text, &size);
  if (!found) return;
  const bool any = finding(all, found);
  if (fclose(found) == 0 && any) fprintf(file, "- %s\n", text);
  free(text);
}

static void report_overall(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  const point_range rates = find_extreme(all, throughput, 0, 1, plan->num_points);
  const point_range loads = find_extreme(all, imbalance, 0, 1, plan->num_points);
  if (rates.count > 1) {
    fputs("- Throughput: ", file);
    extreme_text(all, throughput, rates, file);
    fputs(" tokens/s.\n", file);
    put_item(all, report_slowest, file);
  }
  put_item(all, report_cliffs, file);
  put_item(all, report_scaling, file);
  put_item(all, report_placements, file);
  put_item(all, report_jitter, file);
  put_item(all, report_distributions, file);
  put_item(all, report_formats, file);
  slowest_stage(all, file);
  if (loads.count > 1) {
    fputs("- Imbalance (the busiest expert's load over the mean; 1 is even): ", file);
    extreme_text(all, imbalance, loads, file);
    fputs(".\n", file);
  }
}

void report_findings(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  char *text = NULL;
  size_t size = 0;
  FILE *found = open_memstream(&text, &size);
  if (!found) return;
  report_overall(all, found);
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    if (plan->axes[axis].count > 1) axis_findings(all, axis, found);
  if (fclose(found) == 0 && size > 0) {
    fputs("## Findings\n\n", file);
    report_busy_host(all, file);
    how_compared(all, file);
    fprintf(file, "%s\n", text);
  }
  free(text);
}
