// SPDX-License-Identifier: MIT
#include "report/compare.h"
#include "base/files.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of more points that have no partner, or that failed, the rest is counted. */
enum { MOST_LEFT_OUT = 20 };

static bool ran(const measured_run *run, size_t point) {
  const point_result *result = &run->points[point].result;
  return result->status <= POINT_UNVERIFIED_OK && result->time_ms[MOECL_STAGE_LAYER].median > 0;
}

const char *compare_verdict(const run_ratio *speed) {
  if (!isfinite(speed->low) || !isfinite(speed->high)) return "unknown";
  if (!rounds_exceed_noise(speed)) return "within noise";
  return speed->ratio > 1 ? "faster" : "slower";
}

bool compare_is_below(const run_ratio *speed, double least) {
  const bool slower = rounds_exceed_noise(speed) && speed->ratio < 1;
  return speed->ratio < least && (slower || speed->high < least);
}

static void count_verdict(const run_ratio *speed, other_run *other) {
  if (!isfinite(speed->low)) other->unknown++;
  else if (!rounds_exceed_noise(speed)) return;
  else if (speed->ratio > 1) other->faster++;
  else other->slower++;
}

static void find_mean(other_run *other) {
  const double count = (double)other->num_matched;
  run_ratio sum = {0};
  for (size_t i = 0; i < other->num_matched; i++) {
    const run_ratio *speed = &other->matched[i].speed;
    sum.ratio += log(speed->ratio);
    sum.low += log(speed->low);
    sum.high += log(speed->high);
    count_verdict(speed, other);
  }
  other->mean = (run_ratio){exp(sum.ratio / count), exp(sum.low / count), exp(sum.high / count)};
}

/* Takes the text over; false: there is none, or no memory. */
static bool leave_out(other_run *other, char *text) {
  if (text) other->left_out[other->num_left_out++] = text;
  return text != NULL;
}

/* A point that ran without a time of the whole layer: a peer may have timed parts alone. */
static char *untimed_text(const point_result *result, const char *label, const char *whose) {
  char stages[256];
  size_t used = 0;
  for (int stage = 0; stage < RESULTS_STAGES && used < sizeof stages; stage++)
    if (result->time_ms[stage].median > 0)
      used += (size_t)snprintf(stages + used, sizeof stages - used, "%s%s", used ? ", " : "",
                               moecl_stage_name((moecl_stage)stage));
  if (used == 0) return format_text("%s of %s has no time", label, whose);
  return format_text("%s of %s has no time of the whole layer, only of %s", label, whose, stages);
}

/* A point that one of the two runs did not finish. */
static char *failure_text(const measured_run *run, const char *whose, size_t point) {
  char label[512];
  const point_result *result = &run->points[point].result;
  compare_point_label(run, point, label, sizeof label);
  if (result->status <= POINT_UNVERIFIED_OK) return untimed_text(result, label, whose);
  return format_text("%s of %s %s%s%s", label, whose,
                     result->status == POINT_VERIFY_FAILED ? "did not verify" : "failed",
                     result->error ? ": " : "", result->error ? result->error : "");
}

static char *alone_text(const measured_run *run, const char *whose, size_t point,
                        const measured_run *partner) {
  char label[512];
  char *why = compare_why_alone(run, point, partner);
  compare_point_label(run, point, label, sizeof label);
  char *text = why ? format_text("%s is only in %s: %s", label, whose, why) : NULL;
  free(why);
  return text;
}

/* The points of `run` that `alone` names: the first ones with the reason, the rest counted. */
static bool list_alone(const measured_run *run, const char *whose, const bool *alone,
                       const measured_run *partner, other_run *other) {
  size_t count = 0;
  bool ok = true;
  for (size_t i = 0; ok && i < run->num_points; i++)
    if (alone[i] && count++ < MOST_LEFT_OUT)
      ok = leave_out(other, alone_text(run, whose, i, partner));
  if (ok && count > MOST_LEFT_OUT)
    ok = leave_out(other,
                   format_text("%zu more points are only in %s", count - MOST_LEFT_OUT, whose));
  return ok;
}

/* Partners that ran are matched, those of which one did not are left out. */
static bool sort_out(const measured_run *first, const size_t *partners, const char *name,
                     other_run *other, bool *alone_a, bool *alone_b) {
  size_t failed = 0;
  bool ok = true;
  for (size_t j = 0; j < other->run->num_points; j++) alone_b[j] = true;
  for (size_t i = 0; ok && i < first->num_points; i++) {
    const size_t j = partners[i];
    alone_a[i] = j == SIZE_MAX;
    other->missing += j == SIZE_MAX;
    if (j == SIZE_MAX) continue;
    alone_b[j] = false;
    const bool in_a = ran(first, i), in_b = ran(other->run, j);
    other->failed += in_a && !in_b;
    if (in_a && in_b)
      other->matched[other->num_matched++] = (matched_points){
          i, j, rounds_compare_runs(&first->points[i].result, &other->run->points[j].result)};
    else if (failed++ < MOST_LEFT_OUT)
      ok = leave_out(other, in_b ? failure_text(first, "A", i) : failure_text(other->run, name, j));
  }
  if (ok && failed > MOST_LEFT_OUT)
    ok = leave_out(other,
                   format_text("%zu more points did not run in both", failed - MOST_LEFT_OUT));
  return ok;
}

/* Why nothing is matched; NULL: no memory. */
static char *find_reason(const measured_run *first, const other_run *other, bool paired) {
  const measured_run *run = other->run;
  if (first->num_points == 0 || run->num_points == 0)
    return format_text("%s has no points", first->num_points == 0 ? first->path : run->path);
  if (paired)
    return format_text("no point ran in both: %s",
                       other->num_left_out > 0 ? other->left_out[0] : "each failed somewhere");
  char *keys = compare_disjoint(first, run);
  char *text = keys ? format_text("not the same work: what differs is %s", keys) : NULL;
  free(keys);
  return text;
}

static bool compare_one(const measured_run *first, const char *name, other_run *other) {
  const measured_run *run = other->run;
  const size_t most = first->num_points + run->num_points;
  size_t *partners = calloc(first->num_points + 1, sizeof *partners);
  bool *alone_a = calloc(first->num_points + 1, sizeof *alone_a);
  bool *alone_b = calloc(run->num_points + 1, sizeof *alone_b), paired = false;
  other->matched = calloc(first->num_points + 1, sizeof *other->matched);
  other->left_out = calloc(most + 3, sizeof *other->left_out);
  bool ok = partners && alone_a && alone_b && other->matched && other->left_out &&
            compare_match(first, run, partners) &&
            sort_out(first, partners, name, other, alone_a, alone_b) &&
            list_alone(first, "A", alone_a, run, other) &&
            list_alone(run, name, alone_b, first, other);
  for (size_t i = 0; ok && i < first->num_points; i++) paired |= !alone_a[i];
  if (ok && other->num_matched > 0) find_mean(other);
  else if (ok) ok = (other->reason = find_reason(first, other, paired)) != NULL;
  free(partners);
  free(alone_a);
  free(alone_b);
  return ok;
}

bool compare_runs(const measured_run *runs, size_t count, run_comparison *comparison) {
  *comparison = (run_comparison){.runs = runs, .num_runs = count};
  comparison->others = calloc(count, sizeof *comparison->others);
  bool ok = comparison->others != NULL;
  for (size_t i = 0; ok && i + 1 < count; i++) {
    const char name[] = {compare_letter(i + 1), '\0'};
    comparison->others[i].run = &runs[i + 1];
    ok = compare_one(&runs[0], name, &comparison->others[i]);
  }
  return ok;
}

void compare_release(run_comparison *comparison) {
  for (size_t i = 0; comparison->others && i + 1 < comparison->num_runs; i++) {
    other_run *other = &comparison->others[i];
    for (size_t j = 0; j < other->num_left_out; j++) free(other->left_out[j]);
    free(other->left_out);
    free(other->matched);
    free(other->reason);
  }
  free(comparison->others);
  *comparison = (run_comparison){0};
}
