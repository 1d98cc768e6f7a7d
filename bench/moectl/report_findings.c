/* What the numbers say, in sentences: for each swept numeric parameter, from
 * its lowest to its highest value with the others held fixed; how far repetitions
 * with other seeds lie apart; and where a difference may be noise. */
#include "report.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Of more lines than this only the range is told. Of fewer iterations than
 * FEW neither the spread nor what lies outside it is known. */
enum { MAX_SENTENCES = 6, FEW = 5 };

#define OVERLAP "; the iterations' times overlap, so this may be noise.\n"

/* The two ends of a line of points along an axis. */
typedef struct line_ends {
  size_t low, high; /* points */
  bool found;
} line_ends;

static line_ends find_ends(const results *all, size_t axis, size_t start) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis);
  line_ends ends = {0};
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    const size_t index = start + i * stride;
    const double value = grid_value(plan, axis, index);
    if (isnan(value) || !point_ran(all, index) || !(point_ms(all, index) > 0)) continue;
    if (!ends.found) {
      ends = (struct line_ends){index, index, true};
    } else {
      if (value < grid_value(plan, axis, ends.low)) ends.low = index;
      if (value > grid_value(plan, axis, ends.high)) ends.high = index;
    }
  }
  ends.found = ends.found && ends.low != ends.high;
  return ends;
}

/* How far one point's iterations lie apart: the 90th percentile over the
 * fastest, of the point where that is more. */
static double spread_of(const results *all, line_ends ends) {
  const sample_summary *a = &all->points[ends.low].time_ms[MOECL_STAGE_LAYER];
  const sample_summary *b = &all->points[ends.high].time_ms[MOECL_STAGE_LAYER];
  return fmax(a->p90 / a->min, b->p90 / b->min);
}

/* Whether the medians differ by no more than the iterations of one point do:
 * then there is no difference to speak of. */
static bool within_noise(const results *all, line_ends ends) {
  const double ratio = point_ms(all, ends.high) / point_ms(all, ends.low);
  return fmax(ratio, 1 / ratio) <= spread_of(all, ends);
}

/* ", while the iterations of one point vary 1.15x." */
static void noise_remark(const results *all, line_ends ends, FILE *file) {
  char number[NUMBER_SIZE];
  fprintf(file, ", while the iterations of one point vary %sx.\n",
          number_text(spread_of(all, ends), number, sizeof number));
}

static bool few_iterations(const results *all) { return all->experiment->iterations < FEW; }
/* "makes", or "seems to make" where few iterations say so. */
static const char *seems(const results *all, const char *surely, const char *perhaps) {
  return few_iterations(all) ? perhaps : surely;
}

/* Whether the two points' iterations overlap, so that a difference may be
 * noise. */
static bool within_spread(const results *all, line_ends ends) {
  const sample_summary *a = &all->points[ends.low].time_ms[MOECL_STAGE_LAYER];
  const sample_summary *b = &all->points[ends.high].time_ms[MOECL_STAGE_LAYER];
  return a->min <= b->p90 && b->min <= a->p90;
}

static void held_fixed(const results *all, size_t axis, size_t index, FILE *file) {
  char label[LABEL_SIZE];
  grid_line_label(all->experiment, axis, index, label, sizeof label);
  if (!*label) return;
  fputs(" (", file);
  report_text(file, label);
  fputc(')', file);
}

static void change_text(double ratio, char *text, size_t size) {
  char number[NUMBER_SIZE];
  if (ratio > 0.98 && ratio < 1.02)
    snprintf(text, size, "as fast within 2%%");
  else if (ratio >= 1)
    snprintf(text, size, "%sx slower", number_text(ratio, number, sizeof number));
  else
    snprintf(text, size, "%sx faster", number_text(1 / ratio, number, sizeof number));
}

/* "Raising top_k from 1 to 4 makes the layer 2.9x slower (num_experts=8): ..." */
static void time_sentence(const results *all, size_t axis, line_ends ends, FILE *file) {
  const experiment *plan = all->experiment;
  const double before = point_ms(all, ends.low), after = point_ms(all, ends.high);
  char low[LABEL_SIZE], high[LABEL_SIZE], change[64], a[NUMBER_SIZE], b[NUMBER_SIZE];
  const bool noise = within_noise(all, ends);
  change_text(after / before, change, sizeof change);
  fprintf(file, "- Raising %s from %s to %s ", plan->axes[axis].param,
          grid_value_text(plan, axis, ends.low, low, sizeof low),
          grid_value_text(plan, axis, ends.high, high, sizeof high));
  if (noise)
    fputs("changes the layer's time by no more than noise", file);
  else if (strstr(change, "as fast"))
    fprintf(file, "%s the layer %s", seems(all, "leaves", "seems to leave"), change);
  else
    fprintf(file, "%s the layer %s", seems(all, "makes", "seems to make"), change);
  held_fixed(all, axis, ends.low, file);
  fprintf(file, ": %s ms to %s ms", number_text(before, a, sizeof a),
          number_text(after, b, sizeof b));
  if (noise) {
    noise_remark(all, ends, file);
    return;
  }
  fprintf(file, ", %s to %s tokens/s", number_text(all->points[ends.low].tokens_per_s, a, sizeof a),
          number_text(all->points[ends.high].tokens_per_s, b, sizeof b));
  fputs(within_spread(all, ends) && !strstr(change, "as fast") ? OVERLAP : ".\n", file);
}

/* More tokens are more work: what matters is whether they cost their share. */
static void tokens_sentence(const results *all, size_t axis, line_ends ends, FILE *file) {
  const experiment *plan = all->experiment;
  const double before = point_ms(all, ends.low), after = point_ms(all, ends.high);
  const double low = (double)plan->points[ends.low].num_tokens;
  const double high = (double)plan->points[ends.high].num_tokens;
  const double rate = high / low / (after / before);
  char a[NUMBER_SIZE], b[NUMBER_SIZE];
  fprintf(file, "- %sx the tokens (%.0f to %.0f)", number_text(high / low, a, sizeof a), low, high);
  fprintf(file, " %s %sx the time", seems(all, "take", "seem to take"),
          number_text(after / before, a, sizeof a));
  held_fixed(all, axis, ends.low, file);
  fprintf(file, ": %s ms to %s ms", number_text(before, a, sizeof a),
          number_text(after, b, sizeof b));
  const bool noise = fmax(rate, 1 / rate) <= spread_of(all, ends);
  if (noise)
    fputs(", throughput changes by no more than noise", file);
  else
    fprintf(file, ", throughput %s %sx", rate >= 1 ? "rises" : "falls",
            number_text(rate >= 1 ? rate : 1 / rate, a, sizeof a));
  fprintf(file, ", %s to %s tokens/s", number_text(all->points[ends.low].tokens_per_s, b, sizeof b),
          number_text(all->points[ends.high].tokens_per_s, a, sizeof a));
  if (noise)
    noise_remark(all, ends, file);
  else
    fputs(".\n", file);
}

/* Of many lines at once: the range and where its ends are. */
static void range_sentence(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  double least = INFINITY, most = -INFINITY;
  size_t least_at = 0, most_at = 0, lines = 0, noisy = 0, doubtful = 0;
  line_ends any = {0};
  for (size_t line = 0; line < grid_lines(plan, axis); line++) {
    const line_ends ends = find_ends(all, axis, grid_line_start(plan, axis, line));
    if (!ends.found) continue;
    const double ratio = point_ms(all, ends.high) / point_ms(all, ends.low);
    if (ratio < least) least = ratio, least_at = ends.low;
    if (ratio > most) most = ratio, most_at = ends.low;
    any = ends;
    lines++;
    noisy += within_noise(all, ends);
    doubtful += within_noise(all, ends) || within_spread(all, ends);
  }
  if (lines == 0) return;
  char low[LABEL_SIZE], high[LABEL_SIZE], a[64], b[64];
  change_text(least, a, sizeof a);
  change_text(most, b, sizeof b);
  fprintf(file, "- Raising %s from %s to %s, over %zu combinations of the others: the layer",
          plan->axes[axis].param, grid_value_text(plan, axis, any.low, low, sizeof low),
          grid_value_text(plan, axis, any.high, high, sizeof high), lines);
  if (noisy == lines) {
    fputs("'s time changes by no more than the iterations of one point vary.\n", file);
    return;
  }
  fprintf(file, " %s from %s", seems(all, "becomes", "seems to become"), a);
  held_fixed(all, axis, least_at, file);
  fprintf(file, " to %s", b);
  held_fixed(all, axis, most_at, file);
  if (doubtful > 0)
    fprintf(file,
            "; in %zu of them the iterations' times overlap or vary as much, so that may be noise",
            doubtful);
  fputs(".\n", file);
}

static void drops_sentence(const results *all, size_t axis, size_t start, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis);
  char text[LABEL_SIZE];
  bool first = true;
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
  held_fixed(all, axis, start, file);
  fputs(".\n", file);
}

/* Mean dropped share and imbalance at each value, over all other settings. */
static void averages_sentence(const results *all, size_t axis, bool drops, FILE *file) {
  const experiment *plan = all->experiment;
  char text[LABEL_SIZE], number[NUMBER_SIZE];
  fprintf(file, drops ? "- Assignments dropped, mean over the other values:"
                      : "- Busiest expert over the mean, averaged over the other values:");
  for (size_t digit = 0; digit < plan->axes[axis].count; digit++) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < plan->num_points; i++) {
      if (grid_digit(plan, axis, i) != digit || !point_ran(all, i)) continue;
      const moecl_routing_statistics *statistics = &all->points[i].routing.statistics;
      sum += drops ? 100 * statistics->dropped_fraction : statistics->max_mean_imbalance;
      count++;
    }
    const double mean = count ? sum / (double)count : NAN;
    grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text);
    fputs(digit > 0 ? ", " : " ", file);
    if (drops && count)
      fprintf(file, "%.1f%%", mean);
    else
      fputs(number_text(mean, number, sizeof number), file);
    if (digit == 0)
      fprintf(file, " at %s=%s", plan->axes[axis].param, text);
    else
      fprintf(file, " at %s", text);
  }
  fputs(".\n", file);
}

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
  held_fixed(all, axis, start, file);
  fputs(" the layer takes ", file);
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
  fputs("\n**seed** (repetitions with other random numbers)\n\n", file);
  for (size_t line = 0; line < lines && lines <= MAX_SENTENCES; line++)
    seeds_sentence(all, axis, grid_line_start(plan, axis, line), file);
  if (lines > MAX_SENTENCES)
    fprintf(file,
            "- Over the %zu seeds of one combination of the others (of %zu), layer times differ by "
            "up to %sx,\nthe busiest expert's load over the mean by up to %s, the dropped share by "
            "up to %s percentage points.\n",
            plan->axes[axis].count, lines,
            number_text(widest_spread(all, axis, point_ms, true), a, sizeof a),
            number_text(widest_spread(all, axis, imbalance, false), b, sizeof b),
            number_text(widest_spread(all, axis, dropped_percent, false), c, sizeof c));
}

static void axis_findings(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  const char *param = plan->axes[axis].param;
  const size_t lines = grid_lines(plan, axis);
  fprintf(file, "\n**%s**\n\n", param);
  if (lines > MAX_SENTENCES) {
    range_sentence(all, axis, file);
  } else {
    for (size_t line = 0; line < lines; line++) {
      const line_ends ends = find_ends(all, axis, grid_line_start(plan, axis, line));
      if (!ends.found) continue;
      if (strcmp(param, "num_tokens") == 0)
        tokens_sentence(all, axis, ends, file);
      else
        time_sentence(all, axis, ends, file);
    }
  }
  if (strcmp(param, "capacity_factor") == 0) {
    if (lines > MAX_SENTENCES) {
      averages_sentence(all, axis, true, file);
    } else {
      for (size_t line = 0; line < lines; line++)
        drops_sentence(all, axis, grid_line_start(plan, axis, line), file);
    }
  } else {
    averages_sentence(all, axis, false, file); /* capacity leaves the load as it is */
  }
}

static void choice_sentence(const results *all, size_t axis, size_t start, line_ends ends,
                            FILE *file) {
  const experiment *plan = all->experiment;
  const double fast = point_ms(all, ends.low), slow = point_ms(all, ends.high);
  char a[LABEL_SIZE], b[LABEL_SIZE], x[NUMBER_SIZE], y[NUMBER_SIZE], ratio[NUMBER_SIZE];
  grid_value_text(plan, axis, ends.low, a, sizeof a);
  grid_value_text(plan, axis, ends.high, b, sizeof b);
  number_text(fast, x, sizeof x);
  number_text(slow, y, sizeof y);
  if (within_noise(all, ends)) {
    fprintf(file, "- %s with %s ms and %s with %s ms differ by no more than noise", a, x, b, y);
    held_fixed(all, axis, start, file);
    noise_remark(all, ends, file);
    return;
  }
  fprintf(file, "- %s %s fastest with %s ms, %sx faster than %s with %s ms", a,
          seems(all, "is", "seems"), x, number_text(slow / fast, ratio, sizeof ratio), b, y);
  held_fixed(all, axis, start, file);
  for (size_t i = 0; i < plan->axes[axis].count; i++) {
    const size_t other = start + i * grid_stride(plan, axis);
    if (other == ends.low || other == ends.high || !point_ran(all, other) ||
        !(point_ms(all, other) > 0) || !within_noise(all, (line_ends){ends.low, other, true}))
      continue;
    fprintf(file, "; %s with %s ms is as fast within the noise",
            grid_value_text(plan, axis, other, b, sizeof b),
            number_text(point_ms(all, other), y, sizeof y));
  }
  fputs(within_spread(all, ends) ? OVERLAP : ".\n", file);
}

/* Texts have no order: which is fastest, over the lines where all ran. */
static void choice_findings(const results *all, size_t axis, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t lines = grid_lines(plan, axis), stride = grid_stride(plan, axis);
  fprintf(file, "\n**%s**\n\n", plan->axes[axis].param);
  for (size_t line = 0; line < lines && line < MAX_SENTENCES; line++) {
    const size_t start = grid_line_start(plan, axis, line);
    size_t fast = SIZE_MAX, slow = SIZE_MAX;
    for (size_t i = 0; i < plan->axes[axis].count; i++) {
      const size_t index = start + i * stride;
      if (!point_ran(all, index) || !(point_ms(all, index) > 0)) continue;
      if (fast == SIZE_MAX || point_ms(all, index) < point_ms(all, fast)) fast = index;
      if (slow == SIZE_MAX || point_ms(all, index) > point_ms(all, slow)) slow = index;
    }
    if (fast == slow) continue;
    choice_sentence(all, axis, start, (line_ends){fast, slow, true}, file);
  }
  if (lines > MAX_SENTENCES)
    fprintf(file, "- The other %zu combinations are in the table.\n", lines - MAX_SENTENCES);
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
  size_t points = 0, times[MOECL_STAGE_LAYER] = {0};
  double low[MOECL_STAGE_LAYER], high[MOECL_STAGE_LAYER];
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!point_ran(all, i) || !(point_ms(all, i) > 0)) continue;
    int most = -1;
    for (int stage = 0; stage < MOECL_STAGE_LAYER; stage++) {
      const double time = all->points[i].time_ms[stage].median;
      if (isfinite(time) && (most < 0 || time > all->points[i].time_ms[most].median)) most = stage;
    }
    if (most < 0) continue;
    const double share =
        all->points[i].time_ms[most].median / report_stages_ms(&all->points[i]);
    low[most] = times[most] ? fmin(low[most], share) : share;
    high[most] = times[most] ? fmax(high[most], share) : share;
    times[most]++;
    points++;
  }
  for (int stage = 0; stage < MOECL_STAGE_LAYER; stage++) {
    if (times[stage] == 0) continue;
    fprintf(file, "- %s takes the largest part of the stages' time",
            moecl_stage_name((moecl_stage)stage));
    if (points > 1) fprintf(file, " in %zu of %zu points", times[stage], points);
    if (low[stage] == high[stage])
      fprintf(file, ": %.0f%%.\n", 100 * low[stage]);
    else
      fprintf(file, ": %.0f%% to %.0f%%.\n", 100 * low[stage], 100 * high[stage]);
  }
}

void report_findings(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  const point_range rates = find_extreme(all, throughput, 0, 1, plan->num_points);
  const point_range loads = find_extreme(all, imbalance, 0, 1, plan->num_points);
  fputs("## Findings\n\n", file);
  if (plan->num_points > 1)
    fputs("Points ran one after another, once each: where the machine's speed drifts meanwhile, "
          "differences\nbetween points can be the drift's. Run again what matters.\n\n",
          file);
  if (rates.count == 0) {
    fputs("No point has run: there is nothing to tell.\n\n", file);
    return;
  }
  if (few_iterations(all) && plan->num_points > 1)
    fprintf(file,
            "Only %" PRId64
            " iteration%s timed at each point (measure.iterations), too few to tell "
            "a difference in time\nfrom noise: take those below as hints.\n\n",
            plan->iterations, plan->iterations == 1 ? " was" : "s were");
  fputs("- Throughput: ", file);
  extreme_text(all, throughput, rates, file);
  fputs(" tokens/s.\n", file);
  slowest_stage(all, file);
  if (loads.count > 0) {
    fputs("- Load of the busiest expert over the mean: ", file);
    extreme_text(all, imbalance, loads, file);
    fputs(".\n", file);
  }
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (plan->axes[axis].count < 2) continue;
    if (grid_is_seed(plan, axis))
      seed_findings(all, axis, file);
    else if (!grid_is_numeric(plan, axis))
      choice_findings(all, axis, file);
    else
      axis_findings(all, axis, file);
  }
  fputc('\n', file);
}
