// SPDX-License-Identifier: MIT
/* Rounds: all points in turn, then all again, so that a machine whose speed drifts
 * meanwhile is fast or slow for all of them alike. A point's timed forwards are shared
 * out among its rounds. */
#ifndef MOECTL_ROUNDS_H
#define MOECTL_ROUNDS_H

#include "results/results.h"

/* How many rounds a point has: measure.rounds, or where that is not given, three for
 * a point of several that is made anew and warmed up in so many seconds or less. Never
 * more than there are timed forwards. */
#define ROUND_SECONDS 2.0
enum { DEFAULT_ROUNDS = 3 };
int64_t rounds_planned(const experiment *experiment, double seconds_to_repeat);
/* How many of `iterations` forwards round `round` (from 0) of `rounds` times. */
int64_t rounds_share(int64_t iterations, int64_t rounds, int64_t round);

/* Takes a round over into the point and sums all up again: medians are the median of
 * the rounds' medians, p90 likewise, the minimum is the least; rates are those of the
 * first round's work at the new time. False without memory. */
bool rounds_add(point_result *point, const point_round *round);

/* What b took over what a took, round by round, of the whole layer: both had the same
 * inputs in the same minutes. The median of those ratios, and the interval in which, by how
 * far they lie apart, it is to be expected in 95 of 100 runs (Student's t on their
 * logarithms): with three rounds it is wide. `count` 0: there is no round that both have;
 * 1: the interval is that ratio alone, since nothing is known of it. */
typedef struct paired_ratio {
  double median, low, high;
  size_t count;
} paired_ratio;
paired_ratio rounds_compare(const point_result *a, const point_result *b);

/* Student's t that is exceeded by chance with probability `tail`, by degrees of freedom from 1 on;
 * within 4% from 3 on, and more below, so that intervals are wider. */
double rounds_student(double freedom, double tail);
/* The interval in which all of so many ratios are to be expected in 95 of 100 runs: wider, since of
 * many some lie far out by chance (Bonferroni's). */
paired_ratio rounds_widen(paired_ratio ratio, size_t comparisons);

/* How fast b is beside a, a point of another run, whose rounds are no pairs with b's: a's median
 * time over b's, so that above 1 b is faster. The interval is Welch's for the difference of two
 * means, those of the logarithms of the rounds' medians: with what the rounds of either lie
 * apart, the ratio is to be expected in it in 95 of 100 runs (it is widened to hold the
 * ratio of the medians). Where a or b has one round, nothing is known of how its rounds differ,
 * and the interval is that of the forwards: from a's least time over b's p90 to a's p90 over
 * b's least; NaN where one of them has fewer than ENOUGH_FORWARDS. */
typedef struct run_ratio {
  double ratio, low, high; /* NaN: one of them has no time */
} run_ratio;
run_ratio rounds_compare_runs(const point_result *a, const point_result *b);

/* The whole interval lies more than this above or below 1. */
#define LEAST_DIFFERENCE 1.02
bool rounds_exceed_noise(const run_ratio *ratio);

/* Of one round with fewer timed forwards than this, neither the spread nor what lies outside
 * it is known. */
enum { ENOUGH_FORWARDS = 5 };

#endif
