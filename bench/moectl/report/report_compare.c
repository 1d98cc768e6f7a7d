// SPDX-License-Identifier: MIT
#include "report/report_compare.h"
#include <math.h>
#include <string.h>

static bool overlap(const sample_summary *a, const sample_summary *b) {
  return !(a->p90 < b->min || b->p90 < a->min);
}

static bool beyond_doubt(const results *all, const comparison *c, double expected) {
  const point_result *a = &all->points[c->before], *b = &all->points[c->after];
  const paired_ratio *r = &c->ratio;
  const double least = r->median > 1 ? r->low : 1 / r->high;
  if (r->count == 0 || !(least > LEAST_DIFFERENCE)) return false;
  if (r->count > 1) return true;
  sample_summary scaled = a->time_ms[MOECL_STAGE_LAYER];
  scaled.min *= expected;
  scaled.p90 *= expected;
  return a->iterations >= ENOUGH_FORWARDS && b->iterations >= ENOUGH_FORWARDS &&
         !overlap(&scaled, &b->time_ms[MOECL_STAGE_LAYER]);
}

comparison report_compare(const results *all, size_t before, size_t after, double expected) {
  comparison c = {.before = before, .after = after};
  if (!point_ran(all, before) || !point_ran(all, after)) return c;
  c.ratio = rounds_compare(&all->points[before], &all->points[after]);
  c.ratio.median /= expected;
  c.ratio.low /= expected;
  c.ratio.high /= expected;
  c.differs = beyond_doubt(all, &c, expected);
  return c;
}

const char *ratio_text(const paired_ratio *ratio, char *text, size_t size) {
  char median[NUMBER_SIZE], low[NUMBER_SIZE], high[NUMBER_SIZE];
  number_text(ratio->median, median, sizeof median);
  if (ratio->count < 2) snprintf(text, size, "%sx", median);
  else
    snprintf(text, size, "%sx (%s to %s)", median, number_text(ratio->low, low, sizeof low),
             number_text(ratio->high, high, sizeof high));
  return text;
}

int stage_changed(const results *all, const comparison *of) {
  const sample_summary *a = all->points[of->before].time_ms, *b = all->points[of->after].time_ms;
  const double whole = b[MOECL_STAGE_LAYER].median - a[MOECL_STAGE_LAYER].median;
  double most = 0;
  int changed = -1;
  for (int part = 0; part < RESULTS_PARTS; part++) {
    const int stage = (int)results_parts[part];
    const double change = (whole > 0 ? 1 : -1) * (b[stage].median - a[stage].median);
    if (change > most) most = change, changed = stage;
  }
  return most >= fabs(whole) / 2 ? changed : -1;
}

const char *stage_text(const results *all, const comparison *of, char *text, size_t size) {
  char number[NUMBER_SIZE];
  const int stage = stage_changed(all, of);
  text[0] = '\0';
  if (stage < 0) return text;
  const double change =
      all->points[of->after].time_ms[stage].median - all->points[of->before].time_ms[stage].median;
  snprintf(text, size, ", mostly %s (%s%s ms)", moecl_stage_name((moecl_stage)stage),
           change > 0 ? "+" : "-", number_text(fabs(change), number, sizeof number));
  return text;
}

void report_held(const results *all, size_t axis, size_t index, FILE *file) {
  char label[LABEL_SIZE];
  grid_line_label(all->experiment, axis, index, label, sizeof label);
  if (!*label) return;
  fputs(" (", file);
  report_text(file, label);
  fputc(')', file);
}
