/* What the numbers say, in sentences: for each swept numeric parameter, from
 * its lowest to its highest value with the others held fixed. */
#include "report.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Of more lines than this only the range is told. */
enum { MAX_SENTENCES = 6 };

/* The two ends of a line of points along an axis. */
typedef struct ends {
  size_t low, high; /* points */
  bool found;
} ends;

static ends find_ends(const results *results, size_t axis, size_t start) {
  const experiment *experiment = results->experiment;
  const size_t stride = grid_stride(experiment, axis);
  ends ends = {0};
  for (size_t i = 0; i < experiment->axes[axis].count; i++) {
    const size_t index = start + i * stride;
    const double value = grid_value(experiment, axis, index);
    if (isnan(value) || !point_ran(results, index) || !(point_ms(results, index) > 0)) continue;
    if (!ends.found) {
      ends = (struct ends){index, index, true};
    } else {
      if (value < grid_value(experiment, axis, ends.low)) ends.low = index;
      if (value > grid_value(experiment, axis, ends.high)) ends.high = index;
    }
  }
  ends.found = ends.found && ends.low != ends.high;
  return ends;
}

/* Whether the two points' iterations overlap, so that a difference may be
 * noise. */
static bool within_spread(const results *results, ends ends) {
  const sample_summary *a = &results->points[ends.low].time_ms[MOECL_STAGE_LAYER];
  const sample_summary *b = &results->points[ends.high].time_ms[MOECL_STAGE_LAYER];
  return a->min <= b->p90 && b->min <= a->p90;
}

static void held_fixed(const results *results, size_t axis, size_t index, FILE *file) {
  char label[LABEL_SIZE];
  grid_line_label(results->experiment, axis, index, label, sizeof label);
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
static void time_sentence(const results *results, size_t axis, ends ends, FILE *file) {
  const experiment *experiment = results->experiment;
  const double before = point_ms(results, ends.low), after = point_ms(results, ends.high);
  char low[LABEL_SIZE], high[LABEL_SIZE], change[64], a[NUMBER_SIZE], b[NUMBER_SIZE];
  change_text(after / before, change, sizeof change);
  fprintf(file, "- Raising %s from %s to %s %s the layer %s", experiment->axes[axis].param,
          grid_value_text(experiment, axis, ends.low, low, sizeof low),
          grid_value_text(experiment, axis, ends.high, high, sizeof high),
          strstr(change, "as fast") ? "leaves" : "makes", change);
  held_fixed(results, axis, ends.low, file);
  fprintf(file, ": %s ms to %s ms", number_text(before, a, sizeof a),
          number_text(after, b, sizeof b));
  fprintf(file, ", %s to %s tokens/s",
          number_text(results->points[ends.low].tokens_per_s, a, sizeof a),
          number_text(results->points[ends.high].tokens_per_s, b, sizeof b));
  fputs(within_spread(results, ends) && !strstr(change, "as fast")
            ? "; the iterations' times overlap, so this may be noise.\n"
            : ".\n",
        file);
}

/* The same for many lines at once: the range and where its ends are. */
static void range_sentence(const results *results, size_t axis, FILE *file) {
  const experiment *experiment = results->experiment;
  double least = INFINITY, most = -INFINITY;
  size_t least_at = 0, most_at = 0, lines = 0;
  ends any = {0};
  for (size_t line = 0; line < grid_lines(experiment, axis); line++) {
    const ends ends = find_ends(results, axis, grid_line_start(experiment, axis, line));
    if (!ends.found) continue;
    const double ratio = point_ms(results, ends.high) / point_ms(results, ends.low);
    if (ratio < least) least = ratio, least_at = ends.low;
    if (ratio > most) most = ratio, most_at = ends.low;
    any = ends;
    lines++;
  }
  if (lines == 0) return;
  char low[LABEL_SIZE], high[LABEL_SIZE], a[64], b[64];
  change_text(least, a, sizeof a);
  change_text(most, b, sizeof b);
  fprintf(file, "- Raising %s from %s to %s, over %zu combinations of the others: the layer becomes "
          "from %s", experiment->axes[axis].param,
          grid_value_text(experiment, axis, any.low, low, sizeof low),
          grid_value_text(experiment, axis, any.high, high, sizeof high), lines, a);
  held_fixed(results, axis, least_at, file);
  fprintf(file, " to %s", b);
  held_fixed(results, axis, most_at, file);
  fputs(".\n", file);
}

static void drops_sentence(const results *results, size_t axis, size_t start, FILE *file) {
  const experiment *experiment = results->experiment;
  const size_t stride = grid_stride(experiment, axis);
  char text[LABEL_SIZE];
  bool first = true;
  for (size_t i = 0; i < experiment->axes[axis].count; i++) {
    const size_t index = start + i * stride;
    if (!point_ran(results, index)) continue;
    const double dropped = 100 * results->points[index].routing.statistics.dropped_fraction;
    grid_value_text(experiment, axis, index, text, sizeof text);
    fprintf(file, "%s%s%s drops %.1f%%%s", first ? "- " : "; ",
            strcmp(text, "dropless") == 0 ? "" : "capacity_factor ", text, dropped,
            first ? " of assignments" : "");
    first = false;
  }
  if (first) return;
  held_fixed(results, axis, start, file);
  fputs(".\n", file);
}

/* Mean dropped share and imbalance at each value, over all other settings. */
static void averages_sentence(const results *results, size_t axis, bool drops, FILE *file) {
  const experiment *experiment = results->experiment;
  char text[LABEL_SIZE], number[NUMBER_SIZE];
  fprintf(file, drops ? "- Assignments dropped, mean over the other settings:"
                      : "- Busiest expert over the mean, mean over the other settings:");
  for (size_t digit = 0; digit < experiment->axes[axis].count; digit++) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < experiment->num_points; i++) {
      if (grid_digit(experiment, axis, i) != digit || !point_ran(results, i)) continue;
      const moecl_routing_statistics *statistics = &results->points[i].routing.statistics;
      sum += drops ? 100 * statistics->dropped_fraction : statistics->max_mean_imbalance;
      count++;
    }
    const double mean = count ? sum / (double)count : NAN;
    grid_value_text(experiment, axis, digit * grid_stride(experiment, axis), text, sizeof text);
    fprintf(file, "%s %s%s%s ", digit > 0 ? "," : "", strcmp(text, "dropless") == 0 ? "" :
            experiment->axes[axis].param, strcmp(text, "dropless") == 0 ? "" : "=", text);
    if (drops && count)
      fprintf(file, "%.1f%%", mean);
    else
      fputs(number_text(mean, number, sizeof number), file);
  }
  fputs(".\n", file);
}

static void axis_findings(const results *results, size_t axis, FILE *file) {
  const experiment *experiment = results->experiment;
  const char *param = experiment->axes[axis].param;
  const size_t lines = grid_lines(experiment, axis);
  fprintf(file, "\n**%s**\n\n", param);
  if (lines > MAX_SENTENCES) {
    range_sentence(results, axis, file);
  } else {
    for (size_t line = 0; line < lines; line++) {
      const ends ends = find_ends(results, axis, grid_line_start(experiment, axis, line));
      if (ends.found) time_sentence(results, axis, ends, file);
    }
  }
  if (strcmp(param, "capacity_factor") == 0) {
    if (lines > MAX_SENTENCES) {
      averages_sentence(results, axis, true, file);
    } else {
      for (size_t line = 0; line < lines; line++)
        drops_sentence(results, axis, grid_line_start(experiment, axis, line), file);
    }
  } else {
    averages_sentence(results, axis, false, file); /* capacity leaves the load as it is */
  }
}

/* Texts have no order: which is fastest, over the lines where all ran. */
static void choice_findings(const results *results, size_t axis, FILE *file) {
  const experiment *experiment = results->experiment;
  const size_t lines = grid_lines(experiment, axis), stride = grid_stride(experiment, axis);
  fprintf(file, "\n**%s**\n\n", experiment->axes[axis].param);
  for (size_t line = 0; line < lines && line < MAX_SENTENCES; line++) {
    const size_t start = grid_line_start(experiment, axis, line);
    size_t fast = SIZE_MAX, slow = SIZE_MAX;
    for (size_t i = 0; i < experiment->axes[axis].count; i++) {
      const size_t index = start + i * stride;
      if (!point_ran(results, index) || !(point_ms(results, index) > 0)) continue;
      if (fast == SIZE_MAX || point_ms(results, index) < point_ms(results, fast)) fast = index;
      if (slow == SIZE_MAX || point_ms(results, index) > point_ms(results, slow)) slow = index;
    }
    if (fast == slow) continue;
    char a[LABEL_SIZE], b[LABEL_SIZE], x[NUMBER_SIZE], y[NUMBER_SIZE], ratio[NUMBER_SIZE];
    fprintf(file, "- %s is fastest with %s ms, %sx faster than %s with %s ms",
            grid_value_text(experiment, axis, fast, a, sizeof a),
            number_text(point_ms(results, fast), x, sizeof x),
            number_text(point_ms(results, slow) / point_ms(results, fast), ratio, sizeof ratio),
            grid_value_text(experiment, axis, slow, b, sizeof b),
            number_text(point_ms(results, slow), y, sizeof y));
    held_fixed(results, axis, start, file);
    fputs(".\n", file);
  }
  if (lines > MAX_SENTENCES)
    fprintf(file, "- The other %zu combinations are in the table.\n", lines - MAX_SENTENCES);
}

typedef struct extreme {
  size_t low, high, count; /* points; how many have the quantity */
} extreme;

typedef double (*quantity)(const results *results, size_t index);
static double throughput(const results *r, size_t i) { return r->points[i].tokens_per_s; }
static double imbalance(const results *r, size_t i) {
  return r->points[i].routing.statistics.max_mean_imbalance;
}

static extreme find_extreme(const results *results, quantity of) {
  extreme found = {0};
  for (size_t i = 0; i < results->experiment->num_points; i++) {
    if (!point_ran(results, i) || !isfinite(of(results, i))) continue;
    if (found.count++ == 0) found.low = found.high = i;
    if (of(results, i) < of(results, found.low)) found.low = i;
    if (of(results, i) > of(results, found.high)) found.high = i;
  }
  return found;
}

/* One of: "0.52", "0.52 to 1.20 (point 3)". */
static void extreme_text(const results *results, quantity of, extreme extreme, FILE *file) {
  char number[NUMBER_SIZE];
  fputs(number_text(of(results, extreme.low), number, sizeof number), file);
  if (of(results, extreme.low) != of(results, extreme.high)) {
    fprintf(file, " (point %zu) to ", extreme.low);
    fprintf(file, "%s (point %zu)",
            number_text(of(results, extreme.high), number, sizeof number), extreme.high);
  }
}

static void slowest_stage(const results *results, FILE *file) {
  size_t points = 0, times[MOECL_STAGE_LAYER] = {0};
  double low[MOECL_STAGE_LAYER], high[MOECL_STAGE_LAYER];
  for (size_t i = 0; i < results->experiment->num_points; i++) {
    if (!point_ran(results, i) || !(point_ms(results, i) > 0)) continue;
    int most = -1;
    for (int stage = 0; stage < MOECL_STAGE_LAYER; stage++) {
      const double time = results->points[i].time_ms[stage].median;
      if (isfinite(time) && (most < 0 || time > results->points[i].time_ms[most].median))
        most = stage;
    }
    if (most < 0) continue;
    const double share = results->points[i].time_ms[most].median / point_ms(results, i);
    low[most] = times[most] ? fmin(low[most], share) : share;
    high[most] = times[most] ? fmax(high[most], share) : share;
    times[most]++;
    points++;
  }
  for (int stage = 0; stage < MOECL_STAGE_LAYER; stage++) {
    if (times[stage] == 0) continue;
    fprintf(file, "- %s takes the largest part of the layer's time", moecl_stage_name((moecl_stage)stage));
    if (points > 1) fprintf(file, " in %zu of %zu points", times[stage], points);
    if (low[stage] == high[stage])
      fprintf(file, ": %.0f%%.\n", 100 * low[stage]);
    else
      fprintf(file, ": %.0f%% to %.0f%%.\n", 100 * low[stage], 100 * high[stage]);
  }
}

void report_findings(const results *results, FILE *file) {
  const experiment *experiment = results->experiment;
  const extreme rates = find_extreme(results, throughput), loads = find_extreme(results, imbalance);
  fputs("## Findings\n\n", file);
  if (rates.count == 0) {
    fputs("No point has run: there is nothing to tell.\n\n", file);
    return;
  }
  fputs("- Throughput: ", file);
  extreme_text(results, throughput, rates, file);
  fputs(" tokens/s.\n", file);
  slowest_stage(results, file);
  if (loads.count > 0) {
    fputs("- Load of the busiest expert over the mean: ", file);
    extreme_text(results, imbalance, loads, file);
    fputs(".\n", file);
  }
  for (size_t axis = 0; axis < experiment->num_axes; axis++) {
    if (experiment->axes[axis].count < 2) continue;
    if (!grid_is_numeric(experiment, axis))
      choice_findings(results, axis, file);
    else
      axis_findings(results, axis, file);
  }
  fputc('\n', file);
}
