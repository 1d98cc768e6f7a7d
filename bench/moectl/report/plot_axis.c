// SPDX-License-Identifier: MIT
#include "report/plot_axis.h"
#include "report/gnuplot.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_order(const void *a, const void *b) {
  const double x = ((const tick *)a)->order, y = ((const tick *)b)->order;
  return (x > y) - (x < y);
}

/* Of sorted ticks. */
static axis_scale scale_of(const tick *ticks, size_t count) {
  const double last = ticks[count - 1].value;
  double low = NAN; /* the least above 0 */
  for (size_t i = 0; i < count && isnan(low); i++)
    if (ticks[i].value > 0) low = ticks[i].value;
  const bool wide = last / low > 8;
  if (isnan(ticks[0].value) || isnan(last) || (wide && ticks[0].value <= 0)) return SCALE_EVEN;
  return wide ? SCALE_LOG : SCALE_LINEAR;
}

tick *plot_ticks(const experiment *plan, size_t axis, axis_scale *scale) {
  const size_t count = plan->axes[axis].count, stride = grid_stride(plan, axis);
  tick *ticks = calloc(count, sizeof *ticks);
  if (!ticks) return NULL;
  for (size_t i = 0; i < count; i++) {
    ticks[i].value = grid_value(plan, axis, i * stride);
    ticks[i].order = grid_order(plan, axis, i * stride);
    ticks[i].digit = i;
    grid_value_text(plan, axis, i * stride, ticks[i].label, sizeof ticks[i].label);
  }
  qsort(ticks, count, sizeof *ticks, by_order);
  *scale = scale_of(ticks, count);
  for (size_t i = 0; i < count; i++)
    ticks[i].position = *scale == SCALE_EVEN  ? (double)i
                        : *scale == SCALE_LOG ? log2(ticks[i].value)
                                              : ticks[i].value;
  return ticks;
}

void plot_write_ticks(FILE *script, const tick *ticks, size_t count, double pixels) {
  const double span = ticks[count - 1].position - ticks[0].position;
  const double margin = span > 0 ? 0.05 * span : 1;
  double free_from = -INFINITY;
  fputs("set xtics (", script);
  for (size_t i = 0; i < count; i++) {
    const double half = span * (5 + 4.5 * (double)strlen(ticks[i].label)) / pixels; /* 9 a letter */
    const bool room = ticks[i].position - half >= free_from;
    if (i > 0) fputs(", ", script);
    gnuplot_quote(script, room ? ticks[i].label : "");
    fprintf(script, " %.17g", ticks[i].position);
    if (room) free_from = ticks[i].position + half;
  }
  fprintf(script, ")\nset xrange [%.17g:%.17g]\n", ticks[0].position - margin,
          ticks[count - 1].position + margin);
}

const char *plot_axis_label(const char *param, axis_scale scale, char *text, size_t size) {
  static const char *const remarks[] = {"", " (log scale)", " (values evenly spaced)"};
  snprintf(text, size, "%s%s", param, remarks[scale]);
  return text;
}
