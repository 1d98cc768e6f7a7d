// SPDX-License-Identifier: MIT
/* Cliffs: one token more, and the layer takes much longer than its work grows; as where a
 * variant or a tile no longer fits. Looked for between neighbours n and n+1 of num_tokens. */
#include "report/report_compare.h"
#include <math.h>
#include <string.h>

/* A step is a cliff where it takes certainly more than this beyond its share of the work; and
 * where it takes certainly less than 1 over this, the batch before it was the slow one. Of many
 * steps some lie far out by what else the machine did: the interval is that of all of them
 * together, and the fastest forwards have to say so too. */
static const double least_cliff = 1.1;
/* Of more cliffs only the largest is named. */
enum { MOST_NAMED = 4 };

/* Operations for each byte from which on arithmetic may be what takes the time, where the device's
 * peaks were not measured: two 8-wide multiply-adds a clock at some 3 GHz beside the memory of a
 * desktop do about as much. What does fewer waits for memory wherever it runs. */
static const double least_ridge = 4;

static double gbytes(const results *all, size_t index) {
  return all->points[index].gbytes_per_s * point_ms(all, index);
}
static double tflops(const results *all, size_t index) {
  return all->points[index].tflops * point_ms(all, index);
}

/* Can arithmetic be what takes the time? */
static bool arithmetic_binds(const results *all, size_t index) {
  const double peak = report_arithmetic_peak(all, index, MOECL_STAGE_LAYER);
  const bool known = all->peaks.measured[0] && all->peaks.rates.read_bytes > 0 && peak > 0;
  const double ridge = known ? peak / all->peaks.rates.read_bytes : least_ridge;
  return 1e3 * tflops(all, index) > ridge * gbytes(all, index);
}

/* How much more there is to do: bytes, those of the weights of experts that were not reached before
 * above all; and operations where they can be what takes the time. One token more is nothing by
 * itself: where weights are read for a few tokens, it is carried along. */
static double work_ratio(const results *all, size_t before, size_t after) {
  const double bytes = gbytes(all, after) / gbytes(all, before);
  const double flops = tflops(all, after) / tflops(all, before);
  double ratio = isfinite(bytes) ? fmax(1, bytes) : 1;
  if (arithmetic_binds(all, after) && isfinite(flops)) ratio = fmax(ratio, flops);
  return ratio;
}

/* The point on the same line that has one token more; SIZE_MAX: there is none. */
static size_t next_of(const results *all, size_t axis, size_t index) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis), count = plan->axes[axis].count;
  const size_t first = index - grid_digit(plan, axis, index) * stride;
  for (size_t i = first; i < first + count * stride; i += stride)
    if (plan->points[i].num_tokens == plan->points[index].num_tokens + 1) return i;
  return SIZE_MAX;
}

/* What the fastest forward takes more, divided by what was expected. */
static double least_ratio(const results *all, const comparison *step, double expected) {
  const double before = all->points[step->before].time_ms[MOECL_STAGE_LAYER].min;
  return all->points[step->after].time_ms[MOECL_STAGE_LAYER].min / before / expected;
}

static bool rises(const results *all, const comparison *step, double expected, size_t steps) {
  return step->differs && rounds_widen(step->ratio, steps).low > least_cliff &&
         least_ratio(all, step, expected) > least_cliff;
}
static bool falls(const results *all, const comparison *step, size_t steps) {
  return step->differs && rounds_widen(step->ratio, steps).high < 1 / least_cliff &&
         least_ratio(all, step, 1) < 1 / least_cliff;
}

typedef struct cliff {
  comparison step;
  bool rises;
} cliff;

typedef struct cliffs {
  size_t steps, count, level; /* those that are certainly none: level */
  cliff named[MOST_NAMED];    /* the first ones */
  comparison largest;         /* the step that rises most */
} cliffs;

static void look_at(const results *all, size_t before, size_t after, size_t steps, cliffs *found) {
  const double work = work_ratio(all, before, after);
  const comparison plain = report_compare(all, before, after, 1);
  const comparison step = report_compare(all, before, after, work);
  if (step.ratio.count == 0) return;
  if (found->steps++ == 0 || step.ratio.median > found->largest.ratio.median) found->largest = step;
  found->level += step.ratio.count > 1 && rounds_widen(step.ratio, steps).high < least_cliff &&
                  rounds_widen(plain.ratio, steps).low > 1 / least_cliff;
  const bool up = rises(all, &step, work, steps);
  if (!up && !falls(all, &plain, steps)) return;
  if (found->count < MOST_NAMED) found->named[found->count] = (cliff){up ? step : plain, up};
  found->count++;
}

static cliffs find(const results *all, size_t axis) {
  const size_t points = all->experiment->num_points;
  cliffs found = {0};
  size_t steps = 0;
  for (size_t i = 0; i < points; i++) steps += next_of(all, axis, i) != SIZE_MAX;
  for (size_t i = 0; i < points; i++) {
    const size_t next = next_of(all, axis, i);
    if (next != SIZE_MAX && point_ran(all, i) && point_ran(all, next))
      look_at(all, i, next, steps, &found);
  }
  return found;
}

/* "16 to 17 1.40x (1.35 to 1.45)" */
static void step_text(const results *all, size_t axis, const comparison *step, FILE *file) {
  const experiment_point *points = all->experiment->points;
  char ratio[96];
  fprintf(file, "%lld to %lld %s", (long long)points[step->before].num_tokens,
          (long long)points[step->after].num_tokens, ratio_text(&step->ratio, ratio, sizeof ratio));
  report_held(all, axis, step->before, file);
}

static void named_text(const results *all, size_t axis, const cliffs *found, FILE *file) {
  char stage[96];
  for (size_t i = 0; i < found->count && i < MOST_NAMED; i++) {
    const cliff *one = &found->named[i];
    fputs(i > 0 ? "; " : "", file);
    step_text(all, axis, &one->step, file);
    fputs(one->rises ? " beyond the work" : " the time", file);
    fputs(stage_text(all, &one->step, stage, sizeof stage), file);
  }
  if (found->count > MOST_NAMED) fprintf(file, "; and %zu more", found->count - MOST_NAMED);
}

bool report_cliffs(const results *all, FILE *file) {
  const size_t axis = grid_find(all->experiment, "num_tokens");
  if (axis == all->experiment->num_axes) return false;
  const cliffs found = find(all, axis);
  if (found.steps == 0) return false;
  if (found.count > 0) {
    fprintf(file, "%zu of %zu steps to one token more %s: num_tokens ", found.count, found.steps,
            found.count == 1 ? "is a cliff" : "are cliffs");
    named_text(all, axis, &found, file);
  } else {
    if (found.level == found.steps)
      fprintf(file,
              "No cliff: none of %zu steps to one token more takes over %.0f%% more than its share "
              "of the work, or that much less time",
              found.steps, 100 * (least_cliff - 1));
    else
      fprintf(file,
              "No cliff was found, but of %zu of %zu steps to one token more it cannot be told: "
              "their times vary too much from round to round",
              found.steps - found.level, found.steps);
    fputs("; the largest is num_tokens ", file);
    step_text(all, axis, &found.largest, file);
  }
  fputc('.', file);
  return true;
}
