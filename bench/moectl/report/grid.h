// SPDX-License-Identifier: MIT
/* The points of a sweep as a grid: which value of which axis a point has. */
#ifndef MOECTL_GRID_H
#define MOECTL_GRID_H

#include "results/results_private.h"

/* Of more points than this, tables are grouped and there is one picture of all experts. */
enum { SMALL_SWEEP = 24 };

/* The axis with this flat name; num_axes if it is not swept. */
size_t grid_find(const experiment *plan, const char *param);
/* How far apart in points are neighbours along an axis. */
size_t grid_stride(const experiment *plan, size_t axis);
/* Which of the axis's values (0 to count-1) a point has. */
size_t grid_digit(const experiment *plan, size_t axis, size_t index);
/* How many lines of points run along an axis, and the first point of one. */
size_t grid_lines(const experiment *plan, size_t axis);
size_t grid_line_start(const experiment *plan, size_t axis, size_t line);

/* Seeds are numbers without an order: repetitions. */
bool grid_is_seed(const experiment *plan, size_t axis);
bool grid_is_numeric(const experiment *plan, size_t axis);
/* A point's value on a numeric axis; NaN for null. */
double grid_value(const experiment *plan, size_t axis, size_t index);
/* By which values are put in order. null, which is no limit mostly, is last; of members it is one
 * device without a group, and first. */
double grid_order(const experiment *plan, size_t axis, size_t index);
/* As people read it: "dropless" in place of a null capacity_factor. */
const char *grid_value_text(const experiment *plan, size_t axis, size_t index, char *text,
                            size_t size);
/* What tells the line through a point from the axis's other lines:
 * "num_experts=8, num_tokens=256"; empty when nothing else is swept. */
const char *grid_line_label(const experiment *plan, size_t axis, size_t index, char *text,
                            size_t size);

/* Whether a point ran, so that its times and routing mean something. */
bool point_ran(const results *all, size_t index);
/* Is it on several devices, or on another than the results'? What that one does or has at most says
 * nothing of it. Of several processes nobody knows whose machines they were on. */
bool point_is_elsewhere(const results *all, size_t index);
bool point_has_loads(const results *all, size_t index); /* of every expert */
double point_ms(const results *all, size_t index);      /* the layer's median */
/* A point's stages together; those that are fused into others add nothing. */
double point_stages_ms(const point_result *point);

/* Three significant digits without an exponent where that is readable; "n/a"
 * for NaN. `text` of NUMBER_SIZE is enough. */
enum { NUMBER_SIZE = 32, LABEL_SIZE = 512 };
const char *number_text(double number, char *text, size_t size);

#endif
