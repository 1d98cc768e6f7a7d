// SPDX-License-Identifier: MIT
/* What formats of weights cost and gain: the points of a sweep over them, and the one to take. */
#include "report/report_parts.h"
#include <math.h>
#include <string.h>

/* Of the output: what 8 bits stay below. */
static const double most_error = 0.05;

/* Axes along which points stand side by side; of all others the first value serves. */
static bool is_of_formats(const char *param) {
  static const char *const params[] = {"weight_format", "scale_search", "activation_format"};
  for (size_t i = 0; i < sizeof params / sizeof params[0]; i++)
    if (strcmp(params[i], param) == 0) return true;
  return false;
}

static bool is_shown(const results *all, size_t index) {
  const experiment *plan = all->experiment;
  for (size_t axis = 0; axis < plan->num_axes; axis++)
    if (!is_of_formats(plan->axes[axis].param) && grid_digit(plan, axis, index) != 0) return false;
  return point_ran(all, index) && point_ms(all, index) > 0;
}

size_t report_formats_points(const results *all, size_t *points, size_t most) {
  const experiment *plan = all->experiment;
  const size_t axis = grid_find(plan, "weight_format");
  size_t count = 0, with_error = 0;
  if (axis == plan->num_axes || plan->axes[axis].count < 2) return 0;
  for (size_t i = 0; i < plan->num_points && count < most; i++) {
    if (!is_shown(all, i)) continue;
    points[count++] = i;
    with_error += all->points[i].verify.weight_error > 0;
  }
  return with_error > 0 ? count : 0;
}

const char *report_formats_label(const results *all, size_t index, char *text, size_t size) {
  const experiment *plan = all->experiment;
  char value[64];
  size_t used = 0;
  text[0] = '\0';
  for (size_t axis = 0; axis < plan->num_axes && used < size; axis++) {
    const char *param = plan->axes[axis].param;
    if (!is_of_formats(param)) continue;
    grid_value_text(plan, axis, index, value, sizeof value);
    if (strcmp(param, "scale_search") == 0 && strcmp(value, "none") == 0) continue;
    if (strcmp(param, "activation_format") == 0 && strcmp(value, "dtype") == 0) continue;
    used += (size_t)snprintf(text + used, size - used, "%s%s%s", used ? ", " : "",
                             strcmp(param, "activation_format") == 0 ? "rows " : "", value);
  }
  return text;
}

/* "At num_tokens=16 the ": what is held. */
static void put_held(const results *all, FILE *file) {
  const experiment *plan = all->experiment;
  const char *before = "At ";
  char value[64];
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (is_of_formats(plan->axes[axis].param) || plan->axes[axis].count < 2) continue;
    fprintf(file, "%s%s=", before, plan->axes[axis].param);
    report_text(file, grid_value_text(plan, axis, 0, value, sizeof value));
    before = ", ";
  }
  fputs(*before == 'A' ? "The " : " the ", file);
}

static double error_of(const results *all, size_t index) {
  return all->points[index].verify.weight_error;
}

/* The fastest of those within an error, or where there is none the one that errs least. */
static size_t choose(const results *all, const size_t *points, size_t count, bool *within) {
  size_t best = SIZE_MAX, nearest = SIZE_MAX;
  for (size_t i = 0; i < count; i++) {
    const size_t p = points[i];
    if (!isfinite(error_of(all, p))) continue;
    if (nearest == SIZE_MAX || error_of(all, p) < error_of(all, nearest)) nearest = p;
    if (error_of(all, p) > most_error) continue;
    if (best == SIZE_MAX || point_ms(all, p) < point_ms(all, best)) best = p;
  }
  *within = best != SIZE_MAX;
  return *within ? best : nearest;
}

bool report_formats(const results *all, FILE *file) {
  size_t points[REPORT_MOST_FORMATS];
  char label[LABEL_SIZE], number[NUMBER_SIZE];
  bool within;
  const size_t count = report_formats_points(all, points, REPORT_MOST_FORMATS);
  const size_t best = choose(all, points, count, &within);
  if (best == SIZE_MAX) return false;
  put_held(all, file);
  fputs(within ? "fastest format within 5% error is " : "format with the least error is ", file);
  report_text(file, report_formats_label(all, best, label, sizeof label));
  fprintf(file, ": %s ms, ", number_text(point_ms(all, best), number, sizeof number));
  fprintf(file, "%s%% error", number_text(100 * error_of(all, best), number, sizeof number));
  if (isfinite(all->points[best].verify.weight_bits))
    fprintf(file, ", %s bits a weight",
            number_text(all->points[best].verify.weight_bits, number, sizeof number));
  for (size_t i = 0; i < count; i++) {
    if (isfinite(error_of(all, points[i]))) continue; /* the first that is not quantized */
    fprintf(file, "; %s takes ", report_formats_label(all, points[i], label, sizeof label));
    fprintf(file, "%s ms", number_text(point_ms(all, points[i]), number, sizeof number));
    break;
  }
  fputc('.', file);
  return true;
}
