// SPDX-License-Identifier: MIT
/* Which lines of a sweep a plot against one of its axes shows. */
#include "report/pictures.h"
#include <math.h>
#include <string.h>

static size_t points_with_data(const results *all, picture_kind kind, size_t axis, size_t start) {
  const size_t stride = grid_stride(all->experiment, axis);
  size_t found = 0;
  for (size_t i = 0; i < all->experiment->axes[axis].count; i++)
    found += isfinite(picture_value(all, kind, start + i * stride));
  return found;
}

/* How much the quantity differs along an axis, on the average of its lines: of its
 * largest value there. */
static double effect_of(const results *all, picture_kind kind, size_t axis) {
  const experiment *plan = all->experiment;
  const size_t stride = grid_stride(plan, axis);
  double sum = 0;
  size_t lines = 0;
  for (size_t line = 0; line < grid_lines(plan, axis); line++) {
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < plan->axes[axis].count; i++) {
      const double value = picture_value(all, kind, grid_line_start(plan, axis, line) + i * stride);
      if (!isfinite(value)) continue;
      low = fmin(low, value);
      high = fmax(high, value);
    }
    if (!(low <= high)) continue;
    sum += high > 0 ? (high - low) / high : 0;
    lines++;
  }
  return lines ? sum / (double)lines : 0;
}

/* The axis that matters most beside two others (num_axes: none); num_axes where there is
 * none left. Seeds come last: they are repetitions. */
static size_t pick_axis(const results *all, picture_kind kind, size_t a, size_t b) {
  const experiment *plan = all->experiment;
  size_t best = plan->num_axes;
  double most = -2;
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (axis == a || axis == b || plan->axes[axis].count < 2) continue;
    const double effect = grid_is_seed(plan, axis) ? -1 : effect_of(all, kind, axis);
    if (effect > most) most = effect, best = axis;
  }
  return best;
}

/* `limit` of an axis's values at even distances, the first and the last among them: with
 * all else held they differ in that alone. */
static size_t spread_values(size_t count, size_t limit, size_t which) {
  return count <= limit ? which : which * (count - 1) / (limit - 1);
}

static size_t first_with_data(const results *all, picture_kind kind) {
  size_t index = 0;
  while (index < all->experiment->num_points && !isfinite(picture_value(all, kind, index))) index++;
  return index;
}

static void all_lines(const results *all, picture_kind kind, size_t axis, picture_view *view) {
  const experiment *plan = all->experiment;
  view->series = view->panels = plan->num_axes;
  view->num_panels = 1;
  for (size_t line = 0; line < grid_lines(plan, axis) && view->num_lines < MAX_SERIES; line++) {
    const size_t start = grid_line_start(plan, axis, line);
    if (points_with_data(all, kind, axis, start) > 0) view->starts[0][view->num_lines++] = start;
  }
}

/* Lines that did not run are SIZE_MAX. */
static void chosen_lines(const results *all, picture_kind kind, size_t axis, picture_view *view) {
  const experiment *plan = all->experiment;
  const size_t none = plan->num_axes;
  view->series = pick_axis(all, kind, axis, none);
  view->panels = pick_axis(all, kind, axis, view->series);
  if (view->panels < none && grid_is_seed(plan, view->panels)) view->panels = none;
  view->num_series = plan->axes[view->series].count;
  view->num_values = view->panels < none ? plan->axes[view->panels].count : 1;
  view->num_lines = view->num_series < MAX_SERIES ? view->num_series : MAX_SERIES;
  view->num_panels = view->num_values < MAX_PANELS ? view->num_values : MAX_PANELS;
  const size_t swept[] = {axis, view->series, view->panels};
  size_t base = first_with_data(all, kind);
  for (size_t i = 0; i < 3; i++)
    if (swept[i] < none) base -= grid_digit(plan, swept[i], base) * grid_stride(plan, swept[i]);
  for (size_t p = 0; p < view->num_panels; p++)
    for (size_t l = 0; l < view->num_lines; l++) {
      size_t start = base;
      start += spread_values(view->num_series, MAX_SERIES, l) * grid_stride(plan, view->series);
      if (view->panels < none)
        start += spread_values(view->num_values, MAX_PANELS, p) * grid_stride(plan, view->panels);
      view->starts[p][l] = points_with_data(all, kind, axis, start) > 0 ? start : SIZE_MAX;
    }
}

size_t pictures_panel_digit(const picture_view *view, size_t panel) {
  return spread_values(view->num_values, MAX_PANELS, panel);
}

bool pictures_view(const results *all, picture_kind kind, size_t axis, picture_view *view) {
  *view = (picture_view){.num_lines = 0};
  if (first_with_data(all, kind) == all->experiment->num_points) return false;
  if (grid_lines(all->experiment, axis) <= MAX_SERIES) all_lines(all, kind, axis, view);
  else chosen_lines(all, kind, axis, view);
  return true;
}

static void append(char *text, size_t size, const char *param, const char *value) {
  const size_t used = strlen(text);
  snprintf(text + used, size - used, "%s%s=%s", used > 0 ? ", " : "", param, value);
}

const char *pictures_held(const results *all, size_t axis, const picture_view *view, char *text,
                          size_t size) {
  const experiment *plan = all->experiment;
  char value[LABEL_SIZE];
  size_t start = SIZE_MAX;
  for (size_t p = 0; p < view->num_panels; p++)
    for (size_t l = 0; l < view->num_lines; l++)
      if (view->starts[p][l] < start) start = view->starts[p][l];
  text[0] = '\0';
  for (size_t i = 0; i < plan->num_axes && view->series < plan->num_axes; i++)
    if (i != axis && i != view->series && i != view->panels && plan->axes[i].count > 1)
      append(text, size, plan->axes[i].param, grid_value_text(plan, i, start, value, sizeof value));
  return text;
}

const char *pictures_line_label(const results *all, size_t axis, const picture_view *view,
                                size_t start, char *text, size_t size) {
  const experiment *plan = all->experiment;
  char value[LABEL_SIZE];
  if (view->series == plan->num_axes) return grid_line_label(plan, axis, start, text, size);
  text[0] = '\0';
  append(text, size, plan->axes[view->series].param,
         grid_value_text(plan, view->series, start, value, sizeof value));
  return text;
}
