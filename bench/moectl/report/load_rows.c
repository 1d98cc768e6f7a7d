// SPDX-License-Identifier: MIT
#include "report/load_rows.h"
#include "report/pictures.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double load_even_share(const moecl_routing *routing) {
  return (double)routing->num_tokens * (double)routing->top_k / (double)routing->num_experts;
}

bool load_rows_named(const load_rows *rows, size_t axis) {
  return rows->matters[axis] && !rows->held[axis];
}

/* The first point of each combination of what matters: the others have the same loads, or
 * are not of what is held. `seen` is scratch. */
static void collect(const results *all, bool *seen, size_t most, load_rows *found) {
  const experiment *plan = all->experiment;
  size_t first = SIZE_MAX;
  memset(seen, 0, plan->num_points * sizeof *seen);
  found->count = found->all = 0;
  for (size_t i = 0; i < plan->num_points; i++) {
    size_t kind = i;
    bool fits = point_has_loads(all, i);
    if (fits && first == SIZE_MAX) first = i;
    for (size_t axis = 0; fits && axis < plan->num_axes; axis++) {
      const size_t digit = grid_digit(plan, axis, i);
      fits = !found->held[axis] || digit == grid_digit(plan, axis, first);
      if (!found->matters[axis]) kind -= digit * grid_stride(plan, axis);
    }
    if (!fits || seen[kind]) continue;
    seen[kind] = true;
    if (found->all++ < most) found->points[found->count++] = i;
  }
}

/* Of too many rows: the axis to hold; seeds, which are repetitions, else the longest. */
static size_t axis_to_hold(const experiment *plan, const load_rows *found) {
  size_t longest = plan->num_axes;
  for (size_t axis = 0; axis < plan->num_axes; axis++) {
    if (!found->matters[axis] || found->held[axis]) continue;
    if (grid_is_seed(plan, axis)) return axis;
    if (longest == plan->num_axes || plan->axes[axis].count > plan->axes[longest].count)
      longest = axis;
  }
  return longest;
}

bool load_rows_choose(const results *all, bool kept, size_t most, load_rows *found) {
  *found = (load_rows){.count = 0};
  const experiment *plan = all->experiment;
  bool *seen = calloc(plan->num_points + 1, sizeof *seen);
  found->matters = calloc(plan->num_axes + 1, sizeof *found->matters);
  found->held = calloc(plan->num_axes + 1, sizeof *found->held);
  found->points = calloc(most, sizeof *found->points);
  const bool ok = seen && found->matters && found->held && found->points;
  for (size_t axis = 0; ok && axis < plan->num_axes; axis++)
    found->matters[axis] = pictures_axis_loads(all, axis, kept);
  if (ok) collect(all, seen, most, found);
  while (ok && found->all > most) {
    const size_t axis = axis_to_hold(plan, found);
    if (axis == plan->num_axes) break;
    found->held[axis] = true;
    collect(all, seen, most, found);
  }
  for (size_t r = 0; r < found->count; r++) {
    const moecl_routing *routing = &all->points[found->points[r]].routing;
    if (routing->num_experts > found->num_experts) found->num_experts = routing->num_experts;
    found->busiest = fmax(found->busiest, routing->statistics.max_mean_imbalance);
  }
  free(seen);
  return ok;
}

void load_rows_release(load_rows *rows) {
  free(rows->matters);
  free(rows->held);
  free(rows->points);
  *rows = (load_rows){.count = 0};
}
