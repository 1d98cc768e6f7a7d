// SPDX-License-Identifier: MIT
/* What a reader needs most of a sweep, in a sentence or two, by what was swept. report_findings has
 * these among all others, and the index of a suite has them alone. */
#include "report/report_compare.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of fewer rows an expert's time is that of reading its weights. */
static const double few_rows = 16;
/* From this on an expert's load is worth a word; and of times less than this apart, not. */
static const double much = 2, little = 1.1;

/* --- what jitter changes, and takes ------------------------------------------------- */

/* Over the points with one value of the axis (num_axes: over all); NaN: no point has it. */
static double mean_changed(const results *all, size_t axis, size_t digit) {
  double sum = 0;
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (axis < all->experiment->num_axes && grid_digit(all->experiment, axis, i) != digit) continue;
    if (!(all->experiment->points[i].layer.jitter > 0) || !point_ran(all, i)) continue;
    if (!isfinite(all->points[i].changed_choices)) continue;
    sum += all->points[i].changed_choices;
    count++;
  }
  return count ? sum / (double)count : NAN;
}

/* How points with jitter compare with those without, all else being equal. */
typedef struct jitter_times {
  size_t compared, differ;
  double least, most;
} jitter_times;

/* Beyond what some of so many comparisons would show by chance. */
static bool stands_out(const paired_ratio *ratio, size_t comparisons) {
  const paired_ratio wide = rounds_widen(*ratio, comparisons);
  return wide.low > LEAST_DIFFERENCE || wide.high < 1 / LEAST_DIFFERENCE;
}

static jitter_times compare_jitter(const results *all, size_t axis) {
  const experiment *plan = all->experiment;
  jitter_times found = {.least = INFINITY, .most = -INFINITY};
  for (size_t i = 0; i < plan->num_points; i++) {
    const size_t stride = grid_stride(plan, axis);
    const size_t first = i - grid_digit(plan, axis, i) * stride;
    for (size_t d = 0; d < plan->axes[axis].count && plan->points[i].layer.jitter > 0; d++) {
      const size_t plain = first + d * stride;
      if (plan->points[plain].layer.jitter > 0) continue;
      const comparison with = report_compare(all, plain, i, 1);
      found.compared += with.ratio.count > 0;
      if (!with.differs || !stands_out(&with.ratio, plan->num_points)) continue;
      found.differ++;
      found.least = fmin(found.least, with.ratio.median);
      found.most = fmax(found.most, with.ratio.median);
    }
  }
  return found;
}

static void jitter_time_text(const results *all, const jitter_times *times, FILE *file) {
  char low[NUMBER_SIZE], high[NUMBER_SIZE];
  if (times->compared == 0) return;
  if (times->differ == 0) {
    fprintf(file, "; what it takes is too little to be certain in any of %zu comparisons",
            times->compared);
    return;
  }
  fprintf(file, "; the %s takes %sx", experiment_measured(all->experiment),
          number_text(times->least, low, sizeof low));
  if (times->least != times->most)
    fprintf(file, " to %sx", number_text(times->most, high, sizeof high));
  fprintf(file, " the time without it, certain in %zu of %zu comparisons", times->differ,
          times->compared);
}

bool report_jitter(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t axis = grid_find(plan, "jitter");
  char text[LABEL_SIZE], number[NUMBER_SIZE];
  if (isnan(mean_changed(all, plan->num_axes, 0))) return false;
  if (axis == plan->num_axes) {
    fprintf(file, "Jitter changes %s%% of the choices.",
            number_text(100 * mean_changed(all, axis, 0), number, sizeof number));
    return true;
  }
  const char *before = "Jitter changes ", *after = " of the choices";
  for (size_t digit = 0; digit < plan->axes[axis].count; digit++) {
    const double share = mean_changed(all, axis, digit);
    if (isnan(share)) continue;
    grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text);
    fprintf(file, "%s%s%%%s at %s", before, number_text(100 * share, number, sizeof number), after,
            text);
    before = ", ", after = "";
  }
  const jitter_times times = compare_jitter(all, axis);
  jitter_time_text(all, &times, file);
  fputc('.', file);
  return true;
}

/* --- how distributions load experts ------------------------------------------------- */

static double imbalance_of(const results *all, size_t index) {
  return all->points[index].routing.statistics.max_mean_imbalance;
}
static double dropped_of(const results *all, size_t index) {
  return 100 * all->points[index].routing.statistics.dropped_fraction;
}

/* The mean of a quantity over points of one distribution, and of one capacity factor unless that
 * is 0; NaN: there is none. */
static double mean_of(const results *all, size_t axis, size_t digit, double factor,
                      double (*of)(const results *all, size_t index)) {
  const experiment *plan = all->experiment;
  double sum = 0;
  size_t count = 0;
  for (size_t i = 0; i < plan->num_points; i++) {
    if (grid_digit(plan, axis, i) != digit || !point_ran(all, i)) continue;
    if (factor > 0 && plan->points[i].layer.capacity_factor != factor) continue;
    sum += of(all, i);
    count++;
  }
  return count ? sum / (double)count : NAN;
}

/* "1.31 with normal, 4.02 with skewed" */
static void of_distributions(const results *all, size_t axis, double factor, const char *unit,
                             double (*of)(const results *all, size_t index), FILE *file) {
  const experiment *plan = all->experiment;
  char text[LABEL_SIZE], number[NUMBER_SIZE];
  const char *before = "";
  for (size_t digit = 0; digit < plan->axes[axis].count; digit++) {
    const double mean = mean_of(all, axis, digit, factor, of);
    if (isnan(mean)) continue;
    grid_value_text(plan, axis, digit * grid_stride(plan, axis), text, sizeof text);
    fprintf(file, "%s%s%s with %s", before, number_text(mean, number, sizeof number), unit, text);
    before = ", ";
  }
}

bool report_distributions(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t axis = grid_find(plan, "distribution");
  char number[NUMBER_SIZE];
  double tightest = INFINITY;
  bool any = false;
  if (axis == plan->num_axes) return false;
  for (size_t i = 0; i < plan->num_points; i++) {
    const double factor = plan->points[i].layer.capacity_factor;
    any = any || point_ran(all, i);
    if (factor > 0 && point_ran(all, i)) tightest = fmin(tightest, factor);
  }
  if (!any) return false;
  fputs("The busiest expert's load over the mean is ", file);
  of_distributions(all, axis, 0, "", imbalance_of, file);
  if (isfinite(tightest)) {
    fprintf(file, "; capacity_factor %s drops ", number_text(tightest, number, sizeof number));
    of_distributions(all, axis, tightest, "%", dropped_of, file);
  }
  fputc('.', file);
  return true;
}

/* --- which setting is slow, and why ------------------------------------------------- */

static double us_a_token(const results *all, size_t index) {
  return 1e3 * point_ms(all, index) / (double)all->experiment->points[index].num_tokens;
}

static bool has_time(const results *all, size_t index) {
  return point_ran(all, index) && point_ms(all, index) > 0;
}

/* The mean of the logarithms of a token's time at one value. */
static double mean_log(const results *all, size_t axis, size_t digit) {
  double sum = 0;
  size_t count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (grid_digit(all->experiment, axis, i) != digit || !has_time(all, i)) continue;
    sum += log(us_a_token(all, i));
    count++;
  }
  return count ? sum / (double)count : NAN;
}

/* What a token takes at `slow` over what it takes at `fast`; of so many comparisons. */
static comparison compare_tokens(const results *all, size_t fast, size_t slow, size_t comparisons) {
  const experiment_point *points = all->experiment->points;
  comparison found = report_compare(
      all, fast, slow, (double)points[slow].num_tokens / (double)points[fast].num_tokens);
  found.differs = found.differs && stands_out(&found.ratio, comparisons);
  return found;
}

/* The slowest value of an axis, how much longer a token takes with it than with the fastest. */
typedef struct effect {
  size_t axis, slowest, fastest; /* of the axis */
  paired_ratio ratio;
  bool certain;
} effect;

/* The point that differs from one at the slowest value by having the fastest; SIZE_MAX: it is at
 * another value, or one of the two has no time. */
static size_t partner_of(const results *all, const effect *of, size_t index) {
  const size_t stride = grid_stride(all->experiment, of->axis);
  if (grid_digit(all->experiment, of->axis, index) != of->slowest) return SIZE_MAX;
  const size_t partner = index - of->slowest * stride + of->fastest * stride;
  return has_time(all, index) && has_time(all, partner) ? partner : SIZE_MAX;
}

/* A token's time in one round, the geometric mean over all pairs, at the fastest value or at the
 * slowest; NaN: not all have it. */
static double mean_of_round(const results *all, const effect *of, bool slowest, size_t round) {
  double sum = 0, count = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const size_t partner = partner_of(all, of, i), index = slowest ? i : partner;
    if (partner == SIZE_MAX) continue;
    const point_result *point = &all->points[index];
    if (round >= point->num_rounds) return NAN;
    sum += log(point->rounds[round].time_ms[MOECL_STAGE_LAYER].median /
               (double)all->experiment->points[index].num_tokens);
    count++;
  }
  return count > 0 ? exp(sum / count) : NAN;
}

/* Whether each pair for itself bears out that the slowest value is slow. */
static bool all_pairs_differ(const results *all, const effect *of, size_t comparisons) {
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    const size_t partner = partner_of(all, of, i);
    if (partner == SIZE_MAX) continue;
    const comparison pair = compare_tokens(all, partner, i, comparisons);
    if (!pair.differs || pair.ratio.median < 1) return false;
  }
  return true;
}

/* All pairs together, round by round as two points are compared: what they are off by in a round is
 * evened out, and how far rounds lie apart says what is certain. */
static void compare_values(const results *all, size_t comparisons, effect *of) {
  size_t most = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++)
    if (has_time(all, i) && all->points[i].num_rounds > most) most = all->points[i].num_rounds;
  point_round *fast = calloc(most + 1, sizeof *fast), *slow = calloc(most + 1, sizeof *slow);
  const point_result before = {.rounds = fast, .num_rounds = most};
  const point_result after = {.rounds = slow, .num_rounds = most};
  for (size_t r = 0; fast && slow && r < most; r++) {
    fast[r].time_ms[MOECL_STAGE_LAYER].median = mean_of_round(all, of, false, r);
    slow[r].time_ms[MOECL_STAGE_LAYER].median = mean_of_round(all, of, true, r);
  }
  if (fast && slow) of->ratio = rounds_compare(&before, &after);
  of->certain = of->ratio.count > 1    ? stands_out(&of->ratio, comparisons)
                : of->ratio.count == 1 ? all_pairs_differ(all, of, comparisons)
                                       : false;
  free(fast);
  free(slow);
}

static effect effect_of(const results *all, size_t axis, size_t comparisons) {
  effect found = {.axis = axis};
  double high = -INFINITY, low = INFINITY;
  for (size_t digit = 0; digit < all->experiment->axes[axis].count; digit++) {
    const double mean = mean_log(all, axis, digit);
    if (mean > high) high = mean, found.slowest = digit;
    if (mean < low) low = mean, found.fastest = digit;
  }
  compare_values(all, comparisons, &found);
  return found;
}

/* The largest that is certain although it was looked for among all values; not certain: none. */
static effect largest_effect(const results *all) {
  const experiment *plan = all->experiment;
  effect found = {.certain = false};
  size_t values = 0;
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    if (!grid_is_seed(plan, axis)) values += plan->axes[axis].count;
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (grid_is_seed(plan, axis)) continue;
    const effect one = effect_of(all, axis, values);
    if (one.certain && one.ratio.median > (found.certain ? found.ratio.median : little))
      found = one;
  }
  return found;
}

static int slowest_stage_of(const point_result *point) {
  int most = -1;
  for (int part = 0; part < RESULTS_PARTS; part++) {
    const int stage = (int)results_parts[part];
    if (isfinite(point->time_ms[stage].median) &&
        (most < 0 || point->time_ms[stage].median > point->time_ms[most].median))
      most = stage;
  }
  return most;
}

/* What the experts of a point have to do: arithmetic only where the measured peaks say so. */
static void experts_text(const results *all, size_t index, FILE *file) {
  const point_result *point = &all->points[index];
  const moecl_layer_params *layer = &all->experiment->points[index].layer;
  const int64_t *loads = point->routing.tokens_per_expert_after_capacity;
  double kept = 0, reached = 0, busiest = 0;
  char number[NUMBER_SIZE];
  for (int64_t e = 0; loads && e < layer->num_experts - layer->num_identity_experts; e++) {
    kept += (double)loads[e];
    reached += loads[e] > 0;
    busiest = fmax(busiest, (double)loads[e]);
  }
  if (!(reached > 0)) return;
  if (report_bound_of(all, index) == BOUND_ARITHMETIC)
    fprintf(file, ", which is arithmetic, %s GFLOP/s of the %s",
            number_text(1e3 * point->tflops, number, sizeof number),
            experiment_measured(all->experiment));
  else if (kept / reached < few_rows)
    fprintf(file, ", where all weights of an expert are read for %s row%s on average",
            number_text(kept / reached, number, sizeof number), kept > reached ? "s" : "");
  else if (busiest * reached > much * kept)
    fprintf(file, ", where the busiest expert has %s times the mean load",
            number_text(busiest * reached / kept, number, sizeof number));
}

/* The most tokens that one of a block looks at. */
static long long looked_at(const experiment_point *point) {
  const int64_t all = point->num_tokens + point->context,
                window = point->block.attention.sliding_window;
  return (long long)(window > 0 && window < all ? window : all);
}

/* What the slowest stage of a point has to do. */
static void reason_text(const results *all, size_t index, int stage, FILE *file) {
  const experiment_point *point = &all->experiment->points[index];
  const long long tokens = (long long)point->num_tokens,
                  experts = (long long)point->layer.num_experts;
  const long long top_k = (long long)point->layer.top_k;
  switch (stage) {
  case MOECL_STAGE_ROUTER:
    fprintf(file, ", which scores %lld experts for every token", experts);
    break;
  case MOECL_STAGE_PERMUTE:
    if (tokens * top_k < experts)
      fprintf(file, ", which looks at %lld experts for %lld choices", experts, tokens * top_k);
    else fprintf(file, ", which orders %lld choices of every token", top_k);
    break;
  case MOECL_STAGE_COMBINE: fprintf(file, ", which sums %lld rows for every token", top_k); break;
  case MOECL_STAGE_GATE_UP:
  case MOECL_STAGE_DOWN: experts_text(all, index, file); break;
  case MOECL_STAGE_ATTENTION:
    fprintf(file, ", where a token looks at up to %lld", looked_at(point));
    break;
  case MOECL_STAGE_QKV_PROJ:
  case MOECL_STAGE_O_PROJ:
    if ((double)tokens < few_rows)
      fprintf(file, ", whose weights are read for %lld row%s", tokens, tokens == 1 ? "" : "s");
    break;
  default: break;
  }
}

/* ": 82% of that is permute's, which ..." */
static void why_slow(const results *all, size_t index, const char *before, const char *of,
                     FILE *file) {
  const int stage = slowest_stage_of(&all->points[index]);
  const double sum = point_stages_ms(&all->points[index]);
  if (stage < 0 || !(sum > 0)) return;
  fprintf(file, "%s%.0f%%%s is %s's", before, 100 * all->points[index].time_ms[stage].median / sum,
          of, moecl_stage_name((moecl_stage)stage));
  reason_text(all, index, stage, file);
}

/* The slowest point at the slowest value. */
static size_t slowest_point_of(const results *all, const effect *of) {
  size_t slow = SIZE_MAX;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (grid_digit(all->experiment, of->axis, i) != of->slowest || !has_time(all, i)) continue;
    if (slow == SIZE_MAX || us_a_token(all, i) > us_a_token(all, slow)) slow = i;
  }
  return slow;
}

/* `why`: with what takes the time there; a stage's share is one forward's own, whatever the rounds
 * differ by. */
static void effect_text(const results *all, const effect *of, bool why, FILE *file) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, of->axis);
  const char *param = plan->axes[of->axis].param;
  char slow[LABEL_SIZE], fast[LABEL_SIZE], number[NUMBER_SIZE];
  fprintf(file, " %s has the largest effect that is certain: %s", param,
          strcmp(param, "num_tokens") == 0 ? "for each token, " : "");
  report_text(file, grid_value_text(plan, of->axis, of->slowest * stride, slow, sizeof slow));
  fprintf(file, " takes %sx what ", number_text(of->ratio.median, number, sizeof number));
  report_text(file, grid_value_text(plan, of->axis, of->fastest * stride, fast, sizeof fast));
  fputs(" does", file);
  if (why) why_slow(all, slowest_point_of(all, of), "; in the slowest such point ", "", file);
  fputc('.', file);
}

/* "A token takes 3.91 us at least, and 15.6 us at most, with top_k=4: 50% of that is ..." The
 * setting, and why, only where the rounds bear out that it is slow. */
static bool times_text(const results *all, size_t fast, size_t slow, size_t points, FILE *file) {
  char label[LABEL_SIZE], a[NUMBER_SIZE], b[NUMBER_SIZE];
  number_text(us_a_token(all, slow), a, sizeof a);
  number_text(us_a_token(all, fast), b, sizeof b);
  if (slow == fast) {
    fprintf(file, "A token takes %s us", a);
    why_slow(all, slow, ": ", " of that", file);
    return true;
  }
  const comparison most = compare_tokens(all, fast, slow, points);
  fprintf(file, "A token takes %s us at least, and %s us at most", b, a);
  if (!most.differs || !(most.ratio.median > little)) return false;
  fputs(", with ", file);
  report_text(
      file, grid_line_label(all->experiment, all->experiment->num_axes, slow, label, sizeof label));
  why_slow(all, slow, ": ", " of that", file);
  return true;
}

bool report_slowest(const results *all, FILE *file) {
  size_t slow = SIZE_MAX, fast = SIZE_MAX, points = 0;
  for (size_t i = 0; i < all->experiment->num_points; i++) {
    if (!has_time(all, i)) continue;
    points++;
    if (slow == SIZE_MAX || us_a_token(all, i) > us_a_token(all, slow)) slow = i;
    if (fast == SIZE_MAX || us_a_token(all, i) < us_a_token(all, fast)) fast = i;
  }
  if (points == 0) return false;
  const bool named = times_text(all, fast, slow, points, file);
  const effect most = largest_effect(all);
  fputs(named || most.certain ? "." : "; no setting stands out.", file);
  if (most.certain) effect_text(all, &most, !named, file);
  return true;
}

/* --- the one -------------------------------------------------------------------------- */

static bool has_neighbours(const results *all) {
  enum { AT_LEAST = 4 }; /* steps of one: it was the sweep's purpose */
  const experiment *plan = all->experiment;
  const size_t axis = grid_find(plan, "num_tokens");
  size_t steps = 0;
  for (size_t i = 0; axis < plan->num_axes && i + 1 < plan->axes[axis].count; i++) {
    const size_t stride = grid_stride(plan, axis);
    steps += plan->points[(i + 1) * stride].num_tokens == plan->points[i * stride].num_tokens + 1;
  }
  return steps >= AT_LEAST;
}

bool report_headline(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  if (has_neighbours(all) && report_cliffs(all, file)) return true;
  if (report_scaling(all, file)) return true;
  if (report_placements(all, file)) return true;
  if (grid_find(plan, "jitter") < plan->num_axes && report_jitter(all, file)) return true;
  if (report_distributions(all, file)) return true;
  if (report_formats(all, file)) return true;
  return report_slowest(all, file);
}
