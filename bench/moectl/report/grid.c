// SPDX-License-Identifier: MIT
#include "report/grid.h"
#include "experiment/schema.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t grid_find(const experiment *plan, const char *param) {
  size_t axis = 0;
  while (axis < plan->num_axes && strcmp(plan->axes[axis].param, param) != 0) axis++;
  return axis;
}

size_t grid_stride(const experiment *plan, size_t axis) {
  size_t stride = 1;
  for (size_t i = axis + 1; i < plan->num_axes; i++) stride *= plan->axes[i].count;
  return stride;
}

size_t grid_digit(const experiment *plan, size_t axis, size_t index) {
  return index / grid_stride(plan, axis) % plan->axes[axis].count;
}

size_t grid_lines(const experiment *plan, size_t axis) {
  return plan->num_points / plan->axes[axis].count;
}

size_t grid_line_start(const experiment *plan, size_t axis, size_t line) {
  const size_t stride = grid_stride(plan, axis);
  return line / stride * stride * plan->axes[axis].count + line % stride;
}

bool grid_is_seed(const experiment *plan, size_t axis) {
  return strcmp(plan->axes[axis].param, "seed") == 0;
}

bool grid_is_numeric(const experiment *plan, size_t axis) {
  const schema_id id = schema_find_param(plan->axes[axis].param);
  if (id == KEY_COUNT) return false;
  const value_type type = schema_get(id)->type;
  return type == TYPE_INT || type == TYPE_REAL;
}

double grid_value(const experiment *plan, size_t axis, size_t index) {
  char text[LABEL_SIZE];
  if (!experiment_param_text(&plan->points[index], plan->axes[axis].param, text, sizeof text) ||
      strcmp(text, "null") == 0)
    return NAN;
  return strtod(text, NULL);
}

double grid_order(const experiment *plan, size_t axis, size_t index) {
  const double value = grid_value(plan, axis, index);
  if (!isnan(value)) return value;
  return strcmp(plan->axes[axis].param, "experts") == 0 ? 0 : INFINITY;
}

const char *grid_value_text(const experiment *plan, size_t axis, size_t index, char *text,
                            size_t size) {
  const char *param = plan->axes[axis].param;
  if (!experiment_param_text(&plan->points[index], param, text, size)) snprintf(text, size, "?");
  if (strcmp(text, "null") == 0)
    snprintf(text, size, "%s",
             strcmp(param, "capacity_factor") == 0 ? "dropless"
             : strcmp(param, "skew_clusters") == 0 ? "as experts"
                                                   : "null");
  return text;
}

const char *grid_line_label(const experiment *plan, size_t axis, size_t index, char *text,
                            size_t size) {
  char one[LABEL_SIZE];
  size_t used = 0;
  if (size > 0) text[0] = '\0';
  for (size_t i = 0; i < plan->num_axes && used < size; i++) {
    if (i == axis) continue;
    grid_value_text(plan, i, index, one, sizeof one);
    used += (size_t)snprintf(text + used, size - used, "%s%s=%s", used > 0 ? ", " : "",
                             plan->axes[i].param, one);
  }
  return text;
}

bool point_ran(const results *all, size_t index) {
  return all->have[index] && all->points[index].status != POINT_ERROR;
}

bool point_is_elsewhere(const results *all, size_t index) {
  const point_parallel *parallel = &all->points[index].parallel;
  return all->have[index] && parallel->num_members > 0 &&
         (all->experiment->points[index].parallel.devices || results_of_processes(parallel));
}

bool point_has_loads(const results *all, size_t index) {
  const moecl_routing *routing = &all->points[index].routing;
  return point_ran(all, index) && routing->tokens_per_expert &&
         routing->tokens_per_expert_after_capacity;
}

double point_ms(const results *all, size_t index) {
  return all->points[index].time_ms[MOECL_STAGE_LAYER].median;
}

double point_stages_ms(const point_result *point) {
  double sum = 0;
  for (int stage = 0; stage < RESULTS_STAGES; stage++)
    if (stage != MOECL_STAGE_LAYER && isfinite(point->time_ms[stage].median))
      sum += point->time_ms[stage].median;
  return sum;
}

const char *number_text(double number, char *text, size_t size) {
  const double magnitude = fabs(number);
  if (isnan(number)) snprintf(text, size, "n/a");
  else if (magnitude != 0 && (magnitude < 1e-3 || magnitude >= 1e12))
    snprintf(text, size, "%.2e", number);
  else
    snprintf(text, size, "%.*f",
             magnitude >= 99.95     ? 0
             : magnitude >= 9.995   ? 1
             : magnitude >= 0.9995  ? 2
             : magnitude >= 0.09995 ? 3
             : magnitude == 0       ? 0
                                    : 4,
             number);
  return text;
}
