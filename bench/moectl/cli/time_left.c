// SPDX-License-Identifier: MIT
#include "cli/time_left.h"
#include <math.h>
#include <stdlib.h>

/* Forwards and the rest: the device's kernels and what is around them run faster or
 * slower than guessed each by its own factor. */
typedef struct work {
  double forwards, rest; /* seconds */
} work;

struct time_left {
  point_estimate *of;  /* [num_points] */
  bool *first;         /* [num_points]: the first round is left */
  int64_t *later;      /* [num_points]: how many later ones are */
  work guessed, taken; /* of what has ended */
  work left;           /* guessed */
};

time_left *time_left_open(const experiment *experiment, const device_rates *rates) {
  const size_t count = experiment->num_points + 1;
  time_left *left = calloc(1, sizeof *left);
  if (!left) return NULL;
  left->of = calloc(count, sizeof *left->of);
  left->first = calloc(count, sizeof *left->first);
  left->later = calloc(count, sizeof *left->later);
  if (!left->of || !left->first || !left->later) time_left_close(&left);
  for (size_t i = 0; left && i < experiment->num_points; i++)
    left->of[i] = estimate_point(experiment, i, rates);
  return left;
}

void time_left_close(time_left **left) {
  if (!left || !*left) return;
  free((*left)->of);
  free((*left)->first);
  free((*left)->later);
  free(*left);
  *left = NULL;
}

static work first_round(const point_estimate *of) {
  return (work){of->forwards * of->forward, of->draw + of->check};
}

static work later_round(const point_estimate *of) {
  return (work){of->later_forwards * of->forward, of->draw};
}

static void add(work *sum, work term, double times) {
  sum->forwards += times * term.forwards;
  sum->rest += times * term.rest;
}

static void set(time_left *left, size_t index, bool first, int64_t later) {
  const point_estimate *of = &left->of[index];
  add(&left->left, first_round(of), (double)first - (double)left->first[index]);
  add(&left->left, later_round(of), (double)later - (double)left->later[index]);
  left->first[index] = first;
  left->later[index] = later;
}

void time_left_expect(time_left *left, size_t index, bool first, int64_t later_rounds) {
  if (!left) return;
  set(left, index, first, later_rounds < 0 ? (int64_t)left->of[index].later_rounds : later_rounds);
}

void time_left_expect_after(time_left *left, const experiment *experiment,
                            const device_rates *rates) {
  for (size_t i = 0; left && i < experiment->num_points; i++) {
    const point_estimate of = estimate_point(experiment, i, rates);
    add(&left->left, first_round(&of), 1);
    add(&left->left, later_round(&of), of.later_rounds);
  }
}

void time_left_ended(time_left *left, size_t index, double seconds, double forward_ms,
                     int64_t later_rounds) {
  if (!left) return;
  const point_estimate *of = &left->of[index];
  const bool first = left->first[index];
  const work guessed = first ? first_round(of) : later_round(of);
  const double forwards = (first ? of->forwards : of->later_forwards) * forward_ms / 1e3;
  add(&left->guessed, guessed, 1);
  if (isfinite(forwards))
    add(&left->taken, (work){fmin(forwards, seconds), fmax(seconds - forwards, 0)}, 1);
  else /* shared out as it was guessed */
    add(&left->taken, guessed, seconds / (guessed.forwards + guessed.rest));
  set(left, index, false, later_rounds);
}

double time_left_seconds(const time_left *left) {
  if (!left || !(left->guessed.forwards > 0) || !(left->guessed.rest > 0)) return NAN;
  /* Sums that came down to nothing may be a rounding below it. */
  return fmax(0, left->left.forwards * left->taken.forwards / left->guessed.forwards +
                     left->left.rest * left->taken.rest / left->guessed.rest);
}
