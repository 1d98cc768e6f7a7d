// SPDX-License-Identifier: MIT
#include "results/rounds.h"
#include <math.h>
#include <stdlib.h>

int64_t rounds_planned(const experiment *plan, double seconds_to_repeat) {
  const bool several = plan->num_points > 1 && seconds_to_repeat <= ROUND_SECONDS;
  const int64_t wanted = plan->rounds > 0 ? plan->rounds : several ? DEFAULT_ROUNDS : 1;
  return wanted < plan->iterations ? wanted : plan->iterations;
}

int64_t rounds_share(int64_t iterations, int64_t rounds, int64_t round) {
  return iterations / rounds + (round < iterations % rounds);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Sorts; NaN where one of them is. */
static double median_of(double *values, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (isnan(values[i])) return NAN;
  if (count == 0) return NAN;
  qsort(values, count, sizeof *values, by_value);
  return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static sample_summary sum_up(const point_result *point, int stage, double *scratch) {
  sample_summary all = {.min = INFINITY};
  for (size_t r = 0; r < point->num_rounds; r++) {
    const double least = point->rounds[r].time_ms[stage].min;
    if (isnan(least) || least < all.min) all.min = least;
  }
  for (size_t r = 0; r < point->num_rounds; r++)
    scratch[r] = point->rounds[r].time_ms[stage].median;
  all.median = median_of(scratch, point->num_rounds);
  for (size_t r = 0; r < point->num_rounds; r++) scratch[r] = point->rounds[r].time_ms[stage].p90;
  all.p90 = median_of(scratch, point->num_rounds);
  return isnan(all.median) ? (sample_summary){NAN, NAN, NAN} : all;
}

bool rounds_add(point_result *point, const point_round *round) {
  point_round *more = realloc(point->rounds, (point->num_rounds + 1) * sizeof *more);
  double *scratch = malloc((point->num_rounds + 1) * sizeof *scratch);
  if (more) point->rounds = more;
  if (!more || !scratch) {
    free(scratch);
    return false;
  }
  const double before = point->time_ms[MOECL_STAGE_LAYER].median;
  point->rounds[point->num_rounds++] = *round;
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    point->time_ms[stage] = sum_up(point, stage, scratch);
  for (size_t r = 0; r < point->num_rounds; r++) scratch[r] = point->rounds[r].host_ms;
  point->host_ms = median_of(scratch, point->num_rounds);
  point->iterations += round->iterations;
  free(scratch);
  if (point->num_rounds == 1) return true; /* the rates come with it */
  const double faster = before / point->time_ms[MOECL_STAGE_LAYER].median;
  point->tokens_per_s *= faster;
  point->tflops *= faster;
  point->gbytes_per_s *= faster;
  return true;
}

/* Student's t, 95% two-sided, by degrees of freedom. */
static double student(size_t freedom) {
  static const double t[] = {NAN,   12.706, 4.303, 3.182, 2.776, 2.571,
                             2.447, 2.365,  2.306, 2.262, 2.228};
  return freedom < sizeof t / sizeof t[0] ? t[freedom] : 1.96 + 2.6 / (double)freedom;
}

/* Sorts the ratios. */
static void find_interval(double *ratios, paired_ratio *found) {
  const double count = (double)found->count;
  double mean = 0, squares = 0;
  for (size_t i = 0; i < found->count; i++) mean += log(ratios[i]) / count;
  for (size_t i = 0; i < found->count; i++) squares += pow(log(ratios[i]) - mean, 2);
  found->median = found->low = found->high = median_of(ratios, found->count);
  if (found->count < 2) return;
  const double half = student(found->count - 1) * sqrt(squares / (count - 1) / count);
  found->low = fmin(found->median, exp(mean - half));
  found->high = fmax(found->median, exp(mean + half));
}

paired_ratio rounds_compare(const point_result *a, const point_result *b) {
  const size_t both = a->num_rounds < b->num_rounds ? a->num_rounds : b->num_rounds;
  paired_ratio ratio = {.median = NAN, .low = NAN, .high = NAN};
  double *ratios = calloc(both + 1, sizeof *ratios);
  if (!ratios) return ratio;
  for (size_t r = 0; r < both; r++) {
    const double before = a->rounds[r].time_ms[MOECL_STAGE_LAYER].median;
    const double after = b->rounds[r].time_ms[MOECL_STAGE_LAYER].median;
    if (!(before > 0) || !(after > 0)) continue;
    ratios[ratio.count++] = after / before;
  }
  find_interval(ratios, &ratio);
  free(ratios);
  return ratio;
}

/* Of the normal distribution: Abramowitz and Stegun's 26.2.23. */
static double normal(double tail) {
  const double u = sqrt(-2 * log(tail));
  return u - (2.515517 + u * (0.802853 + u * 0.010328)) /
                 (1 + u * (1.432788 + u * (0.189269 + u * 0.001308)));
}

/* Wallace's approximation, solved for t. */
double rounds_student(double freedom, double tail) {
  const double z = normal(tail) * (8 * freedom + 3) / (8 * freedom + 1);
  return sqrt(freedom * expm1(z * z / freedom));
}

paired_ratio rounds_widen(paired_ratio ratio, size_t comparisons) {
  if (ratio.count < 2 || comparisons < 2) return ratio;
  const double freedom = (double)ratio.count - 1, tail = 0.025;
  const double wider =
      rounds_student(freedom, tail / (double)comparisons) / rounds_student(freedom, tail);
  const double middle = (log(ratio.low) + log(ratio.high)) / 2;
  const double half = wider * (log(ratio.high) - log(ratio.low)) / 2;
  ratio.low = fmin(ratio.median, exp(middle - half));
  ratio.high = fmax(ratio.median, exp(middle + half));
  return ratio;
}

/* Of the logarithms of a point's rounds' medians: how many there are, their mean, and the
 * variance of that mean. */
typedef struct spread {
  double count, mean, variance;
} spread;

static spread spread_of(const point_result *point) {
  spread found = {0};
  double squares = 0;
  for (size_t r = 0; r < point->num_rounds; r++) {
    const double median = point->rounds[r].time_ms[MOECL_STAGE_LAYER].median;
    if (!(median > 0)) continue;
    /* Welford's: the mean so far, and the squares about it. */
    const double off = log(median) - found.mean;
    found.mean += off / ++found.count;
    squares += off * (log(median) - found.mean);
  }
  if (found.count > 1) found.variance = squares / (found.count - 1) / found.count;
  return found;
}

/* Half the width of Welch's interval; the degrees of freedom are rounded down. */
static double welch(spread a, spread b) {
  const double variance = a.variance + b.variance;
  if (!(variance > 0)) return 0;
  const double freedom =
      variance * variance /
      (a.variance * a.variance / (a.count - 1) + b.variance * b.variance / (b.count - 1));
  return student(freedom < 1 ? 1 : (size_t)(freedom + 1e-9)) * sqrt(variance);
}

run_ratio rounds_compare_runs(const point_result *a, const point_result *b) {
  const sample_summary *before = &a->time_ms[MOECL_STAGE_LAYER];
  const sample_summary *after = &b->time_ms[MOECL_STAGE_LAYER];
  run_ratio found = {NAN, NAN, NAN};
  if (!(before->median > 0) || !(after->median > 0)) return found;
  found.ratio = before->median / after->median;
  const spread of_a = spread_of(a), of_b = spread_of(b);
  if (of_a.count > 1 && of_b.count > 1) {
    const double half = welch(of_a, of_b), middle = of_a.mean - of_b.mean;
    found.low = fmin(found.ratio, exp(middle - half));
    found.high = fmax(found.ratio, exp(middle + half));
  } else if (a->iterations >= ENOUGH_FORWARDS && b->iterations >= ENOUGH_FORWARDS) {
    found.low = before->min / after->p90;
    found.high = before->p90 / after->min;
  }
  return found;
}

bool rounds_exceed_noise(const run_ratio *ratio) {
  return ratio->low > LEAST_DIFFERENCE || ratio->high < 1 / LEAST_DIFFERENCE;
}
