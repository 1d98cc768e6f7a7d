// SPDX-License-Identifier: MIT
/* Two points side by side: what may be said of them. */
#ifndef MOECTL_REPORT_COMPARE_H
#define MOECTL_REPORT_COMPARE_H

#include "report/report_parts.h"
#include "results/rounds.h"

typedef struct comparison {
  size_t before, after; /* points */
  paired_ratio ratio;   /* of the times, after over before, divided by what was expected */
  bool differs;         /* beyond doubt: see report_compare */
} comparison;

/* Whether `after` takes another time than `before` beyond `expected` times it. With rounds:
 * the whole interval (rounds.h) lies more than 2% above or below 1. Measured once: the iterations'
 * times do not overlap, and there are enough of them. Points without times do not differ. */
comparison report_compare(const results *all, size_t before, size_t after, double expected);

/* "2.90x (2.80 to 3.00)": the median, and the interval where there are several rounds.
 * Returns `text`. */
const char *ratio_text(const paired_ratio *ratio, char *text, size_t size);

/* ", mostly gate_up (+1.20 ms)": the stage that changed by half of what the whole did or more; ""
 * where none did. */
const char *stage_text(const results *all, const comparison *of, char *text, size_t size);
/* That stage; -1: none. */
int stage_changed(const results *all, const comparison *of);

/* " (num_experts=8)": what is held beside the axis; nothing where nothing is. */
void report_held(const results *all, size_t axis, size_t index, FILE *file);

/* report_times.c: what a swept parameter does to the layer's time; nothing where nothing can
 * be told. Of numbers, in their order, and of names, which have none. */
void report_axis_times(const results *all, size_t axis, FILE *file);
void report_choice_times(const results *all, size_t axis, FILE *file);

#endif
